/* SPDX-License-Identifier: MIT */
#include "epoll.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "io.h"
#include "options.h"
#include "real.h"
#include "registry/sys.h"
#include "shmring/fault.h"
#include "signals.h"

#undef uthash_fatal
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define HOT_MAX 4096u          /* items that one wait looks at */
#define KERNEL_ROUNDS 16u      /* while rings are busy, the kernel is asked at least every so many calls, */
#define KERNEL_EVERY_NS 20000u /* and at least this often */
#define WATCH_SETS 4           /* sets that one connection may be in and still watch */
#define NAP_NS 1000000u
#define QUIET_WAKES 2u

struct fl_item {
  int fd; /* key: what the kernel's registration is made with */
  uint32_t events;
  epoll_data_t data;
  struct fl_conn *conn;
  struct fl_epoll *set;
  struct fl_item *next; /* other registrations of the same connection: under the connection's reg_lock */
  uint32_t hot;         /* 1 + index in the hot list, 0 if not there */
  uint32_t active;      /* the set's `wakes` when its ring last had something */
  uint64_t seen;        /* edge-triggered: the head last reported */
  bool kicked;          /* see kick() */
  UT_hash_handle hh;
};

struct fl_epoll {
  fl_lock_t lock;
  _Atomic int32_t nfds;
  _Atomic int32_t sleepers; /* threads natively asleep in it; changed under lock, read under lock */
  _Atomic bool native;      /* nested or polled: no item may be hot */
  struct fl_item *items;    /* hash by fd */
  struct fl_item **hot;
  _Atomic uint32_t nhot;
  uint32_t hot_size;
  uint32_t rounds, turn;
  uint32_t wakes;     /* native sleeps that ended */
  uint64_t kernel_at; /* fl_now() of the last look at the kernel */
  uint32_t kicked;    /* items that are */
  bool fork_locked;
  int fd; /* some descriptor of it */
  struct fl_wait_hist hist;
  struct fl_epoll *next; /* all sets of the process, or all free ones */
};

static fl_lock_t sets_lock;
static bool fork_locked;
static struct fl_epoll *sets,
    *free_sets; /* a set is never given back to malloc: its lock may be looked at by a late thread */

/* ---- life of a set ---- */

void fl_epoll_open(int epfd) {
  if ((unsigned)epfd >= fl_fds_size || fl_in_vfork_child())
    return;
  if (fl_entry(epfd))
    fl_conn_forget(epfd, false);
  if (fl_lock(&sets_lock) != FL_LOCKED)
    return;
  struct fl_epoll *s = free_sets;
  if (s)
    free_sets = s->next;
  else
    s = calloc(1, sizeof *s);
  if (s) {
    s->next = sets;
    sets = s;
    atomic_store_explicit(&s->native, false, memory_order_relaxed);
    atomic_store_explicit(&s->nfds, 1, memory_order_relaxed);
    s->fd = epfd;
    fl_fds_set(epfd, (uintptr_t)s | FL_TAG_EPOLL);
  } /* else unknown to us: connections in it are not known to be waited for, and stay native */
  fl_unlock(&sets_lock);
}

void fl_epoll_share(struct fl_epoll *set, int epfd) {
  if (fl_entry(epfd))
    fl_conn_forget(epfd, false);
  if ((unsigned)epfd >= fl_fds_size) {
    fl_epoll_nested(set); /* waits through this number would not be seen */
    return;
  }
  atomic_fetch_add_explicit(&set->nfds, 1, memory_order_relaxed);
  fl_fds_set(epfd, (uintptr_t)set | FL_TAG_EPOLL);
}

/* Takes an item off the hot list. Set locked. */
static void cool(struct fl_item *it) {
  struct fl_epoll *s = it->set;

  if (!it->hot)
    return;
  uint32_t last = atomic_load_explicit(&s->nhot, memory_order_relaxed) - 1;
  struct fl_item *moved = s->hot[last];
  s->hot[it->hot - 1] = moved;
  moved->hot = it->hot;
  it->hot = 0;
  atomic_store_explicit(&s->nhot, last, memory_order_relaxed);
}

/* Room in the hot list for one more registration. Set locked. */
static void hot_reserve(struct fl_epoll *s) {
  uint32_t want = HASH_COUNT(s->items);

  if (want <= s->hot_size || s->hot_size == HOT_MAX)
    return;
  uint32_t size = s->hot_size ? s->hot_size * 2 : 16;
  struct fl_item **hot = realloc(s->hot, size * sizeof *hot);
  if (hot) {
    s->hot = hot;
    s->hot_size = size;
  }
}

