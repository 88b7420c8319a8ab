/* SPDX-License-Identifier: MIT */
/*
 * preload/rx.c - receiving: merges the two lanes in the order in which they were sent, waits, and decides when this
 * direction watches its ring.
 *
 * Rules (docs/design.md, "Receiving"): an unbounded native receive happens only while the state is NATIVE and the ring
 * is empty; a native sleep is counted in rx_sleepers, and nobody goes WATCHING while it is not zero.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>

#include "bell.h"
#include "epoll.h"
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

#define REST_IOV 64
#define PEEK_SEEN 4096 /* kernel bytes that a peek can look behind */

/* ---- kernel lane ---- */

struct sleeper {
  struct fl_conn *c;
  ssize_t got; /* bytes that the native call took from the stream */
  int fd;
};

static void sleeper_begin(struct fl_conn *c) {
  /* seq_cst: pairs with the look at rx_sleepers in fl_conn_watch and pair.c */
  atomic_fetch_add_explicit(&c->rx_sleepers, 1, memory_order_seq_cst);
  FL_FAULT(recv_counted);
  fl_conn_enter(c);
}

static void sleeper_end(struct sleeper *s) {
  struct fl_conn *c = s->c;

  if (s->got > 0) {
    uint64_t krx = atomic_fetch_add_explicit(&c->krx, (uint64_t)s->got, memory_order_relaxed) + (uint64_t)s->got;
    fl_count_add(&c->rx_kernel, (uint64_t)s->got);
    if (fl_conn_mapped(c))
      fl_rx_taken(&c->rx, krx);
  }
  FL_FAULT(recv_uncount);
  /* release: krx is complete for whoever sees the count come down */
  atomic_fetch_sub_explicit(&c->rx_sleepers, 1, memory_order_acq_rel);
  fl_conn_leave(c);
}

/* A signal handler jumped out of it. */
static void sleeper_jumped(void *what) {
  struct sleeper *s = what;

  sleeper_end(s);
  fl_pair_jumped(s->c, s->fd);
}

/* The kernel said end of file, or told of an error: what is sent next is to meet the kernel as well, at once. */
static void ended(struct fl_conn *c, int error) {
  if (error != EAGAIN && error != EINTR && error != EFAULT)
    atomic_store_explicit(&c->alive_at, 0, memory_order_relaxed);
}

/* The application's own call, counted, after sleeper_begin. Lock not held. The count comes down on cancellation as
 * well. */
static ssize_t recv_begun(struct fl_conn *c, int fd, const struct fl_io *io) {
  struct sleeper s __attribute__((cleanup(sleeper_end))) = {c, 0, fd};
  FL_HOLD(sleeper_jumped, &s);
  FL_FAULT(recv_native);
  ssize_t n = io->native(fd, io);
  FL_FAULT(recv_native_done);
  if (FL_UNLIKELY(n <= 0))
    ended(c, n < 0 ? errno : 0);
  if (!(io->flags & MSG_PEEK))
    s.got = n;
  return n;
}

static ssize_t recv_native(struct fl_conn *c, int fd, const struct fl_io *io) {
  sleeper_begin(c);
  return recv_begun(c, fd, io);
}

/* The kernel reports an error of the connection once and says end of file afterwards: keep it for the call that can
 * report it (recv_empty, SO_ERROR). */
static void keep_error(struct fl_conn *c, int error) {
  if (error != EAGAIN && error != EINTR && error != EFAULT)
    atomic_store_explicit(&c->rx_error, error, memory_order_relaxed);
}

/* Are there bytes on the kernel lane? A receive that finds none takes an error of the connection with it, which is then
 * gone for poll and SO_ERROR: not to be made by a call that has bytes to return. */
static bool kernel_has(int fd) {
  int n = 0;

  return fl_sys_ioctl(fd, FIONREAD, &n) == 0 && n > 0;
}

/* A receive that has bytes ends where urgent data begins. (Without SO_OOBINLINE the kernel counts none there.) */
static bool at_mark(const struct fl_conn *c, int fd) {
  int mark = 0;

  return FL_UNLIKELY(atomic_load_explicit(&c->oob_inline, memory_order_relaxed)) &&
         fl_sys_ioctl(fd, SIOCATMARK, &mark) == 0 && mark;
}

