/* SPDX-License-Identifier: MIT */
/*
 * preload/musl.h - included before everything else where libc is not glibc (musl: Alpine): what the hooks name and libc
 * does not declare. It is exported all the same, and answers ENOSYS where libc has no such function.
 */
#if !defined(__ASSEMBLER__)
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#undef sendfile64
ssize_t sendfile64(int, int, off_t *, size_t);
ssize_t preadv2(int, const struct iovec *, int, off_t, int);
ssize_t pwritev2(int, const struct iovec *, int, off_t, int);
int epoll_pwait2(int, struct epoll_event *, int, const struct timespec *, const sigset_t *);
int close_range(unsigned, unsigned, int);
void closefrom(int);
int fcntl64(int, int, ...);
sighandler_t ssignal(int, sighandler_t);
sighandler_t sysv_signal(int, sighandler_t);
sighandler_t __sysv_signal(int, sighandler_t);
int execveat(int, const char *, char *const[], char *const[], int);

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 8
#endif
#ifndef SA_INTERRUPT
#define SA_INTERRUPT 0x20000000
#endif
#endif
