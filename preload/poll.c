/* SPDX-License-Identifier: MIT */
/*
 * preload/poll.c - poll, ppoll, select and pselect. The kernel's answer is the truth for everything but the input of
 * paired connections, to which the rings add.
 *
 * A call that names no followed connection goes straight to the kernel. Otherwise: look at the rings; if one has bytes,
 * ask the kernel with a zero timeout and merge; else spin a little; else count as a sleeper of each connection, turn
 * each NATIVE, and sleep in the application's own call.
 */
#include <errno.h>
#include <string.h>

#include "bell.h"
#include "dispatch.h"
#include "epoll.h"
#include "export.h"
#include "io.h"
#include "jump.h"
#include "options.h"
#include "real.h"
#include "registry/sys.h"
#include "room.h"
#include "shmring/fault.h"
#include "signals.h"

#define IN_EVENTS (POLLIN | POLLRDNORM)
#define STACK_FDS 64
#define NAP_NS 1000000u

/* The followed connections of one call that are asked for input. */
struct waiters {
  struct fl_conn **conn;
  int *fd;
  int n, room;
};

/* Every connection of the call is entered until it returns: another thread may close it meanwhile. */
static void gather(struct waiters *w, struct fl_conn *c, int fd) {
  fl_conn_enter(c);
  w->fd[w->n] = fd;
  w->conn[w->n++] = c;
}
static void ungather(struct waiters *w) {
  int saved = errno;

  while (w->n > 0)
    fl_conn_leave(w->conn[--w->n]);
  errno = saved;
}

static void gather_jumped(void *w) { ungather(w); }

static void polled(struct fl_conn *c) { atomic_store_explicit(&fl_local_of(c)->polled, true, memory_order_relaxed); }

/* Is anything of ours in the array? Epoll sets that are polled must wait natively. */
static int count_ours(const struct pollfd *fds, nfds_t n) {
  int ours = 0;

  for (nfds_t i = 0; i < n; i++) {
    uintptr_t e = fl_entry(fds[i].fd);
    if (FL_LIKELY(e == 0))
      continue;
    if ((e & FL_TAG_MASK) == FL_TAG_EPOLL)
      fl_epoll_nested(fl_entry_epoll(e));
    else if ((e & FL_TAG_MASK) == FL_TAG_CONN && (fds[i].events & IN_EVENTS))
      ours++;
  }
  return ours;
}

static bool any_ready(const struct waiters *w) {
  for (int i = 0; i < w->n; i++)
    if (fl_rx_ready(w->conn[i], NULL))
      return true;
  return false;
}

/* Puts the rings' word into an array that the kernel has filled (revents). Returns the count of non-zero entries. */
static int merge(struct pollfd *fds, nfds_t n) {
  int count = 0;

  for (nfds_t i = 0; i < n; i++) {
    struct fl_conn *c;
    if ((fds[i].events & IN_EVENTS) && (c = fl_conn_of(fds[i].fd)) && fl_rx_ready(c, NULL))
      fds[i].revents = (short)(fds[i].revents | (fds[i].events & IN_EVENTS));
    count += fds[i].revents != 0;
  }
  return count;
}

struct polled {
  struct pollfd *fds;
  nfds_t n;
};

static int poll_look(const void *what) {
  const struct polled *p = what;
  struct timespec zero = {0, 0};

  return (int)fl_syscall6(__NR_ppoll, (long)p->fds, (long)p->n, (long)&zero, 0, 0, 0);
}

enum spun { SPUN_READY, SPUN_NOTHING, SPUN_SIGNAL };

