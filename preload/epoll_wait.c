/* SPDX-License-Identifier: MIT */
/*
 * preload/epoll_wait.c - waiting in an epoll set: the rings of its hot items first, then a spin, then a sleep in the
 * kernel, with a bell where there is one.
 *
 * While threads sleep in a set the lanes of its hot items are in BELL or NATIVE, never WATCHING, but for those that
 * rang: these are the business of the thread that is waking up.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>

#include "arena_alloc.h"
#include "epoll_set.h"
#include "io.h"
#include "jump.h"
#include "options.h"
#include "raw.h"
#include "real.h"
#include "registry/sys.h"
#include "room.h"
#include "shmring/fault.h"
#include "signals.h"

#define KERNEL_ROUNDS 16u      /* while rings are busy, the kernel is asked at least every so many calls, */
#define KERNEL_EVERY_NS 20000u /* and at least this often */
#define KERNEL_FIRST 8u        /* calls for one event in a row that get the kernel's, which came first */
#define NAP_NS 1000000u
#define FORKED_NAP_NS 50000000u /* with a bell in a set that a child has too */
#define QUIET_WAKES 2u          /* a NATIVE item whose ring was quiet for so many sleeps leaves the hot list, */
#define ORDERED 64              /* events of one call that are sorted */
#define QUIET_NS 100000000u     /* and any other after so long */
#define WRITABLE ((uint32_t)(EPOLLOUT | EPOLLWRNORM))

/* Leaves the hot list, as NATIVE; stays if something has just been published. Set locked. */
static void retire(struct fl_item *it, uint64_t now) {
  if (fl_send_unread(it->conn))
    return; /* it may want it back: see all_asleep */
  if (fl_item_news(it))
    return;
  if (!fl_room_shrink(it->conn, now))
    return; /* it is still sending */
  if (!fl_conn_mapped(it->conn) || fl_rx_state(&it->conn->rx) == FL_NATIVE ||
      fl_rx_native(&it->conn->rx, fl_item_known(it)))
    fl_item_cool(it);
}

/* One item at a time is asked whether it was busy lately, so that the list, and what it costs to look through it,
 * follows the traffic. Set locked. */
static void sweep(struct fl_epoll *s, uint64_t now) {
  uint32_t hot = atomic_load_explicit(&s->nhot, memory_order_relaxed);

  if (hot == 0)
    return; /* the last one was deleted as the kernel was told */
  struct fl_item *it = s->hot[s->rounds % hot];
  if (now - it->active_at > fl_ns_to_ticks(QUIET_NS))
    retire(it, now);
}

/* Puts an event where it belongs by the time at which its ring got something: a kernel reports in this order. */
static void put_in_order(struct epoll_event *events, uint64_t *at, int n, struct epoll_event event, uint64_t when) {
  int i = n;

  for (; i > 0 && i <= ORDERED && (int64_t)(at[i - 1] - when) > 0; i--) {
    events[i] = events[i - 1];
    if (i < ORDERED)
      at[i] = at[i - 1];
  }
  events[i] = event;
  if (i < ORDERED)
    at[i] = when;
}

/* Before it published, did the sender do what the kernel tells of, and has not told yet? */
static bool is_later(const struct fl_epoll *s, const struct fl_item *it) {
  return (int64_t)(fl_rx_elsewhere_at(&it->conn->rx) - s->looked_at) > 0;
}

/* Is it known, without asking the kernel, that there is room? Set locked. */
static bool writable(const struct fl_item *it, bool in) {
  if (!(it->events & WRITABLE))
    return false;
  if (it->events & EPOLLET) /* an edge reports all that is ready; the kernel's part is merged where it was asked */
    return in && !atomic_load_explicit(&it->conn->tx_busy, memory_order_relaxed);
  return !(it->events & (EPOLLONESHOT | EPOLLEXCLUSIVE)) && fl_conn_mapped(it->conn) && fl_send_free(it->conn);
}

/* Edge-triggered: news lie in the ring behind kernel bytes, which are there and perhaps reported already. What arrives
 * is an edge all the same, and together with the kernel's, if that is still to come, it is one. Set locked. */
