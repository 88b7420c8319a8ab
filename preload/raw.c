/* SPDX-License-Identifier: MIT */
#include "raw.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>

#include "export.h"
#include "real.h"
#include "registry/sys.h"
#include "trampoline/tramp.h"

FL_TLS bool fl_raw_nocancel;
_Atomic bool fl_raw_cancels;

FL_EXPORT int pthread_cancel(pthread_t thread) {
  static __typeof__(&pthread_cancel) real;

  atomic_store_explicit(&fl_raw_cancels, true, memory_order_relaxed); /* see fl_testcancel */
  return (real ? real : (__typeof__(real))fl_real_one((void **)&real, "pthread_cancel"))(thread);
}

/* Since glibc 2.32; by name, as a reference would keep the library from loading with an older one. */
bool fl_raw_single(void) {
  static const char *_Atomic single;
  const char *s = atomic_load_explicit(&single, memory_order_relaxed); /* the same whoever stores it */

  if (FL_UNLIKELY(!s)) {
    static const char unknown = 0;
    s = dlsym(RTLD_DEFAULT, "__libc_single_threaded");
    if (!s)
      s = &unknown;
    atomic_store_explicit(&single, s, memory_order_relaxed);
  }
  return *s;
}

#ifdef __GLIBC__ /* else there are no trampolines */

static long result(long r) {
  if (FL_UNLIKELY((unsigned long)r > -4096ul)) {
    errno = (int)-r;
    return -1;
  }
  return r;
}

/* As glibc makes a cancellation point: the thread may be ended while, and only while, it is in the kernel. What was
 * taken from the kernel is lost only if the cancellation arrives behind the call, as in glibc. */
static long cancellable(long nr, long a, long b, long c, long d, long e, long f) {
  int type;

  if (fl_raw_nocancel || fl_raw_single())
    return fl_tramp_syscall(nr, a, b, c, d, e, f);
  /* NOLINTNEXTLINE(cert-pos47-c,concurrency-thread-canceltype-asynchronous): around a system call, and nothing else */
  pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
  long r = fl_tramp_syscall(nr, a, b, c, d, e, f);
  pthread_setcanceltype(type, NULL);
  return r;
}

#define POINT_(nr, a, b, c, d, e, f, ...) \
  result(cancellable(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f)))
#define POINT(...) POINT_(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)
#define PLAIN_(nr, a, b, c, d, e, f, ...) \
  result(fl_syscall6(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f)))
#define PLAIN(...) PLAIN_(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)