/* look(what) asks the kernel with a zero timeout: non-zero if it has something, which ends the spin. */
static enum spun spin(const struct waiters *ws, int (*look)(const void *what), const void *what, uint64_t ns,
                      uint32_t signals) {
  static struct fl_wait_hist shared; /* hints only */
  struct fl_wait w;
  enum spun r = SPUN_NOTHING;
  int watching = 0, cpu = -1, here = fl_cpu();
  bool busy = false; /* bytes are, or will be, on some kernel lane: ask the kernel before anything else */

  for (int i = 0; i < ws->n; i++) {
    struct fl_conn *c = ws->conn[i];
    if (!fl_conn_mapped(c) || fl_rx_state(&c->rx) != FL_WATCHING)
      continue;
    fl_rx_at_cpu(&c->rx, here);
    busy |= !fl_rx_quiet(c);
    int peer = fl_rx_peer_cpu(&c->rx);
    cpu = watching++ == 0 || cpu == peer ? peer : -1;
  }
  if (!watching)
    return SPUN_NOTHING;
  if (busy && look(what) != 0)
    return SPUN_READY;
  struct fl_wait_hist *hist = ws->n == 1 ? &ws->conn[0]->rx_hist : &shared;
  FL_FAULT(poll_spin);
  fl_wait_begin(&w, hist, cpu, ns);
  for (;;) {
    if (any_ready(ws)) {
      r = SPUN_READY;
      break;
    }
    if (fl_signals_any() != signals) {
      r = SPUN_SIGNAL;
      break;
    }
    enum fl_wait_verdict v = fl_wait_step(&w);
    if (v == FL_WAIT_SLEEP)
      break;
    if (v == FL_WAIT_KERNEL && look(what) != 0) {
      r = SPUN_READY;
      break;
    }
  }
  fl_wait_end(&w, r == SPUN_READY);
  return r;
}

static void unsleep(struct waiters *w) {
  int saved = errno;

  for (int i = 0; i < w->n; i++)
    atomic_fetch_sub_explicit(&w->conn[i]->rx_sleepers, 1, memory_order_acq_rel);
  w->n = 0;
  errno = saved;
}

static void sleep_jumped(void *counted) { unsleep(counted); }

enum sleep { SLEEP_LONG, SLEEP_HELD, SLEEP_UNREAD, SLEEP_SHORT, SLEEP_NOT };

/* Counts as a sleeper of every one and turns it BELL, or NATIVE. Not to sleep, and nothing counted, if one has bytes in
 * its ring; for a short time if those come after kernel bytes on their way, which wake this thread unless another takes
 * them, or (UNREAD) if another end may want back what it has not read (fl_send_unread), or (HELD) if a ring holds
 * memory that it may give back soon. */
static enum sleep sleeping(struct waiters *all, struct waiters *counted, const struct fl_bell *bell) {
  enum sleep r = SLEEP_LONG;

  counted->n = 0;
  counted->conn = all->conn;
  for (int i = 0; i < all->n; i++) {
    struct fl_conn *c = all->conn[i];
    bool locked = fl_lock(&c->rx_lock) == FL_LOCKED;
    atomic_fetch_add_explicit(&c->rx_sleepers, 1, memory_order_seq_cst);
    counted->n = i + 1;
    FL_FAULT(poll_sleeper);
    bool native = !fl_conn_mapped(c) || c->rx.broken || (bell && fl_bell_rest(c, c->rx.tail, bell)) ||
                  fl_rx_native(&c->rx, c->rx.tail);
    if (locked)
      fl_unlock(&c->rx_lock);
    if (FL_UNLIKELY(fl_send_unread(c))) {
      fl_send_back_if_asked(c, all->fd[i]);
      r = r < SLEEP_UNREAD ? SLEEP_UNREAD : r;
    } else if (fl_room_held(c)) {
      r = r < SLEEP_HELD ? SLEEP_HELD : r;
    }
    if (native)
      continue;
    if (fl_rx_ready(c, NULL)) {
      unsleep(counted);
      return SLEEP_NOT;
    }
    r = SLEEP_SHORT;
  }
  return r;
}

static uint64_t timeout_ns(const struct timespec *t) {
  if (!t)
    return UINT64_MAX;
  if (t->tv_sec > 1 << 30)
    return UINT64_MAX / 4;
  return (uint64_t)t->tv_sec * 1000000000u + (uint64_t)t->tv_nsec;
}