static FL_NOINLINE bool edge_behind(struct fl_item *it) {
  uint64_t head;
  int n = 0;

  if (!fl_item_news(it) || (head = fl_rx_head(&it->conn->rx)) == it->seen || fl_sys_ioctl(it->fd, FIONREAD, &n) != 0 ||
      n == 0)
    return false;
  it->seen = head;
  return true;
}

/* Events of the rings, at most max. *later: before it published one of these, a sender did what the kernel tells. Set
 * locked. */
static int collect(struct fl_epoll *s, int epfd, uint64_t now, struct epoll_event *events, int max, bool *later) {
  uint64_t at[ORDERED];
  int n = 0;
  uint32_t hot = atomic_load_explicit(&s->nhot, memory_order_relaxed);

  for (uint32_t i = 0; i < hot && n < max; i++) {
    /* begin where the last call ended, so that busy ones do not starve the rest */
    struct fl_item *it = s->hot[(i + s->turn) % hot];
    bool in = fl_item_wants_in(it) && fl_rx_ready(it->conn, it->events & EPOLLET ? &it->seen : NULL);
    bool behind = FL_UNLIKELY(!in && (it->events & EPOLLET)) && edge_behind(it);
    in |= behind;
    uint32_t mask = (in ? it->events & (EPOLLIN | EPOLLRDNORM) : 0) | (writable(it, in) ? it->events & WRITABLE : 0);
    if (mask == 0)
      continue;
    if (FL_UNLIKELY(it->events & EPOLLONESHOT)) {
      /* nor does what is reported once leave anything for the next call */
      int rest = fl_sys_ready(it->fd, (short)(it->events & 0xffff));
      mask |= rest > 0 ? (uint32_t)rest & ~(uint32_t)POLLNVAL : 0;
    }
    FL_FAULT(epoll_found);
    it->active = s->wakes;
    it->active_at = now;
    *later |= (in && is_later(s, it)) || behind || it->kicked; /* one edge, not ours and the kernel's */
    put_in_order(events, at, n++, (struct epoll_event){.events = mask, .data = it->data},
                 in ? fl_rx_pushed_at(&it->conn->rx) : now);
    if (FL_UNLIKELY(it->events & EPOLLONESHOT)) {
      /* reported once: disarmed here and in the kernel until EPOLL_CTL_MOD */
      it->events &= EPOLLONESHOT | EPOLLET;
      it->kernel.events = it->events;
      struct epoll_event off = it->kernel;
      fl_syscall6(__NR_epoll_ctl, epfd, EPOLL_CTL_MOD, it->fd, (long)&off, 0, 0);
    }
  }
  if (n == max && hot)
    s->turn = (s->turn + (uint32_t)n) % hot;
  return n;
}

/* Takes the set's own bells out of n events. Returns how many are left, and in *bell where the first was, if any was
 * there. */
static int strip(struct fl_epoll *s, struct epoll_event *events, int n, int *bell) {
  const uintptr_t first = (uintptr_t)&s->bell, end = (uintptr_t)&s->far[FL_SET_FAR];
  int left = 0;

  for (int i = 0; i < n; i++) {
    uintptr_t data = (uintptr_t)events[i].data.ptr;
    if (FL_LIKELY(data < first || data >= end)) {
      if (left < i)
        events[left] = events[i];
      left++;
    } else if (*bell < 0) {
      *bell = left;
    }
  }
  return left < n ? left : n; /* n may be an error */
}

/* Adds `count` events to n others; one event per descriptor, of those from number `from` on. `more` may lie behind the
 * n in the same array. */
static int unite(struct epoll_event *events, int from, int n, const struct epoll_event *more, int count) {
  int before = n;

  for (int i = 0; i < count; i++) {
    int at = from;
    while (at < before && events[at].data.u64 != more[i].data.u64)
      at++;
    if (at < before)
      events[at].events |= more[i].events;
    else
      events[n++] = more[i];
  }
  return n;
}

/* Puts `count` events before number `at` of n others; one event per descriptor. There is room for all. */
static int insert(struct epoll_event *events, int n, int at, const struct epoll_event *more, int count) {
  memmove(events + at + count, events + at, (size_t)(n - at) * sizeof *events);
  return unite(events, at, unite(events, 0, at, more, count), events + at + count, n - at);
}

