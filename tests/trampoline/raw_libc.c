/* SPDX-License-Identifier: MIT */
/*
 * tests/trampoline/raw_libc.c - to be preloaded before the library: the socket calls of a program, each made by an
 * instruction in here, so that none of them passes through a symbol that the library sees. Any test program then tests
 * the trampolines (FASTLOCAL_TRAMP=all). What is a cancellation point in libc is one here, by the same means.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "raw_calls.h"

static inline long result(long r) {
  if ((unsigned long)r > -4096ul) {
    errno = (int)-r;
    return -1;
  }
  return r;
}

#define CALL_(nr, a, b, c, d, e, f, ...) \
  result(raw_call(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f)))
#define CALL(...) CALL_(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)

static long point(long nr, long a, long b, long c, long d, long e, long f) {
  int type;

  /* NOLINTNEXTLINE(cert-pos47-c,concurrency-thread-canceltype-asynchronous): around a system call, and nothing else */
  pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
  long r = raw_call(nr, a, b, c, d, e, f);
  pthread_setcanceltype(type, NULL);
  return result(r);
}
#define POINT_(nr, a, b, c, d, e, f, ...) point(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define POINT(...) POINT_(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)

ssize_t read(int fd, void *buf, size_t n) { return POINT(SYS_read, fd, buf, n); }
ssize_t write(int fd, const void *buf, size_t n) { return POINT(SYS_write, fd, buf, n); }
ssize_t readv(int fd, const struct iovec *iov, int n) { return POINT(SYS_readv, fd, iov, n); }
ssize_t writev(int fd, const struct iovec *iov, int n) { return POINT(SYS_writev, fd, iov, n); }
ssize_t preadv2(int fd, const struct iovec *iov, int n, off_t at, int flags) {
  return POINT(SYS_preadv2, fd, iov, n, at, 0, flags);
}
ssize_t pwritev2(int fd, const struct iovec *iov, int n, off_t at, int flags) {
  return POINT(SYS_pwritev2, fd, iov, n, at, 0, flags);
}
ssize_t recv(int fd, void *buf, size_t n, int flags) { return POINT(SYS_recvfrom, fd, buf, n, flags, 0, 0); }
ssize_t recvfrom(int fd, void *restrict buf, size_t n, int flags, struct sockaddr *restrict a,
                 socklen_t *restrict len) {
  return POINT(SYS_recvfrom, fd, buf, n, flags, a, len);
}
ssize_t recvmsg(int fd, struct msghdr *m, int flags) { return POINT(SYS_recvmsg, fd, m, flags); }
int recvmmsg(int fd, struct mmsghdr *m, unsigned n, int flags, struct timespec *t) {
  return (int)POINT(SYS_recvmmsg, fd, m, n, flags, t);
}
ssize_t send(int fd, const void *buf, size_t n, int flags) { return POINT(SYS_sendto, fd, buf, n, flags, 0, 0); }
ssize_t sendto(int fd, const void *buf, size_t n, int flags, const struct sockaddr *a, socklen_t len) {
  return POINT(SYS_sendto, fd, buf, n, flags, a, len);
}
ssize_t sendmsg(int fd, const struct msghdr *m, int flags) { return POINT(SYS_sendmsg, fd, m, flags); }
int sendmmsg(int fd, struct mmsghdr *m, unsigned n, int flags) { return (int)POINT(SYS_sendmmsg, fd, m, n, flags); }
ssize_t sendfile(int out, int in, off_t *at, size_t n) { return CALL(SYS_sendfile, out, in, at, n); }

int socket(int domain, int type, int protocol) { return (int)CALL(SYS_socket, domain, type, protocol); }
int connect(int fd, const struct sockaddr *a, socklen_t len) { return (int)POINT(SYS_connect, fd, a, len); }
int accept(int fd, struct sockaddr *restrict a, socklen_t *restrict len) { return (int)POINT(SYS_accept, fd, a, len); }
int accept4(int fd, struct sockaddr *restrict a, socklen_t *restrict len, int flags) {
  return (int)POINT(SYS_accept4, fd, a, len, flags);
}
int shutdown(int fd, int how) { return (int)CALL(SYS_shutdown, fd, how); }
int getsockopt(int fd, int level, int name, void *restrict v, socklen_t *restrict len) {
  return (int)CALL(SYS_getsockopt, fd, level, name, v, len);
}
int setsockopt(int fd, int level, int name, const void *v, socklen_t len) {
  return (int)CALL(SYS_setsockopt, fd, level, name, v, len);
}

int close(int fd) { return (int)POINT(SYS_close, fd); }
int dup(int fd) { return (int)CALL(SYS_dup, fd); }
int dup2(int old, int new) { return (int)CALL(SYS_dup2, old, new); }
int dup3(int old, int new, int flags) { return (int)CALL(SYS_dup3, old, new, flags); }
int fcntl(int fd, int cmd, ...) {
  va_list ap;
  va_start(ap, cmd);
  void *arg = va_arg(ap, void *);
  va_end(ap);
  return (int)CALL(SYS_fcntl, fd, cmd, arg);
}
int ioctl(int fd, unsigned long request, ...) {
  va_list ap;
  va_start(ap, request);
  void *arg = va_arg(ap, void *);
  va_end(ap);
  return (int)CALL(SYS_ioctl, fd, request, arg);
}

int poll(struct pollfd *fds, nfds_t n, int timeout) { return (int)POINT(SYS_poll, fds, n, timeout); }
int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask) {
  struct timespec left = timeout ? *timeout : (struct timespec){0};
  return (int)POINT(SYS_ppoll, fds, n, timeout ? &left : NULL, mask, 8);
}
int select(int n, fd_set *restrict rd, fd_set *restrict wr, fd_set *restrict ex, struct timeval *restrict timeout) {
  return (int)POINT(SYS_select, n, rd, wr, ex, timeout);
}
int pselect(int n, fd_set *restrict rd, fd_set *restrict wr, fd_set *restrict ex,
            const struct timespec *restrict timeout, const sigset_t *restrict mask) {
  struct timespec left = timeout ? *timeout : (struct timespec){0};
  long six[2] = {(long)mask, 8};
  return (int)POINT(SYS_pselect6, n, rd, wr, ex, timeout ? &left : NULL, six);
}
int epoll_create1(int flags) { return (int)CALL(SYS_epoll_create1, flags); }
int epoll_ctl(int epfd, int op, int fd, struct epoll_event *e) { return (int)CALL(SYS_epoll_ctl, epfd, op, fd, e); }
int epoll_wait(int epfd, struct epoll_event *e, int n, int timeout) {
  return (int)POINT(SYS_epoll_wait, epfd, e, n, timeout);
}
int epoll_pwait(int epfd, struct epoll_event *e, int n, int timeout, const sigset_t *mask) {
  return (int)POINT(SYS_epoll_pwait, epfd, e, n, timeout, mask, 8);
}