static int poll_native(struct pollfd *fds, nfds_t n, uint64_t ns, const sigset_t *mask) {
  if (!mask && (ns == UINT64_MAX || ns % 1000000 == 0)) {
    int ms = ns == UINT64_MAX ? -1 : ns / 1000000 > INT_MAX ? INT_MAX : (int)(ns / 1000000);
    return REAL(poll)(fds, n, ms);
  }
  struct timespec ts = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
  return REAL(ppoll)(fds, n, ns == UINT64_MAX ? NULL : &ts, mask);
}

/* The same with the bell beside the caller's array, of at most STACK_FDS. Whether it rang is in *rang; it does not
 * count. So it is, too, if one descriptor more is too many: the caller looks again, and finds no bell. */
static int poll_bell(struct pollfd *fds, nfds_t n, uint64_t ns, const sigset_t *mask, const struct fl_bell *bell,
                     bool *rang) {
  struct pollfd with[STACK_FDS + 1];

  memcpy(with, fds, n * sizeof *fds);
  with[n] = (struct pollfd){.fd = bell->fd, .events = POLLIN};
  int k = poll_native(with, n + 1, ns, mask);
  if (FL_UNLIKELY(k < 0 && errno == EINVAL)) {
    fl_bell_refuse();
    *rang = true;
    for (nfds_t i = 0; i < n; i++)
      fds[i].revents = 0;
    return 0;
  }
  if (k < 0)
    return k;
  *rang = with[n].revents != 0;
  if (*rang)
    fl_bell_clear(bell);
  for (nfds_t i = 0; i < n; i++)
    fds[i].revents = with[i].revents;
  return k - *rang;
}

static void bell_back(struct fl_bell **b) {
  if (*b)
    fl_bell_return(*b);
}

static void bell_jumped(void *b) { bell_back(b); }

/* A bell is worth its while if a connection of the call watches. It is the first one's: those of other containers sleep
 * NATIVE. */
static struct fl_bell *bell_for(const struct waiters *w) {
  for (int i = 0; i < w->n; i++)
    if (fl_conn_mapped(w->conn[i]) && fl_rx_state(&w->conn[i]->rx) != FL_NATIVE)
      return fl_bell_borrow(fl_local_of(w->conn[i])->who);
  return NULL;
}

/* Nothing came for a while. */
static void give_room(struct waiters *w) {
  uint64_t now = fl_now();

  for (int i = 0; i < w->n; i++)
    fl_room_shrink(w->conn[i], now);
}

/* ns: UINT64_MAX waits for ever. */
static int do_poll(struct pollfd *fds, nfds_t n, uint64_t ns, const sigset_t *mask, struct waiters *w) {
  for (nfds_t i = 0; i < n; i++) {
    struct fl_conn *c = fds[i].events & IN_EVENTS ? fl_conn_of(fds[i].fd) : NULL;
    if (c && w->n < w->room) {
      polled(c);
      gather(w, c, fds[i].fd);
    }
  }
  unsigned naps = 0;
  const struct polled what = {fds, n};
  uint32_t signals =
      fl_signals_any(); /* a handler that runs from here on interrupts the wait, as it would in the kernel */
  uint64_t begin = fl_now();
  bool spun = mask || ns == 0;
  for (;;) {
    if (any_ready(w)) {
      poll_look(&what);
      FL_FAULT(poll_ready);
      int count = merge(fds, n);
      if (count)
        return count;
    }
    if (ns == 0)
      return poll_native(fds, n, 0, mask);
    if (!spun) {
      uint64_t budget = (uint64_t)fl_options.spin_us * 1000;
      spun = true;
      enum spun r = spin(w, poll_look, &what, ns < budget ? ns : budget, signals);
      if (r == SPUN_SIGNAL) {
        errno = EINTR;
        return -1;
      }
      if (r == SPUN_READY) {
        int k = poll_look(&what);
        if (k >= 0 && (k = merge(fds, n)) > 0)
          return k;
      }
    }
    struct fl_bell *bell __attribute__((cleanup(bell_back))) = n <= STACK_FDS ? bell_for(w) : NULL;
    struct fl_held bell_held __attribute__((cleanup(fl_let_go)));
    fl_hold(&bell_held, bell_jumped, &bell);
    struct waiters counted __attribute__((cleanup(unsleep))) = {0};
    FL_HOLD(sleep_jumped, &counted);
    enum sleep how = sleeping(w, &counted, bell);
    if (how == SLEEP_NOT)
      continue;
    uint64_t left = ns;
    if (ns != UINT64_MAX) {
      uint64_t gone = fl_ticks_to_ns(fl_now() - begin);
      left = gone < 1000 ? ns : gone < ns ? ns - gone : 0; /* whole milliseconds stay whole */
    }
    uint64_t nap_ns = how == SLEEP_SHORT    ? NAP_NS
                      : how == SLEEP_UNREAD ? fl_nap_ns(naps++)
                      : how == SLEEP_HELD   ? FL_ROOM_IDLE_NS
                                            : UINT64_MAX;
    bool nap = left > nap_ns;
    if (FL_UNLIKELY(fl_signals_any() != signals) && !mask) {
      errno = EINTR;
      return -1;
    }
    FL_FAULT(poll_sleep);
    bool rang = false;
    int k = bell ? poll_bell(fds, n, nap ? nap_ns : left, mask, bell, &rang)
                 : poll_native(fds, n, nap ? nap_ns : left, mask);
    FL_FAULT(poll_woken);
    if (k >= 0 && rang)
      k = merge(fds, n); /* the kernel was asked just now */
    if (k != 0 || (!nap && !rang))
      return k;
    if (how == SLEEP_HELD && !rang)
      give_room(w);
  }
}

static int entered_poll(struct pollfd *fds, nfds_t n, uint64_t ns, const sigset_t *mask, struct waiters *arrays) {
  struct waiters w __attribute__((cleanup(ungather))) = *arrays;
  FL_HOLD(gather_jumped, &w);

  return do_poll(fds, n, ns, mask, &w);
}

static int any_poll(struct pollfd *fds, nfds_t n, uint64_t ns, const sigset_t *mask, int ours) {
  struct fl_conn *conn[STACK_FDS];
  int fd[STACK_FDS];
  struct waiters w = {.conn = conn, .fd = fd, .room = STACK_FDS};

  fl_process_check();
  if (ours <= STACK_FDS)
    return entered_poll(fds, n, ns, mask, &w);
  size_t bytes = (size_t)ours * (sizeof *w.conn + sizeof *w.fd);
  w.conn = fl_sys_map_private(bytes); /* not malloc: poll may be called from a signal handler */
  if (!w.conn)
    return poll_native(fds, n, ns, mask);
  w.fd = (int *)(w.conn + ours);
  w.room = ours;
  int r = entered_poll(fds, n, ns, mask, &w);
  int saved = errno;
  fl_sys_munmap(w.conn, bytes);
  errno = saved;
  return r;
}

static bool plausible(const struct pollfd *fds, nfds_t n) {
  return n < fl_fds_size && fl_addr_readable(fds, n * sizeof *fds);
}

/* The kernel looks at the mask before anything else. */
static bool mask_bad(const sigset_t *mask) { return mask && !fl_addr_readable(mask, 8); }

bool fl_poll_concerned(const struct pollfd *fds, nfds_t n) { return plausible(fds, n) && count_ours(fds, n) > 0; }

FL_EXPORT int poll(struct pollfd *fds, nfds_t n, int timeout) {
  int ours;

  if (!plausible(fds, n) || (ours = count_ours(fds, n)) == 0)
    return REAL(poll)(fds, n, timeout);
  return any_poll(fds, n, timeout < 0 ? UINT64_MAX : (uint64_t)timeout * 1000000u, NULL, ours);
}

FL_EXPORT int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask) {
  int ours;

  if (!plausible(fds, n) || mask_bad(mask) || (ours = count_ours(fds, n)) == 0 ||
      (timeout && (!fl_addr_readable(timeout, sizeof *timeout) || timeout->tv_sec < 0 || timeout->tv_nsec < 0)))
    return REAL(ppoll)(fds, n, timeout, mask);
  return any_poll(fds, n, timeout_ns(timeout), mask, ours);
}