/*
 * The kernel reports n events, at least one; returns how many are for the application. For an edge, or once and no
 * more, its report is one of the ring's bytes as well: who gets it reads until there is nothing more. Set locked.
 */
static FL_NOINLINE int heard(struct fl_epoll *s, int epfd, struct epoll_event *events, int n) {
  if (FL_UNLIKELY(s->kicked))
    n = fl_set_unkick(s, epfd, events, n);
  for (uint32_t i = atomic_load_explicit(&s->nhot, memory_order_relaxed); i > 0; i--) {
    struct fl_item *it = s->hot[i - 1];
    if (!(it->events & (EPOLLET | EPOLLONESHOT)) || !fl_item_news(it))
      continue;
    for (int k = 0; k < n; k++) {
      if (events[k].data.u64 != it->data.u64)
        continue;
      if (fl_rx_ready(it->conn, it->events & EPOLLET ? &it->seen : NULL))
        events[k].events |= it->events & (EPOLLIN | EPOLLRDNORM);
      if (events[k].events & (EPOLLIN | EPOLLRDNORM))
        it->seen = fl_rx_head(&it->conn->rx);
      if (it->events & EPOLLONESHOT)
        it->kernel.events = it->events &= EPOLLONESHOT | EPOLLET;
    }
  }
  return n;
}

/* The kernel's events now, or -errno. Its bell, if it was rung, is for a thread that sleeps, if there is one. With the
 * set locked, as it does not block: a registration that is deleted meanwhile is not reported. */
static int asked(struct fl_epoll *s, int epfd, struct epoll_event *events, int max, const sigset_t *mask) {
  int bell = -1;
  uint64_t now = fl_now();

  fl_set_tell(s, epfd);
  long k = fl_syscall6(__NR_epoll_pwait, epfd, (long)events, max, 0, (long)mask, 8);
  if (k < max)
    s->looked_at = now;
  if (k <= 0)
    return (int)k;
  int n = strip(s, events, (int)k, &bell);
  if (bell >= 0 && atomic_load_explicit(&s->sleepers, memory_order_relaxed) > 0)
    fl_bell_own(&s->bell);
  return n > 0 && FL_UNLIKELY(atomic_load_explicit(&s->nhot, memory_order_relaxed) || s->kicked)
             ? heard(s, epfd, events, n)
             : n;
}

static int look(struct fl_epoll *s, int epfd, struct epoll_event *events, int max) {
  int n = asked(s, epfd, events, max, NULL);

  return n < 0 ? 0 : n;
}

/* A wait with a timeout of 0. */
static int look_only(struct fl_epoll *s, int epfd, struct epoll_event *events, int max, const sigset_t *mask) {
  int n = asked(s, epfd, events, max, mask);

  if (n >= 0)
    return n;
  errno = -n;
  return -1;
}

/* Adds the kernel's events to n of ours, before number `at`. */
static int merge(struct fl_epoll *s, int epfd, struct epoll_event *events, int n, int at, int max) {
  struct epoll_event more[64];
  int room = max - n < 64 ? max - n : 64;

  return room == 0 ? n : insert(events, n, at, more, look(s, epfd, more, room));
}

/* With room for one event, which the kernel gave: what the ring of the same connection has belongs to it. */
static void complete(struct fl_epoll *s, struct epoll_event *event) {
  for (uint32_t i = 0, hot = atomic_load_explicit(&s->nhot, memory_order_relaxed); i < hot; i++) {
    struct fl_item *it = s->hot[i];
    if (it->data.u64 != event->data.u64 || !fl_item_wants_in(it) ||
        !fl_rx_ready(it->conn, it->events & EPOLLET ? &it->seen : NULL))
      continue;
    event->events |= it->events & (EPOLLIN | EPOLLRDNORM);
    if (it->events & EPOLLONESHOT) /* as the kernel has done */
      it->kernel.events = it->events &= EPOLLONESHOT | EPOLLET;
  }
}