static ssize_t raw_read(int fd, void *buf, size_t n) { return POINT(__NR_read, fd, buf, n); }
static ssize_t raw_write(int fd, const void *buf, size_t n) { return POINT(__NR_write, fd, buf, n); }
static ssize_t raw_readv(int fd, const struct iovec *iov, int n) { return POINT(__NR_readv, fd, iov, n); }
static ssize_t raw_writev(int fd, const struct iovec *iov, int n) { return POINT(__NR_writev, fd, iov, n); }
static ssize_t raw_preadv2(int fd, const struct iovec *iov, int n, off_t at, int flags) {
  return POINT(__NR_preadv2, fd, iov, n, at, 0, flags);
}
static ssize_t raw_pwritev2(int fd, const struct iovec *iov, int n, off_t at, int flags) {
  return POINT(__NR_pwritev2, fd, iov, n, at, 0, flags);
}
static ssize_t raw_recvfrom(int fd, void *restrict buf, size_t n, int flags, struct sockaddr *restrict addr,
                            socklen_t *restrict len) {
  return POINT(__NR_recvfrom, fd, buf, n, flags, addr, len);
}
static ssize_t raw_recv(int fd, void *buf, size_t n, int flags) { return POINT(__NR_recvfrom, fd, buf, n, flags); }
static ssize_t raw_recvmsg(int fd, struct msghdr *msg, int flags) { return POINT(__NR_recvmsg, fd, msg, flags); }
static int raw_recvmmsg(int fd, struct mmsghdr *vec, unsigned n, fl_mmsg_flags flags, struct timespec *timeout) {
  return (int)POINT(__NR_recvmmsg, fd, vec, n, flags, timeout);
}
static ssize_t raw_sendto(int fd, const void *buf, size_t n, int flags, const struct sockaddr *to, socklen_t len) {
  return POINT(__NR_sendto, fd, buf, n, flags, to, len);
}
static ssize_t raw_send(int fd, const void *buf, size_t n, int flags) { return POINT(__NR_sendto, fd, buf, n, flags); }
static ssize_t raw_sendmsg(int fd, const struct msghdr *msg, int flags) { return POINT(__NR_sendmsg, fd, msg, flags); }
static int raw_sendmmsg(int fd, struct mmsghdr *vec, unsigned n, fl_mmsg_flags flags) {
  return (int)POINT(__NR_sendmmsg, fd, vec, n, flags);
}
static ssize_t raw_sendfile(int out, int in, off_t *at, size_t n) { return PLAIN(__NR_sendfile, out, in, at, n); }
static ssize_t raw_sendfile64(int out, int in, off64_t *at, size_t n) { return PLAIN(__NR_sendfile, out, in, at, n); }
static ssize_t raw_splice(int in, off64_t *in_at, int out, off64_t *out_at, size_t n, unsigned flags) {
  return POINT(__NR_splice, in, in_at, out, out_at, n, flags);
}

static int raw_socket(int domain, int type, int protocol) { return (int)PLAIN(__NR_socket, domain, type, protocol); }
static int raw_connect(int fd, const struct sockaddr *addr, socklen_t len) {
  return (int)POINT(__NR_connect, fd, addr, len);
}
static int raw_accept(int fd, struct sockaddr *restrict addr, socklen_t *restrict len) {
  return (int)POINT(__NR_accept, fd, addr, len);
}
static int raw_accept4(int fd, struct sockaddr *restrict addr, socklen_t *restrict len, int flags) {
  return (int)POINT(__NR_accept4, fd, addr, len, flags);
}
static int raw_shutdown(int fd, int how) { return (int)PLAIN(__NR_shutdown, fd, how); }
static int raw_getsockopt(int fd, int level, int name, void *restrict value, socklen_t *restrict len) {
  return (int)PLAIN(__NR_getsockopt, fd, level, name, value, len);
}
static int raw_setsockopt(int fd, int level, int name, const void *value, socklen_t len) {
  return (int)PLAIN(__NR_setsockopt, fd, level, name, value, len);
}

static int raw_close(int fd) { return (int)POINT(__NR_close, fd); }
static int raw_close_range(unsigned first, unsigned last, int flags) {
  return (int)PLAIN(__NR_close_range, first, last, flags);
}
static int raw_dup(int fd) { return (int)PLAIN(__NR_dup, fd); }
static int raw_dup2(int old, int new) { return (int)PLAIN(__NR_dup2, old, new); }
static int raw_dup3(int old, int new, int flags) { return (int)PLAIN(__NR_dup3, old, new, flags); }
static int raw_ioctl(int fd, fl_ioctl_request request, ...) {
  va_list ap;

  va_start(ap, request);
  void *arg = va_arg(ap, void *);
  va_end(ap);
  return (int)PLAIN(__NR_ioctl, fd, request, arg);
}
static int raw_fcntl(int fd, int cmd, ...) {
  va_list ap;

  va_start(ap, cmd);
  void *arg = va_arg(ap, void *);
  va_end(ap);
  if (cmd == F_SETLKW || cmd == F_OFD_SETLKW)
    return (int)POINT(__NR_fcntl, fd, cmd, arg);
  if (cmd == F_GETOWN) { /* a process group is a negative result, which looks like an error */
    struct f_owner_ex owner;
    int r = (int)PLAIN(__NR_fcntl, fd, F_GETOWN_EX, &owner);
    return r < 0 ? r : owner.type == F_OWNER_PGRP ? -owner.pid : owner.pid;
  }
  return (int)PLAIN(__NR_fcntl, fd, cmd, arg);
}