/* One call's worth of kernel_take. *asked gets what the iovecs that it went for hold. */
static ssize_t take_window(struct fl_conn *c, int fd, const struct fl_io *io, size_t at, size_t max, size_t *asked) {
  struct iovec part[REST_IOV];
  int n = 0;
  size_t skip = at, all = max;

  for (int i = 0; i < io->iovcnt && n < REST_IOV && max; i++) {
    if (skip >= io->iov[i].iov_len) {
      skip -= io->iov[i].iov_len;
      continue;
    }
    size_t len = io->iov[i].iov_len - skip;
    if (len > max)
      len = max;
    part[n++] = (struct iovec){(char *)io->iov[i].iov_base + skip, len};
    max -= len;
    skip = 0;
  }
  *asked = all - max;
  if (n == 0)
    return 0;
  struct msghdr msg = {.msg_iov = part, .msg_iovlen = (size_t)n};
  ssize_t got = fl_sys_recvmsg(fd, &msg, MSG_DONTWAIT | (io->flags & (MSG_TRUNC | MSG_PEEK)));
  FL_FAULT(recv_taken);
  if (got > 0 && !(io->flags & MSG_PEEK)) {
    fl_rx_taken(&c->rx, atomic_fetch_add_explicit(&c->krx, (uint64_t)got, memory_order_relaxed) + (uint64_t)got);
    fl_count_add(&c->rx_kernel, (uint64_t)got);
  }
  if (FL_UNLIKELY(got <= 0))
    ended(c, (int)-got);
  if (got < 0)
    keep_error(c, (int)-got);
  return got;
}

/* At most `max` bytes of the kernel lane now, into the iovecs from `at` on; -errno. Fewer only if there are no more: to
 * an edge-triggered reader that is what a short count says. Lock held. */
static ssize_t kernel_take(struct fl_conn *c, int fd, const struct fl_io *io, size_t at, size_t max) {
  size_t asked;
  ssize_t got = take_window(c, fd, io, at, max, &asked), more = got;

  while (FL_UNLIKELY(more > 0 && (size_t)more == asked && (size_t)got < max) && !(io->flags & MSG_PEEK) &&
         kernel_has(fd)) {
    more = take_window(c, fd, io, at + (size_t)got, max - (size_t)got, &asked);
    if (more > 0)
      got += more;
  }
  return got;
}

/* ---- helpers ---- */

/* Copies spans into the iovecs from byte `at` on; returns the count, 0 if the application's buffer cannot be written.
 * MSG_TRUNC discards instead. */
static size_t spans_copy(const struct fl_io *io, size_t at, const struct fl_span span[2]) {
  size_t n = span[0].len + span[1].len, left, from = 0;

  if (n > io->len - at)
    n = io->len - at;
  if (io->flags & MSG_TRUNC)
    return n;
  left = n;
  for (int i = 0; left; i++) {
    if (at >= io->iov[i].iov_len) {
      at -= io->iov[i].iov_len;
      continue;
    }
    size_t room = io->iov[i].iov_len - at;
    char *to = (char *)io->iov[i].iov_base + at;
    at = 0;
    while (room && left) {
      const struct fl_span *s = from < span[0].len ? &span[0] : &span[1];
      size_t off = s == &span[0] ? from : from - span[0].len;
      size_t part = s->len - off;
      if (part > room)
        part = room;
      if (part > left)
        part = left;
      size_t good = fl_mem_writable(to, part);
      memcpy(to, s->base + off, good);
      if (FL_UNLIKELY(good < part))
        return 0; /* as the kernel, which takes a message whole or not */
      to += part;
      from += part;
      room -= part;
      left -= part;
    }
  }
  return n;
}

/* What recvmsg and recvfrom report besides the bytes: on TCP no address, no control data. */
static void recv_fill(const struct fl_io *io) {
  if (io->msg) {
    io->msg->msg_namelen = 0;
    io->msg->msg_controllen = 0;
    io->msg->msg_flags = io->flags & MSG_CMSG_CLOEXEC;
  }
  if (io->addr && io->addrlen)
    *io->addrlen = 0;
}

/* The peer wrote rubbish: what this connection carried cannot be trusted. Reset it, as TCP does with a broken peer. */
static void conn_reset(struct fl_conn *c, int fd) {
  struct sockaddr none = {.sa_family = AF_UNSPEC};

  if (atomic_exchange_explicit(&c->reset, 1, memory_order_acq_rel))
    return;
  fl_conn_pin(c, FL_WHY_RUBBISH);
  fl_log(FL_LOG_ERROR, "the peer wrote rubbish into the shared page: connection reset");
  FL_FAULT(conn_reset);
  fl_sys_connect(fd, &none, sizeof none); /* the kernel sends RST and drops what is queued */
}

/* A peer that was killed while bytes for it lay in our ring: TCP would have answered those with a reset, not with an
 * EOF. */
static bool eof_is_reset(struct fl_conn *c) {
  return !(fl_rx_flags(&c->rx) & (FL_FLAG_FIN | FL_FLAG_LEFT)) && fl_tx_unconsumed(&c->tx) > 0 &&
         !atomic_exchange_explicit(&c->reset, 1, memory_order_acq_rel);
}