/* Is there one for which collect would say *later? */
static bool any_later(struct fl_epoll *s) {
  for (uint32_t i = 0, hot = atomic_load_explicit(&s->nhot, memory_order_relaxed); i < hot; i++)
    if (fl_conn_mapped(s->hot[i]->conn) && is_later(s, s->hot[i]))
      return true;
  return false;
}

static bool any_hot(struct fl_epoll *s) {
  for (uint32_t i = 0, hot = atomic_load_explicit(&s->nhot, memory_order_relaxed); i < hot; i++) {
    struct fl_item *it = s->hot[i];
    if (!fl_conn_mapped(it->conn))
      continue; /* a signal handler closed it */
    if (fl_item_wants_in(it) && fl_rx_head(&it->conn->rx) != fl_item_known(it))
      return true;
  }
  return false;
}

/* Does some hot peer say that bytes are, or will be, on the kernel lane? Then the kernel is asked before anything else.
 */
static bool kernel_busy(struct fl_epoll *s) {
  for (uint32_t i = 0, hot = atomic_load_explicit(&s->nhot, memory_order_relaxed); i < hot; i++)
    if (fl_conn_mapped(s->hot[i]->conn) && !fl_rx_quiet(s->hot[i]->conn))
      return true;
  return false;
}

/* A CPU of some hot peer: -1 if one of them is on another CPU or not known, else ours. */
static int peers_cpu(struct fl_epoll *s) {
  int here = fl_cpu();

  for (uint32_t i = 0, hot = atomic_load_explicit(&s->nhot, memory_order_relaxed); i < hot; i++) {
    struct fl_rx *rx = &s->hot[i]->conn->rx;
    if (!fl_conn_mapped(s->hot[i]->conn) || fl_rx_peer_cpu(rx) != here)
      return -1;
  }
  return here;
}

enum spun { SPUN_RING, SPUN_KERNEL, SPUN_NOTHING, SPUN_SIGNAL };

/* Waits a little with the set locked (the hot list must hold still; who else wants it waits as long). */
static enum spun spin(struct fl_epoll *s, int epfd, uint64_t ns, uint32_t signals, struct epoll_event *events, int max,
                      int *n) {
  struct fl_wait w;
  enum spun r = SPUN_NOTHING;

  bool watching = false;
  for (uint32_t i = 0, hot = atomic_load_explicit(&s->nhot, memory_order_relaxed); i < hot; i++) {
    struct fl_conn *c = s->hot[i]->conn;
    if (!fl_conn_mapped(c))
      continue;
    fl_rx_at_cpu(&c->rx, fl_cpu());
    watching |= fl_rx_state(&c->rx) == FL_WATCHING;
  }
  if (!watching)
    return SPUN_NOTHING;
  if (kernel_busy(s) && !any_hot(s) && (*n = merge(s, epfd, events, 0, 0, max)) > 0)
    return SPUN_KERNEL;
  FL_FAULT(epoll_spin);
  fl_wait_begin(&w, &s->hist, peers_cpu(s), ns);
  for (;;) {
    if (any_hot(s)) {
      r = SPUN_RING;
      break;
    }
    if (fl_signals_any() != signals) {
      r = SPUN_SIGNAL;
      break;
    }
    enum fl_wait_verdict v = fl_wait_step(&w);
    if (v == FL_WAIT_SLEEP)
      break;
    /* first what came while the CPU was given away: the kernel's may have come after it */
    if (v == FL_WAIT_KERNEL && !any_hot(s) && (*n = merge(s, epfd, events, 0, 0, max)) > 0) {
      r = SPUN_KERNEL;
      break;
    }
  }
  fl_wait_end(&w, r == SPUN_RING || r == SPUN_KERNEL);
  return r;
}

enum sleep { SLEEP_LONG, SLEEP_BELL, SLEEP_UNREAD, SLEEP_SHORT, SLEEP_NOT };

/*
 * Turns every hot item BELL, or NATIVE, before a sleep. Not to sleep: one has news. To sleep for a short time only: the
 * ring bytes of one come after kernel bytes that are still on their way. Those wake this thread, but another one may
 * take them; or (UNREAD) the other end of one may want back what it has not read (fl_send_unread). Set locked.
 */