static bool heat(struct fl_item *it) {
  struct fl_epoll *s = it->set;
  uint32_t n = atomic_load_explicit(&s->nhot, memory_order_relaxed);

  if (it->hot)
    return true;
  if (n >= s->hot_size)
    return false; /* not grown here: this may run in a signal handler (hot_reserve) */
  s->hot[n] = it;
  it->hot = n + 1;
  it->active = s->wakes;
  atomic_store_explicit(&s->nhot, n + 1, memory_order_relaxed);
  return true;
}

/* Unlinks from the connection and frees. Set locked. */
static void item_delete(struct fl_item *it) {
  struct fl_local *l = fl_local_of(it->conn);

  cool(it);
  HASH_DEL(it->set->items, it);
  if (fl_lock(&l->reg_lock) == FL_LOCKED) {
    for (struct fl_item **p = (struct fl_item **)&l->items; *p; p = &(*p)->next)
      if (*p == it) {
        *p = it->next;
        break;
      }
    fl_unlock(&l->reg_lock);
  }
  free(it);
}

void fl_epoll_forget(struct fl_epoll *set, int epfd) {
  (void)epfd;
  if (atomic_fetch_sub_explicit(&set->nfds, 1, memory_order_acq_rel) > 1)
    return;
  if (fl_lock(&set->lock) != FL_LOCKED)
    return;
  struct fl_item *it, *tmp;
  HASH_ITER(hh, set->items, it, tmp) item_delete(it);
  bool asleep = atomic_load_explicit(&set->sleepers, memory_order_relaxed) > 0;
  fl_unlock(&set->lock);
  if (fl_lock(&sets_lock) != FL_LOCKED)
    return;
  for (struct fl_epoll **p = &sets; *p; p = &(*p)->next)
    if (*p == set) {
      *p = set->next;
      break;
    }
  if (!asleep) { /* else a thread is still inside, in a set that was closed under it: it is not used again */
    set->next = free_sets;
    free_sets = set;
  }
  fl_unlock(&sets_lock);
}

static bool wants_in(const struct fl_item *it) { return it->events & (EPOLLIN | EPOLLRDNORM); }

/*
 * A registration appears, or is changed to want input, while the ring holds bytes and another thread sleeps in the set:
 * the kernel knows nothing of those bytes and would let it sleep. Ask the kernel for writability as well, which wakes
 * it; it puts the registration right and reports what is true (unkick). Set locked.
 */
static void kick(struct fl_epoll *s, int epfd, struct fl_item *it) {
  struct epoll_event e = {.events = it->events | EPOLLOUT, .data = it->data};

  if (it->kicked || fl_syscall6(__NR_epoll_ctl, epfd, EPOLL_CTL_MOD, it->fd, (long)&e, 0, 0) != 0)
    return;
  it->kicked = true;
  s->kicked++;
}

void fl_epoll_nested(struct fl_epoll *set) {
  if (atomic_exchange_explicit(&set->native, true, memory_order_seq_cst))
    return;
  if (fl_lock(&set->lock) != FL_LOCKED)
    return;
  for (uint32_t n = atomic_load_explicit(&set->nhot, memory_order_relaxed); n > 0; n--) {
    struct fl_item *it = set->hot[n - 1];
    fl_conn_pin(it->conn, FL_WHY_NESTED);
    if (wants_in(it) && fl_rx_ready(it->conn, NULL))
      kick(set, set->fd, it); /* stays hot: the inner wait will find its bytes */
    else
      cool(it);
  }
  fl_unlock(&set->lock);
}

/* ---- registrations ---- */

/* After a native wait: puts kicked registrations right and makes the events say what the application asked for. */
static void unkick(struct fl_epoll *s, int epfd, struct epoll_event *events, int n) {
  for (struct fl_item *it = s->items; it && s->kicked; it = it->hh.next) {
    if (!it->kicked)
      continue;
    it->kicked = false;
    s->kicked--;
    bool shown = false;
    for (int i = 0; i < n; i++) {
      if (events[i].data.u64 != it->data.u64)
        continue;
      events[i].events = (events[i].events & (it->events | EPOLLERR | EPOLLHUP)) | EPOLLIN;
      shown = true;
    }
    if (shown && (it->events & EPOLLONESHOT))
      continue; /* reported: the kernel has disarmed it, and so it stays */
    struct epoll_event e = {.events = it->events, .data = it->data};
    fl_syscall6(__NR_epoll_ctl, epfd, EPOLL_CTL_MOD, it->fd, (long)&e, 0, 0);
  }
}

