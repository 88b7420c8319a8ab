/* SPDX-License-Identifier: MIT */
/*
 * preload/tx.c - sending. Under the send lock: push into the ring; what the ring does not take goes over the kernel
 * lane, with the lock released and tx_busy raised, so that nobody publishes ring bytes while kernel bytes are on their
 * way out.
 */
#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <string.h>

#include "bell.h"
#include "io.h"
#include "jump.h"
#include "log.h"
#include "options.h"
#include "raw.h"
#include "real.h"
#include "registry/sys.h"
#include "room.h"
#include "shmring/fault.h"
#include "signals.h"

#define ALIVE_EVERY_NS 2000000u   /* a peer that published so shortly before need not be asked for */
#define SENDFILE_MAX (128u << 10) /* beyond this the kernel's sendfile, which does not copy, is as good */
#define REST_IOV 64
#define RW_MAX 0x7ffff000u /* the kernel's MAX_RW_COUNT, where pages have 4096 bytes */
#define FULL_SLEEP_NS \
  1000000u /* a full ring whose reader does nothing for so long: the rest goes over the kernel lane */
#define FULL_SKIP_MAX 4096u
#define CATCH_UP_SLEEPS 2u /* of FULL_SLEEP_NS at most, in one nonblocking call */
#define CATCH_UP_SHARE 50u
#define LAST_TRIES 100 /* of 10 ms: bytes asked back by the other end, for which TCP has no room as we close */

ssize_t fl_iov_len(const struct iovec *iov, int n) {
  size_t sum = 0;

  if (n < 0 || n > IOV_MAX || (n && !fl_addr_readable(iov, (size_t)n * sizeof *iov)))
    return -1;
  for (int i = 0; i < n; i++) {
    /* no size, or beyond what a process can have */
    if (iov[i].iov_len > SSIZE_MAX || (intptr_t)((uintptr_t)iov[i].iov_base + iov[i].iov_len) < 0)
      return -1;
    sum += iov[i].iov_len < RW_MAX - sum ? iov[i].iov_len : RW_MAX - sum; /* not more at once; that is no error */
  }
  return (ssize_t)sum;
}

/* If some of it is not, the kernel says how much could be sent. */
static bool readable(const struct fl_io *io) {
  for (int i = 0; i < io->iovcnt; i++)
    if (!fl_addr_readable(io->iov[i].iov_base, io->iov[i].iov_len))
      return false;
  return true;
}

/* ---- kernel lane ---- */

/* Signal handlers that ran and would have ended a native send: with a timeout set, none restarts it. */
static uint32_t interrupting(const struct fl_conn *c) {
  return atomic_load_explicit(&c->timed, memory_order_relaxed) & FL_TIMED_TX ? fl_signals_any()
                                                                             : fl_signals_norestart();
}

static void send_raise(struct fl_conn *c) {
  /* seq_cst: pairs with the look at tx_busy under the lock (pair.c, tx_push); either that sees this, or this call's
   * bytes are sent, and counted, before the ring is used */
  atomic_fetch_add_explicit(&c->tx_busy, 1, memory_order_seq_cst);
  FL_FAULT(send_begun);
  fl_conn_enter(c);
}

/* tx_lock held, or nobody can be pushing. False, and nothing is raised: the receiver wants bytes back first. */
static bool send_begin(struct fl_conn *c, size_t hint) {
  send_raise(c);
  if (!fl_conn_mapped(c))
    return true;
  fl_tx_intent(&c->tx, atomic_load_explicit(&c->ktx, memory_order_relaxed) + hint);
  if (FL_LIKELY(!fl_tx_asked(&c->tx)))
    return true;
  fl_send_end(c, 0);
  return false;
}

bool fl_send_back(struct fl_conn *c, int fd) {
  struct fl_span span[2];

  if (!fl_conn_paired(c) || FL_LIKELY(!fl_tx_asked(&c->tx)) ||
      atomic_load_explicit(&c->shut_wr, memory_order_relaxed)) /* a part would be cut off by the FIN */
    return true;
  int saved = errno;
  bool done = false;
  while (!done) {
    bool busy = atomic_load_explicit(&c->tx_busy, memory_order_seq_cst) > 0;
    uint64_t ktx = atomic_load_explicit(&c->ktx, memory_order_relaxed);
    size_t n = fl_tx_owed(&c->tx, ktx, busy, span);
    if (n == 0) {
      done = true;
      break;
    }
    fl_tx_intent(&c->tx, ktx + n);
    struct iovec iov[2] = {{(void *)span[0].base, span[0].len}, {(void *)span[1].base, span[1].len}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
    ssize_t sent = fl_sys_sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == -EINTR)
      continue;
    if (sent < 0 && sent != -EAGAIN && sent != -ENOBUFS && sent != -ENOMEM)
      sent = (ssize_t)n; /* nobody is there any more */
    else if (sent > 0)
      atomic_fetch_add_explicit(&c->ktx, (uint64_t)sent, memory_order_relaxed);
    ktx = atomic_load_explicit(&c->ktx, memory_order_relaxed);
    fl_tx_sent(&c->tx, ktx);
    fl_tx_intent(&c->tx, ktx);
    if (sent < 0)
      break;
    fl_tx_repaid(&c->tx, (size_t)sent);
  }
  errno = saved;
  return done;
}

void fl_send_back_last(struct fl_conn *c, int fd) {
  for (int i = 0; i < LAST_TRIES && !fl_send_back(c, fd); i++) {
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    struct timespec ms = {0, 10000000};
    fl_syscall6(__NR_ppoll, (long)&p, 1, (long)&ms, 0, 0, 0);
  }
}

void fl_send_back_if_asked(struct fl_conn *c, int fd) {
  if (!fl_conn_mapped(c) || FL_LIKELY(!fl_tx_asked(&c->tx)) || fl_lock(&c->tx_lock) != FL_LOCKED)
    return;
  if (fl_conn_of(fd) == c)
    fl_send_back(c, fd);
  fl_unlock(&c->tx_lock);
}

bool fl_send_unread(const struct fl_conn *c) {
  return fl_conn_mapped(c) && (fl_tx_unconsumed(&c->tx) > 0 || fl_tx_asked(&c->tx));
}

bool fl_send_drained(struct fl_conn *c, int fd) {
  int left = 0;

  if (fl_send_free(c))
    return true;
  /* acquire: what is sent after this look has another count */
  uint64_t ktx = atomic_load_explicit(&c->ktx, memory_order_acquire);
  if (!fl_conn_usable(c) || atomic_load_explicit(&c->tx_busy, memory_order_seq_cst) > 0 ||
      fl_sys_ioctl(fd, SIOCOUTQ, &left) != 0 || left != 0)
    return false;
  atomic_store_explicit(&c->ktx_gone, ktx, memory_order_relaxed);
  return fl_send_free(c);
}

/* As fl_send_back, and waits for room as the application's own send would. No lock held. False, with errno: no room. */
static bool send_back_all(struct fl_conn *c, int fd, int flags) {
  bool nonblock = (flags & MSG_DONTWAIT) || atomic_load_explicit(&c->nonblock, memory_order_relaxed);
  uint32_t signals = interrupting(c);

  for (;;) {
    if (fl_lock(&c->tx_lock) != FL_LOCKED)
      return true; /* a handler that interrupted a send: the two are sent at the same time */
    bool done = fl_conn_of(fd) != c || fl_send_back(c, fd);
    fl_unlock(&c->tx_lock);
    if (done)
      return true;
    if (nonblock) {
      errno = EAGAIN;
      return false;
    }
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    if (REAL(poll)(&p, 1, 100) < 0 && interrupting(c) != signals)
      return false;
  }
}