static enum sleep all_asleep(struct fl_epoll *s) {
  const struct fl_bell *bell = atomic_load_explicit(&s->nhot, memory_order_relaxed) ? fl_set_bell(s) : NULL;
  enum sleep r = SLEEP_LONG;

  for (uint32_t i = atomic_load_explicit(&s->nhot, memory_order_relaxed); i > 0; i--) {
    struct fl_item *it = s->hot[i - 1];
    struct fl_rx *rx = &it->conn->rx;
    if (FL_UNLIKELY(fl_send_unread(it->conn))) {
      fl_send_back_if_asked(it->conn, it->fd);
      r = r < SLEEP_UNREAD ? SLEEP_UNREAD : r;
    }
    if (!fl_item_wants_in(it) || !fl_conn_mapped(it->conn))
      continue; /* nobody waits for its bytes */
    const struct fl_bell *its = fl_set_bell_for(s, bell, it->conn);
    if (its && fl_bell_rest(it->conn, fl_item_known(it), its)) {
      r = r == SLEEP_LONG ? SLEEP_BELL : r;
      continue;
    }
    if (fl_rx_native(rx, fl_item_known(it)))
      continue;
    uint64_t seen = it->seen;
    if (fl_rx_ready(it->conn, it->events & EPOLLET ? &seen : NULL))
      return SLEEP_NOT; /* it->seen is left alone: the event is yet to be reported */
    it->seen = seen;
    if (!fl_rx_native(rx, fl_item_known(it)))
      r = SLEEP_SHORT;
  }
  return r;
}

/* Does a ring of a hot item hold memory that it could give back when it is idle? Set locked. */
static bool any_held(const struct fl_epoll *s) {
  for (uint32_t i = 0, hot = atomic_load_explicit(&s->nhot, memory_order_relaxed); i < hot; i++)
    if (fl_conn_mapped(s->hot[i]->conn) && fl_room_held(s->hot[i]->conn))
      return true;
  return false;
}

/* Nothing came for a while. Set locked. */
static void give_room(struct fl_epoll *s) {
  uint64_t now = fl_now();

  for (uint32_t i = 0, hot = atomic_load_explicit(&s->nhot, memory_order_relaxed); i < hot; i++)
    fl_room_shrink(s->hot[i]->conn, now);
}

/*
 * This thread leaves with events while others sleep in the set. What comes from now on must wake one of them; and so
 * must what is there and not read, or not reported, as it would in the kernel. Set locked.
 */
static void hand_over(struct fl_epoll *s, int epfd) {
  const struct fl_bell *bell;
  struct fl_item *news = NULL;

  if (FL_LIKELY(atomic_load_explicit(&s->sleepers, memory_order_relaxed) == 0))
    return;
  bell = fl_set_bell(s);
  FL_FAULT(epoll_hand_over);
  for (uint32_t i = atomic_load_explicit(&s->nhot, memory_order_relaxed); i > 0; i--) {
    struct fl_item *it = s->hot[i - 1];
    struct fl_rx *rx = &it->conn->rx;
    if (!fl_item_wants_in(it) || !fl_conn_mapped(it->conn))
      continue;
    uint64_t head = fl_rx_head(rx);
    if (head != fl_item_known(it))
      news = it;
    const struct fl_bell *its = fl_set_bell_for(s, bell, it->conn);
    if (fl_rx_state(rx) == FL_WATCHING && !(its && fl_bell_rest(it->conn, head, its)) && !fl_rx_native(rx, head))
      news = it;
  }
  if (news)
    fl_set_wake(s, epfd, news);
}

static uint64_t left_ns(const struct timespec *timeout, uint64_t begin) {
  if (!timeout)
    return UINT64_MAX;
  uint64_t all = (uint64_t)timeout->tv_sec > 1u << 30
                     ? UINT64_MAX / 4
                     : (uint64_t)timeout->tv_sec * 1000000000u + (uint64_t)timeout->tv_nsec;
  uint64_t gone = begin ? fl_ticks_to_ns(fl_now() - begin) : 0;
  return gone < all ? all - gone : 0;
}

