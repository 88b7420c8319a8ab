/* SPDX-License-Identifier: MIT */
/*
 * preload/io_hooks.c - the exported functions that send and receive. Each asks the table whether the descriptor is a
 * followed connection; if not, that look-up is all that it costs.
 */
#include <errno.h>
#include <string.h>

#include "epoll.h"
#include "export.h"
#include "io.h"
#include "log.h"
#include "options.h"
#include "process.h"
#include "real.h"
#include "registry/sys.h"

/* ---- receiving ---- */

static ssize_t native_read(int fd, const struct fl_io *io) { return REAL(read)(fd, io->iov->iov_base, io->len); }
static ssize_t native_readv(int fd, const struct fl_io *io) { return REAL(readv)(fd, io->iov, io->iovcnt); }
static ssize_t native_recviov(int fd, const struct fl_io *io) {
  struct msghdr msg = {.msg_iov = (struct iovec *)io->iov, .msg_iovlen = (size_t)io->iovcnt};
  return REAL(recvmsg)(fd, &msg, io->flags);
}
static ssize_t native_recv(int fd, const struct fl_io *io) {
  return REAL(recv)(fd, io->iov->iov_base, io->len, io->flags);
}
static ssize_t native_recvfrom(int fd, const struct fl_io *io) {
  return REAL(recvfrom)(fd, io->iov->iov_base, io->len, io->flags, io->addr, io->addrlen);
}
static ssize_t native_recvmsg(int fd, const struct fl_io *io) { return REAL(recvmsg)(fd, io->msg, io->flags); }

/*
 * Each function is in two parts. The exported one needs no frame: what is not ours costs the look-up and a jump.
 */
#define FL_NOT_OURS(fd, name) FL_LIKELY(fl_entry(fd) == 0 && fl_real.name != NULL)

static FL_NOINLINE ssize_t other_read(int fd, void *buf, size_t n) {
  struct fl_conn *c = fl_conn_of(fd);
  if (!c)
    return REAL(read)(fd, buf, n);
  if (fl_conn_settled(c))
    return fl_count_settled(&c->rx_kernel, REAL(read)(fd, buf, n));
  struct iovec iov = {buf, n};
  struct fl_io io = {.native = native_read, .iov = &iov, .iovcnt = 1, .len = n, .plain = true};
  return fl_recv(c, fd, &io);
}

FL_EXPORT ssize_t read(int fd, void *buf, size_t n) {
  static const struct fl_call call = {native_read, true};
  uintptr_t e = fl_entry(fd);
  if (FL_LIKELY(e == 0 && fl_real.read != NULL))
    return fl_real.read(fd, buf, n);
  struct fl_conn *c = fl_entry_paired(e);
  return FL_LIKELY(c != NULL) ? fl_recv_one(c, fd, buf, n, 0, &call) : other_read(fd, buf, n);
}

FL_EXPORT ssize_t __read_chk(int fd, void *buf, size_t n, size_t size) {
  if (FL_LIKELY(!fl_conn_of(fd)) || n > size)
    return REAL(__read_chk)(fd, buf, n, size); /* too long: libc aborts */
  return read(fd, buf, n);
}

static FL_NOINLINE ssize_t conn_readv(int fd, const struct iovec *iov, int cnt) {
  struct fl_conn *c = fl_conn_of(fd);
  ssize_t len;

  if (!c || (len = fl_iov_len(iov, cnt)) < 0)
    return REAL(readv)(fd, iov, cnt);
  struct fl_io io = {.native = native_readv, .iov = iov, .iovcnt = cnt, .len = (size_t)len, .plain = true};
  return fl_recv(c, fd, &io);
}

FL_EXPORT ssize_t readv(int fd, const struct iovec *iov, int cnt) {
  return FL_NOT_OURS(fd, readv) ? fl_real.readv(fd, iov, cnt) : conn_readv(fd, iov, cnt);
}