static struct fl_item *item_find(struct fl_epoll *s, int fd) {
  struct fl_item *it;

  HASH_FIND_INT(s->items, &fd, it);
  return it;
}

static struct fl_item *item_add(struct fl_epoll *s, int fd, struct fl_conn *c) {
  struct fl_local *l = fl_local_of(c);
  struct fl_item *it = calloc(1, sizeof *it);

  if (!it)
    return NULL;
  it->fd = fd;
  it->conn = c;
  it->set = s;
  HASH_ADD_INT(s->items, fd, it);
  if (!it->hh.tbl || fl_lock(&l->reg_lock) != FL_LOCKED) {
    if (it->hh.tbl)
      HASH_DEL(s->items, it);
    free(it);
    return NULL;
  }
  hot_reserve(s);
  it->next = l->items;
  l->items = it;
  fl_unlock(&l->reg_lock);
  return it;
}

void fl_epoll_note(struct fl_epoll *set, int epfd, int op, int fd, const struct epoll_event *event) {
  uintptr_t entry = fl_entry(fd);

  if (entry && (entry & FL_TAG_MASK) == FL_TAG_EPOLL) {
    fl_epoll_nested(fl_entry_epoll(entry));
    return;
  }
  struct fl_conn *c = fl_conn_of(fd);
  if (!c)
    return;
  if (fl_lock(&set->lock) != FL_LOCKED) {
    fl_conn_pin(c, FL_WHY_LOCK);
    return;
  }
  struct fl_item *it = item_find(set, fd);
  if (it && (op == EPOLL_CTL_DEL || it->conn != c)) {
    if (it->conn !=
        c) /* the number came back while a dup keeps the old registration alive, which cannot be deleted any more */
      fl_conn_pin(it->conn, FL_WHY_NESTED);
    item_delete(it);
    it = NULL;
  }
  if (op != EPOLL_CTL_DEL) {
    if (!it)
      it = item_add(set, fd, c);
    if (!it || atomic_load_explicit(&set->native, memory_order_relaxed)) {
      fl_conn_pin(c, it ? FL_WHY_NESTED : FL_WHY_ERROR);
    }
    if (it && fl_conn_of(fd) != c) {
      /* closed while we were busy: the closer took the entry away first, and may not have seen the item */
      item_delete(it);
      it = NULL;
    }
    if (it) {
      FL_FAULT(epoll_registered);
      it->events = event->events;
      it->data = event->data;
      it->seen = UINT64_MAX; /* what is there now is news */
      if (it->kicked) {
        it->kicked = false;
        set->kicked--;
      }
      if (fl_conn_mapped(c)) {
        bool asleep = atomic_load_explicit(&set->sleepers, memory_order_relaxed) > 0;
        if (asleep || (it->events & (EPOLLONESHOT | EPOLLEXCLUSIVE)))
          fl_conn_native(c);
        if (wants_in(it) && fl_rx_ready(c, NULL)) {
          heat(it); /* bytes in the ring are looked for through the hot list */
          if (asleep)
            kick(set, epfd, it);
        } else if (fl_rx_state(&c->rx) == FL_WATCHING) {
          heat(it);
        }
      }
    }
  }
  fl_unlock(&set->lock);
}

void fl_epoll_conn_gone(struct fl_conn *c, struct fl_local *l) {
  for (;;) {
    if (fl_lock(&l->reg_lock) != FL_LOCKED)
      return;
    struct fl_item *it = l->items;
    struct fl_epoll *s = it ? it->set : NULL;
    int fd = it ? it->fd : -1;
    fl_unlock(&l->reg_lock);
    if (!s || fl_lock(&s->lock) != FL_LOCKED)
      return;
    FL_FAULT(epoll_conn_gone);
    /* the lock order is set before registration list: look again */
    struct fl_item *found = item_find(s, fd);
    if (found && found == it && found->conn == c)
      item_delete(found);
    fl_unlock(&s->lock);
  }
}