static int wait_native(int epfd, struct epoll_event *events, int max, uint64_t ns, const sigset_t *mask) {
  int ms = ns == UINT64_MAX ? -1 : ns / 1000000 >= INT_MAX ? INT_MAX : (int)((ns + 999999) / 1000000);

  if (ns != UINT64_MAX && ns % 1000000 && ns < 100000000 && fl_real.epoll_pwait2) {
    struct timespec ts = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    return REAL(epoll_pwait2)(epfd, events, max, &ts, mask);
  }
  return mask ? REAL(epoll_pwait)(epfd, events, max, ms, mask) : REAL(epoll_wait)(epfd, events, max, ms);
}

/*
 * This thread is awake and will be back: the connections that were busy before it slept, and are NATIVE, watch their
 * rings again at once, instead of each after a message through the kernel. Those in BELL stay there until they ring.
 * Those that were quiet for some sleeps leave the list. Set locked.
 */
static void rewatch(struct fl_epoll *s) {
  FL_FAULT(epoll_rewatch);
  s->wakes++;
  for (uint32_t i = atomic_load_explicit(&s->nhot, memory_order_relaxed); i > 0; i--) {
    struct fl_item *it = s->hot[i - 1];
    struct fl_conn *c = it->conn;
    struct fl_local *l = fl_local_of(c);
    int32_t none = 0;
    enum fl_state state = fl_rx_state(&c->rx);
    if (state == FL_WATCHING)
      continue;
    if (state == FL_NATIVE && s->wakes - it->active > QUIET_WAKES && !fl_send_unread(c) && !fl_item_news(it)) {
      if (!fl_conn_mapped(c) || !fl_room_held(c)) /* else: see give_room */
        fl_item_cool(it);
      continue;
    }
    if (state == FL_BELL || atomic_load_explicit(&s->sleepers, memory_order_relaxed) > 0 ||
        (it->events & (EPOLLONESHOT | EPOLLEXCLUSIVE)) || atomic_load_explicit(&s->native, memory_order_relaxed) ||
        /* acquire: pairs with fl_unlock */
        !atomic_compare_exchange_strong_explicit(&c->rx_lock, &none, fl_tid(), memory_order_acquire,
                                                 memory_order_relaxed))
      continue;
    if (fl_lock(&l->reg_lock) == FL_LOCKED) {
      /* only with one registration: the locks of other sets are not held here */
      if (l->items == it && !it->other && fl_conn_usable(c) && !c->rx.broken &&
          atomic_load_explicit(&c->rx_sleepers, memory_order_seq_cst) == 0)
        fl_conn_watch_now(c);
      fl_unlock(&l->reg_lock);
    }
    fl_unlock(&c->rx_lock);
  }
}

struct sleeping {
  struct fl_epoll *set;
  int epfd;
  struct epoll_event *events;
  int n;
  int bell;     /* where the bell was among the events, -1: it was not */
  bool came;    /* back from the call: what the kernel said is known */
  bool dropped; /* all that it said was for us */
};

/* Also on cancellation. */
static void wake(struct sleeping *z) {
  int saved = errno;

  z->n = strip(z->set, z->events, z->n, &z->bell);
  if (fl_lock(&z->set->lock) == FL_LOCKED) {
    int others = atomic_fetch_sub_explicit(&z->set->sleepers, 1, memory_order_relaxed) - 1;
    if (z->n > 0)
      z->dropped = (z->n = heard(z->set, z->epfd, z->events, z->n)) == 0;
    /* canceled, or left by a jump: it may have taken the bell with it */
    if (FL_UNLIKELY(!z->came && others > 0) && fl_set_bell(z->set))
      fl_bell_own(&z->set->bell);
    if (z->n > 0 || z->bell >= 0 || z->dropped)
      rewatch(z->set);
    fl_unlock(&z->set->lock);
  }
  errno = saved;
}

static void wake_at(struct sleeping **z) { wake(*z); }

/* A signal handler jumped out of the sleep, */
static void sleep_jumped(void *z) { wake(z); }