/* From a socket, with the offset -1 and no flags, this is readv; others are seldom enough to be left to the kernel. */
FL_EXPORT ssize_t preadv2(int fd, const struct iovec *iov, int cnt, off_t offset, int flags) {
  struct fl_conn *c = fl_conn_of(fd);

  if (FL_UNLIKELY(c != NULL) && offset == -1) {
    ssize_t len;
    if ((flags == 0 || flags == RWF_NOWAIT) && (len = fl_iov_len(iov, cnt)) >= 0) {
      struct fl_io io = {.native = flags ? native_recviov : native_readv,
                         .iov = iov,
                         .iovcnt = cnt,
                         .len = (size_t)len,
                         .flags = flags ? MSG_DONTWAIT : 0,
                         .plain = true};
      return fl_recv(c, fd, &io);
    }
    fl_conn_pin(c, FL_WHY_OPTION);
  }
  return REAL(preadv2)(fd, iov, cnt, offset, flags);
}

static FL_NOINLINE ssize_t other_recv(int fd, void *buf, size_t n, int flags) {
  struct fl_conn *c = fl_conn_of(fd);
  if (!c)
    return REAL(recv)(fd, buf, n, flags);
  if (fl_conn_settled(c) && !(flags & MSG_PEEK))
    return fl_count_settled(&c->rx_kernel, REAL(recv)(fd, buf, n, flags));
  struct iovec iov = {buf, n};
  struct fl_io io = {.native = native_recv, .iov = &iov, .iovcnt = 1, .len = n, .flags = flags};
  return fl_recv(c, fd, &io);
}

FL_EXPORT ssize_t recv(int fd, void *buf, size_t n, int flags) {
  static const struct fl_call call = {native_recv, false};
  uintptr_t e = fl_entry(fd);
  if (FL_LIKELY(e == 0 && fl_real.recv != NULL))
    return fl_real.recv(fd, buf, n, flags);
  struct fl_conn *c = fl_entry_paired(e);
  return FL_LIKELY(c != NULL) ? fl_recv_one(c, fd, buf, n, flags, &call) : other_recv(fd, buf, n, flags);
}

FL_EXPORT ssize_t __recv_chk(int fd, void *buf, size_t n, size_t size, int flags) {
  if (FL_LIKELY(!fl_conn_of(fd)) || n > size)
    return REAL(__recv_chk)(fd, buf, n, size, flags);
  return recv(fd, buf, n, flags);
}

/* What the kernel says of the address when the bytes are taken: TCP has none to give. */
static ssize_t no_address(socklen_t *len, ssize_t got) {
  if (!fl_addr_readable(len, sizeof *len) || fl_mem_writable(len, sizeof *len) < sizeof *len) {
    errno = EFAULT;
    return -1;
  }
  if ((int)*len < 0) {
    errno = EINVAL;
    return -1;
  }
  *len = 0;
  return got;
}

static FL_NOINLINE ssize_t conn_recvfrom(int fd, void *buf, size_t n, int flags, struct sockaddr *addr,
                                         socklen_t *addrlen) {
  struct fl_conn *c = fl_conn_of(fd);
  if (!c)
    return REAL(recvfrom)(fd, buf, n, flags, addr, addrlen);
  if (!addr && !addrlen)
    return recv(fd, buf, n, flags);
  struct iovec iov = {buf, n};
  if (fl_conn_paired(c) && addr && !(flags & (MSG_OOB | MSG_ERRQUEUE))) {
    struct fl_io io = {.native = native_recv, .iov = &iov, .iovcnt = 1, .len = n, .flags = flags};
    ssize_t got = fl_recv(c, fd, &io);
    return got < 0 ? got : no_address(addrlen, got);
  }
  struct fl_io io = {
      .native = native_recvfrom, .iov = &iov, .iovcnt = 1, .len = n, .flags = flags, .addr = addr, .addrlen = addrlen};
  return fl_recv(c, fd, &io);
}

FL_EXPORT ssize_t recvfrom(int fd, void *restrict buf, size_t n, int flags, struct sockaddr *restrict addr,
                           socklen_t *restrict addrlen) {
  return FL_NOT_OURS(fd, recvfrom) ? fl_real.recvfrom(fd, buf, n, flags, addr, addrlen)
                                   : conn_recvfrom(fd, buf, n, flags, addr, addrlen);
}

