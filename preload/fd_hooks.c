/* SPDX-License-Identifier: MIT */
/*
 * preload/fd_hooks.c - the exported functions that make, copy, change and close descriptors.
 */
#include <errno.h>
#include <linux/close_range.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>

#include "epoll.h"
#include "export.h"
#include "io.h"
#include "log.h"
#include "process.h"
#include "raw.h"
#include "real.h"
#include "registry/sys.h"
#include "tramp.h"

#ifndef SO_TIMESTAMP_NEW
#define SO_TIMESTAMP_NEW 63
#define SO_TIMESTAMPNS_NEW 64
#define SO_TIMESTAMPING_NEW 65
#endif

/* ---- new descriptors ---- */

/* A number that libc just gave for something else cannot be what the table says of it: it was closed unseen. */
static void fresh(int fd) {
  if (fd >= 0 && FL_UNLIKELY(fl_entry(fd) != 0)) {
    int saved = errno;
    fl_conn_forget(fd, false);
    errno = saved;
  }
}

FL_EXPORT int socket(int domain, int type, int protocol) {
  int fd = REAL(socket)(domain, type, protocol);

  fresh(fd);
  if (fd >= 0 && (domain == AF_INET || domain == AF_INET6) && (type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) == SOCK_STREAM)
    fl_fds_set(fd, FL_TAG_STREAM | (type & SOCK_NONBLOCK ? FL_STREAM_NONBLOCK : 0));
  return fd;
}

static bool stream(uintptr_t entry) { return (entry & FL_TAG_MASK) == FL_TAG_STREAM; }

static bool inet(int family) { return family == AF_INET || family == AF_INET6; }

/* Of a socket whose making was not seen (inherited, or passed to us): is it an internet stream? */
static bool asked_stream(int fd) {
  int type = 0, domain = 0;
  socklen_t len = sizeof type;

  if (fl_sys_getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) != 0 || type != SOCK_STREAM)
    return false;
  len = sizeof domain;
  return fl_sys_getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && inet(domain);
}

FL_EXPORT int connect(int fd, const struct sockaddr *addr, socklen_t len) {
  uintptr_t entry = fl_entry(fd);
  struct fl_conn *c = fl_conn_of(fd);
  int r = REAL(connect)(fd, addr, len);

  if (!fl_fds || !addr || len < sizeof addr->sa_family)
    return r;
  fl_elsewhere();
  int saved = errno;
  if (FL_UNLIKELY(c != NULL || fl_conn_of(fd))) { /* there before, or registered by another thread meanwhile */
    if (c && r == 0 && addr->sa_family == AF_UNSPEC) {
      if (atomic_load_explicit(&c->nholders, memory_order_acquire) == 1 &&
          atomic_load_explicit(&fl_local_of(c)->nfds, memory_order_relaxed) == 1) {
        fl_conn_forget(fd, false);
        if (!fl_entry(fd)) /* it may be connected again, and epoll sets keep it */
          fl_fds_set(fd, FL_TAG_STREAM | FL_STREAM_ODD);
      } else {
        fl_pair_dissolved(c);
      }
    }
  } else if ((r == 0 || errno == EINPROGRESS || errno == EINTR) && inet(addr->sa_family)) {
    /* whether it is TCP is asked when pairing is due */
    if (stream(entry)) {
      fl_conn_open(fd, entry & FL_STREAM_NONBLOCK, false);
    } else if (entry == 0 && asked_stream(fd)) {
      int flags = fl_sys_fcntl(fd, F_GETFL, 0);
      fl_conn_open(fd, flags >= 0 && (flags & O_NONBLOCK), false);
      if ((c = fl_conn_of(fd))) /* who waits for it already is not known */
        fl_conn_pin(c, FL_WHY_NESTED);
    }
  }
  errno = saved;
  return r;
}

static int accepted(int fd, int listener, bool nonblock) {
  if (fd < 0 || !fl_fds_size)
    return fd;
  int saved = errno;
  fresh(fd);
  if (stream(fl_entry(listener)) || asked_stream(fd))
    fl_conn_open(fd, nonblock, true);
  errno = saved;
  return fd;
}

FL_EXPORT int accept(int fd, struct sockaddr *restrict addr, socklen_t *restrict len) {
  return accepted(REAL(accept)(fd, addr, len), fd, false);
}

