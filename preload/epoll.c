/* SPDX-License-Identifier: MIT */
/* preload/epoll.c - epoll sets and what is registered in them. Waiting is in epoll_wait.c. */
#include <stdlib.h>

#include "arena_alloc.h"
#include "epoll_set.h"
#include "io.h"
#include "registry/sys.h"
#include "shmring/fault.h"

#define HOT_MAX 4096u /* items that one wait looks at */
#define WATCH_SETS 4  /* sets that one connection may be in and still watch */

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

/* Unlinks from the connection and frees. Set locked. */
static void item_delete(struct fl_item *it) {
  struct fl_local *l = fl_local_of(it->conn);

  fl_item_cool(it);
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
  set->no_bell = true;
  fl_bell_close(&set->bell);
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

/* No more bell in this set. Threads that sleep with it are to be NATIVE. Set locked. */
static void bell_off(struct fl_epoll *s) {
  s->no_bell = true;
  if (s->bell.pid == fl_pid() && s->bell.fd >= 0)
    fl_syscall6(__NR_epoll_ctl, s->fd, EPOLL_CTL_DEL, s->bell.fd, 0, 0, 0);
  fl_bell_close(&s->bell);
}

void fl_epoll_nested(struct fl_epoll *set) {
  if (atomic_exchange_explicit(&set->native, true, memory_order_seq_cst))
    return;
  if (fl_lock(&set->lock) != FL_LOCKED)
    return;
  for (uint32_t n = atomic_load_explicit(&set->nhot, memory_order_relaxed); n > 0; n--) {
    struct fl_item *it = set->hot[n - 1];
    fl_conn_pin(it->conn, FL_WHY_NESTED);
    if (fl_item_wants_in(it) && fl_rx_ready(it->conn, NULL))
      kick(set, set->fd, it); /* stays hot: the inner wait will find its bytes */
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

/* ---- registrations ---- */

void fl_set_unkick(struct fl_epoll *s, int epfd, struct epoll_event *events, int n) {
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
        if (fl_item_wants_in(it) && fl_rx_ready(c, NULL)) {
          fl_item_heat(it); /* bytes in the ring are looked for through the hot list */
          if (asleep)
            kick(set, epfd, it);
        } else if (fl_rx_state(&c->rx) == FL_WATCHING) {
          fl_item_heat(it);
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

/* May the connection of this registration watch, or rest in BELL while threads sleep in the set? Set locked. */
static bool may_watch(struct fl_item *it) {
  struct fl_epoll *s = it->set;

  if (atomic_load_explicit(&s->native, memory_order_relaxed) || (it->events & (EPOLLONESHOT | EPOLLEXCLUSIVE)))
    return false;
  if (atomic_load_explicit(&s->sleepers, memory_order_relaxed) > 0) {
    const struct fl_bell *bell = fl_set_bell(s);
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
    may = may_watch(it);
    if (atomic_load_explicit(&s->sleepers, memory_order_relaxed) > 0)
      asleep = it;
  }
  if (asleep && l->items->next) /* one bell, and more than one waiter */
    may = false;
  FL_FAULT(epoll_watch);
  if (may)
    fl_conn_watch_now(c);
  if (may && asleep && !fl_bell_rest(c, fl_item_known(asleep), &asleep->set->bell) &&
      !fl_rx_native(&c->rx, fl_item_known(asleep)))
    fl_bell_own(&asleep->set->bell); /* bytes came in between, which nobody who sleeps knows of */
  while (n > 0)
    fl_unlock(&locked[--n]->set->lock);
  fl_unlock(&l->reg_lock);
}

void fl_epoll_fork_prepare(void) {
  fork_locked = fl_lock(&sets_lock) == FL_LOCKED;
  for (struct fl_epoll *s = sets; s; s = s->next) {
    s->fork_locked = fl_lock(&s->lock) == FL_LOCKED;
    s->forked = true;
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
