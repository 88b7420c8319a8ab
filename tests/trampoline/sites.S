/* SPDX-License-Identifier: MIT */
/* tests/trampoline/sites.S - system calls in all the surroundings that planning has to tell apart. */

        .section .note.GNU-stack, "", @progbits
        .macro FUNCTION name
        .text
        .balign 16
        .globl  \name
        .type   \name, @function
\name:
        .cfi_startproc
        .endm
        .macro END name
        .cfi_endproc
        .size   \name, . - \name
        .endm

/* long f(fd, buf, n): one instruction of five bytes in front of it. */
FUNCTION site_single
        movl    $1, %eax                /* write */
        syscall
        ret
END site_single

/* As libc's read: a comparison relative to rip, a short jump, and xor. */
FUNCTION site_relative
        cmpb    $0, flag(%rip)
        je      1f
        xorl    %eax, %eax              /* read */
        syscall
        ret
1:      movq    $-1000, %rax
        ret
END site_relative

/* long f(nr, a, b, c): any number. */
FUNCTION site_any
        movq    %rdi, %rax
        movq    %rsi, %rdi
        movq    %rdx, %rsi
        movq    %rcx, %rdx
        syscall
        ret
END site_any

/* Something jumps straight to it: whoever does would pass the stub by. */
FUNCTION site_target
        movl    $1, %eax
        testq   %rdx, %rdx
        jz      1f
        movl    $1, %eax
1:      syscall
        ret
END site_target

/* Nothing in front of it, and nothing of this function in front of that. */
FUNCTION site_short
        xorl    %eax, %eax
        syscall
        ret
END site_short

/* The bytes of one inside of another instruction. */
FUNCTION site_false
        movl    $0x0000050f, %eax
        ret
END site_false

/* A number that does not matter. */
FUNCTION site_unwanted
        movl    $39, %eax               /* getpid */
        syscall
        ret
END site_unwanted

/* The cold part of a function, with a name of its own, jumps back between the instructions in front of it. */
FUNCTION site_cold
        testq   %rdx, %rdx
        jz      site_cold_part
        nop
        xorl    %eax, %eax
1:      movq    %rdi, %rdi
        syscall
        ret
END site_cold
        .section .text.unlikely, "ax", @progbits
site_cold_part:
        .cfi_startproc
        xorl    %eax, %eax
        .byte   0xe9                    /* jmp 1b, as a linker writes it */
        .long   1b - . - 4
        .cfi_endproc

/* long f(fd, buf, n, unsigned long state[]): every register and flag that a system call keeps, and the red zone. state: in 13
 * values, out 13 values. Uses vector registers, so the site is one that keeps them. */
FUNCTION site_registers
        pushq   %rbx
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset rbx, 0
        pushq   %rbp
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset rbp, 0
        pushq   %r12
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset r12, 0
        pushq   %r13
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset r13, 0
        pushq   %r14
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset r14, 0
        pushq   %r15
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset r15, 0
        pushq   %rcx
        .cfi_adjust_cfa_offset 8
        movq    0(%rcx), %rbx
        movq    8(%rcx), %rbp
        movq    16(%rcx), %r8
        movq    24(%rcx), %r9
        movq    32(%rcx), %r10
        movq    40(%rcx), %r12
        movq    48(%rcx), %r13
        movq    56(%rcx), %r14
        movq    64(%rcx), %r15
        movq    72(%rcx), %xmm0
        movq    80(%rcx), %xmm15
        movq    88(%rcx), %rax
        movq    %rax, -8(%rsp)
        movq    %rax, -120(%rsp)
        cmpl    $1, %eax                /* flags: less, carry or not, as the value has it */
        movl    $1, %eax
        syscall
        movq    (%rsp), %rcx
        pushfq                          /* the red zone's first eight bytes are lost to this */
        .cfi_adjust_cfa_offset 8
        popq    96(%rcx)
        .cfi_adjust_cfa_offset -8
        movq    %rbx, 0(%rcx)
        movq    %rbp, 8(%rcx)
        movq    %r8, 16(%rcx)
        movq    %r9, 24(%rcx)
        movq    %r10, 32(%rcx)
        movq    %r12, 40(%rcx)
        movq    %r13, 48(%rcx)
        movq    %r14, 56(%rcx)
        movq    %r15, 64(%rcx)
        movq    %xmm0, 72(%rcx)
        movq    %xmm15, 80(%rcx)
        movq    -120(%rsp), %r11
        movq    %r11, 88(%rcx)
        popq    %rcx
        .cfi_adjust_cfa_offset -8
        popq    %r15
        .cfi_adjust_cfa_offset -8
        .cfi_restore r15
        popq    %r14
        .cfi_adjust_cfa_offset -8
        .cfi_restore r14
        popq    %r13
        .cfi_adjust_cfa_offset -8
        .cfi_restore r13
        popq    %r12
        .cfi_adjust_cfa_offset -8
        .cfi_restore r12
        popq    %rbp
        .cfi_adjust_cfa_offset -8
        .cfi_restore rbp
        popq    %rbx
        .cfi_adjust_cfa_offset -8
        .cfi_restore rbx
        ret
END site_registers

        .data
        .globl  site_flag
site_flag:
flag:   .byte   1