/* or out of what comes before or after it. */
struct waiting {
  struct fl_epoll *set;
  bool mine;    /* the lock, or it was */
  bool counted; /* in sleepers, with the lock held */
};
static void wait_jumped(void *what) {
  struct waiting *w = what;

  if (!w->mine || atomic_load_explicit(&w->set->lock, memory_order_relaxed) != fl_tid())
    return;
  if (w->counted)
    atomic_fetch_sub_explicit(&w->set->sleepers, 1, memory_order_relaxed);
  fl_unlock(&w->set->lock);
}

/* Set locked on entry, released on return. */
static int sleep_native(struct fl_epoll *s, int epfd, struct epoll_event *events, int max, uint64_t ns,
                        const sigset_t *mask, int *bell, bool *again) {
  fl_unlock(&s->lock);
  struct sleeping z = {s, epfd, events, 0, -1, false, false};
  {
    struct sleeping *woken __attribute__((cleanup(wake_at))) = &z;
    FL_HOLD(sleep_jumped, &z);
    FL_FAULT(epoll_sleep);
    woken->n = wait_native(epfd, events, max, ns, mask);
    woken->came = true;
    FL_FAULT(epoll_woken);
  }
  *bell = z.bell;
  *again = z.n == 0 && (z.bell >= 0 || z.dropped);
  return z.n;
}

/* Adds ring events to n of the kernel's, which were taken from it and have to be reported, before number `at`. Set
 * locked. */
static int add_rings(struct fl_epoll *s, int epfd, struct epoll_event *events, int n, int at, int max) {
  struct epoll_event more[64];
  int room = max - n < 64 ? max - n : 64;
  bool later = false;

  return room == 0 ? n : insert(events, n, at, more, collect(s, epfd, fl_now(), more, room, &later));
}

static int interrupted(struct fl_epoll *s) {
  fl_unlock(&s->lock);
  errno = EINTR;
  return -1;
}

/*
 * Is it time to ask the kernel, though rings may be busy? Twice as long is waited while it would have to be told of
 * registrations first: as a rule they are put back soon (a program waits for room, writes, and waits for input again).
 * Set locked.
 */
static bool kernel_due(struct fl_epoll *s, uint64_t now) {
  uint32_t late = s->untold ? 2 : 1;

  s->rounds++;
  return ++s->unasked >= KERNEL_ROUNDS * late || now - s->kernel_at > late * fl_ns_to_ticks(KERNEL_EVERY_NS);
}

/* The end of a wait with n events, at least one. Set locked on entry, released on return. */
static int leave_with(struct fl_epoll *s, int epfd, int n) {
  hand_over(s, epfd);
  fl_unlock(&s->lock);
  return n;
}

/* The application's own call, beside all that is done here: what it takes of ours is given back. */
static int wait_past(struct fl_epoll *s, int epfd, struct epoll_event *events, int max, uint64_t ns,
                     const sigset_t *mask) {
  int bell = -1, n = strip(s, events, wait_native(epfd, events, max, ns, mask), &bell);

  if (bell >= 0 && atomic_load_explicit(&s->sleepers, memory_order_relaxed) > 0)
    fl_bell_own(&s->bell); /* it was meant for a thread that sleeps */
  return n;
}

