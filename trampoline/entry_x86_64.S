/* SPDX-License-Identifier: MIT */
/*
 * trampoline/entry_x86_64.S - from a stub into C and back.
 *
 * To an unwinder these are functions that the patched function called, with the instruction behind the system call as their
 * return address, which is just where the call will go on. So a thread that is cancelled inside, an exception, gdb and perf
 * come out in the patched function, whose own tables say how to go on from there.
 *
 * On entry: rcx the address behind the system call, r11 the stub's struct fl_stub_site (emit.h), all else as the program has it.
 * The C side gets struct fl_tramp_call (tramp.h).
 */

#define SITE_SYSCALL 8
#define SITE_FLAGS 24
#define FLAG_VECTOR 1

#define GO_STACKS 128
#define GO_STACK 32768

        .section .note.GNU-stack, "", @progbits
        .text

/* The frame below rbp, the same for both entries:
 *   -8 site, -16 arg 5, ... -56 arg 0, -64 number */
        .macro KEEP
        cld
        pushq   %r11
        pushq   %r9
        pushq   %r8
        pushq   %r10
        pushq   %rdx
        pushq   %rsi
        pushq   %rdi
        pushq   %rax
        movq    %rsp, %rdi
        .endm

        .macro RESTORE_ARGUMENTS
        movq    -64(%rbp), %rax
        movq    -56(%rbp), %rdi
        movq    -48(%rbp), %rsi
        movq    -40(%rbp), %rdx
        movq    -32(%rbp), %r10
        movq    -24(%rbp), %r8
        movq    -16(%rbp), %r9
        movq    -8(%rbp), %r11
        .endm

/* Calls C with all vector registers kept; eax: what it said. The header of the area has to be zero. */
        .macro CALL_KEEPING_VECTORS
        subq    fl_tramp_xsave_bytes(%rip), %rsp
        andq    $-64, %rsp
        xorl    %eax, %eax
        movq    %rax, 512(%rsp)
        movq    %rax, 520(%rsp)
        movq    %rax, 528(%rsp)
        movq    %rax, 536(%rsp)
        movq    %rax, 544(%rsp)
        movq    %rax, 552(%rsp)
        movq    %rax, 560(%rsp)
        movq    %rax, 568(%rsp)
        movl    fl_tramp_xsave_mask(%rip), %eax
        xorl    %edx, %edx
        testl   %eax, %eax
        jz      8f
        xsave64 (%rsp)
        call    fl_tramp_call
        movzbl  %al, %r8d
        movl    fl_tramp_xsave_mask(%rip), %eax
        xorl    %edx, %edx
        xrstor64 (%rsp)
        movl    %r8d, %eax
        jmp     9f
8:      fxsave64 (%rsp)
        call    fl_tramp_call
        fxrstor64 (%rsp)
        movzbl  %al, %eax
9:
        .endm

        .globl  fl_tramp_enter
        .hidden fl_tramp_enter
        .type   fl_tramp_enter, @function
fl_tramp_enter:
        .cfi_startproc simple
        .cfi_def_cfa rsp, 0
        .cfi_register rip, rcx
        leaq    -144(%rsp), %rsp        /* the red zone, which the kernel does not touch either */
        .cfi_def_cfa_offset 144
        movq    %rcx, 8(%rsp)
        .cfi_offset rip, -136
        pushfq
        .cfi_def_cfa_offset 152
        pushq   %rbp
        .cfi_def_cfa_offset 160
        .cfi_offset rbp, -160
        movq    %rsp, %rbp
        .cfi_def_cfa_register rbp
        KEEP
        andq    $-16, %rsp
        testl   $FLAG_VECTOR, SITE_FLAGS(%r11)
        jnz     2f
        call    fl_tramp_call
1:      testb   %al, %al
        RESTORE_ARGUMENTS
        jz      3f
        movq    (%r11), %r11
        jmp     4f
3:      movq    SITE_SYSCALL(%r11), %r11
4:      movq    %rbp, %rsp
        .cfi_remember_state
        .cfi_def_cfa_register rsp
        popq    %rbp
        .cfi_restore rbp
        .cfi_def_cfa_offset 152
        popfq
        .cfi_def_cfa_offset 144
        movq    8(%rsp), %rcx
        .cfi_register rip, rcx
        leaq    144(%rsp), %rsp
        .cfi_def_cfa_offset 0
        jmpq    *%r11
        .cfi_restore_state
2:      CALL_KEEPING_VECTORS
        jmp     1b
        .cfi_endproc
        .size   fl_tramp_enter, . - fl_tramp_enter

/*
 * From Go's code. A goroutine's stack ends somewhere below its stack pointer, so the work is done on one of our own, which is
 * claimed for the one call: neither threads that end nor handlers that run inside need any care. If all are in use, the wait is
 * for some other call to return; these are short, as Go's descriptors do not block.
 *
 *   top of the stack: the goroutine's stack pointer, the return address, flags, rbp <- rbp
 */
        .globl  fl_tramp_enter_go
        .hidden fl_tramp_enter_go
        .type   fl_tramp_enter_go, @function
fl_tramp_enter_go:
        .cfi_startproc simple
        .cfi_def_cfa rsp, 0
        .cfi_register rip, rcx
        leaq    fl_tramp_go_stacks(%rip), %rcx
1:      lock btsl $0, (%rcx)
        jnc     2f
        pause
        movq    8(%rcx), %rcx
        jmp     1b
2:      leaq    GO_STACK(%rcx), %rcx
        movq    %rsp, -8(%rcx)
        movq    %rbp, -32(%rcx)
        leaq    -8(%rcx), %rsp
        pushq   (%r11)
        pushfq
        leaq    -8(%rsp), %rsp
        movq    %rsp, %rbp
        .cfi_escape 0x0f, 3, 0x76, 24, 0x06     /* CFA: what is stored at rbp + 24 */
        .cfi_escape 0x10, 16, 2, 0x76, 16       /* return address: at rbp + 16 */
        .cfi_escape 0x10, 6, 2, 0x76, 0         /* rbp: at rbp */
        KEEP
        CALL_KEEPING_VECTORS
        testb   %al, %al
        RESTORE_ARGUMENTS
        jz      3f
        movq    (%r11), %r11
        jmp     4f
3:      movq    SITE_SYSCALL(%r11), %r11
4:      leaq    32 - GO_STACK(%rbp), %rcx
        movq    24(%rbp), %rsp
        movq    0(%rbp), %rbp
        movl    $0, (%rcx)              /* free; a store on x86 is a release */
        jmpq    *%r11
        .cfi_endproc
        .size   fl_tramp_enter_go, . - fl_tramp_enter_go

        .globl  fl_tramp_syscall
        .hidden fl_tramp_syscall
        .type   fl_tramp_syscall, @function
fl_tramp_syscall:
        .cfi_startproc
        movq    %rdi, %rax
        movq    %rsi, %rdi
        movq    %rdx, %rsi
        movq    %rcx, %rdx
        movq    %r8, %r10
        movq    %r9, %r8
        movq    8(%rsp), %r9
        syscall
        ret
        .cfi_endproc
        .size   fl_tramp_syscall, . - fl_tramp_syscall

/* Each begins with 0 or 1 (in use) and the address of the next; fl_tramp_init links them. Untouched pages cost nothing. */
        .bss
        .balign 4096
        .globl  fl_tramp_go_stacks
        .hidden fl_tramp_go_stacks
fl_tramp_go_stacks:
        .zero   GO_STACKS * GO_STACK
        .globl  fl_tramp_go_stacks_end
        .hidden fl_tramp_go_stacks_end
fl_tramp_go_stacks_end:
