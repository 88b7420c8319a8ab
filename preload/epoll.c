/* SPDX-License-Identifier: MIT */
/* preload/epoll.c - epoll sets. What is registered in them is in epoll_ctl.c, waiting in epoll_wait.c. */
#include <stdlib.h>
#include <string.h>

#include "arena_alloc.h"
#include "epoll_set.h"
#include "io.h"
#include "registry/sys.h"
#include "shmring/fault.h"

#define FAR_FULL_NS 1000000000u /* between two searches for a bell that is not used any more */
#define WATCH_SETS 4            /* sets that one connection may be in and still watch */

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
    s->pid = fl_pid();
    s->forked = s->no_bell = false;
    s->bell = (struct fl_bell){0};
    memset(s->far, 0, sizeof s->far);
    fl_fds_set(epfd, (uintptr_t)s | FL_TAG_EPOLL);
  } /* else unknown to us: connections in it are not known to be waited for, and stay native */
  fl_unlock(&sets_lock);
}

void fl_epoll_share(struct fl_epoll *set, int epfd) {
  if (fl_entry(epfd))
    fl_conn_forget(epfd, false);
  if (fl_lock(&set->lock) == FL_LOCKED) {
    fl_set_tell(set, epfd);
    fl_unlock(&set->lock);
  }
  if ((unsigned)epfd >= fl_fds_size) {
    fl_epoll_nested(set); /* waits through this number would not be seen */
    return;
  }
  atomic_fetch_add_explicit(&set->nfds, 1, memory_order_relaxed);
  fl_fds_set(epfd, (uintptr_t)set | FL_TAG_EPOLL);
}