bool fl_send_enter(struct fl_conn *c, int fd, size_t hint, int flags) {
  for (;;) {
    /* Under the lock: a thread that is pushing has read ktx. Not to be had in a signal handler that interrupted such a
     * push: then both are sent at the same time, and any order is right. */
    bool paired = fl_conn_paired(c), locked = paired && fl_lock(&c->tx_lock) == FL_LOCKED;
    bool begun = send_begin(c, hint);
    if (locked)
      fl_unlock(&c->tx_lock);
    if (FL_LIKELY(begun))
      return true;
    if (paired && !locked) {
      send_raise(c);
      return true;
    }
    if (!send_back_all(c, fd, flags))
      return false;
  }
}

_Atomic uint64_t fl_elsewhere_at;

/*
 * No native send is under way: the intent is what was sent. Under the lock, which whoever begins one holds, or a count
 * that is too small could overtake his; too much does no harm, and the next one puts it right.
 */
static void intent_exact(struct fl_conn *c) {
  int32_t none = 0, me = fl_tid();
  /* acquire: pairs with fl_unlock; or this thread holds it already (send_begin) */
  bool locked =
      atomic_compare_exchange_strong_explicit(&c->tx_lock, &none, me, memory_order_acquire, memory_order_relaxed);

  FL_FAULT(send_intent);
  if ((locked || none == me) && atomic_load_explicit(&c->tx_busy, memory_order_seq_cst) == 0)
    fl_tx_intent(&c->tx, atomic_load_explicit(&c->ktx, memory_order_relaxed));
  if (locked)
    fl_unlock(&c->tx_lock);
}

void fl_send_end(struct fl_conn *c, ssize_t sent) {
  if (sent > 0) {
    fl_elsewhere();
    atomic_fetch_add_explicit(&c->ktx, (uint64_t)sent, memory_order_relaxed);
    fl_count_add(&c->tx_kernel, (uint64_t)sent);
  }
  FL_FAULT(send_counted);
  /* before tx_busy comes down: until then nobody publishes, so what this count leaves behind it was published before */
  if (fl_conn_mapped(c))
    fl_tx_sent(&c->tx, atomic_load_explicit(&c->ktx, memory_order_relaxed));
  /* release: pairs with the acquire of tx_busy in tx_push; ktx is complete when 0 is seen */
  int left = atomic_fetch_sub_explicit(&c->tx_busy, 1, memory_order_acq_rel) - 1;
  FL_FAULT(send_ended);
  if (left == 0 && fl_conn_mapped(c))
    intent_exact(c);
  fl_conn_leave(c);
}

/* tx_busy must come down when the thread is cancelled inside the native call. */
struct busy {
  struct fl_conn *c;
  ssize_t sent;
  int fd;
};
static void busy_end(struct busy *b) {
  int saved = errno;
  fl_send_end(b->c, b->sent);
  errno = saved;
}

/* A signal handler jumped out of it. */
static void busy_jumped(void *what) {
  struct busy *b = what;

  busy_end(b);
  fl_pair_jumped(b->c, b->fd);
}

/* After send_begin. */
static ssize_t send_begun(struct fl_conn *c, int fd, const struct fl_io *io) {
  struct busy b __attribute__((cleanup(busy_end))) = {c, 0, fd};
  FL_HOLD(busy_jumped, &b);
  FL_FAULT(send_native);
  b.sent = io->native(fd, io);
  FL_FAULT(send_native_done);
  return b.sent;
}

static ssize_t send_native(struct fl_conn *c, int fd, const struct fl_io *io) {
  struct fl_io pushed = *io;

  if (!fl_send_enter(c, fd, io->len, io->flags))
    return -1;
  /* what is corked in TCP would stand before ring bytes until the cork's timer ends; see virtual_options in pair.c */
  if (fl_conn_paired(c))
    pushed.flags &= ~MSG_MORE;
  return send_begun(c, fd, &pushed);
}