#define KERNEL_SIGSET 8

/* The kernel writes what is left of the time; these do not. */
static int raw_poll(struct pollfd *fds, nfds_t n, int timeout) { return (int)POINT(__NR_poll, fds, n, timeout); }
static int raw_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask) {
  struct timespec left;

  if (timeout)
    left = *timeout;
  return (int)POINT(__NR_ppoll, fds, n, timeout ? &left : NULL, mask, KERNEL_SIGSET);
}
static int raw_select(int n, fd_set *restrict rd, fd_set *restrict wr, fd_set *restrict ex,
                      struct timeval *restrict timeout) {
  return (int)POINT(__NR_select, n, rd, wr, ex, timeout);
}
static int raw_pselect(int n, fd_set *restrict rd, fd_set *restrict wr, fd_set *restrict ex,
                       const struct timespec *restrict timeout, const sigset_t *restrict mask) {
  struct timespec left;
  struct {
    const sigset_t *set;
    size_t size;
  } six = {mask, KERNEL_SIGSET};

  if (timeout)
    left = *timeout;
  return (int)POINT(__NR_pselect6, n, rd, wr, ex, timeout ? &left : NULL, &six);
}

static int raw_epoll_create(int size) { return (int)PLAIN(__NR_epoll_create, size); }
static int raw_epoll_create1(int flags) { return (int)PLAIN(__NR_epoll_create1, flags); }
static int raw_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event) {
  return (int)PLAIN(__NR_epoll_ctl, epfd, op, fd, event);
}
static int raw_epoll_wait(int epfd, struct epoll_event *events, int max, int timeout) {
  return (int)POINT(__NR_epoll_wait, epfd, events, max, timeout);
}
static int raw_epoll_pwait(int epfd, struct epoll_event *events, int max, int timeout, const sigset_t *mask) {
  return (int)POINT(__NR_epoll_pwait, epfd, events, max, timeout, mask, KERNEL_SIGSET);
}
static int raw_epoll_pwait2(int epfd, struct epoll_event *events, int max, const struct timespec *timeout,
                            const sigset_t *mask) {
  return (int)POINT(__NR_epoll_pwait2, epfd, events, max, timeout, mask, KERNEL_SIGSET);
}

/* ---- the table ---- */

/* clang-format off */
#define FUNCTIONS(X) \
  X(read) X(write) X(readv) X(writev) X(preadv2) X(pwritev2) X(recv) X(recvfrom) X(recvmsg) X(recvmmsg) \
  X(send) X(sendto) X(sendmsg) X(sendmmsg) X(sendfile) X(sendfile64) X(splice) \
  X(socket) X(connect) X(accept) X(accept4) X(shutdown) X(getsockopt) X(setsockopt) \
  X(close) X(close_range) X(dup) X(dup2) X(dup3) X(ioctl) X(poll) X(ppoll) X(select) X(pselect) \
  X(epoll_create) X(epoll_create1) X(epoll_ctl) X(epoll_wait) X(epoll_pwait) X(epoll_pwait2)
/* clang-format on */

bool fl_raw_possible(bool (*inside)(uintptr_t address)) {
#define X(name) \
  if (!fl_real.name || !inside((uintptr_t)fl_real.name)) \
    return false;
  FUNCTIONS(X)
  X(fcntl)
  X(fcntl64)
#undef X
  return true;
}

void fl_raw_use(void) {
#define X(name) fl_real.name = raw_##name;
  FUNCTIONS(X)
#undef X
  fl_real.fcntl = raw_fcntl;
  fl_real.fcntl64 = raw_fcntl;
}

#endif