FL_EXPORT int accept4(int fd, struct sockaddr *restrict addr, socklen_t *restrict len, int flags) {
  return accepted(REAL(accept4)(fd, addr, len, flags), fd, flags & SOCK_NONBLOCK);
}

/* ---- copies ---- */

static void duplicate(int old, int new) {
  uintptr_t e = fl_entry(old);

  if (new < 0 || new == old || (!e && !fl_entry(new)))
    return;
  int saved = errno;
  if (fl_in_vfork_child()) {
    /* the child of a vfork has a table of its own in the kernel, but not here */
  } else if (!e || (e & FL_TAG_MASK) == FL_TAG_PRIVATE || stream(e)) {
    fresh(new); /* O_NONBLOCK of a stream that has two numbers would have to be kept in two places: ask the kernel */
    if (stream(e) && (e & (FL_STREAM_WAITED | FL_STREAM_ODD))) {
      fl_stream_mark(old, FL_STREAM_ODD);
      fl_fds_set(new, FL_TAG_STREAM | FL_STREAM_ODD);
    } else if (stream(e)) {
      fl_fds_set(old, 0);
    }
  } else if ((e & FL_TAG_MASK) == FL_TAG_EPOLL) {
    fl_epoll_share(fl_entry_epoll(e), new);
  } else {
    struct fl_conn *c = fl_entry_conn(e);
    fl_conn_share(c, new);
    if (new <= STDERR_FILENO && !fl_tramp_stdio) { /* this process may use it through stdin, stdout or stderr */
      fl_conn_pin(c, FL_WHY_STDIO);
      if (!fl_hand_over(c, new))
        fl_log(FL_LOG_WARN, "descriptor %d: unread bytes are not seen by stdio", new);
    }
  }
  errno = saved;
}

FL_EXPORT int dup(int fd) {
  int new = REAL(dup)(fd);

  duplicate(fd, new);
  return new;
}

/* What `new` was is closed by the kernel in the same step: what its ring holds must be dealt with before. */
static void replaced(int old, int new) {
  if (old != new &&fl_entry(new) && fl_sys_fcntl(old, F_GETFD, 0) >= 0) {
    int saved = errno;
    fl_conn_forget(new, true);
    errno = saved;
  }
}

FL_EXPORT int dup2(int old, int new) {
  replaced(old, new);
  int r = REAL(dup2)(old, new);
  if (r >= 0)
    duplicate(old, r);
  return r;
}

FL_EXPORT int dup3(int old, int new, int flags) {
  if ((flags & ~O_CLOEXEC) == 0)
    replaced(old, new);
  int r = REAL(dup3)(old, new, flags);
  if (r >= 0)
    duplicate(old, r);
  return r;
}

/* ---- closing ---- */

static bool private_fd(int fd) { return (fl_entry(fd) & FL_TAG_MASK) == FL_TAG_PRIVATE; }

FL_EXPORT int close(int fd) {
  if (FL_UNLIKELY(fl_entry(fd) != 0)) {
    if (private_fd(fd)) { /* not the application's: as if it were not open */
      errno = EBADF;
      return -1;
    }
    int saved = errno;
    fl_conn_forget(fd, true);
    errno = saved;
  }
  return REAL(close)(fd);
}

static void forget_range(unsigned first, unsigned last) {
  if (!fl_fds_size)
    return;
  if (last >= fl_fds_size)
    last = fl_fds_size - 1;
  int saved = errno;
  for (unsigned fd = first; fd <= last; fd++)
    if (fl_entry((int)fd) && !private_fd((int)fd))
      fl_conn_forget((int)fd, true);
  errno = saved;
}

/* Private descriptors go with the rest: a rendezvous is lost, which costs a try. Its owner sees the empty entry. */
static void drop_private(unsigned first, unsigned last) {
  for (unsigned fd = first; fd <= last && fd < fl_fds_size; fd++)
    if (private_fd((int)fd))
      fl_fds_set((int)fd, 0);
}

FL_EXPORT int close_range(unsigned first, unsigned last, int flags) {
  /* a thread that takes its descriptors away from the others is not followed; in a process that has no others it closes
   */
  bool closes = flags == 0 || (flags == CLOSE_RANGE_UNSHARE && fl_raw_single());

  if (fl_fds_size && first <= last && closes && !fl_in_vfork_child()) {
    forget_range(first, last);
    drop_private(first, last);
  }
  return REAL(close_range)(first, last, flags);
}

