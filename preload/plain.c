/* SPDX-License-Identifier: MIT */
/*
 * preload/plain.c - calls on connections that have no ring: those too young to look for their peer, and those that have
 * given up. Most connections are never anything else, so that the application's own call is nearly all that happens.
 *
 * A young connection counts its bytes, which are compared with the kernel's before it pairs. Such a call touches no
 * segment, and needs no fl_conn_enter: it is counted as under way first (tx_busy, rx_sleepers) and looks at the phase
 * after that, and the thread that pairs has changed the phase before it looks at those counts. So the connection cannot
 * become paired under it, and its slot cannot be used again.
 */
#include "io.h"

struct call {
  struct fl_conn *c;
  ssize_t n; /* bytes that it moved */
};

/* `inside` is tx_busy or rx_sleepers. False: it is not young any more. */
static inline bool enter_young(struct fl_conn *c, _Atomic int32_t *inside) {
  /* seq_cst, both: pair with the change to FL_SEEKING and the look at the counts in pair.c */
  atomic_fetch_add_explicit(inside, 1, memory_order_seq_cst);
  return atomic_load_explicit(&c->phase, memory_order_seq_cst) == FL_FRESH;
}

static inline void leave_young(struct fl_conn *c, _Atomic int32_t *inside) {
  /* release: what the call counted is complete for whoever sees the number come down */
  atomic_fetch_sub_explicit(inside, 1, memory_order_acq_rel);
  if (FL_UNLIKELY(atomic_load_explicit(&c->closed, memory_order_relaxed)))
    fl_conn_put(c);
}

static inline void count(struct fl_count *k, _Atomic uint64_t *kernel, ssize_t n) {
  if (n <= 0)
    return;
  atomic_fetch_add_explicit(kernel, (uint64_t)n, memory_order_relaxed);
  fl_count_add(k, (uint64_t)n);
}

/* Cleanups: run when the thread is cancelled inside of the call as well. errno stays. */
static void sent(struct call *s) {
  if (s->n > 0)
    fl_elsewhere();
  count(&s->c->tx_kernel, &s->c->ktx, s->n);
  leave_young(s->c, &s->c->tx_busy);
}

static void received(struct call *r) {
  count(&r->c->rx_kernel, &r->c->krx, r->n);
  leave_young(r->c, &r->c->rx_sleepers);
}

static ssize_t send_young(struct fl_conn *c, int fd, const struct fl_io *io) {
  struct call call __attribute__((cleanup(sent))) = {c, 0};

  return call.n = io->native(fd, io);
}

static ssize_t recv_young(struct fl_conn *c, int fd, const struct fl_io *io) {
  struct call call __attribute__((cleanup(received))) = {c, 0};
  ssize_t n = io->native(fd, io);

  if (!(io->flags & MSG_PEEK))
    call.n = n;
  return n;
}

bool fl_plain_send(struct fl_conn *c, int fd, const struct fl_io *io, ssize_t *n) {
  if (fl_conn_settled(c)) {
    if ((*n = fl_count_settled(&c->tx_kernel, io->native(fd, io))) > 0)
      fl_elsewhere();
    return true;
  }
  if (!enter_young(c, &c->tx_busy)) {
    leave_young(c, &c->tx_busy);
    return false;
  }
  if ((*n = send_young(c, fd, io)) > 0)
    fl_pair_tick(c, fd, (size_t)*n);
  return true;
}

bool fl_plain_recv(struct fl_conn *c, int fd, const struct fl_io *io, ssize_t *n) {
  if (fl_conn_settled(c)) {
    *n = io->native(fd, io);
    if (!(io->flags & MSG_PEEK))
      fl_count_settled(&c->rx_kernel, *n);
    return true;
  }
  if (!enter_young(c, &c->rx_sleepers)) {
    leave_young(c, &c->rx_sleepers);
    return false;
  }
  if ((*n = recv_young(c, fd, io)) > 0 && !(io->flags & MSG_PEEK))
    fl_pair_tick(c, fd, (size_t)*n);
  return true;
}