/* What the ring did not take. Its errors are not the application's to see: the next call will meet them. */
static ssize_t native_rest(int fd, const struct fl_io *io) { return REAL(sendmsg)(fd, io->msg, io->flags); }

/* After send_begin: from byte `skip` on, as many iovecs as fit. *asked gets their length. */
static ssize_t send_window(struct fl_conn *c, int fd, const struct fl_io *io, size_t skip, size_t *asked) {
  struct iovec rest[REST_IOV];
  int n = 0, i = 0;

  while (i < io->iovcnt && skip >= io->iov[i].iov_len)
    skip -= io->iov[i++].iov_len;
  size_t len = 0;
  for (; i < io->iovcnt && n < REST_IOV; i++, n++) {
    rest[n] = (struct iovec){(char *)io->iov[i].iov_base + skip, io->iov[i].iov_len - skip};
    len += rest[n].iov_len;
    skip = 0;
  }
  struct msghdr msg = {.msg_iov = rest, .msg_iovlen = (size_t)n};
  struct fl_io again = {.native = native_rest,
                        .iov = rest,
                        .iovcnt = n,
                        .len = len,
                        .msg = &msg,
                        .flags = (io->flags & ~MSG_MORE) | MSG_NOSIGNAL};
  *asked = len;
  return send_begun(c, fd, &again);
}

static size_t send_rest(struct fl_conn *c, int fd, const struct fl_io *io, size_t skip) {
  size_t done = 0, asked;

  for (;;) {
    ssize_t n = send_window(c, fd, io, skip + done, &asked);
    if (n > 0)
      done += (size_t)n;
    if (n != (ssize_t)asked || skip + done == io->len)
      return done;
    if (!fl_send_enter(c, fd, io->len - skip - done, io->flags))
      return done;
  }
}

/* ---- ring lane ---- */

/* Has the peer ended or died? Then only the kernel may tell the application how. */
static bool peer_gone(struct fl_conn *c, int fd) {
  uint64_t tick = fl_tick(), before = atomic_load_explicit(&c->alive_at, memory_order_relaxed);

  if (FL_LIKELY(tick == before))
    return false;
  uint64_t now = fl_now();
  /* alive when it published last, if it dates that; or it lies, and loses what is sent to it */
  bool heard = before != 0 && now - fl_rx_pushed_at(&c->rx) < fl_ns_to_ticks(ALIVE_EVERY_NS) &&
               !(fl_rx_flags(&c->rx) & FL_FLAG_FIN);
  if (!heard && fl_sys_ready(fd, POLLRDHUP) != 0)
    return true;
  atomic_store_explicit(&c->alive_at, tick, memory_order_relaxed);
  atomic_store_explicit(&c->sent_at, now, memory_order_relaxed);
  return false;
}

/* May the ring be used for sending now? Lock held. */
static bool tx_usable(struct fl_conn *c, int fd) {
  if (FL_UNLIKELY(atomic_load_explicit(&c->nholders, memory_order_relaxed) > 1))
    fl_conn_holders_look(c);
  /* seq_cst on tx_busy: pairs with send_begin, and with the release in fl_send_end: ktx is complete when 0 is seen
   */
  return fl_conn_usable(c) && !c->tx.broken && !atomic_load_explicit(&c->shut_wr, memory_order_relaxed) &&
         atomic_load_explicit(&c->tx_busy, memory_order_seq_cst) == 0 && !peer_gone(c, fd);
}

/* Rings if something was published to a receiver that was asleep. Lock held. */
static void ring(struct fl_conn *c, int bell) {
  if (!c->tx.ring_due)
    return;
  FL_FAULT(tx_ring);
  fl_bell_ring(bell);
  c->tx.ring_due = false;
}

/* Pushes from byte `done` on; spins a little for space. Lock held. Returns the new count, and what stopped it in *why.
 */
