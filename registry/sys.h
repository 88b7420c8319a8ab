/* SPDX-License-Identifier: MIT */
/*
 * registry/sys.h - raw system calls. Each returns what the kernel returns: a value >= 0, or -errno; errno itself is
 * never touched. They exist because libc's own socket symbols are interposed by the library that the registry is
 * linked into: the registry has to run below them, and it must not be a cancellation point.
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shmring/fault.h"

/* One system call with up to six arguments; unused ones are 0, which costs nothing that can be measured. The analyzer
 * does not know that assembly fills buffers: it is shown the last variant. */
#if defined(__x86_64__) && !defined(__ILP32__) && !defined(__clang_analyzer__)
static inline long fl_syscall6_raw(long nr, long a, long b, long c, long d, long e, long f) {
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  long ret;

  __asm__ volatile("syscall"
                   : "=a"(ret)
                   : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return ret;
}
#elif defined(__aarch64__) && !defined(__ILP32__) && !defined(__clang_analyzer__)
static inline long fl_syscall6_raw(long nr, long a, long b, long c, long d, long e, long f) {
  register long x8 __asm__("x8") = nr;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d;
  register long x4 __asm__("x4") = e;
  register long x5 __asm__("x5") = f;

  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  return x0;
}
#else
static inline long fl_syscall6_raw(long nr, long a, long b, long c, long d, long e, long f) {
  int saved = errno;
  long ret = syscall(nr, a, b, c, d, e, f);

  if (ret == -1)
    ret = -errno;
  errno = saved;
  return ret;
}
#endif

#ifdef FL_FAULT_POINTS
static inline long fl_syscall6(long nr, long a, long b, long c, long d, long e, long f) {
  const long args[6] = {a, b, c, d, e, f};
  long ret;

  if (fl_fault_call && fl_fault_call(nr, args, &ret))
    return ret;
  ret = fl_syscall6_raw(nr, a, b, c, d, e, f);
  if (fl_fault_called)
    fl_fault_called(nr, args, ret);
  return ret;
}
#else
#define fl_syscall6 fl_syscall6_raw
#endif

static inline int fl_sys_socket(int domain, int type, int protocol) {
  return (int)fl_syscall6(__NR_socket, domain, type, protocol, 0, 0, 0);
}

static inline int fl_sys_bind(int fd, const void *addr, socklen_t len) {
  return (int)fl_syscall6(__NR_bind, fd, (long)addr, (long)len, 0, 0, 0);
}

static inline int fl_sys_listen(int fd, int backlog) { return (int)fl_syscall6(__NR_listen, fd, backlog, 0, 0, 0, 0); }

static inline int fl_sys_connect(int fd, const void *addr, socklen_t len) {
  return (int)fl_syscall6(__NR_connect, fd, (long)addr, (long)len, 0, 0, 0);
}

static inline int fl_sys_shutdown(int fd, int how) { return (int)fl_syscall6(__NR_shutdown, fd, how, 0, 0, 0, 0); }

static inline int fl_sys_accept4(int fd, int flags) { return (int)fl_syscall6(__NR_accept4, fd, 0, 0, flags, 0, 0); }

/* Is there something to accept or to read? 1, 0, or -errno. Never waits. */
static inline int fl_sys_readable(int fd) {
  struct pollfd p = {.fd = fd, .events = POLLIN};
  long zero[2] = {0, 0}; /* the kernel's timespec */

  return (int)fl_syscall6(__NR_ppoll, (long)&p, 1, (long)zero, 0, 0, 0);
}

static inline int fl_sys_getsockname(int fd, void *addr, socklen_t *len) {
  return (int)fl_syscall6(__NR_getsockname, fd, (long)addr, (long)len, 0, 0, 0);
}

static inline int fl_sys_getpeername(int fd, void *addr, socklen_t *len) {
  return (int)fl_syscall6(__NR_getpeername, fd, (long)addr, (long)len, 0, 0, 0);
}

static inline int fl_sys_getsockopt(int fd, int level, int name, void *value, socklen_t *len) {
  return (int)fl_syscall6(__NR_getsockopt, fd, level, name, (long)value, (long)len, 0);
}

static inline ssize_t fl_sys_sendto(int fd, const void *buf, size_t len, int flags, const void *addr, socklen_t alen) {
  return fl_syscall6(__NR_sendto, fd, (long)buf, (long)len, flags, (long)addr, (long)alen);
}

static inline ssize_t fl_sys_recvfrom(int fd, void *buf, size_t len, int flags, void *addr, socklen_t *alen) {
  return fl_syscall6(__NR_recvfrom, fd, (long)buf, (long)len, flags, (long)addr, (long)alen);
}

static inline ssize_t fl_sys_sendmsg(int fd, const struct msghdr *msg, int flags) {
  return fl_syscall6(__NR_sendmsg, fd, (long)msg, flags, 0, 0, 0);
}

static inline ssize_t fl_sys_recvmsg(int fd, struct msghdr *msg, int flags) {
  return fl_syscall6(__NR_recvmsg, fd, (long)msg, flags, 0, 0, 0);
}

static inline int fl_sys_close(int fd) { return (int)fl_syscall6(__NR_close, fd, 0, 0, 0, 0, 0); }

static inline int fl_sys_open(const char *path, int flags) {
  return (int)fl_syscall6(__NR_openat, AT_FDCWD, (long)path, flags, 0, 0, 0);
}

static inline ssize_t fl_sys_read(int fd, void *buf, size_t len) {
  return fl_syscall6(__NR_read, fd, (long)buf, (long)len, 0, 0, 0);
}

static inline ssize_t fl_sys_write(int fd, const void *buf, size_t len) {
  return fl_syscall6(__NR_write, fd, (long)buf, (long)len, 0, 0, 0);
}

/* at fits a long, as above */
static inline ssize_t fl_sys_pwrite(int fd, const void *buf, size_t len, size_t at) {
  return fl_syscall6(__NR_pwrite64, fd, (long)buf, (long)len, (long)at, 0, 0);
}

/* The commands used here have the same numbers and arguments in fcntl64. */
static inline int fl_sys_fcntl(int fd, int cmd, long arg) {
#ifdef __NR_fcntl
  return (int)fl_syscall6(__NR_fcntl, fd, cmd, arg, 0, 0, 0);
#else
  return (int)fl_syscall6(__NR_fcntl64, fd, cmd, arg, 0, 0, 0);
#endif
}

static inline int fl_sys_memfd_create(const char *name, unsigned flags) {
  return (int)fl_syscall6(__NR_memfd_create, (long)name, (long)flags, 0, 0, 0, 0);
}

/* May this process have files of that length? Who grows one beyond RLIMIT_FSIZE, be it in memory, gets a SIGXFSZ. */
static inline bool fl_sys_file_fits(size_t length) {
  uint64_t limit[2] = {UINT64_MAX, UINT64_MAX}; /* the kernel's rlimit64 */

  fl_syscall6(__NR_prlimit64, 0, RLIMIT_FSIZE, 0, (long)limit, 0, 0);
  return length <= limit[0];
}

/* length fits a long: segments are far below 2 GiB. -EFBIG, and no signal, if the process may not have such a file. */
static inline int fl_sys_ftruncate(int fd, size_t length) {
  return fl_sys_file_fits(length) ? (int)fl_syscall6(__NR_ftruncate, fd, (long)length, 0, 0, 0, 0) : -EFBIG;
}

/* Size of a file in bytes, or -errno. lseek instead of fstat: no structure that differs between architectures. */
static inline long fl_sys_size(int fd) { return fl_syscall6(__NR_lseek, fd, 0, SEEK_END, 0, 0, 0); }

/* Maps the first `len` bytes shared and writable. 0 and *addr, or -errno. */
static inline int fl_sys_map_shared(int fd, size_t len, void **addr) {
#ifdef __NR_mmap2
  long nr = __NR_mmap2;
#else
  long nr = __NR_mmap;
#endif
  /* MAP_NORESERVE: a ring costs memory as it is used, not when it is mapped */
  long ret = fl_syscall6(nr, 0, (long)len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);

  if ((unsigned long)ret > -4096ul)
    return (int)ret;
  *addr = (void *)ret;
  return 0;
}

static inline int fl_sys_munmap(void *addr, size_t len) {
  return (int)fl_syscall6(__NR_munmap, (long)addr, (long)len, 0, 0, 0, 0);
}

static inline int fl_sys_setsockopt(int fd, int level, int name, const void *value, socklen_t len) {
  return (int)fl_syscall6(__NR_setsockopt, fd, level, name, (long)value, (long)len, 0);
}

static inline int fl_sys_ioctl(int fd, unsigned long request, void *arg) {
  return (int)fl_syscall6(__NR_ioctl, fd, (long)request, (long)arg, 0, 0, 0);
}

static inline int fl_sys_kill(pid_t pid, int sig) { return (int)fl_syscall6(__NR_kill, pid, sig, 0, 0, 0, 0); }
static inline int fl_sys_tkill(pid_t tid, int sig) { return (int)fl_syscall6(__NR_tkill, tid, sig, 0, 0, 0, 0); }
static inline pid_t fl_sys_getpid(void) { return (pid_t)fl_syscall6(__NR_getpid, 0, 0, 0, 0, 0, 0); }
static inline pid_t fl_sys_gettid(void) { return (pid_t)fl_syscall6(__NR_gettid, 0, 0, 0, 0, 0, 0); }

/* Private anonymous memory of which nothing is committed until it is touched; NULL if there is none. */
static inline void *fl_sys_map_private(size_t len) {
#ifdef __NR_mmap2
  long nr = __NR_mmap2;
#else
  long nr = __NR_mmap;
#endif
  long ret = fl_syscall6(nr, 0, (long)len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

  return (unsigned long)ret > -4096ul ? NULL : (void *)ret;
}

/* What is ready now on one descriptor, never waiting: poll's revents, 0 if nothing, or -errno. */
static inline int fl_sys_ready(int fd, short events) {
  struct {
    int fd;
    short events, revents;
  } p = {fd, events, 0};
  struct timespec64_like {
    int64_t sec, nsec;
  } zero = {0, 0};
  int n = (int)fl_syscall6(__NR_ppoll, (long)&p, 1, (long)&zero, 0, 0, 0);

  return n < 0 ? n : n == 0 ? 0 : p.revents;
}