FL_EXPORT ssize_t __recvfrom_chk(int fd, void *restrict buf, size_t n, size_t size, int flags,
                                 struct sockaddr *restrict addr, socklen_t *restrict addrlen) {
  if (FL_LIKELY(!fl_conn_of(fd)) || n > size)
    return REAL(__recvfrom_chk)(fd, buf, n, size, flags, addr, addrlen);
  return recvfrom(fd, buf, n, flags, addr, addrlen);
}

static FL_NOINLINE ssize_t conn_recvmsg(int fd, struct msghdr *msg, int flags) {
  struct fl_conn *c = fl_conn_of(fd);
  ssize_t len;

  if (!c || !fl_addr_readable(msg, sizeof *msg) || msg->msg_iovlen > IOV_MAX ||
      (len = fl_iov_len(msg->msg_iov, (int)msg->msg_iovlen)) < 0)
    return REAL(recvmsg)(fd, msg, flags);
  struct fl_io io = {.native = native_recvmsg,
                     .iov = msg->msg_iov,
                     .iovcnt = (int)msg->msg_iovlen,
                     .len = (size_t)len,
                     .flags = flags,
                     .msg = msg};
  return fl_recv(c, fd, &io);
}

FL_EXPORT ssize_t recvmsg(int fd, struct msghdr *msg, int flags) {
  return FL_NOT_OURS(fd, recvmsg) ? fl_real.recvmsg(fd, msg, flags) : conn_recvmsg(fd, msg, flags);
}

/* One message at a time, as the kernel does; its timeout, too, is looked at only between messages. An error of the
 * connection is reported before any message, and the end of the stream fills all of them. */