static size_t tx_push(struct fl_conn *c, const struct fl_io *io, size_t done, enum fl_tx_result *why) {
  struct fl_wait w;
  bool waiting = false;
  int bell = -1;
  uint64_t ktx = atomic_load_explicit(&c->ktx, memory_order_relaxed);

  if (fl_tx_ordered(&c->tx))
    fl_tx_date(&c->tx, fl_now(), atomic_load_explicit(&fl_elsewhere_at, memory_order_relaxed));
  for (;;) {
    size_t n;
    *why = fl_tx_push(&c->tx, io->iov, done, io->len - done, ktx, &n);
    done += n;
    if (n)
      c->full_still = false;
    if (FL_LIKELY(*why == FL_TX_OK) || *why == FL_TX_NATIVE)
      break;
    if (*why == FL_TX_BELL) {
      if (c->tx.may_ring || (bell = fl_bell_of(c)) < 0)
        break;
      c->tx.may_ring = true;
      continue;
    }
    if (*why == FL_TX_BROKEN) {
      fl_conn_pin(c, FL_WHY_RUBBISH);
      break;
    }
    if (*why == FL_TX_FULL && fl_tx_limited(&c->tx) && fl_room_grow(c, io->len - done))
      continue;
    /* A fixed spin learns nothing: a reader that read nothing during a whole one would be waited for with every
     * message, which is seconds until a sender that does not block has filled TCP's buffer. */
    if (c->full_still && fl_options.spin_fixed)
      break;
    if (FL_UNLIKELY(bell >= 0))
      ring(c, bell);     /* the one who is to make room may be asleep */
    if (!waiting || n) { /* it drains: a new wait begins */
      if (waiting)
        fl_wait_end(&w, true);
      fl_wait_begin(&w, &c->tx_hist, fl_tx_peer_cpu(&c->tx), (uint64_t)fl_options.spin_us * 1000);
      waiting = true;
    }
    /* at least once: with all extents in use there is space, and no push succeeds */
    bool give_up = false;
    do
      give_up = fl_wait_step(&w) == FL_WAIT_SLEEP;
    while (fl_tx_space(&c->tx) == FL_TX_FULL && !give_up);
    if (give_up) {
      c->full_still = true;
      break;
    }
  }
  if (waiting)
    fl_wait_end(&w, done == io->len);
  if (FL_UNLIKELY(bell >= 0)) {
    ring(c, bell);
    c->tx.may_ring = false;
  }
  return done;
}

/*
 * Is it worth to sleep on a full ring? For a blocking call, where the reader drains either lane meanwhile. A reader
 * that does not read until we return (both ends write before they read) must find the bytes in TCP's own buffer at
 * once, as it would without us: after a sleep in vain the next full rings are not slept on, twice as many each time.
 * Lock held.
 */
static bool worth_sleeping(struct fl_conn *c) {
  if (c->full_skip == 0)
    return true;
  c->full_skip--;
  return false;
}

static void slept(struct fl_conn *c, bool progress) {
  if (progress) {
    c->full_vain = 0;
    return;
  }
  c->full_vain = c->full_vain ? c->full_vain * 2 : 16;
  if (c->full_vain > FULL_SKIP_MAX)
    c->full_vain = FULL_SKIP_MAX;
  c->full_skip = c->full_vain;
}

/*
 * A nonblocking writer that once spilled megabytes into TCP's buffer would keep both lanes full for ever, with the
 * ring's bytes behind the kernel's: it never comes back to the ring's speed. So now and then, for at most a fiftieth of
 * this process's time, its call waits until the reader has caught up.
 */
static _Atomic uint64_t catch_up_at; /* fl_now(); relaxed: threads that race may both wait once */

static bool may_catch_up(void) {
  return (int64_t)(fl_now() - atomic_load_explicit(&catch_up_at, memory_order_relaxed)) >= 0;
}

