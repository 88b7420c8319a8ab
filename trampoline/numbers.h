/* SPDX-License-Identifier: MIT */
/*
 * trampoline/numbers.h - the system calls that matter, declared once: X(name, class).
 *
 *   FD      its first argument is the only descriptor that counts: the stub looks whether it is one of ours
 *   ANY     descriptors elsewhere, or the call makes one that we want to know of: always handed to the dispatcher
 *
 * Calls that cannot be entered from a stub are not here, whatever they do to descriptors: clone, vfork, execve,
 * rt_sigreturn.
 */
#pragma once

#include <stdint.h>
#include <sys/syscall.h>

enum fl_class { FL_CLASS_NONE, FL_CLASS_FD, FL_CLASS_ANY };

/* clang-format off */
#define FL_NUMBERS_COMMON(X) \
  X(read, FD) X(readv, FD) X(preadv2, FD) X(recvfrom, FD) X(recvmsg, FD) X(recvmmsg, FD) \
  X(write, FD) X(writev, FD) X(pwritev2, FD) X(sendto, FD) X(sendmsg, ANY) X(sendmmsg, ANY) \
  X(sendfile, FD) X(splice, ANY) \
  X(close, FD) X(close_range, ANY) X(dup, FD) X(dup3, ANY) X(shutdown, FD) X(fcntl, FD) X(ioctl, FD) \
  X(setsockopt, FD) X(getsockopt, FD) X(socket, ANY) X(connect, ANY) X(accept, ANY) X(accept4, ANY) \
  X(ppoll, ANY) X(pselect6, ANY) \
  X(epoll_create1, ANY) X(epoll_ctl, ANY) X(epoll_pwait, FD) X(epoll_pwait2, FD) \
  X(exit_group, ANY) X(prctl, ANY) X(seccomp, ANY)
#ifdef __NR_dup2 /* numbers that only old architectures have */
#define FL_NUMBERS_OLD(X) X(dup2, ANY) X(poll, ANY) X(select, ANY) X(epoll_create, ANY) X(epoll_wait, FD)
#else
#define FL_NUMBERS_OLD(X)
#endif
/* clang-format on */
#define FL_NUMBERS(X) FL_NUMBERS_COMMON(X) FL_NUMBERS_OLD(X)

#define FL_NUMBERS_END 512 /* above the largest */

static inline enum fl_class fl_class_of(long number) {
  switch (number) {
#define X(name, class) \
  case __NR_##name: return FL_CLASS_##class;
    FL_NUMBERS(X)
#undef X
  }
  return FL_CLASS_NONE;
}