bool fl_rx_quiet(const struct fl_conn *c) {
  return fl_rx_kernel_intent(&c->rx) == atomic_load_explicit(&c->krx, memory_order_relaxed) &&
         !(fl_rx_flags(&c->rx) & FL_FLAG_FIN);
}

enum spin { SPIN_AGAIN, SPIN_KERNEL, SPIN_SLEEP, SPIN_SIGNAL, SPIN_GONE };

/* Signal handlers that ran and would have ended a native receive: with a timeout set, none restarts it. */
static uint32_t interrupting(const struct fl_conn *c) {
  return atomic_load_explicit(&c->timed, memory_order_relaxed) & FL_TIMED_RX ? fl_signals_any()
                                                                             : fl_signals_norestart();
}

/* Looks at the ring until there is more than `tail`, or something else happened. No lock held: only hints are read. */
static enum spin rx_look(struct fl_conn *c, int fd, uint64_t tail, uint32_t signals) {
  struct fl_wait w;

  fl_wait_begin(&w, &c->rx_hist, fl_rx_peer_cpu(&c->rx), (uint64_t)fl_options.spin_us * 1000);
  for (;;) {
    if (fl_rx_head(&c->rx) != tail) {
      fl_wait_end(&w, true);
      return SPIN_AGAIN;
    }
    if (!fl_rx_quiet(c)) {
      fl_wait_end(&w, true);
      return SPIN_KERNEL;
    }
    if (FL_UNLIKELY(interrupting(c) != signals)) {
      fl_wait_end(&w, true);
      return SPIN_SIGNAL;
    }
    switch (fl_wait_step(&w)) {
    case FL_WAIT_AGAIN: continue;
    case FL_WAIT_KERNEL:
      if (fl_sys_ready(fd, POLLIN | POLLRDHUP) == 0)
        continue;
      fl_wait_end(&w, true);
      return SPIN_KERNEL;
    case FL_WAIT_SLEEP: fl_wait_end(&w, false); return SPIN_SLEEP;
    }
  }
}

static void leave(struct fl_conn **c) { fl_conn_leave(*c); }
static void spin_jumped(void *c) { fl_conn_leave(c); }

/* Waits a little for the other end. Lock held on entry and on return (but not for SPIN_GONE), and not in between: a
 * signal handler may jump out of the spin, and others may want to receive. */
static enum spin rx_spin(struct fl_conn *c, int fd, uint32_t signals) {
  uint64_t tail = c->rx.tail;
  enum spin r;

  fl_rx_at_cpu(&c->rx, fl_cpu());
  fl_conn_enter(c);
  fl_unlock(&c->rx_lock);
  {
    struct fl_conn *entered __attribute__((cleanup(leave))) = c;
    FL_HOLD(spin_jumped, entered);
    FL_FAULT(recv_spin);
    r = rx_look(entered, fd, tail, signals);
  }
  FL_FAULT(recv_spun);
  if (fl_lock(&c->rx_lock) != FL_LOCKED)
    return SPIN_GONE;
  if (FL_UNLIKELY(fl_conn_of(fd) != c)) {
    fl_unlock(&c->rx_lock);
    return SPIN_GONE;
  }
  return c->rx.tail != tail && r != SPIN_SIGNAL ? SPIN_AGAIN : r;
}

bool fl_rx_ready(struct fl_conn *c, uint64_t *seen) {
  struct fl_span span[2];
  uint64_t need;

  if (!fl_conn_mapped(c))
    return false;
  uint64_t head = fl_rx_head(&c->rx);
  if (seen ? head == *seen : head == c->rx.tail)
    return false;
  if (fl_lock(&c->rx_lock) != FL_LOCKED)
    return false;
  enum fl_rx_result r = fl_rx_peek(&c->rx, atomic_load_explicit(&c->krx, memory_order_relaxed), span, &need);
  fl_unlock(&c->rx_lock);
  /* rubbish counts as readable: the read then finds the reset */
  bool ready = r == FL_RX_RING || r == FL_RX_BROKEN;
  if (seen && (ready || r == FL_RX_EMPTY))
    *seen = head;
  return ready;
}

/* ---- receiving ---- */

/* Bytes that come after kernel bytes which are still on their way: they were sent before, so they will come. Lock held
 * on entry and on return; the wait is native, bounded, and changes no state. False: the connection ended. */
static bool pending_wait(struct fl_conn *c, int fd, short events) {
  fl_unlock(&c->rx_lock);
  FL_FAULT(recv_pending);
  struct pollfd p = {.fd = fd, .events = events};
  struct timespec ms = {0, 1000000};
  fl_syscall6(__NR_ppoll, (long)&p, 1, (long)&ms, 0, 0, 0);
  return fl_lock(&c->rx_lock) == FL_LOCKED;
}

