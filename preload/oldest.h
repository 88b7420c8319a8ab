/* SPDX-License-Identifier: MIT */
/*
 * preload/oldest.h - included before everything else in what becomes libfastlocal.so, where libc is glibc: symbols that
 * moved to another version when libdl and libpthread became part of libc (2.34) are taken in the version that older
 * ones have as well, so that a library that is built on a new system loads on an old one: Debian 11 has 2.31.
 * bats/libc.bats checks what came of it. An object that does not refer to one of these gets nothing.
 */
#if defined(__ASSEMBLER__)
#elif defined(__x86_64__) && !defined(__ILP32__)
__asm__(".symver dlsym, dlsym@GLIBC_2.2.5");
__asm__(".symver dlopen, dlopen@GLIBC_2.2.5");
__asm__(".symver dlclose, dlclose@GLIBC_2.2.5");
__asm__(".symver dlinfo, dlinfo@GLIBC_2.3.3");
#elif defined(__aarch64__)
__asm__(".symver dlsym, dlsym@GLIBC_2.17");
__asm__(".symver dlopen, dlopen@GLIBC_2.17");
__asm__(".symver dlclose, dlclose@GLIBC_2.17");
__asm__(".symver dlinfo, dlinfo@GLIBC_2.17");
#endif