FL_EXPORT int __poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t size) {
  if (size / sizeof *fds < n || !plausible(fds, n) || count_ours(fds, n) == 0)
    return REAL(__poll_chk)(fds, n, timeout, size);
  return poll(fds, n, timeout);
}

FL_EXPORT int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask,
                          size_t size) {
  if (size / sizeof *fds < n || !plausible(fds, n) || count_ours(fds, n) == 0)
    return REAL(__ppoll_chk)(fds, n, timeout, mask, size);
  return ppoll(fds, n, timeout, mask);
}

/* ---- select ---- */

/* select keeps its own shape: the sets are as long as n says, beyond FD_SETSIZE too, and the timeout is written back.
 */

#define BITS (8 * sizeof(unsigned long))

static bool bit(const fd_set *set, int fd) {
  return set && ((const unsigned long *)set)[(unsigned)fd / BITS] >> ((unsigned)fd % BITS) & 1;
}
static void bit_set(fd_set *set, int fd) {
  ((unsigned long *)set)[(unsigned)fd / BITS] |= 1ul << ((unsigned)fd % BITS);
}

static int select_ours(int n, const fd_set *rd, const fd_set *wr, const fd_set *ex) {
  int ours = 0;

  for (int fd = 0; fd < n; fd++) {
    uintptr_t e = fl_entry(fd);
    if (FL_LIKELY(e == 0))
      continue;
    if ((e & FL_TAG_MASK) == FL_TAG_EPOLL && (bit(rd, fd) || bit(wr, fd) || bit(ex, fd)))
      fl_epoll_nested(fl_entry_epoll(e));
    else if ((e & FL_TAG_MASK) == FL_TAG_CONN && bit(rd, fd))
      ours++;
  }
  return ours;
}

struct selected {
  int n;
  fd_set *set[3]; /* the caller's: read, write, except */
  uint64_t ns;
  const sigset_t *mask;
  char *copy;                /* room for three sets */
  struct timeval *tv;        /* select: written back */
  const struct timespec *ts; /* pselect */
};

static int select_native(const struct selected *s) {
  if (s->tv || !s->ts)
    return s->mask ? REAL(pselect)(s->n, s->set[0], s->set[1], s->set[2], s->ts, s->mask)
                   : REAL(select)(s->n, s->set[0], s->set[1], s->set[2], s->tv);
  return REAL(pselect)(s->n, s->set[0], s->set[1], s->set[2], s->ts, s->mask);
}

static size_t set_bytes(int n) { return ((size_t)n + BITS - 1) / BITS * sizeof(unsigned long); }

static fd_set *copy_of(const struct selected *s, int i) {
  return s->set[i] ? (fd_set *)(s->copy + (size_t)i * set_bytes(s->n)) : NULL;
}

static void sets_copy(const struct selected *s, bool back) {
  for (int i = 0; i < 3; i++)
    if (s->set[i])
      memcpy(back ? s->set[i] : copy_of(s, i), back ? copy_of(s, i) : s->set[i], set_bytes(s->n));
}

/* Asks the kernel with a zero timeout, adds the rings, and returns the count of bits as select does. If that is 0
 * (somebody else took what was there) the sets are as they were. */
static int select_now(const struct selected *s, const struct waiters *w) {
  struct timespec zero = {0, 0};

  sets_copy(s, false);
  int k = (int)fl_syscall6(__NR_pselect6, s->n, (long)s->set[0], (long)s->set[1], (long)s->set[2], (long)&zero, 0);
  if (k < 0) {
    errno = -k;
    return -1;
  }
  for (int i = 0; i < w->n; i++) {
    int fd = w->fd[i];
    if (!bit(s->set[0], fd) && fl_rx_ready(w->conn[i], NULL)) {
      bit_set(s->set[0], fd);
      k++;
    }
  }
  if (k == 0)
    sets_copy(s, true);
  return k;
}