static void caught_up(uint64_t begin) {
  uint64_t now = fl_now();

  atomic_store_explicit(&catch_up_at, now + (now - begin) * CATCH_UP_SHARE, memory_order_relaxed);
}

static void leave(struct fl_conn **c) { fl_conn_leave(*c); }
static void sleep_jumped(void *c) { fl_conn_leave(c); }

enum slept { SLEPT_PROGRESS, SLEPT_NOTHING, SLEPT_SIGNAL, SLEPT_GONE };

/* The ring is full and the call may block: sleeps until the receiver has made space, as long as it makes any. Lock held
 * on entry and on return, released meanwhile, as TCP's own send does. */
static enum slept tx_sleep(struct fl_conn *c, int fd) {
  struct fl_tx look = c->tx; /* a copy: nobody else's cursor is used without the lock */
  bool interrupted, progress;

  fl_conn_enter(c); /* keeps the segment mapped */
  fl_unlock(&c->tx_lock);
  {
    struct fl_conn *entered __attribute__((cleanup(leave))) = c;
    FL_HOLD(sleep_jumped, entered);
    FL_FAULT(send_sleep);
    fl_testcancel(); /* a reader that is slow, and no more than that, may take for ever */
    progress = fl_tx_sleep(&look, FULL_SLEEP_NS, &interrupted);
  }
  if (fl_lock(&c->tx_lock) != FL_LOCKED)
    return SLEPT_GONE; /* not locked: the caller must not unlock */
  return interrupted ? SLEPT_SIGNAL : progress ? SLEPT_PROGRESS : SLEPT_NOTHING;
}

ssize_t fl_send(struct fl_conn *c, int fd, const struct fl_io *io) {
  fl_process_check();
  if (FL_UNLIKELY(io->flags & MSG_OOB))
    fl_conn_pin(c, FL_WHY_OOB);
  ssize_t sent;
  if (!fl_conn_paired(c) && fl_plain_send(c, fd, io, &sent))
    return sent;

  bool plain = io->len > 0 && (io->flags & ~(MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE | MSG_EOR | MSG_CONFIRM)) == 0 &&
               (!io->msg || io->msg->msg_controllen == 0) && !io->to && !(io->msg && io->msg->msg_namelen);
  if (!fl_conn_paired(c) || !plain || FL_UNLIKELY(!readable(io))) {
    ssize_t n = send_native(c, fd, io);
    if (n > 0 && !fl_conn_paired(c))
      fl_pair_tick(c, fd, (size_t)n);
    return n;
  }

  fl_testcancel(); /* see fl_recv */
  if (fl_lock(&c->tx_lock) != FL_LOCKED)
    return send_native(c, fd, io);
  return fl_send_locked(c, fd, io);
}