/*
 * The other end has not read all that is in its ring. It may become another program, or pass the connection on, and
 * then needs these bytes over TCP from us, whom it cannot wake. So as long as that is so this end sleeps for short
 * times; and so it does, once, if its ring may soon give back memory (room.h). Lock as with rx_spin. SPIN_KERNEL: the
 * socket has something; SPIN_SLEEP: it has not.
 */
static enum spin short_nap(struct fl_conn *c, int fd, uint64_t ns, uint32_t signals) {
  struct pollfd p = {.fd = fd, .events = POLLIN | POLLRDHUP};
  struct timespec ts = {0, (long)ns};
  long ready;

  sleeper_begin(c);
  fl_unlock(&c->rx_lock);
  {
    struct sleeper s __attribute__((cleanup(sleeper_end))) = {c, 0, fd};
    FL_HOLD(sleeper_jumped, &s);
    fl_send_back_if_asked(c, fd);
    ready = interrupting(c) == signals ? fl_syscall6(__NR_ppoll, (long)&p, 1, (long)&ts, 0, 0, 0) : 0;
    fl_testcancel();
  }
  if (fl_lock(&c->rx_lock) != FL_LOCKED)
    return SPIN_GONE;
  if (fl_conn_of(fd) != c) {
    fl_unlock(&c->rx_lock);
    return SPIN_GONE;
  }
  return ready > 0 ? SPIN_KERNEL : interrupting(c) != signals ? SPIN_SIGNAL : SPIN_SLEEP;
}

struct bell_sleeper {
  struct sleeper sleeper;
  struct fl_bell *bell;
};

static void bell_sleeper_end(struct bell_sleeper *s) {
  sleeper_end(&s->sleeper);
  fl_bell_return(s->bell);
}

static void bell_sleeper_jumped(void *what) {
  struct bell_sleeper *s = what;

  sleeper_jumped(&s->sleeper);
  fl_bell_return(s->bell);
}

/*
 * Sleeps in BELL, with a borrowed bell that this gives back: until it is rung, the socket has something (SPIN_KERNEL),
 * a handler ran that ends the call (SPIN_SIGNAL), or `left` nanoseconds are over. Lock as with rx_spin.
 */