int fl_epoll_wait(struct fl_epoll *s, int epfd, struct epoll_event *events, int max, const struct timespec *timeout,
                  const sigset_t *mask) {
  uint64_t begin = timeout && (timeout->tv_sec || timeout->tv_nsec) ? fl_now() : 0;
  bool spun = mask != NULL;
  uint32_t signals =
      fl_signals_any(); /* a handler that runs from here on interrupts the wait, as it would in the kernel */
  int n = 0;
  unsigned naps = 0;

  struct waiting w = {.set = s};
  FL_HOLD(wait_jumped, &w);

  if (timeout && begin == 0)
    fl_testcancel(); /* it will not be one in the kernel */
  fl_process_check();
  if (FL_UNLIKELY(s->pid != fl_pid()))
    fl_arena_share_sets(); /* this thread may take the events of the other process's bell: see fl_set_bell */
  if (max <= 0 || fl_lock(&s->lock) != FL_LOCKED)
    return wait_past(s, epfd, events, max, left_ns(timeout, 0), mask);
  w.mine = true;
  for (;;) {
    if (FL_UNLIKELY(fl_epoll_of(epfd) != s)) {
      fl_unlock(&s->lock);
      return wait_past(s, epfd, events, max, left_ns(timeout, begin), mask);
    }
    if (atomic_load_explicit(&s->nhot, memory_order_relaxed)) {
      /* busy rings must not starve the rest: now and then the kernel is asked too, and there is room for what it says
       */
      uint64_t now = fl_now();
      bool ask = kernel_due(s, now);
      bool later = max == 1 && any_later(s);
      ask |= later;
      int room = max > 1 ? max - (max + 3) / 4 : max;
      if (ask) {
        s->kernel_at = now;
        s->unasked = 0;
        /* room for one: they take turns, or what is always ready in the kernel would hide the rings */
        if (max == 1 && s->kernel_only++ < (later ? KERNEL_FIRST : 1) && (n = merge(s, epfd, events, 0, 0, 1)) > 0) {
          complete(s, events);
          return leave_with(s, epfd, n);
        }
        s->kernel_only = 0;
      }
      n = collect(s, epfd, now, events, room, &later);
      sweep(s, now);
      if (n)
        return leave_with(s, epfd, ask || later ? merge(s, epfd, events, n, later ? 0 : n, max) : n);
      uint64_t ns = left_ns(timeout, begin);
      if (!spun && ns) {
        uint64_t budget = (uint64_t)fl_options.spin_us * 1000;
        spun = true;
        switch (spin(s, epfd, ns < budget ? ns : budget, signals, events, max, &n)) {
        case SPUN_RING: continue;
        case SPUN_KERNEL: return leave_with(s, epfd, n);
        case SPUN_SIGNAL: return interrupted(s);
        case SPUN_NOTHING: break;
        }
      }
    }
    if (timeout && begin == 0) { /* a look, not a wait: nobody sleeps */
      n = look_only(s, epfd, events, max, mask);
      fl_unlock(&s->lock);
      return n;
    }
    /* relaxed: changed and read under the lock (fl_epoll_watch) */
    if (atomic_fetch_add_explicit(&s->sleepers, 1, memory_order_relaxed) > 0)
      s->crowded = true;
    w.counted = true;
    FL_FAULT(epoll_sleeper);
    enum sleep how = all_asleep(s);
    FL_FAULT(epoll_all_asleep);
    if (how == SLEEP_NOT) {
      w.counted = false;
      atomic_fetch_sub_explicit(&s->sleepers, 1, memory_order_relaxed);
      continue;
    }
    uint64_t ns = left_ns(timeout, begin);
    uint64_t longest = how == SLEEP_SHORT ? NAP_NS : how == SLEEP_UNREAD ? fl_nap_ns(naps++) : UINT64_MAX;
    if (s->forked && how != SLEEP_LONG && longest > FORKED_NAP_NS)
      longest = FORKED_NAP_NS;
    bool held = longest > FL_ROOM_IDLE_NS && any_held(s);
    if (held)
      longest = FL_ROOM_IDLE_NS;
    if (FL_UNLIKELY(fl_signals_any() != signals) && !mask) {
      atomic_fetch_sub_explicit(&s->sleepers, 1, memory_order_relaxed);
      return interrupted(s);
    }
    fl_set_tell(s, epfd);
    int bell;
    bool again;
    w.counted = false;
    s->looked_at = fl_now();
    n = sleep_native(s, epfd, events, max, ns > longest ? longest : ns, mask, &bell, &again);
    bool more = again || (n == 0 && ns > longest);
    /* with others in the set the bell that rang for a ring may be theirs */
    if (!more && bell < 0 && (n <= 0 || n == max || FL_LIKELY(!s->crowded)))
      return n;
    if (fl_lock(&s->lock) != FL_LOCKED) {
      errno = EINTR; /* this thread's own lock, abandoned by a signal handler: nothing can be said */
      return n > 0 ? n : -1;
    }
    if (n > 0)
      return leave_with(s, epfd, add_rings(s, epfd, events, n, bell < 0 ? n : bell, max));
    if (held && bell < 0)
      give_room(s);
  }
}