FL_EXPORT void closefrom(int first) {
  if (fl_fds_size && !fl_in_vfork_child()) {
    unsigned from = first < 0 ? 0 : (unsigned)first;
    forget_range(from, UINT_MAX);
    drop_private(from, UINT_MAX);
  }
  REAL(closefrom)(first);
}

/* ---- flags and options ---- */

/* O_NONBLOCK of a socket that is not connected yet. */
static void stream_nonblock(int fd, bool on) {
  if (stream(fl_entry(fd)))
    fl_stream_change(fd, FL_STREAM_NONBLOCK, on ? FL_STREAM_NONBLOCK : 0);
}

static void flags_set(int fd, int flags) {
  struct fl_conn *c = fl_conn_of(fd);

  stream_nonblock(fd, flags & O_NONBLOCK);
  if (!c)
    return;
  atomic_store_explicit(&c->nonblock, !!(flags & O_NONBLOCK), memory_order_relaxed);
  if (flags & O_ASYNC)
    fl_conn_pin(c, FL_WHY_OPTION);
}

static int after_fcntl(int fd, int cmd, long arg, int r) {
  if (r < 0 || FL_LIKELY(!fl_entry(fd)))
    return r;
  if (cmd == F_SETFL)
    flags_set(fd, (int)arg);
  else if (cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC)
    duplicate(fd, r);
  return r;
}

FL_EXPORT int fcntl(int fd, int cmd, ...) {
  va_list ap;

  va_start(ap, cmd);
  void *arg = va_arg(ap, void *);
  va_end(ap);
  return after_fcntl(fd, cmd, (long)arg, REAL(fcntl)(fd, cmd, arg));
}

FL_EXPORT int fcntl64(int fd, int cmd, ...) {
  va_list ap;

  va_start(ap, cmd);
  void *arg = va_arg(ap, void *);
  va_end(ap);
  return after_fcntl(fd, cmd, (long)arg, REAL(fcntl64)(fd, cmd, arg));
}

FL_EXPORT int ioctl(int fd, fl_ioctl_request request, ...) {
  va_list ap;

  va_start(ap, request);
  void *arg = va_arg(ap, void *);
  va_end(ap);
  int r = REAL(ioctl)(fd, request, arg);
  struct fl_conn *c = fl_conn_of(fd);
  if (r >= 0 && (unsigned long)request == FIONBIO)
    stream_nonblock(fd, *(int *)arg != 0);
  if (FL_LIKELY(!c) || r < 0)
    return r;
  if ((unsigned long)request == FIONBIO) {
    atomic_store_explicit(&c->nonblock, *(int *)arg != 0, memory_order_relaxed);
  } else if (request == FIOASYNC) {
    if (*(int *)arg)
      fl_conn_pin(c, FL_WHY_OPTION);
  } else if (request == SIOCATMARK && *(int *)arg && fl_lock(&c->rx_lock) == FL_LOCKED) {
    /* bytes in the ring were sent before anything urgent */
    if (fl_conn_of(fd) == c && fl_conn_paired(c) && fl_rx_pending(&c->rx))
      *(int *)arg = 0;
    fl_unlock(&c->rx_lock);
  } else if (request == FIONREAD && fl_lock(&c->rx_lock) == FL_LOCKED) {
    if (fl_conn_of(fd) == c && fl_conn_paired(c))
      *(int *)arg += (int)fl_rx_pending(&c->rx);
    fl_unlock(&c->rx_lock);
  }
  /* TIOCOUTQ stays the kernel's: on loopback TCP what has reached the other end is acknowledged, and not counted there
   */
  return r;
}

/* libc's makes the system call itself. */
FL_EXPORT int sockatmark(int fd) {
  int mark;

  return ioctl(fd, SIOCATMARK, &mark) < 0 ? -1 : mark;
}

