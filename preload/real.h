/* SPDX-License-Identifier: MIT */
/*
 * preload/real.h - the libc functions behind the interposed ones.
 *
 * REAL(read)(fd, buf, n) calls libc's read. The table is filled by fl_real_init; a call that comes before it (another
 * library's constructor) resolves the one symbol that it needs.
 */
#pragma once

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* What libcs write differently. */
#ifdef __GLIBC__
typedef unsigned long fl_ioctl_request;
typedef int fl_mmsg_flags;
#define FL_SIGSET_WORDS __val
#else
typedef int fl_ioctl_request;
typedef unsigned fl_mmsg_flags;
#define FL_SIGSET_WORDS __bits
#endif

/* Aliases that only fortified programs call, and functions that older headers do not declare. */
ssize_t __read_chk(int, void *, size_t, size_t);
ssize_t __recv_chk(int, void *, size_t, size_t, int);
ssize_t __recvfrom_chk(int, void *__restrict, size_t, size_t, int, struct sockaddr *__restrict, socklen_t *__restrict);
int __poll_chk(struct pollfd *, nfds_t, int, size_t);
int __ppoll_chk(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *, size_t);
int __dprintf_chk(int, int, const char *, ...);
int __vdprintf_chk(int, int, const char *, va_list);

/* clang-format off */
#define FL_REAL_FUNCTIONS(X) \
  X(socket) X(connect) X(accept) X(accept4) X(close) X(shutdown) \
  X(read) X(write) X(readv) X(writev) X(recv) X(recvfrom) X(recvmsg) X(recvmmsg) \
  X(preadv2) X(pwritev2) \
  X(send) X(sendto) X(sendmsg) X(sendmmsg) X(sendfile) X(sendfile64) X(splice) \
  X(__read_chk) X(__recv_chk) X(__recvfrom_chk) X(__poll_chk) X(__ppoll_chk) \
  X(dup) X(dup2) X(dup3) X(fcntl) X(fcntl64) X(ioctl) X(getsockopt) X(setsockopt) \
  X(poll) X(ppoll) X(select) X(pselect) \
  X(epoll_create) X(epoll_create1) X(epoll_ctl) X(epoll_wait) X(epoll_pwait) X(epoll_pwait2) \
  X(close_range) X(closefrom) X(fclose) X(freopen) X(fdopen) X(vdprintf) X(__vdprintf_chk) \
  X(fork) X(_exit) X(_Exit) X(sigaction) \
  X(execve) X(execv) X(execvp) X(execvpe) X(fexecve) X(execveat) \
  X(posix_spawn) X(posix_spawnp) X(system) X(popen) X(prctl)
/* clang-format on */

struct fl_real {
#define X(name) __typeof__(&name) name;
  FL_REAL_FUNCTIONS(X)
#undef X
};

extern __attribute__((visibility("hidden"))) struct fl_real fl_real;

/* pthread_testcancel. Before glibc 2.34 that is libpthread's: a process without it has no thread that could be
 * cancelled, and this does nothing. */
extern __attribute__((visibility("hidden"))) void (*fl_real_testcancel)(void);

/* Resolves all of them; those that this libc does not have stay NULL. Idempotent. */
void fl_real_init(void);

/* Resolves one into *slot and returns it; a function that fails with ENOSYS if libc does not have it. */
void *fl_real_one(void **slot, const char *name);

#define REAL(name) \
  (__builtin_expect(fl_real.name != NULL, 1) ? fl_real.name \
                                             : (__typeof__(&name))fl_real_one((void **)&fl_real.name, #name))