/* On copies: the caller's sets are still to be asked. The count, or -errno. */
static int select_copies(const struct selected *s, uint64_t ns, const sigset_t *mask) {
  struct timespec ts = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
  struct {
    const sigset_t *mask;
    size_t bytes;
  } sig = {mask, 8};

  sets_copy(s, false);
  return (int)fl_syscall6(__NR_pselect6, s->n, (long)copy_of(s, 0), (long)copy_of(s, 1), (long)copy_of(s, 2), (long)&ts,
                          (long)&sig);
}

/* Sleeps on copies that have the bell as well; a cancellation point. The count without it, or -errno. */
static int select_bell(const struct selected *s, uint64_t ns, const struct fl_bell *bell, bool *rang) {
  struct timespec ts = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
  fd_set copy[3];

  for (int i = 0; i < 3; i++) {
    FD_ZERO(&copy[i]);
    if (s->set[i])
      memcpy(&copy[i], s->set[i], set_bytes(s->n));
  }
  FD_SET(bell->fd, &copy[0]);
  int k = REAL(pselect)(s->n > bell->fd ? s->n : bell->fd + 1, &copy[0], s->set[1] ? &copy[1] : NULL,
                        s->set[2] ? &copy[2] : NULL, ns >= UINT64_MAX / 4 ? NULL : &ts, s->mask);
  if (k < 0)
    return -errno;
  *rang = FD_ISSET(bell->fd, &copy[0]);
  if (*rang)
    fl_bell_clear(bell);
  return k - *rang;
}

static int select_look(const void *what) { return select_copies(what, 0, NULL); }

/* A timeout: nothing is ready. */
static void sets_clear(const struct selected *s) {
  for (int i = 0; i < 3; i++)
    if (s->set[i])
      memset(s->set[i], 0, set_bytes(s->n));
}

static void written_back(const struct selected *s, uint64_t begin) {
  if (!s->tv)
    return;
  uint64_t gone = fl_ticks_to_ns(fl_now() - begin);
  uint64_t left = s->ns > gone ? s->ns - gone : 0;
  *s->tv = (struct timeval){(time_t)(left / 1000000000u), (suseconds_t)(left % 1000000000u / 1000u)};
}

/* A set of bits has room for numbers below FD_SETSIZE. */
static struct fl_bell *select_bell_for(const struct selected *s, const struct waiters *w) {
  struct fl_bell *bell = s->n <= FD_SETSIZE ? bell_for(w) : NULL;

  if (!bell || bell->fd < FD_SETSIZE)
    return bell;
  fl_bell_return(bell);
  return NULL;
}

static int do_select(const struct selected *s, struct waiters *w) {
  uint32_t signals = fl_signals_any();
  uint64_t begin = fl_now();
  bool spun = s->mask || s->ns == 0, look = false;
  unsigned naps = 0;

  for (int fd = 0; fd < s->n; fd++) {
    struct fl_conn *c = bit(s->set[0], fd) ? fl_conn_of(fd) : NULL;
    if (c && w->n < w->room) {
      polled(c);
      gather(w, c, fd);
    }
  }
  for (;;) {
    if (look || any_ready(w)) {
      FL_FAULT(select_ready);
      int k = select_now(s, w);
      look = false;
      if (k != 0) {
        written_back(s, begin);
        return k;
      }
    }
    if (s->ns == 0)
      return select_native(s);
    if (!spun) {
      uint64_t budget = (uint64_t)fl_options.spin_us * 1000;
      spun = true;
      enum spun r = spin(w, select_look, s, s->ns < budget ? s->ns : budget, signals);
      if (r == SPUN_SIGNAL) {
        errno = EINTR;
        return -1;
      }
      look = r == SPUN_READY;
      continue;
    }
    struct fl_bell *bell __attribute__((cleanup(bell_back))) = select_bell_for(s, w);
    struct fl_held bell_held __attribute__((cleanup(fl_let_go)));
    fl_hold(&bell_held, bell_jumped, &bell);
    struct waiters counted __attribute__((cleanup(unsleep))) = {0};
    FL_HOLD(sleep_jumped, &counted);
    enum sleep how = sleeping(w, &counted, bell);
    if (FL_UNLIKELY(fl_signals_any() != signals) && !s->mask && how != SLEEP_NOT) {
      errno = EINTR;
      return -1;
    }
    FL_FAULT(select_sleep);
    if (how == SLEEP_LONG && !bell)
      return select_native(s);
    if (how == SLEEP_NOT)
      continue;
    uint64_t gone = fl_ticks_to_ns(fl_now() - begin), left = gone < s->ns ? s->ns - gone : 0;
    uint64_t nap = how == SLEEP_SHORT    ? NAP_NS
                   : how == SLEEP_UNREAD ? fl_nap_ns(naps++)
                   : how == SLEEP_HELD   ? FL_ROOM_IDLE_NS
                                         : UINT64_MAX;
    bool rang = false;
    int k = bell ? select_bell(s, nap < left ? nap : left, bell, &rang)
                 : select_copies(s, nap < left ? nap : left, s->mask);
    if (how == SLEEP_HELD && k == 0 && !rang)
      give_room(w);
    if (k < 0) {
      errno = -k;
      return -1;
    }
    look = k > 0 || rang;
    if (!look && nap >= left) {
      k = select_now(s, w);
      if (k == 0)
        sets_clear(s);
      written_back(s, begin);
      return k;
    }
  }
}