FL_EXPORT int recvmmsg(int fd, struct mmsghdr *vec, unsigned n, fl_mmsg_flags flags, struct timespec *timeout) {
  struct fl_conn *c = fl_conn_of(fd);
  unsigned done = 0;

  if (FL_LIKELY(!c) || n == 0 || n > IOV_MAX || !fl_addr_readable(vec, n * sizeof *vec) ||
      (timeout && (!fl_addr_readable(timeout, sizeof *timeout) || timeout->tv_sec < 0 || timeout->tv_nsec < 0 ||
                   timeout->tv_nsec >= 1000000000)))
    return REAL(recvmmsg)(fd, vec, n, flags, timeout);
  int error = 0;
  socklen_t size = sizeof error;
  if (!(flags & MSG_ERRQUEUE) && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error) {
    errno = error;
    return -1;
  }
  uint64_t begin = fl_now(),
           limit = timeout ? (uint64_t)timeout->tv_sec * 1000000000u + (uint64_t)timeout->tv_nsec : UINT64_MAX;
  while (done < n) {
    ssize_t got = recvmsg(fd, &vec[done].msg_hdr, flags & ~MSG_WAITFORONE);
    if (got < 0)
      break;
    vec[done++].msg_len = (unsigned)got;
    if (flags & MSG_WAITFORONE)
      flags |= MSG_DONTWAIT;
    if (timeout) {
      uint64_t gone = fl_ticks_to_ns(fl_now() - begin), left = gone < limit ? limit - gone : 0;
      *timeout = (struct timespec){(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
      if (left == 0)
        break;
    }
  }
  return done ? (int)done : -1;
}

/* ---- sending ---- */

static ssize_t native_write(int fd, const struct fl_io *io) { return REAL(write)(fd, io->iov->iov_base, io->len); }
static ssize_t native_writev(int fd, const struct fl_io *io) { return REAL(writev)(fd, io->iov, io->iovcnt); }
static ssize_t native_send(int fd, const struct fl_io *io) {
  return REAL(send)(fd, io->iov->iov_base, io->len, io->flags);
}
static ssize_t native_sendto(int fd, const struct fl_io *io) {
  return REAL(sendto)(fd, io->iov->iov_base, io->len, io->flags, io->to, io->tolen);
}
static ssize_t native_sendmsg(int fd, const struct fl_io *io) { return REAL(sendmsg)(fd, io->msg, io->flags); }

static FL_NOINLINE ssize_t other_write(int fd, const void *buf, size_t n) {
  struct fl_conn *c = fl_conn_of(fd);
  if (!c)
    return REAL(write)(fd, buf, n);
  if (fl_conn_settled(c))
    return fl_count_settled(&c->tx_kernel, REAL(write)(fd, buf, n));
  struct iovec iov = {(void *)buf, n};
  struct fl_io io = {.native = native_write, .iov = &iov, .iovcnt = 1, .len = n, .plain = true};
  return fl_send(c, fd, &io);
}

FL_EXPORT ssize_t write(int fd, const void *buf, size_t n) {
  static const struct fl_call call = {native_write, true};
  uintptr_t e = fl_entry(fd);
  if (FL_LIKELY(e == 0 && fl_real.write != NULL))
    return fl_real.write(fd, buf, n);
  struct fl_conn *c = fl_entry_paired(e);
  return FL_LIKELY(c != NULL) ? fl_send_one(c, fd, buf, n, 0, &call) : other_write(fd, buf, n);
}

static FL_NOINLINE ssize_t conn_writev(int fd, const struct iovec *iov, int cnt) {
  struct fl_conn *c = fl_conn_of(fd);
  ssize_t len;

  if (!c || (len = fl_iov_len(iov, cnt)) < 0)
    return REAL(writev)(fd, iov, cnt);
  struct fl_io io = {.native = native_writev, .iov = iov, .iovcnt = cnt, .len = (size_t)len, .plain = true};
  return fl_send(c, fd, &io);
}

FL_EXPORT ssize_t writev(int fd, const struct iovec *iov, int cnt) {
  return FL_NOT_OURS(fd, writev) ? fl_real.writev(fd, iov, cnt) : conn_writev(fd, iov, cnt);
}

FL_EXPORT ssize_t pwritev2(int fd, const struct iovec *iov, int cnt, off_t offset, int flags) {
  struct fl_conn *c = fl_conn_of(fd);

  if (FL_UNLIKELY(c != NULL) && offset == -1) {
    if (flags == 0)
      return writev(fd, iov, cnt);
    fl_conn_pin(c, FL_WHY_OPTION);
  }
  return REAL(pwritev2)(fd, iov, cnt, offset, flags);
}

static FL_NOINLINE ssize_t other_send(int fd, const void *buf, size_t n, int flags) {
  struct fl_conn *c = fl_conn_of(fd);
  if (!c)
    return REAL(send)(fd, buf, n, flags);
  if (fl_conn_settled(c))
    return fl_count_settled(&c->tx_kernel, REAL(send)(fd, buf, n, flags));
  struct iovec iov = {(void *)buf, n};
  struct fl_io io = {.native = native_send, .iov = &iov, .iovcnt = 1, .len = n, .flags = flags};
  return fl_send(c, fd, &io);
}

FL_EXPORT ssize_t send(int fd, const void *buf, size_t n, int flags) {
  static const struct fl_call call = {native_send, false};
  uintptr_t e = fl_entry(fd);
  if (FL_LIKELY(e == 0 && fl_real.send != NULL))
    return fl_real.send(fd, buf, n, flags);
  struct fl_conn *c = fl_entry_paired(e);
  return FL_LIKELY(c != NULL) ? fl_send_one(c, fd, buf, n, flags, &call) : other_send(fd, buf, n, flags);
}

static FL_NOINLINE ssize_t conn_sendto(int fd, const void *buf, size_t n, int flags, const struct sockaddr *to,
                                       socklen_t tolen) {
  struct fl_conn *c = fl_conn_of(fd);
  if (!c)
    return REAL(sendto)(fd, buf, n, flags, to, tolen);
  if (!to && !tolen)
    return send(fd, buf, n, flags);
  struct iovec iov = {(void *)buf, n};
  struct fl_io io = {
      .native = native_sendto, .iov = &iov, .iovcnt = 1, .len = n, .flags = flags, .to = to, .tolen = tolen};
  return fl_send(c, fd, &io);
}

FL_EXPORT ssize_t sendto(int fd, const void *buf, size_t n, int flags, const struct sockaddr *to, socklen_t tolen) {
  return FL_NOT_OURS(fd, sendto) ? fl_real.sendto(fd, buf, n, flags, to, tolen)
                                 : conn_sendto(fd, buf, n, flags, to, tolen);
}

/* Descriptors that are passed to another process: it will use the connection without us. */
static FL_NOINLINE void passed(const struct msghdr *msg) {
  if (!fl_fds || !fl_addr_readable(msg, sizeof *msg) || msg->msg_controllen < sizeof(struct cmsghdr) ||
      !fl_addr_readable(msg->msg_control, msg->msg_controllen))
    return;
  for (struct cmsghdr *m = CMSG_FIRSTHDR(msg); m; m = CMSG_NXTHDR((struct msghdr *)msg, m)) {
    if (m->cmsg_level != SOL_SOCKET || m->cmsg_type != SCM_RIGHTS || m->cmsg_len < CMSG_LEN(0))
      continue;
    for (size_t at = 0; at + sizeof(int) <= m->cmsg_len - CMSG_LEN(0); at += sizeof(int)) {
      int fd;
      memcpy(&fd, CMSG_DATA(m) + at, sizeof fd);
      uintptr_t e = fl_entry(fd);
      if (fl_entry_conn(e)) {
        fl_conn_pin(fl_entry_conn(e), FL_WHY_PASSED);
        fl_epoll_tell_all();
        if (!fl_hand_over(fl_entry_conn(e), fd))
          fl_log(FL_LOG_WARN, "descriptor %d: unread bytes are lost to who gets it", fd);
      } else if (fl_entry_epoll(e)) {
        fl_epoll_nested(fl_entry_epoll(e));
      }
    }
  }
}

FL_EXPORT ssize_t sendmsg(int fd, const struct msghdr *msg, int flags) {
  struct fl_conn *c = fl_conn_of(fd);
  ssize_t len;

  if (!c)
    passed(msg);
  if (!c || !fl_addr_readable(msg, sizeof *msg) || msg->msg_iovlen > IOV_MAX ||
      (len = fl_iov_len(msg->msg_iov, (int)msg->msg_iovlen)) < 0)
    return REAL(sendmsg)(fd, msg, flags);
  struct fl_io io = {.native = native_sendmsg,
                     .iov = msg->msg_iov,
                     .iovcnt = (int)msg->msg_iovlen,
                     .len = (size_t)len,
                     .flags = flags,
                     .msg = (struct msghdr *)msg};
  return fl_send(c, fd, &io);
}

FL_EXPORT int sendmmsg(int fd, struct mmsghdr *vec, unsigned n, fl_mmsg_flags flags) {
  struct fl_conn *c = fl_conn_of(fd);
  unsigned done = 0;

  if (FL_LIKELY(!c) || n == 0 || n > IOV_MAX || !fl_addr_readable(vec, n * sizeof *vec)) {
    for (unsigned i = 0; !c && i < n && i < IOV_MAX && fl_addr_readable(vec, n * sizeof *vec); i++)
      if (vec[i].msg_hdr.msg_controllen)
        passed(&vec[i].msg_hdr);
    return REAL(sendmmsg)(fd, vec, n, flags);
  }
  while (done < n) {
    ssize_t sent = sendmsg(fd, &vec[done].msg_hdr, flags);
    if (sent < 0)
      break;
    vec[done++].msg_len = (unsigned)sent;
  }
  return done ? (int)done : -1;
}

/* ---- between descriptors ---- */

struct sending {
  struct fl_conn *c;
  ssize_t n;
};
static void sending_end(struct sending *s) {
  int saved = errno;

  if (s->c)
    fl_send_end(s->c, s->n);
  errno = saved;
}

/* sendfile from one of our connections is not possible (the kernel says EINVAL); to one it is. */
static ssize_t do_sendfile(int out, int in, off_t *offset, size_t n, __typeof__(&sendfile) real) {
  struct fl_conn *c = fl_conn_of(out);
  ssize_t r;

  if (FL_LIKELY(!c))
    return real(out, in, offset, n);
  int saved = errno;
  if (fl_addr_readable(offset, offset ? sizeof *offset : 0) && fl_send_file(c, out, in, offset, n, &r)) {
    errno = saved;
    return r;
  }
  errno = saved;
  if (!fl_send_enter(c, out, n, 0))
    return -1;
  {
    struct sending s __attribute__((cleanup(sending_end))) = {c, 0};
    r = s.n = real(out, in, offset, n);
  }
  if (r > 0 && !fl_conn_paired(c))
    fl_pair_tick(c, out, (size_t)r); /* not before the bytes are counted, or the counts never agree */
  return r;
}

FL_EXPORT ssize_t sendfile(int out, int in, off_t *offset, size_t n) {
  return do_sendfile(out, in, offset, n, REAL(sendfile));
}

#if __SIZEOF_LONG__ == 8 /* off_t and off64_t are one type */
/* What programs with _FILE_OFFSET_BITS=64 call. */
extern __typeof__(preadv2) preadv64v2 __attribute__((alias("preadv2"), visibility("default"), copy(preadv2)));
extern __typeof__(pwritev2) pwritev64v2 __attribute__((alias("pwritev2"), visibility("default"), copy(pwritev2)));

FL_EXPORT ssize_t sendfile64(int out, int in, off64_t *offset, size_t n) {
  return do_sendfile(out, in, (off_t *)offset, n, (__typeof__(&sendfile))REAL(sendfile64));
}
#endif

/*
 * splice moves bytes inside the kernel. Into a connection: a native send. Out of one: the connection is pinned; bytes
 * that are left in the ring come first and are written to the pipe here.
 */
FL_EXPORT ssize_t splice(int in, off64_t *in_off, int out, off64_t *out_off, size_t n, unsigned flags) {
  struct fl_conn *from = fl_conn_of(in), *to = fl_conn_of(out);

  if (FL_LIKELY(!from && !to))
    return REAL(splice)(in, in_off, out, out_off, n, flags);
  if (from) {
    fl_conn_pin(from, FL_WHY_SPLICE);
    char buf[4096];
    ssize_t got = 0;
    fl_conn_enter(from);
    bool left = fl_rx_ready(from, NULL);
    fl_conn_leave(from);
    if (left) {
      /* never more than the pipe takes at once: what was taken out of the ring cannot be put back */
      if (!(fl_sys_ready(out, POLLOUT) & POLLOUT)) {
        if (flags & SPLICE_F_NONBLOCK) {
          errno = EAGAIN;
          return -1;
        }
        struct pollfd p = {.fd = out, .events = POLLOUT};
        if (REAL(poll)(&p, 1, -1) < 0)
          return -1;
      }
      got = recv(in, buf, n < sizeof buf ? n : sizeof buf, flags & SPLICE_F_NONBLOCK ? MSG_DONTWAIT : 0);
      if (got <= 0)
        return got;
      return REAL(write)(out, buf, (size_t)got);
    }
    return REAL(splice)(in, in_off, out, out_off, n, flags);
  }
  ssize_t sent;
  if (!fl_send_enter(to, out, n, flags & SPLICE_F_NONBLOCK ? MSG_DONTWAIT : 0))
    return -1;
  if (fl_conn_paired(to))
    flags &= ~(unsigned)SPLICE_F_MORE; /* as MSG_MORE in tx.c */
  {
    struct sending s __attribute__((cleanup(sending_end))) = {to, 0};
    sent = s.n = REAL(splice)(in, in_off, out, out_off, n, flags);
  }
  if (sent > 0 && !fl_conn_paired(to))
    fl_pair_tick(to, out, (size_t)sent);
  return sent;
}

FL_SECOND_NAME(read);
FL_SECOND_NAME(write);
FL_SECOND_NAME(send);
