/* SPDX-License-Identifier: MIT */
/*
 * preload/fast.c - the common case of sending and receiving: one buffer, a paired connection that this process holds
 * alone, nobody else in it, the receiver watches, and the bytes are there, or fit. For everything else fl_send and
 * fl_recv are called (tx.c, rx.c), or their second half, as far as this one has come.
 */
#include "shmring/fast.h"
#include "io.h"
#include "raw.h"
#include "shmring/fault.h"

/* Flags of a send that say nothing which matters here. */
#define SEND_FLAGS (MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE | MSG_EOR | MSG_CONFIRM)

/* How far the common case has come. */
enum so_far { NOTHING, LOCKED };

static FL_NOINLINE ssize_t send_slowly(struct fl_conn *c, int fd, const void *buf, size_t n, int flags,
                                       const struct fl_call *call, enum so_far so_far) {
  struct iovec iov = {(void *)buf, n};
  struct fl_io io = {.native = call->native, .iov = &iov, .iovcnt = 1, .len = n, .flags = flags, .plain = call->plain};

  return so_far == LOCKED ? fl_send_locked(c, fd, &io) : fl_send(c, fd, &io);
}

/* What fl_send_locked would find out, or cheaper. tx_lock held. */
static inline bool may_push(struct fl_conn *c) {
  /* seq_cst on tx_busy: as in tx_usable */
  return FL_LIKELY(fl_conn_usable(c)) && FL_LIKELY(!atomic_load_explicit(&c->shut_wr, memory_order_relaxed)) &&
         FL_LIKELY(atomic_load_explicit(&c->tx_busy, memory_order_seq_cst) == 0) &&
         FL_LIKELY(atomic_load_explicit(&c->alive_at, memory_order_relaxed) == fl_tick());
}

ssize_t fl_send_one(struct fl_conn *c, int fd, const void *buf, size_t n, int flags, const struct fl_call *call) {
  if (FL_UNLIKELY(flags & ~SEND_FLAGS) || FL_UNLIKELY(n == 0) || FL_UNLIKELY(!fl_addr_readable(buf, n)))
    return send_slowly(c, fd, buf, n, flags, call, NOTHING);
  fl_testcancel(); /* see fl_recv_one */
  if (FL_UNLIKELY(!fl_lock_try(&c->tx_lock, fl_tid_known())))
    return send_slowly(c, fd, buf, n, flags, call, NOTHING);
  if (n > c->tx.run || !may_push(c))
    return send_slowly(c, fd, buf, n, flags, call, LOCKED);
  if (FL_UNLIKELY(fl_conn_of(fd) != c))
    return send_slowly(c, fd, buf, n, flags, call, LOCKED);
  fl_tx_at_cpu(&c->tx, fl_cpu());
  if (fl_tx_ordered(&c->tx))
    fl_tx_date(&c->tx, fl_now(), atomic_load_explicit(&fl_elsewhere_at, memory_order_relaxed));
  FL_FAULT(send_push);
  if (FL_UNLIKELY(!fl_tx_push_fast(&c->tx, buf, n, atomic_load_explicit(&c->ktx, memory_order_relaxed))))
    return send_slowly(c, fd, buf, n, flags, call, LOCKED);
  c->full_still = false;
  fl_count_add(&c->tx_ring, n);
  fl_unlock(&c->tx_lock);
  return (ssize_t)n;
}

/* ---- receiving ---- */

static FL_NOINLINE ssize_t recv_slowly(struct fl_conn *c, int fd, void *buf, size_t n, int flags,
                                       const struct fl_call *call) {
  struct iovec iov = {buf, n};
  struct fl_io io = {.native = call->native, .iov = &iov, .iovcnt = 1, .len = n, .flags = flags, .plain = call->plain};

  return fl_recv(c, fd, &io);
}

/* Locked, with `got` bytes. */
static FL_NOINLINE ssize_t recv_more(struct fl_conn *c, int fd, struct iovec iov, int flags, const struct fl_call *call,
                                     size_t got) {
  struct fl_io io = {
      .native = call->native, .iov = &iov, .iovcnt = 1, .len = iov.iov_len, .flags = flags, .plain = call->plain};

  return fl_recv_locked(c, fd, &io, got);
}

/* Takes what can be taken without asking anybody. rx_lock held. */
static inline size_t take(struct fl_conn *c, char *buf, size_t len) {
  const unsigned char *from;
  uint64_t krx = atomic_load_explicit(&c->krx, memory_order_relaxed);
  size_t got = 0, n;

  FL_FAULT(recv_look);
  while ((n = fl_rx_peek_fast(&c->rx, krx, &from)) != 0) {
    if (n > len - got)
      n = len - got;
    if (FL_UNLIKELY(fl_mem_writable(buf + got, n) != n))
      break;
    memcpy(buf + got, from, n);
    FL_FAULT(recv_copied);
    fl_rx_consume(&c->rx, n);
    FL_FAULT(recv_consumed);
    got += n;
    if (got == len)
      break;
  }
  return got;
}

ssize_t fl_recv_one(struct fl_conn *c, int fd, void *buf, size_t n, int flags, const struct fl_call *call) {
  if (FL_UNLIKELY(flags & ~MSG_DONTWAIT) || FL_UNLIKELY(n == 0))
    return recv_slowly(c, fd, buf, n, flags, call);
  fl_testcancel(); /* a ring that always has bytes would otherwise never let the thread be cancelled */
  if (FL_UNLIKELY(!fl_lock_try(&c->rx_lock, fl_tid_known())))
    return recv_slowly(c, fd, buf, n, flags, call);
  if (FL_UNLIKELY(fl_conn_of(fd) != c) || FL_UNLIKELY(!fl_conn_usable(c))) {
    fl_unlock(&c->rx_lock);
    return recv_slowly(c, fd, buf, n, flags, call);
  }
  size_t got = take(c, buf, n);
  if (FL_LIKELY(got)) {
    fl_count_add(&c->rx_ring, got);
    /* all, or all that there is: see fl_recv_locked */
    if (FL_LIKELY(got == n) || (fl_rx_head(&c->rx) == c->rx.tail && fl_rx_quiet(c) && !fl_tx_asked(&c->tx))) {
      fl_unlock(&c->rx_lock);
      return (ssize_t)got;
    }
  }
  return recv_more(c, fd, (struct iovec){buf, n}, flags, call, got);
}