static int entered_select(const struct selected *s, struct waiters *arrays) {
  struct waiters w __attribute__((cleanup(ungather))) = *arrays;
  FL_HOLD(gather_jumped, &w);

  return do_select(s, &w);
}

static int any_select(struct selected *s, int ours) {
  struct fl_conn *conn[STACK_FDS];
  int fd[STACK_FDS];
  fd_set copy[3];
  struct waiters w = {.conn = conn, .fd = fd, .room = STACK_FDS};
  size_t sets = 3 * set_bytes(s->n);

  fl_process_check();
  if (ours <= STACK_FDS && sets <= sizeof copy) {
    s->copy = (char *)copy;
    int r = entered_select(s, &w);
    s->copy = NULL;
    return r;
  }
  size_t bytes = sets + (size_t)ours * (sizeof *w.conn + sizeof *w.fd);
  char *room = fl_sys_map_private(bytes);
  if (!room)
    return select_native(s);
  s->copy = room;
  w.conn = (struct fl_conn **)(room + sets);
  w.fd = (int *)(w.conn + ours);
  w.room = ours;
  int r = entered_select(s, &w), saved = errno;
  s->copy = NULL;
  fl_sys_munmap(room, bytes);
  errno = saved;
  return r;
}

static bool sets_plausible(int n, const fd_set *a, const fd_set *b, const fd_set *c) {
  size_t bytes = n > 0 ? set_bytes(n) : 0;

  return n > 0 && (unsigned)n <= fl_fds_size && (!a || fl_addr_readable(a, bytes)) &&
         (!b || fl_addr_readable(b, bytes)) && (!c || fl_addr_readable(c, bytes));
}

bool fl_select_concerned(int n, const fd_set *rd, const fd_set *wr, const fd_set *ex) {
  return sets_plausible(n, rd, wr, ex) && select_ours(n, rd, wr, ex) > 0;
}

FL_EXPORT int select(int n, fd_set *rd, fd_set *wr, fd_set *ex, struct timeval *tv) {
  int ours;

  if (!sets_plausible(n, rd, wr, ex) || (ours = select_ours(n, rd, wr, ex)) == 0 ||
      (tv && (!fl_addr_readable(tv, sizeof *tv) || tv->tv_sec < 0 || tv->tv_usec < 0)))
    return REAL(select)(n, rd, wr, ex, tv);
  struct timespec ts = tv ? (struct timespec){tv->tv_sec, tv->tv_usec * 1000} : (struct timespec){0};
  struct selected s = {.n = n, .set = {rd, wr, ex}, .ns = timeout_ns(tv ? &ts : NULL), .tv = tv};
  return any_select(&s, ours);
}

