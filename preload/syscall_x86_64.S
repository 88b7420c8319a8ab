/* SPDX-License-Identifier: MIT */
/* preload/syscall_x86_64.S - syscall(), whose caller's arguments are as a C function with seven has them. */

        .section .note.GNU-stack, "", @progbits
        .text
        .globl  syscall
        .type   syscall, @function
syscall:
        .cfi_startproc
        movq    fl_syscall_real(%rip), %rax
        testq   %rax, %rax
        jz      fl_syscall_hook
        cmpq    $512, %rdi
        jae     1f
        leaq    fl_syscall_wanted(%rip), %r11
        cmpb    $0, (%r11, %rdi)
        jnz     fl_syscall_hook
1:      jmpq    *%rax
        .cfi_endproc
        .size   syscall, . - syscall