ssize_t fl_send_locked(struct fl_conn *c, int fd, const struct fl_io *io) {
  bool nonblock = (io->flags & MSG_DONTWAIT) || atomic_load_explicit(&c->nonblock, memory_order_relaxed);
  uint32_t signals = interrupting(c);
  enum fl_tx_result why = FL_TX_NATIVE;
  size_t done = 0;
  unsigned sleeps = 0;
  for (;;) {
    if (FL_UNLIKELY(fl_conn_of(fd) != c)) {
      fl_unlock(&c->tx_lock);
      return done ? (ssize_t)done : io->native(fd, io);
    }
    if (!tx_usable(c, fd))
      break;
    fl_tx_at_cpu(&c->tx, fl_cpu());
    FL_FAULT(send_push);
    size_t before = done;
    done = tx_push(c, io, done, &why);
    if (done > before)
      fl_count_add(&c->tx_ring, done - before);
    if (FL_LIKELY(done == io->len)) {
      fl_unlock(&c->tx_lock);
      return (ssize_t)done;
    }
    if (why != FL_TX_FULL || (nonblock ? sleeps >= CATCH_UP_SLEEPS || !may_catch_up() : !worth_sleeping(c)))
      break;
    uint64_t begin = fl_now();
    enum slept s = tx_sleep(c, fd);
    sleeps++;
    if (nonblock && (s != SLEPT_PROGRESS || sleeps == CATCH_UP_SLEEPS || fl_tx_kernel_backlog(&c->tx, c->ktx) == 0))
      caught_up(begin);
    if (s == SLEPT_GONE || (s == SLEPT_SIGNAL && (done || interrupting(c) != signals))) {
      if (s != SLEPT_GONE)
        fl_unlock(&c->tx_lock);
      errno = EINTR;
      return done ? (ssize_t)done : -1;
    }
    if (!nonblock)
      slept(c, s == SLEPT_PROGRESS);
    if (s == SLEPT_NOTHING)
      break;
  }
  if (why == FL_TX_NATIVE)
    fl_bell_learn(c);
  FL_FAULT(send_spill);
  /* raised before the lock is released: the rest follows what was published, and nobody may publish in between */
  bool begun = send_begin(c, io->len - done);
  fl_unlock(&c->tx_lock);
  if (FL_UNLIKELY(!begun) && !fl_send_enter(c, fd, io->len - done, io->flags))
    return done ? (ssize_t)done : -1;
  if (done == 0) {
    struct fl_io pushed = *io;
    pushed.flags &= ~MSG_MORE;
    return send_begun(c, fd, &pushed);
  }
  int saved = errno;
  done += send_rest(c, fd, io, done);
  errno = saved;
  return (ssize_t)done;
}

/* ---- sendfile ---- */

bool fl_send_file(struct fl_conn *c, int fd, int in, off_t *offset, size_t n, ssize_t *result) {
  struct iovec span[2];

  if (!fl_conn_paired(c) || n == 0 || n > SENDFILE_MAX || fl_lock(&c->tx_lock) != FL_LOCKED)
    return false;
  bool did = false;
  int bell = -1;
  if (fl_conn_of(fd) != c || !tx_usable(c, fd))
    goto out;
  fl_tx_at_cpu(&c->tx, fl_cpu());
  if (fl_tx_ordered(&c->tx))
    fl_tx_date(&c->tx, fl_now(), atomic_load_explicit(&fl_elsewhere_at, memory_order_relaxed));
  /* all or nothing: what does not fit is the kernel's to send, without copying */
  uint64_t ktx = atomic_load_explicit(&c->ktx, memory_order_relaxed);
  enum fl_tx_result r = fl_tx_reserve(&c->tx, n, ktx, span);
  if (r == FL_TX_BELL && (bell = fl_bell_of(c)) >= 0) {
    c->tx.may_ring = true;
    r = fl_tx_reserve(&c->tx, n, ktx, span);
  }
  while (r == FL_TX_FULL && fl_room_grow(c, n))
    r = fl_tx_reserve(&c->tx, n, ktx, span);
  if (r != FL_TX_OK)
    goto out;
  /* only a regular file: a pread of anything else fails or may block */
  off_t at = offset ? *offset : (off_t)fl_syscall6(__NR_lseek, in, 0, SEEK_CUR, 0, 0, 0);
  if (at < 0)
    goto out;
  ssize_t got = fl_syscall6(__NR_preadv, in, (long)span, span[1].iov_len ? 2 : 1, (long)at, 0, 0);
  if (got <= 0 || fl_tx_publish(&c->tx, (size_t)got) != FL_TX_OK)
    goto out;
  fl_count_add(&c->tx_ring, (uint64_t)got);
  if (offset)
    *offset = at + got;
  else
    fl_syscall6(__NR_lseek, in, (long)(at + got), SEEK_SET, 0, 0, 0);
  *result = got;
  did = true;
out:
  if (bell >= 0) {
    ring(c, bell);
    c->tx.may_ring = false;
  }
  fl_unlock(&c->tx_lock);
  return did;
}