void fl_item_cool(struct fl_item *it) {
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

bool fl_item_heat(struct fl_item *it) {
  struct fl_epoll *s = it->set;
  uint32_t n = atomic_load_explicit(&s->nhot, memory_order_relaxed);

  if (it->hot)
    return true;
  if (n >= s->hot_size)
    return false; /* not grown here: this may run in a signal handler (hot_reserve) */
  s->hot[n] = it;
  it->hot = n + 1;
  it->active = s->wakes;
  it->active_at = fl_now();
  atomic_store_explicit(&s->nhot, n + 1, memory_order_relaxed);
  return true;
}

void fl_epoll_forget(struct fl_epoll *set, int epfd) {
  (void)epfd;
  if (atomic_fetch_sub_explicit(&set->nfds, 1, memory_order_acq_rel) > 1)
    return;
  if (fl_lock(&set->lock) != FL_LOCKED)
    return;
  struct fl_item *it, *tmp;
  HASH_ITER(hh, set->items, it, tmp) fl_item_delete(it);
  fl_early_clear(set);
  bool asleep = atomic_load_explicit(&set->sleepers, memory_order_relaxed) > 0;
  set->no_bell = true;
  fl_bell_close(&set->bell);
  for (int i = 0; i < FL_SET_FAR; i++)
    fl_bell_close(&set->far[i]);
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

/* No more bell in this set. Threads that sleep with it are to be NATIVE. Set locked. */
static void bell_out(struct fl_epoll *s, struct fl_bell *b) {
  if (b->pid == fl_pid() && b->fd >= 0)
    fl_syscall6(__NR_epoll_ctl, s->fd, EPOLL_CTL_DEL, b->fd, 0, 0, 0);
  fl_bell_close(b);
}

static void bell_off(struct fl_epoll *s) {
  s->no_bell = true;
  bell_out(s, &s->bell);
  for (int i = 0; i < FL_SET_FAR; i++)
    bell_out(s, &s->far[i]);
  if (atomic_load_explicit(&s->sleepers, memory_order_relaxed) == 0)
    return;
  for (uint32_t i = atomic_load_explicit(&s->nhot, memory_order_relaxed); i > 0; i--) {
    struct fl_item *it = s->hot[i - 1];
    if (fl_conn_mapped(it->conn))
      fl_rx_native_always(&it->conn->rx);
    if (fl_item_news(it))
      fl_item_kick(s, s->fd, it); /* it was rung for, and who should have heard it may not have */
  }
}

void fl_epoll_nested(struct fl_epoll *set) {
  if (atomic_exchange_explicit(&set->native, true, memory_order_seq_cst))
    return;
  if (fl_lock(&set->lock) != FL_LOCKED)
    return;
  fl_set_tell(set, set->fd);
  for (uint32_t n = atomic_load_explicit(&set->nhot, memory_order_relaxed); n > 0; n--) {
    struct fl_item *it = set->hot[n - 1];
    fl_conn_pin(it->conn, FL_WHY_NESTED);
    /* the first look finds out what became of bytes that were asked back (fl_hand_over) */
    if ((fl_item_wants_in(it) && fl_rx_ready(it->conn, NULL)) || fl_item_news(it))
      fl_item_kick(set, set->fd, it); /* stays hot, and kicked, until its bytes are read */
    else
      fl_item_cool(it);
  }
  bell_off(set);
  fl_unlock(&set->lock);
}

const struct fl_bell *fl_set_bell(struct fl_epoll *s) {
  if (FL_UNLIKELY(s->no_bell))
    return NULL;
  if (FL_LIKELY(s->bell.pid != 0)) {
    if (FL_LIKELY(s->bell.pid == fl_pid() && !(s->forked && fl_arena_sets_shared())))
      return fl_bell_ready(&s->bell) ? &s->bell : NULL;
  } else if (s->pid == fl_pid() && !s->forked && fl_bell_ready(&s->bell)) {
    struct epoll_event e = {.events = EPOLLIN | EPOLLET, .data.ptr = &s->bell};
    if (fl_syscall6(__NR_epoll_ctl, s->fd, EPOLL_CTL_ADD, s->bell.fd, (long)&e, 0, 0) == 0)
      return &s->bell;
  }
  if (s->pid !=
      fl_pid()) /* the kernel's set is also another process's: either may take the events of the other's bell */
    fl_arena_share_sets();
  bell_off(s);
  return NULL;
}

static bool bell_in(struct fl_epoll *s, struct fl_bell *b) {
  struct epoll_event e = {.events = EPOLLIN | EPOLLET, .data.ptr = b};

  return fl_bell_ready(b) && fl_syscall6(__NR_epoll_ctl, s->fd, EPOLL_CTL_ADD, b->fd, (long)&e, 0, 0) == 0;
}

/* One whose container has no connection in the set any more, or NULL. Seldom: it looks at them all. */
static struct fl_bell *far_unused(struct fl_epoll *s) {
  uint64_t now = fl_now();

  if (s->far_full_at && now - s->far_full_at < fl_ns_to_ticks(FAR_FULL_NS))
    return NULL;
  for (int i = 0; i < FL_SET_FAR; i++) {
    bool used = false;
    for (struct fl_item *it = s->items; it && !used; it = it->hh.next)
      used = fl_local_of(it->conn)->who == s->far[i].who;
    if (!used) {
      bell_out(s, &s->far[i]);
      return &s->far[i];
    }
  }
  s->far_full_at = now;
  return NULL;
}

const struct fl_bell *fl_set_far_bell(struct fl_epoll *s, const struct fl_conn *c) {
  uint32_t who = fl_local_of(c)->who;
  struct fl_bell *room = NULL;

  for (int i = 0; i < FL_SET_FAR; i++) {
    struct fl_bell *b = &s->far[i];
    if (b->pid == 0)
      room = b;
    else if (b->who == who)
      return fl_bell_ready(b) ? b : NULL;
  }
  if (!room && !(room = far_unused(s)))
    return NULL;
  room->who = who;
  if (bell_in(s, room))
    return room;
  fl_bell_close(room);
  *room = (struct fl_bell){.fd = -1, .pid = fl_pid(), .who = who}; /* not tried again */
  return NULL;
}

void fl_set_wake(struct fl_epoll *s, int epfd, struct fl_item *it) {
  const struct fl_bell *bell = fl_set_bell(s);

  if (bell)
    fl_bell_own(bell);
  else
    fl_item_kick(s, epfd, it);
}

void fl_epoll_drained(struct fl_conn *c) {
  struct fl_local *l = fl_local_of(c);

  if (fl_lock(&l->reg_lock) != FL_LOCKED)
    return;
  struct fl_epoll *set[WATCH_SETS];
  int n = 0;
  for (struct fl_item *it = l->items; it && n < WATCH_SETS; it = it->other)
    set[n++] = it->set;
  fl_unlock(&l->reg_lock);
  while (n-- > 0) { /* the lock order is set before registration list */
    if (fl_lock(&set[n]->lock) != FL_LOCKED)
      continue;
    fl_set_unkick(set[n], set[n]->fd, NULL, 0);
    fl_unlock(&set[n]->lock);
  }
}

/* May the connection of this registration watch, or rest in BELL while threads sleep in the set? Set locked. */
static bool may_watch(struct fl_item *it) {
  struct fl_epoll *s = it->set;

  if (atomic_load_explicit(&s->native, memory_order_relaxed) || (it->events & (EPOLLONESHOT | EPOLLEXCLUSIVE)))
    return false;
  if (atomic_load_explicit(&s->sleepers, memory_order_relaxed) > 0) {
    const struct fl_bell *bell = fl_set_bell_for(s, fl_set_bell(s), it->conn);
    if (!bell || !fl_rx_bell_agreed(&it->conn->rx, bell->id))
      return false;
  }
  return fl_item_heat(it);
}

void fl_epoll_watch(struct fl_conn *c, struct fl_local *l) {
  struct fl_item *locked[WATCH_SETS], *asleep = NULL;
  int n = 0;
  bool may = true;

  if (fl_lock(&l->reg_lock) != FL_LOCKED)
    return;
  if (!l->items && atomic_load_explicit(&c->nonblock, memory_order_relaxed) &&
      !atomic_load_explicit(&l->polled, memory_order_relaxed))
    may = false;
  for (struct fl_item *it = l->items; it && may; it = it->other) {
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
    may = may_watch(it);
    if (atomic_load_explicit(&s->sleepers, memory_order_relaxed) > 0)
      asleep = it;
  }
  if (asleep && l->items->other) /* one bell, and more than one waiter */
    may = false;
  FL_FAULT(epoll_watch);
  if (l->items)
    fl_rx_order(&c->rx);
  if (may)
    fl_conn_watch_now(c);
  if (may && asleep) {
    struct fl_epoll *s = asleep->set;
    const struct fl_bell *bell = fl_set_bell_for(s, fl_set_bell(s), c); /* may_watch has found it */
    if (!(bell && fl_bell_rest(c, fl_item_known(asleep), bell)) && !fl_rx_native(&c->rx, fl_item_known(asleep)) && bell)
      fl_bell_own(bell); /* bytes came in between, which nobody who sleeps knows of */
  }
  while (n > 0)
    fl_unlock(&locked[--n]->set->lock);
  fl_unlock(&l->reg_lock);
}

void fl_epoll_each(void (*f)(struct fl_epoll *s, void *arg), void *arg) {
  if (fl_lock(&sets_lock) != FL_LOCKED)
    return;
  for (struct fl_epoll *s = sets; s; s = s->next)
    f(s, arg);
  fl_unlock(&sets_lock);
}

void fl_epoll_tell_all(void) {
  if (fl_lock(&sets_lock) != FL_LOCKED)
    return;
  for (struct fl_epoll *s = sets; s; s = s->next)
    if (fl_lock(&s->lock) == FL_LOCKED) {
      fl_set_tell(s, s->fd);
      fl_unlock(&s->lock);
    }
  fl_unlock(&sets_lock);
}

void fl_epoll_fork_prepare(void) {
  fork_locked = fl_lock(&sets_lock) == FL_LOCKED;
  for (struct fl_epoll *s = sets; s; s = s->next) {
    s->fork_locked = fl_lock(&s->lock) == FL_LOCKED;
    s->forked = true;
    if (s->fork_locked)
      fl_set_tell(s, s->fd);
  }
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