void fl_epoll_watch(struct fl_conn *c, struct fl_local *l) {
  struct fl_item *locked[WATCH_SETS];
  int n = 0;
  bool may = true;

  if (fl_lock(&l->reg_lock) != FL_LOCKED)
    return;
  if (!l->items && atomic_load_explicit(&c->nonblock, memory_order_relaxed) &&
      !atomic_load_explicit(&l->polled, memory_order_relaxed))
    may = false;
  for (struct fl_item *it = l->items; it && may; it = it->next) {
    struct fl_epoll *s = it->set;
    int32_t none = 0;
    bool again = false;
    for (int i = 0; i < n; i++)
      again |= locked[i]->set == s;
    if (n == WATCH_SETS || (!again && !atomic_compare_exchange_strong_explicit(
                                          &s->lock, &none, fl_tid(), memory_order_acquire, memory_order_relaxed))) {
      may = false;
      break;
    }
    if (!again)
      locked[n++] = it;
    may = atomic_load_explicit(&s->sleepers, memory_order_relaxed) == 0 &&
          !atomic_load_explicit(&s->native, memory_order_relaxed) && !(it->events & (EPOLLONESHOT | EPOLLEXCLUSIVE)) &&
          heat(it);
  }
  FL_FAULT(epoll_watch);
  if (may)
    fl_conn_watch_now(c);
  while (n > 0)
    fl_unlock(&locked[--n]->set->lock);
  fl_unlock(&l->reg_lock);
}

/* ---- waiting ---- */

/* Events of the rings, at most max. Set locked. */
static int collect(struct fl_epoll *s, int epfd, struct epoll_event *events, int max) {
  int n = 0;
  uint32_t hot = atomic_load_explicit(&s->nhot, memory_order_relaxed);

  for (uint32_t i = 0; i < hot && n < max; i++) {
    /* begin where the last call ended, so that busy ones do not starve the rest */
    struct fl_item *it = s->hot[(i + s->turn) % hot];
    if (!wants_in(it) || !fl_rx_ready(it->conn, it->events & EPOLLET ? &it->seen : NULL))
      continue;
    uint32_t mask = it->events & (EPOLLIN | EPOLLRDNORM);
    if ((it->events & EPOLLET) && (it->events & EPOLLOUT) &&
        !atomic_load_explicit(&it->conn->tx_busy, memory_order_relaxed))
    mask |= EPOLLOUT; /* an edge reports all that is ready; the kernel's part is merged where it was asked */
    FL_FAULT(epoll_found);
    it->active = s->wakes;
    events[n++] = (struct epoll_event){.events = mask, .data = it->data};
    if (FL_UNLIKELY(it->events & EPOLLONESHOT)) {
      /* reported once: disarmed here and in the kernel until EPOLL_CTL_MOD */
      it->events &= EPOLLONESHOT | EPOLLET;
      struct epoll_event off = {.events = it->events, .data = it->data};
      fl_syscall6(__NR_epoll_ctl, epfd, EPOLL_CTL_MOD, it->fd, (long)&off, 0, 0);
    }
  }
  if (n == max && hot)
    s->turn = (s->turn + (uint32_t)n) % hot;
  return n;
}

/* Adds the kernel's events behind n of ours; one event per descriptor. */
static int merge(int epfd, struct epoll_event *events, int n, int max) {
  struct epoll_event more[64];
  int room = max - n < 64 ? max - n : 64;

  if (room == 0)
    return n;
  long k = fl_syscall6(__NR_epoll_pwait, epfd, (long)more, room, 0, 0, 8);
  int ours = n;
  for (long i = 0; i < k; i++) {
    int at = 0;
    while (at < ours && events[at].data.u64 != more[i].data.u64)
      at++;
    if (at < ours)
      events[at].events |= more[i].events;
    else
      events[n++] = more[i];
  }
  return n;
}

static bool any_hot(struct fl_epoll *s) {
  for (uint32_t i = 0, hot = atomic_load_explicit(&s->nhot, memory_order_relaxed); i < hot; i++) {
    struct fl_item *it = s->hot[i];
    if (!fl_conn_mapped(it->conn))
      continue; /* a signal handler closed it */
    uint64_t head = fl_rx_head(&it->conn->rx);
    if (wants_in(it) && head != (it->events & EPOLLET ? it->seen : it->conn->rx.tail))
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
  if (kernel_busy(s) && (*n = merge(epfd, events, 0, max)) > 0)
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
    if (v == FL_WAIT_KERNEL && (*n = merge(epfd, events, 0, max)) > 0) {
      r = SPUN_KERNEL;
      break;
    }
  }
  fl_wait_end(&w, r == SPUN_RING || r == SPUN_KERNEL);
  return r;
}

enum sleep { SLEEP_LONG, SLEEP_UNREAD, SLEEP_SHORT, SLEEP_NOT };