/* Options that only the kernel's own path can honour. */
static bool option_pins(int level, int name, const void *value, socklen_t len) {
  int v = value && len >= sizeof v ? *(const int *)value : value && len > 0 ? *(const unsigned char *)value : 0;

  if (level == SOL_SOCKET)
    switch (name) {
    case SO_RCVLOWAT: return v > 1;
    case SO_ZEROCOPY:
    case SO_TIMESTAMP:
    case SO_TIMESTAMPNS:
    case SO_TIMESTAMPING:
    case SO_TIMESTAMP_NEW:
    case SO_TIMESTAMPNS_NEW:
    case SO_TIMESTAMPING_NEW: return v != 0;
    case SO_PEEK_OFF: return v >= 0;
    }
  if (level == IPPROTO_TCP)
    switch (name) {
    case TCP_ULP: return true;
    case TCP_REPAIR:
    case TCP_INQ: return v != 0;
    }
  return false;
}

/* Once paired, TCP_NODELAY is on and TCP_CORK off in the kernel; the application's values are kept here. */
static _Atomic uint8_t *virtual_option(struct fl_conn *c, int level, int name) {
  if (!c || level != IPPROTO_TCP || !fl_conn_paired(c))
    return NULL;
  return name == TCP_NODELAY ? &c->nodelay : name == TCP_CORK ? &c->cork : NULL;
}

FL_EXPORT int setsockopt(int fd, int level, int name, const void *value, socklen_t len) {
  struct fl_conn *c = fl_conn_of(fd);
  _Atomic uint8_t *kept = virtual_option(c, level, name);

  if (FL_UNLIKELY(kept != NULL) && len >= sizeof(int) && fl_addr_readable(value, sizeof(int))) {
    atomic_store_explicit(kept, *(const int *)value != 0, memory_order_relaxed);
    return 0;
  }
  int r = REAL(setsockopt)(fd, level, name, value, len);
  if (FL_LIKELY(!c) || r != 0)
    return r;
  if (option_pins(level, name, value, len))
    fl_conn_pin(c, FL_WHY_OPTION);
  if (level == SOL_SOCKET && name == SO_OOBINLINE && len >= sizeof(int))
    atomic_store_explicit(&c->oob_inline, *(const int *)value != 0, memory_order_relaxed);
  if (level == SOL_SOCKET &&
      (name == SO_RCVTIMEO || name == SO_SNDTIMEO)) /* never taken back: costs an EINTR at most */
    atomic_fetch_or_explicit(&c->timed, name == SO_RCVTIMEO ? FL_TIMED_RX : FL_TIMED_TX, memory_order_relaxed);
  return r;
}

FL_EXPORT int getsockopt(int fd, int level, int name, void *restrict value, socklen_t *restrict len) {
  struct fl_conn *c = fl_conn_of(fd);
  int r = REAL(getsockopt)(fd, level, name, value, len);

  if (FL_LIKELY(!c) || r != 0)
    return r;
  _Atomic uint8_t *kept = virtual_option(c, level, name);
  if (kept) {
    int v = atomic_load_explicit(kept, memory_order_relaxed);
    memcpy(value, &v, *len < sizeof v ? *len : sizeof v);
  }
  /* one that a receive met, which had bytes to return */
  if (level == SOL_SOCKET && name == SO_ERROR && *len == sizeof(int) && *(int *)value == 0)
    *(int *)value = atomic_exchange_explicit(&c->rx_error, 0, memory_order_relaxed);
  return r;
}

FL_EXPORT int shutdown(int fd, int how) {
  struct fl_conn *c = fl_conn_of(fd);

  if (FL_UNLIKELY(c != NULL)) {
    int saved = errno;
    if (how == SHUT_RD || how == SHUT_RDWR)
      fl_conn_pin(c, FL_WHY_SHUT_RD);
    if ((how == SHUT_WR || how == SHUT_RDWR) && fl_lock(&c->tx_lock) == FL_LOCKED) {
      if (fl_conn_of(fd) == c)
        fl_send_back_last(c, fd);
      /* what was sent before is published; nothing may follow in the ring, nor is anything sent again */
      atomic_store_explicit(&c->shut_wr, 1, memory_order_relaxed);
      if (fl_conn_of(fd) == c && fl_conn_paired(c) && !c->tx.broken)
        fl_tx_flag(&c->tx, FL_FLAG_FIN);
      fl_unlock(&c->tx_lock);
    }
    errno = saved;
  }
  int r = REAL(shutdown)(fd, how);
  if (c)
    fl_elsewhere();
  return r;
}

FL_SECOND_NAME(connect);
FL_SECOND_NAME(close);
FL_SECOND_NAME(fcntl);
FL_SECOND_NAME(dup2);