static enum spin bell_sleep(struct fl_conn *c, int fd, struct fl_bell *bell, unsigned naps, uint64_t left,
                            uint32_t signals) {
  struct pollfd p[2] = {{.fd = fd, .events = POLLIN | POLLRDHUP}, {.fd = bell->fd, .events = POLLIN}};
  int n;

  sleeper_begin(c);
  fl_unlock(&c->rx_lock);
  {
    struct bell_sleeper s __attribute__((cleanup(bell_sleeper_end))) = {{c, 0, fd}, bell};
    FL_HOLD(bell_sleeper_jumped, &s);
    bool unread = fl_send_unread(c), held = !unread && fl_room_held(c);
    if (FL_UNLIKELY(unread))
      fl_send_back_if_asked(c, fd);
    uint64_t most = unread ? fl_nap_ns(naps) : held ? FL_ROOM_IDLE_NS : UINT64_MAX;
    if (left <= most)
      held = false;
    else
      left = most;
    struct timespec ts = {(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
    FL_FAULT(recv_bell);
    n = interrupting(c) == signals ? REAL(ppoll)(p, 2, left == UINT64_MAX ? NULL : &ts, NULL) : 0;
    if (FL_UNLIKELY(n < 0 && errno == EINVAL))
      fl_bell_refuse();
    if (n == 0 && held)
      fl_room_shrink(c, fl_now());
    if (n > 0 && p[1].revents)
      fl_bell_clear(bell);
  }
  if (fl_lock(&c->rx_lock) != FL_LOCKED)
    return SPIN_GONE;
  if (fl_conn_of(fd) != c) {
    fl_unlock(&c->rx_lock);
    return SPIN_GONE;
  }
  return n > 0 && p[0].revents ? SPIN_KERNEL : interrupting(c) != signals ? SPIN_SIGNAL : SPIN_AGAIN;
}

/* May a blocking receive sleep with a bell? Then the bell, borrowed, and the state is BELL. Lock held. */
static struct fl_bell *bell_for(struct fl_conn *c, const struct fl_io *io) {
  if ((io->flags & (MSG_PEEK | MSG_WAITALL)) || !fl_conn_usable(c))
    return NULL;
  struct fl_bell *bell = fl_bell_borrow(fl_local_of(c)->who);
  if (bell && !fl_bell_rest(c, c->rx.tail, bell)) {
    fl_bell_return(bell);
    return NULL;
  }
  return bell;
}

/* For how long may a receive that began then still wait? Nanoseconds; UINT64_MAX for ever. */
static uint64_t time_left(const struct fl_conn *c, int fd, uint64_t begin) {
  struct timeval tv = {0};
  socklen_t len = sizeof tv;

  if (FL_LIKELY(!(atomic_load_explicit(&c->timed, memory_order_relaxed) & FL_TIMED_RX)) ||
      fl_sys_getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, &len) < 0 || (tv.tv_sec == 0 && tv.tv_usec == 0) ||
      tv.tv_sec >= 1 << 30)
    return UINT64_MAX;
  uint64_t all = (uint64_t)tv.tv_sec * 1000000000u + (uint64_t)tv.tv_usec * 1000u,
           gone = fl_ticks_to_ns(fl_now() - begin);
  return gone < all ? all - gone : 0;
}

static ssize_t fail(int error) {
  errno = error;
  return -1;
}

static ssize_t native_rest(int fd, const struct fl_io *io) { return REAL(recvmsg)(fd, io->msg, io->flags); }

/* MSG_WAITALL, `got` bytes of which are here: the rest, after sleeper_begin. */
static ssize_t recv_window(struct fl_conn *c, int fd, const struct fl_io *io, size_t got, size_t *asked) {
  struct iovec rest[REST_IOV];
  int cnt = 0;
  size_t skip = got;

  *asked = 0;
  for (int i = 0; i < io->iovcnt && cnt < REST_IOV; i++) {
    if (skip >= io->iov[i].iov_len) {
      skip -= io->iov[i].iov_len;
      continue;
    }
    rest[cnt++] = (struct iovec){(char *)io->iov[i].iov_base + skip, io->iov[i].iov_len - skip};
    *asked += rest[cnt - 1].iov_len;
    skip = 0;
  }
  struct msghdr msg = {.msg_iov = rest, .msg_iovlen = (size_t)cnt};
  struct fl_io again = {.native = native_rest, .msg = &msg, .flags = io->flags};
  return recv_begun(c, fd, &again);
}

/* After sleeper_begin; counted until the last window is through, or the direction could watch between two. */
static ssize_t recv_rest(struct fl_conn *c, int fd, const struct fl_io *io, size_t got) {
  struct sleeper all __attribute__((cleanup(sleeper_end))) = {c, 0, fd};
  FL_HOLD(sleeper_jumped, &all);
  size_t asked;
  ssize_t n;

  for (;;) {
    sleeper_begin(c);
    n = recv_window(c, fd, io, got, &asked);
    if (n > 0)
      got += (size_t)n;
    else if (n < 0)
      keep_error(c, errno);
    if (n != (ssize_t)asked || got == io->len)
      break;
  }
  recv_fill(io);
  return (ssize_t)got;
}

/* Native receive with the ring empty and the state NATIVE; lock held on entry, released on return. */
static ssize_t recv_empty(struct fl_conn *c, int fd, const struct fl_io *io, size_t got) {
  if (got == 0 && FL_UNLIKELY(atomic_load_explicit(&c->rx_error, memory_order_relaxed) != 0)) {
    int error = atomic_exchange_explicit(&c->rx_error, 0, memory_order_relaxed);
    fl_unlock(&c->rx_lock);
    return fail(error);
  }
  sleeper_begin(c);
  fl_unlock(&c->rx_lock);
  FL_FAULT(recv_empty);
  ssize_t n = got ? recv_rest(c, fd, io, got) : recv_begun(c, fd, io);
  if ((n <= 0 && (n < 0 || io->len == 0)) || (io->flags & MSG_PEEK))
    return n;

  int saved = errno;
  if (fl_lock(&c->rx_lock) != FL_LOCKED)
    return n;
  if (fl_conn_of(fd) == c && fl_conn_paired(c)) {
    if (n > 0) {
      fl_conn_watch(c);
    } else if (!c->rx.broken && eof_is_reset(c)) {
      n = -1;
      saved = ECONNRESET;
    }
  }
  fl_unlock(&c->rx_lock);
  errno = saved;
  return n;
}

/* Peeks kernel bytes into the iovecs from `at` on, behind `before` that were peeked already. Count of new ones. Lock
 * held. */
static size_t kernel_peek(int fd, const struct fl_io *io, size_t at, size_t before, size_t max) {
  char seen[PEEK_SEEN];
  struct iovec part[REST_IOV + 1];
  int n = 0;

  if (before > sizeof seen)
    return 0;
  part[n++] = (struct iovec){seen, before};
  for (int i = 0; i < io->iovcnt && n <= REST_IOV && max; i++) {
    if (at >= io->iov[i].iov_len) {
      at -= io->iov[i].iov_len;
      continue;
    }
    size_t len = io->iov[i].iov_len - at < max ? io->iov[i].iov_len - at : max;
    part[n++] = (struct iovec){(char *)io->iov[i].iov_base + at, len};
    max -= len;
    at = 0;
  }
  struct msghdr msg = {.msg_iov = part, .msg_iovlen = (size_t)n};
  if (!kernel_has(fd))
    return 0;
  ssize_t got = fl_sys_recvmsg(fd, &msg, MSG_DONTWAIT | MSG_PEEK | (io->flags & MSG_TRUNC));
  return got > (ssize_t)before ? (size_t)got - before : 0;
}

/* MSG_PEEK: walks both lanes in order, on a copy of the cursor. 0: nothing is there. Lock held. */
static size_t peek(struct fl_conn *c, int fd, const struct fl_io *io) {
  fl_rx_pending(&c->rx); /* what was asked back, and is void now, the copy would skip and the cursor not */
  struct fl_rx walk = c->rx;
  struct fl_span span[2];
  uint64_t need, krx = atomic_load_explicit(&c->krx, memory_order_relaxed), seen = 0;
  size_t got = 0;

  while (got < io->len) {
    enum fl_rx_result r = fl_rx_peek(&walk, krx + seen, span, &need);
    if (r == FL_RX_RING) {
      size_t n = spans_copy(io, got, span);
      if (n == 0)
        break;
      walk.tail += n;
      got += n;
      continue;
    }
    if (r == FL_RX_BROKEN || (r == FL_RX_EMPTY && (got == 0 || fl_rx_quiet(c))))
      break;
    size_t max = r == FL_RX_KERNEL && need < io->len - got ? (size_t)need : io->len - got;
    size_t n = got && at_mark(c, fd) ? 0 : kernel_peek(fd, io, got, (size_t)seen, max);
    seen += n;
    got += n;
    if (n < max || r == FL_RX_EMPTY)
      break;
  }
  return got;
}

/*
 * Kernel bytes that were sent before anything that the ring may still get: taken without turning NATIVE. It matters
 * where the sender waits for TCP's buffer and runs the moment that we make room there: it must find us WATCHING, or a
 * stream that once went over TCP would never leave it. Lock held, the ring was empty.
 */
static ssize_t take_sent(struct fl_conn *c, int fd, const struct fl_io *io, size_t got) {
  uint64_t krx = atomic_load_explicit(&c->krx, memory_order_relaxed), sent = fl_rx_kernel_sent(&c->rx);

  if (FL_LIKELY(sent <= krx) || fl_rx_head(&c->rx) != c->rx.tail || (got && at_mark(c, fd)))
    return 0;
  return kernel_take(c, fd, io, got, sent - krx < io->len - got ? (size_t)(sent - krx) : io->len - got);
}

ssize_t fl_recv_locked(struct fl_conn *c, int fd, const struct fl_io *io, size_t got) {
  struct fl_span span[2];
  uint64_t need;
  /* O_NONBLOCK as seen is believed only while nobody else can have changed it; else the application's own call decides
   */
  bool nonblock =
      (io->flags & MSG_DONTWAIT) || (atomic_load_explicit(&c->nonblock, memory_order_relaxed) && fl_conn_usable(c));
  bool all = (io->flags & MSG_WAITALL) && !nonblock && !(io->flags & MSG_PEEK);
  uint32_t signals = interrupting(c);
  bool helped = false;
  unsigned naps = 0;
  uint64_t asleep_at = 0; /* the first time */

  for (;;) {
    if (FL_UNLIKELY(io->flags & MSG_PEEK) && (got = peek(c, fd, io)) > 0) {
      if (got == io->len || !(io->flags & MSG_WAITALL) || nonblock ||
          (atomic_load_explicit(&c->timed, memory_order_relaxed) & FL_TIMED_RX) || fl_sys_ready(fd, POLLRDHUP) != 0 ||
          interrupting(c) != signals)
        break;
      /* for more, which may come on either lane: rare enough to look once in a millisecond */
      if (!pending_wait(c, fd, POLLRDHUP))
        return (ssize_t)got;
      if (fl_conn_of(fd) != c)
        break;
      got = 0;
      continue;
    }
    FL_FAULT(recv_look);
    enum fl_rx_result r = fl_rx_peek(&c->rx, atomic_load_explicit(&c->krx, memory_order_relaxed), span, &need);

    if (FL_LIKELY(r == FL_RX_RING)) {
      if (FL_UNLIKELY(io->flags & MSG_PEEK) && io->len > 0) { /* published since the look above, or the buffer is bad */
        got = spans_copy(io, 0, span);
        if (got)
          break;
        fl_unlock(&c->rx_lock);
        return fail(EFAULT);
      }
      size_t n = spans_copy(io, got, span);
      if (FL_UNLIKELY(n == 0 && got < io->len)) {
        if (got)
          break;
        fl_unlock(&c->rx_lock);
        return fail(EFAULT);
      }
      FL_FAULT(recv_copied);
      fl_rx_consume(&c->rx, n);
      FL_FAULT(recv_consumed);
      fl_count_add(&c->rx_ring, n);
      got += n;
      if (got == io->len)
        break;
      continue;
    }

    if (r == FL_RX_KERNEL) {
      if (FL_UNLIKELY(got == io->len))
        break; /* of length 0 */
      ssize_t n = kernel_take(c, fd, io, got, need < io->len - got ? (size_t)need : io->len - got);
      if (n > 0) {
        got += (size_t)n;
        if (got == io->len || (io->flags & MSG_PEEK))
          break;
        continue;
      }
      if (got > 0 && !all)
        break;
      if (n == 0 || (n != -EAGAIN && n != -EINTR)) {
        /* the connection ended before bytes that were promised: an end of file here would hide that some are missing */
        if (got == 0)
          atomic_store_explicit(&c->rx_error, 0, memory_order_relaxed);
        fl_unlock(&c->rx_lock);
        return got ? (ssize_t)got : fail(n == 0 ? ECONNRESET : (int)-n);
      }
      if (nonblock) {
        fl_unlock(&c->rx_lock);
        return fail(EAGAIN);
      }
      if (!pending_wait(c, fd, POLLIN | POLLRDHUP))
        return got ? (ssize_t)got : recv_native(c, fd, io);
      if (fl_conn_of(fd) != c) {
        fl_unlock(&c->rx_lock);
        return got ? (ssize_t)got : fail(EBADF);
      }
      if (interrupting(c) != signals) {
        fl_unlock(&c->rx_lock);
        return got ? (ssize_t)got : fail(EINTR);
      }
      continue;
    }

    if (r == FL_RX_BROKEN) {
      if (got)
        break;
      conn_reset(c, fd);
      fl_unlock(&c->rx_lock);
      return fail(ECONNRESET);
    }

    /* empty */
    fl_rx_publish(&c->rx);
    if (FL_UNLIKELY(fl_tx_asked(&c->tx)) && !helped) {
      helped = true;
      fl_conn_enter(c);
      fl_unlock(&c->rx_lock); /* the send lock comes first */
      fl_send_back_if_asked(c, fd);
      fl_conn_leave(c);
      if (fl_lock(&c->rx_lock) != FL_LOCKED)
        return got ? (ssize_t)got : recv_native(c, fd, io);
      if (fl_conn_of(fd) != c) {
        fl_unlock(&c->rx_lock);
        return got ? (ssize_t)got : fail(EBADF);
      }
      continue;
    }
    enum fl_state state = fl_rx_state(&c->rx);
    if (state == FL_WATCHING && !(io->flags & MSG_PEEK)) {
      ssize_t n = take_sent(c, fd, io, got);
      if (n > 0 && (got += (size_t)n) == io->len)
        break;
      if (n > 0)
        continue;
    }
    if (got > 0 && !all) {
      /* A short count tells an edge-triggered reader that there is no more: be sure that it is so. */
      if (fl_rx_quiet(c))
        break;
      if (!fl_rx_native(&c->rx, c->rx.tail))
        continue;
      ssize_t n = kernel_has(fd) && !at_mark(c, fd) ? kernel_take(c, fd, io, got, io->len - got) : 0;
      if (n > 0)
        got += (size_t)n;
      fl_conn_watch(c);
      break;
    }
    if (state == FL_WATCHING || state == FL_BELL) {
      struct fl_bell *bell;
      enum spin s = nonblock || state == FL_BELL ? SPIN_SLEEP : rx_spin(c, fd, signals);
      if (s == SPIN_SLEEP && !nonblock && (bell = bell_for(c, io))) {
        if (naps == 0)
          asleep_at = fl_now();
        uint64_t left = time_left(c, fd, asleep_at);
        if (FL_UNLIKELY(left == 0)) {
          fl_bell_return(bell);
          fl_unlock(&c->rx_lock);
          return got ? (ssize_t)got : fail(EAGAIN);
        }
        s = bell_sleep(c, fd, bell, naps++, left, signals);
      }
      if (s == SPIN_SIGNAL) {
        fl_unlock(&c->rx_lock);
        return got ? (ssize_t)got : fail(EINTR);
      }
      if (s == SPIN_GONE)
        return got ? (ssize_t)got : recv_native(c, fd, io);
      if (s == SPIN_AGAIN || !fl_rx_native(&c->rx, c->rx.tail))
        continue;
      if (s == SPIN_KERNEL && !(io->flags & (MSG_PEEK | MSG_WAITALL))) {
        ssize_t n = kernel_take(c, fd, io, got, io->len - got);
        if (n > 0) {
          got += (size_t)n;
          fl_conn_watch(c);
          break;
        }
        /* end, error or nothing yet: the native call says which */
      }
    } else if (!fl_rx_native(&c->rx, c->rx.tail)) {
      continue; /* another thread made it NATIVE (fork, a pin), and the sender had published before that */
    }
    /* pinned: nobody will watch, and the native call may have control data to give */
    if (nonblock && got == 0 && !(io->flags & MSG_PEEK) && io->len > 0 &&
        FL_LIKELY(!atomic_load_explicit(&c->pin, memory_order_relaxed))) {
      ssize_t n = kernel_take(c, fd, io, 0, io->len);
      if (n > 0 || n == -EAGAIN) {
        fl_conn_watch(c);
        if (n > 0) {
          got = (size_t)n;
          break;
        }
        fl_unlock(&c->rx_lock);
        return fail(EAGAIN);
      }
    }
    bool unread = !nonblock && fl_send_unread(c);
    bool held = !nonblock && !unread && fl_room_held(c) &&
                !(atomic_load_explicit(&c->timed, memory_order_relaxed) & FL_TIMED_RX);
    if (FL_UNLIKELY(unread || held)) {
      if (naps == 0)
        asleep_at = fl_now();
      enum spin s = short_nap(c, fd, held ? FL_ROOM_IDLE_NS : fl_nap_ns(naps++), signals);
      if (s == SPIN_GONE)
        return got ? (ssize_t)got : recv_native(c, fd, io);
      if (s == SPIN_SIGNAL || (s == SPIN_SLEEP && time_left(c, fd, asleep_at) == 0)) {
        fl_unlock(&c->rx_lock);
        return got ? (ssize_t)got : fail(s == SPIN_SIGNAL ? EINTR : EAGAIN);
      }
      if (s == SPIN_SLEEP && held)
        fl_room_shrink(c, fl_now());
      if (s == SPIN_SLEEP || !fl_rx_native(&c->rx, c->rx.tail))
        continue;
    }
    return recv_empty(c, fd, io, got);
  }
  fl_unlock(&c->rx_lock);
  recv_fill(io);
  return (ssize_t)got;
}

/* Something waits for a set that holds c, in the kernel: see kick in epoll.c. Lock held on entry, released on return.
 */
static FL_NOINLINE ssize_t recv_nested(struct fl_conn *c, int fd, const struct fl_io *io) {
  bool left = fl_rx_head(&c->rx) != c->rx.tail;
  ssize_t n = fl_recv_locked(c, fd, io, 0);
  int saved = errno;

  if (left)
    fl_epoll_drained(c);
  errno = saved;
  return n;
}

ssize_t fl_recv(struct fl_conn *c, int fd, const struct fl_io *io) {
  fl_process_check();
  if (FL_UNLIKELY(io->flags & (MSG_OOB | MSG_ERRQUEUE))) {
    if (io->flags & MSG_OOB)
      fl_conn_pin(c, FL_WHY_OOB);
    return io->native(fd, io);
  }
  if (io->plain && io->len == 0)
    return io->native(fd, io);
  ssize_t got;
  if (!fl_conn_paired(c) && fl_plain_recv(c, fd, io, &got))
    return got;
  if (!fl_conn_paired(c)) {
    /* seq_cst, with the phase in pair.c: either this thread sees that the connection is paired now, or the thread that
     * pairs it sees this sleeper and does not watch */
    sleeper_begin(c);
    if (FL_LIKELY(atomic_load_explicit(&c->phase, memory_order_seq_cst) != FL_PAIRED)) {
      ssize_t n = recv_begun(c, fd, io);
      if (n > 0 && !(io->flags & MSG_PEEK))
        fl_pair_tick(c, fd, (size_t)n);
      return n;
    }
    sleeper_end(&(struct sleeper){c, 0});
  }
  fl_testcancel(); /* a ring that always has bytes would otherwise never let the thread be cancelled */
  if (FL_UNLIKELY(fl_lock(&c->rx_lock) != FL_LOCKED)) {
    fl_conn_pin(c, FL_WHY_LOCK);
    return recv_native(c, fd, io);
  }
  if (FL_UNLIKELY(fl_conn_of(fd) != c || !fl_conn_paired(c))) {
    fl_unlock(&c->rx_lock);
    return io->native(fd, io);
  }
  if (FL_UNLIKELY(atomic_load_explicit(&c->nholders, memory_order_relaxed) > 1))
    fl_conn_holders_look(c);
  if (FL_UNLIKELY(atomic_load_explicit(&c->pin, memory_order_relaxed) == FL_WHY_NESTED))
    return recv_nested(c, fd, io);
  return fl_recv_locked(c, fd, io, 0);
}