/*
 * Turns every hot item NATIVE before a sleep. Not to sleep: one has news. To sleep for a short time only: the ring
 * bytes of one come after kernel bytes that are still on their way. Those wake this thread, but another one may take
 * them; or (UNREAD) the other end of one may want back what it has not read (fl_send_unread). Set locked.
 */
static enum sleep all_native(struct fl_epoll *s) {
  enum sleep r = SLEEP_LONG;

  for (uint32_t i = atomic_load_explicit(&s->nhot, memory_order_relaxed); i > 0; i--) {
    struct fl_item *it = s->hot[i - 1];
    struct fl_rx *rx = &it->conn->rx;
    if (FL_UNLIKELY(fl_send_unread(it->conn))) {
      fl_send_back_if_asked(it->conn, it->fd);
      if (r == SLEEP_LONG)
        r = SLEEP_UNREAD;
    }
    if (!wants_in(it) || !fl_conn_mapped(it->conn))
      continue; /* nobody waits for its bytes */
    if (fl_rx_native(rx, it->events & EPOLLET ? it->seen : rx->tail))
      continue;
    uint64_t seen = it->seen;
    if (fl_rx_ready(it->conn, it->events & EPOLLET ? &seen : NULL))
      return SLEEP_NOT; /* it->seen is left alone: the event is yet to be reported */
    it->seen = seen;
    if (!fl_rx_native(rx, it->events & EPOLLET ? it->seen : rx->tail))
      r = SLEEP_SHORT;
  }
  return r;
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

struct sleeping {
  struct fl_epoll *set;
  int epfd;
  struct epoll_event *events;
  int n;
};

/*
 * This thread is awake and will be back: the connections that were busy before it slept watch their rings again at
 * once, instead of each after a message through the kernel. Those that were quiet for two sleeps leave the list. Set
 * locked.
 */
static void rewatch(struct fl_epoll *s) {
  FL_FAULT(epoll_rewatch);
  s->wakes++;
  for (uint32_t i = atomic_load_explicit(&s->nhot, memory_order_relaxed); i > 0; i--) {
    struct fl_item *it = s->hot[i - 1];
    struct fl_conn *c = it->conn;
    struct fl_local *l = fl_local_of(c);
    int32_t none = 0;
    if (s->wakes - it->active > QUIET_WAKES && !fl_send_unread(c)) {
      cool(it);
      continue;
    }
    if (atomic_load_explicit(&s->sleepers, memory_order_relaxed) > 0 || fl_rx_state(&c->rx) == FL_WATCHING)
      continue;
    if ((it->events & (EPOLLONESHOT | EPOLLEXCLUSIVE)) || atomic_load_explicit(&s->native, memory_order_relaxed) ||
        /* acquire: pairs with fl_unlock */
        !atomic_compare_exchange_strong_explicit(&c->rx_lock, &none, fl_tid(), memory_order_acquire,
                                                 memory_order_relaxed))
      continue;
    if (fl_lock(&l->reg_lock) == FL_LOCKED) {
      /* only with one registration: the locks of other sets are not held here */
      if (l->items == it && !it->next && fl_conn_usable(c) && !c->rx.broken &&
          atomic_load_explicit(&c->rx_sleepers, memory_order_seq_cst) == 0)
        fl_conn_watch_now(c);
      fl_unlock(&l->reg_lock);
    }
    fl_unlock(&c->rx_lock);
  }
}

static void wake(struct sleeping *z) {
  int saved = errno;

  if (fl_lock(&z->set->lock) == FL_LOCKED) {
    atomic_fetch_sub_explicit(&z->set->sleepers, 1, memory_order_relaxed);
    if (FL_UNLIKELY(z->set->kicked))
      unkick(z->set, z->epfd, z->events, z->n > 0 ? z->n : 0);
    if (z->n > 0)
      rewatch(z->set);
    fl_unlock(&z->set->lock);
  }
  errno = saved;
}

/* Set locked on entry, released on return. */
static int sleep_native(struct fl_epoll *s, int epfd, struct epoll_event *events, int max, uint64_t ns,
                        const sigset_t *mask) {
  fl_unlock(&s->lock);
  struct sleeping z __attribute__((cleanup(wake))) = {s, epfd, events, 0};
  FL_FAULT(epoll_sleep);
  z.n = wait_native(epfd, events, max, ns, mask);
  FL_FAULT(epoll_woken);
  return z.n;
}

int fl_epoll_wait(struct fl_epoll *s, int epfd, struct epoll_event *events, int max, const struct timespec *timeout,
                  const sigset_t *mask) {
  uint64_t begin = timeout && (timeout->tv_sec || timeout->tv_nsec) ? fl_now() : 0;
  bool spun = mask != NULL;
  uint32_t signals =
      fl_signals_any(); /* a handler that runs from here on interrupts the wait, as it would in the kernel */
  int n = 0;
  unsigned naps = 0;

  fl_process_check();
  if (max <= 0 || fl_lock(&s->lock) != FL_LOCKED)
    return wait_native(epfd, events, max, left_ns(timeout, 0), mask);
  for (;;) {
    if (FL_UNLIKELY(fl_epoll_of(epfd) != s)) {
      fl_unlock(&s->lock);
      return wait_native(epfd, events, max, left_ns(timeout, begin), mask);
    }
    if (atomic_load_explicit(&s->nhot, memory_order_relaxed)) {
      /* busy rings must not starve the rest: now and then the kernel is asked too, and there is room for what it says
       */
      bool ask = ++s->rounds % KERNEL_ROUNDS == 0 || fl_now() - s->kernel_at > fl_ns_to_ticks(KERNEL_EVERY_NS);
      int room = ask && max > 1 ? max - (max + 3) / 4 : max;
      if (ask) {
        s->kernel_at = fl_now();
        if (max == 1 && (n = merge(epfd, events, 0, 1)) > 0) {
          fl_unlock(&s->lock);
          return n;
        }
      }
      n = collect(s, epfd, events, room);
      if (n) {
        fl_unlock(&s->lock);
        return ask ? merge(epfd, events, n, max) : n;
      }
      uint64_t ns = left_ns(timeout, begin);
      if (!spun && ns) {
        uint64_t budget = (uint64_t)fl_options.spin_us * 1000;
        spun = true;
        switch (spin(s, epfd, ns < budget ? ns : budget, signals, events, max, &n)) {
        case SPUN_RING: continue;
        case SPUN_KERNEL: fl_unlock(&s->lock); return n;
        case SPUN_SIGNAL:
          fl_unlock(&s->lock);
          errno = EINTR;
          return -1;
        case SPUN_NOTHING: break;
        }
      }
    }
    if (timeout && begin == 0) { /* a look, not a wait: nobody sleeps */
      fl_unlock(&s->lock);
      return wait_native(epfd, events, max, 0, mask);
    }
    /* relaxed: changed and read under the lock (fl_epoll_watch) */
    atomic_fetch_add_explicit(&s->sleepers, 1, memory_order_relaxed);
    FL_FAULT(epoll_sleeper);
    enum sleep how = all_native(s);
    FL_FAULT(epoll_all_native);
    if (how == SLEEP_NOT) {
      atomic_fetch_sub_explicit(&s->sleepers, 1, memory_order_relaxed);
      continue;
    }
    uint64_t ns = left_ns(timeout, begin);
    uint64_t nap_ns = how == SLEEP_SHORT ? NAP_NS : how == SLEEP_UNREAD ? fl_nap_ns(naps++) : UINT64_MAX;
    bool nap = ns > nap_ns;
    if (FL_UNLIKELY(fl_signals_any() != signals) && !mask) {
      atomic_fetch_sub_explicit(&s->sleepers, 1, memory_order_relaxed);
      fl_unlock(&s->lock);
      errno = EINTR;
      return -1;
    }
    n = sleep_native(s, epfd, events, max, nap ? nap_ns : ns, mask);
    if (n != 0 || !nap || fl_lock(&s->lock) != FL_LOCKED)
      return n;
  }
}

void fl_epoll_fork_prepare(void) {
  fork_locked = fl_lock(&sets_lock) == FL_LOCKED;
  for (struct fl_epoll *s = sets; s; s = s->next)
    s->fork_locked = fl_lock(&s->lock) == FL_LOCKED;
}

void fl_epoll_forked_parent(void) {
  for (struct fl_epoll *s = sets; s; s = s->next)
    if (s->fork_locked) {
      s->fork_locked = false;
      fl_unlock(&s->lock);
    }
  if (fork_locked)
    fl_unlock(&sets_lock);
}

void fl_epoll_forked_child(void) {
  atomic_store_explicit(&sets_lock, 0, memory_order_relaxed);
  for (struct fl_epoll *s = sets; s; s = s->next) {
    atomic_store_explicit(&s->lock, 0, memory_order_relaxed);
    atomic_store_explicit(&s->sleepers, 0, memory_order_relaxed);
  }
}