FL_EXPORT int pselect(int n, fd_set *rd, fd_set *wr, fd_set *ex, const struct timespec *ts, const sigset_t *mask) {
  int ours;

  if (!sets_plausible(n, rd, wr, ex) || mask_bad(mask) || (ours = select_ours(n, rd, wr, ex)) == 0 ||
      (ts && (!fl_addr_readable(ts, sizeof *ts) || ts->tv_sec < 0 || ts->tv_nsec < 0)))
    return REAL(pselect)(n, rd, wr, ex, ts, mask);
  struct selected s = {.n = n, .set = {rd, wr, ex}, .ns = timeout_ns(ts), .ts = ts, .mask = mask};
  return any_select(&s, ours);
}

/* ---- epoll ---- */

FL_EXPORT int epoll_create(int size) {
  int fd = REAL(epoll_create)(size);

  if (fd >= 0 && fl_fds)
    fl_epoll_open(fd);
  return fd;
}

FL_EXPORT int epoll_create1(int flags) {
  int fd = REAL(epoll_create1)(flags);

  if (fd >= 0 && fl_fds)
    fl_epoll_open(fd);
  return fd;
}

FL_EXPORT int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event) {
  struct fl_epoll *set = fl_epoll_of(epfd);
  struct fl_conn *c;

  if (FL_LIKELY(set != NULL))
    return fl_epoll_ctl(set, epfd, op, fd, event);
  int r = REAL(epoll_ctl)(epfd, op, fd, event);
  if (r == 0 && (c = fl_conn_of(fd)))
    fl_conn_pin(c, FL_WHY_NESTED); /* into a set that we do not know */
  return r;
}

/* events cannot be touched: the kernel says so when there is something to report, and waits until then. */
static int wait_in_vain(struct fl_epoll *set, int epfd, const struct timespec *timeout, const sigset_t *mask) {
  struct epoll_event e;
  int n = fl_epoll_wait(set, epfd, &e, 1, timeout, mask);

  if (n <= 0)
    return n;
  errno = EFAULT;
  return -1;
}

/* No address of a process: the kernel says so at once. */
static bool beyond(const void *p) { return (intptr_t)p < 0; }

FL_EXPORT int epoll_wait(int epfd, struct epoll_event *events, int max, int timeout) {
  struct fl_epoll *set = fl_epoll_of(epfd);
  struct timespec ts = {timeout / 1000, timeout % 1000 * 1000000l};

  if (!set || max <= 0 || beyond(events))
    return REAL(epoll_wait)(epfd, events, max, timeout);
  if (!fl_addr_readable(events, sizeof *events))
    return wait_in_vain(set, epfd, timeout < 0 ? NULL : &ts, NULL);
  return fl_epoll_wait(set, epfd, events, max, timeout < 0 ? NULL : &ts, NULL);
}

FL_EXPORT int epoll_pwait(int epfd, struct epoll_event *events, int max, int timeout, const sigset_t *mask) {
  struct fl_epoll *set = fl_epoll_of(epfd);
  struct timespec ts = {timeout / 1000, timeout % 1000 * 1000000l};

  if (!set || max <= 0 || beyond(events) || mask_bad(mask))
    return REAL(epoll_pwait)(epfd, events, max, timeout, mask);
  if (!fl_addr_readable(events, sizeof *events))
    return wait_in_vain(set, epfd, timeout < 0 ? NULL : &ts, mask);
  return fl_epoll_wait(set, epfd, events, max, timeout < 0 ? NULL : &ts, mask);
}

FL_EXPORT int epoll_pwait2(int epfd, struct epoll_event *events, int max, const struct timespec *timeout,
                           const sigset_t *mask) {
  struct fl_epoll *set = fl_epoll_of(epfd);

  if (!set || !fl_addr_readable(events, sizeof *events) || mask_bad(mask) ||
      (timeout && (!fl_addr_readable(timeout, sizeof *timeout) || timeout->tv_sec < 0 || timeout->tv_nsec < 0)))
    return REAL(epoll_pwait2)(epfd, events, max, timeout, mask);
  return fl_epoll_wait(set, epfd, events, max, timeout, mask);
}

FL_SECOND_NAME(poll);
FL_SECOND_NAME(select);
