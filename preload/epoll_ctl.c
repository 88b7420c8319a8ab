/* SPDX-License-Identifier: MIT */
/*
 * preload/epoll_ctl.c - what is registered in epoll sets.
 *
 * A program that waits for room before it writes, and for an answer after it wrote, changes a registration several
 * times per message. The kernel does not see the messages, so it need not see these changes either: of a connection
 * that uses its ring they are noted here, with the errors that the kernel would have given, and the kernel is told
 * (fl_set_tell) before it is asked anything, before a thread sleeps, and before anybody else can have a descriptor of
 * the set or of the connection. Only registrations by level, of which the kernel keeps nothing but what was asked for.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "epoll_set.h"
#include "io.h"
#include "jump.h"
#include "real.h"
#include "registry/sys.h"
#include "shmring/fault.h"

#define HOT_MAX 4096u /* items that one wait looks at */
#define BY_LEVEL \
  ((uint32_t)(EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLERR | EPOLLHUP | EPOLLRDNORM | EPOLLRDBAND | \
              EPOLLWRNORM | EPOLLWRBAND | EPOLLMSG))

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

static void told(struct fl_item *it) {
  if (it->untold)
    DL_DELETE(it->set->untold, it);
  it->untold = false;
}

void fl_item_delete(struct fl_item *it) {
  struct fl_local *l = fl_local_of(it->conn);

  told(it);
  fl_item_cool(it);
  it->set->kicked -= it->kicked;
  HASH_DEL(it->set->items, it);
  if (fl_lock(&l->reg_lock) == FL_LOCKED) {
    for (struct fl_item **p = (struct fl_item **)&l->items; *p; p = &(*p)->other)
      if (*p == it) {
        *p = it->other;
        break;
      }
    fl_unlock(&l->reg_lock);
  }
  free(it);
}

void fl_item_tell(struct fl_item *it, int epfd) {
  if (!it->untold)
    return;
  FL_FAULT(epoll_tell);
  if (it->gone) {
    fl_syscall6(__NR_epoll_ctl, epfd, EPOLL_CTL_DEL, it->fd, 0, 0, 0);
    fl_item_delete(it);
    return;
  }
  told(it);
  it->kernel = (struct epoll_event){.events = it->events, .data = it->data};
  struct epoll_event e = it->kernel;
  fl_syscall6(__NR_epoll_ctl, epfd, EPOLL_CTL_MOD, it->fd, (long)&e, 0, 0);
}

void fl_set_tell(struct fl_epoll *s, int epfd) {
  while (FL_UNLIKELY(s->untold != NULL))
    fl_item_tell(s->untold, epfd);
}

/* Makes the kernel's registration another one. EPOLLEXCLUSIVE allows no change. */
static bool kernel_set(struct fl_item *it, int epfd, uint32_t events) {
  struct epoll_event e = {.events = events, .data = it->data};
  int op = EPOLL_CTL_MOD;

  if (events & EPOLLEXCLUSIVE) {
    fl_syscall6(__NR_epoll_ctl, epfd, EPOLL_CTL_DEL, it->fd, 0, 0, 0);
    op = EPOLL_CTL_ADD;
  }
  return fl_syscall6(__NR_epoll_ctl, epfd, op, it->fd, (long)&e, 0, 0) == 0;
}

void fl_item_kick(struct fl_epoll *s, int epfd, struct fl_item *it) {
  if (it->kicked || !kernel_set(it, epfd, it->events | EPOLLOUT))
    return;
  it->kicked = true;
  s->kicked++;
}

/* ---- registrations ---- */

/* The kernel's registration again as the application made it. */
static void unkick(struct fl_epoll *s, int epfd, struct fl_item *it) {
  it->kicked = false;
  s->kicked--;
  kernel_set(it, epfd, it->events);
}

int fl_set_unkick(struct fl_epoll *s, int epfd, struct epoll_event *events, int n) {
  struct fl_item *next;

  for (struct fl_item *it = s->items; it && s->kicked; it = next) {
    next = it->hh.next;
    if (!it->kicked)
      continue;
    uint32_t shown = 0;
    for (int i = 0; i < n; i++) {
      if (events[i].data.u64 != it->data.u64)
        continue;
      shown = events[i].events & (it->events | EPOLLERR | EPOLLHUP);
      if (fl_item_wants_in(it) && fl_rx_ready(it->conn, it->events & EPOLLET ? &it->seen : NULL))
        shown |= it->events & (EPOLLIN | EPOLLRDNORM);
      events[i].events = shown;
      if (!shown)
        memmove(events + i, events + i + 1, (size_t)(--n - i) * sizeof *events);
      break;
    }
    if (shown && (it->events & EPOLLONESHOT)) { /* reported: the kernel has disarmed it, and so it stays */
      it->kicked = false;
      s->kicked--;
    } else if (!atomic_load_explicit(&s->native, memory_order_relaxed) || !fl_conn_mapped(it->conn) ||
               fl_rx_head(&it->conn->rx) == it->conn->rx.tail) {
      unkick(s, epfd, it);
    }
  }
  return n;
}

struct fl_item *fl_item_find(struct fl_epoll *s, int fd) {
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
  it->other = l->items;
  l->items = it;
  fl_unlock(&l->reg_lock);
  if (fl_conn_mapped(c))
    fl_rx_order(&c->rx); /* else fl_epoll_watch */
  return it;
}

/* The application's registration is now what `event` says. Set locked. */
static void item_set(struct fl_item *it, int epfd, const struct epoll_event *event) {
  struct fl_epoll *set = it->set;
  struct fl_conn *c = it->conn;

  /* also if the registration goes again: programs that register for each single wait (eventlet) */
  atomic_store_explicit(&fl_local_of(c)->polled, true, memory_order_relaxed);
  it->events = event->events;
  it->data = event->data;
  it->seen = FL_ALL_NEWS;
  if (it->kicked) {
    it->kicked = false;
    set->kicked--;
  }
  if (!fl_conn_mapped(c))
    return;
  bool asleep = atomic_load_explicit(&set->sleepers, memory_order_relaxed) > 0;
  bool ready = fl_item_wants_in(it) && fl_rx_ready(c, NULL);
  if (asleep || (it->events & (EPOLLONESHOT | EPOLLEXCLUSIVE)))
    fl_conn_native(c);
  /* bytes in the ring, and what may come into it (also in BELL, of a registration that is gone: it rings only once),
   * are looked for through the hot list */
  if ((fl_item_news(it) || fl_rx_state(&c->rx) != FL_NATIVE) && !fl_item_heat(it))
    fl_conn_native(c);
  if (atomic_load_explicit(&set->native, memory_order_relaxed) ? fl_item_news(it) : ready && asleep)
    fl_set_wake(set, epfd, it);
}

/* After a successful native epoll_ctl. Set locked. */
static void note(struct fl_epoll *set, int epfd, int op, int fd, struct fl_conn *c, const struct epoll_event *event) {
  struct fl_item *it = fl_item_find(set, fd);

  if (it && (op == EPOLL_CTL_DEL || it->conn != c)) {
    if (it->conn !=
        c) /* the number came back while a dup keeps the old registration alive, which cannot be deleted any more */
      fl_conn_pin(it->conn, FL_WHY_NESTED);
    fl_item_delete(it);
    it = NULL;
  }
  if (op == EPOLL_CTL_DEL)
    return;
  if (!it)
    it = item_add(set, fd, c);
  if (!it || atomic_load_explicit(&set->native, memory_order_relaxed))
    fl_conn_pin(c, it ? FL_WHY_NESTED : FL_WHY_ERROR);
  if (it && fl_conn_of(fd) != c) {
    /* closed while we were busy: the closer took the entry away first, and may not have seen the item */
    fl_item_delete(it);
    return;
  }
  if (!it)
    return;
  FL_FAULT(epoll_registered);
  it->kernel = *event;
  item_set(it, epfd, event);
}

/* Does the kernel need to know now? Not if nobody but a thread with this lock can ask it, and if the end of the
 * descriptor is the end of the registration. Set locked. */
static bool may_defer(const struct fl_epoll *s, const struct fl_item *it) {
  return s->pid == fl_pid() && !s->forked && !s->kicked && atomic_load_explicit(&s->nfds, memory_order_relaxed) == 1 &&
         atomic_load_explicit(&s->sleepers, memory_order_relaxed) == 0 &&
         !atomic_load_explicit(&s->native, memory_order_relaxed) && fl_conn_usable(it->conn) &&
         atomic_load_explicit(&fl_local_of(it->conn)->nfds, memory_order_relaxed) == 1;
}

/* A change that the kernel is not told of now. False: it is to be made there. *error: what the application is to see.
 * Set locked. */
static bool defer(struct fl_epoll *s, int epfd, int op, struct fl_item *it, const struct epoll_event *event,
                  int *error) {
  *error = 0;
  if (op != EPOLL_CTL_ADD && op != EPOLL_CTL_MOD && op != EPOLL_CTL_DEL)
    return false;
  if (op != EPOLL_CTL_DEL && (!fl_addr_readable(event, sizeof *event) || (event->events & ~BY_LEVEL)))
    return false;
  if ((it->kernel.events & EPOLLEXCLUSIVE) || !may_defer(s, it))
    return false;
  if (it->gone != (op == EPOLL_CTL_ADD)) {
    *error = it->gone ? ENOENT : EEXIST;
    return true;
  }
  s->fd = epfd;
  it->gone = op == EPOLL_CTL_DEL;
  if (it->gone)
    it->events = 0;
  else
    item_set(it, epfd, event);
  bool same = !it->gone && it->events == it->kernel.events && it->data.u64 == it->kernel.data.u64;
  if (same) {
    told(it);
  } else if (!it->untold) {
    it->untold = true;
    DL_APPEND(s->untold, it);
  }
  if (fl_item_wants_out(it) && fl_send_drained(it->conn, it->fd))
    fl_item_heat(it); /* ready, and the kernel need not be asked: see collect */
  return true;
}

static void ctl_jumped(void *set) {
  struct fl_epoll *s = set;

  if (atomic_load_explicit(&s->lock, memory_order_relaxed) == fl_tid())
    fl_unlock(&s->lock);
}

/* A socket may be registered before it is connected. It is followed from then on: who waits for the connection must be
 * known. NULL: it is none that will be connected. */
static struct fl_conn *early(int fd, uintptr_t entry) {
  int listens = 0;
  socklen_t len = sizeof listens;

  if (fl_sys_getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) < 0 || listens)
    return NULL;
  fl_conn_open(fd, entry & FL_STREAM_NONBLOCK, false);
  return fl_conn_of(fd);
}

int fl_epoll_ctl(struct fl_epoll *s, int epfd, int op, int fd, struct epoll_event *event) {
  uintptr_t entry = fl_entry(fd);
  struct fl_conn *c = fl_entry_conn(entry);
  int error;

  if (!c && op == EPOLL_CTL_ADD && (entry & FL_TAG_MASK) == FL_TAG_STREAM)
    c = early(fd, entry);
  if (!c) {
    int r = REAL(epoll_ctl)(epfd, op, fd, event), saved = errno;
    if (r == 0 && fl_entry_epoll(entry)) {
      fl_epoll_nested(fl_entry_epoll(entry));
    } else if (r == 0 && (entry & FL_TAG_MASK) == FL_TAG_STREAM && !fl_early_note(s, op, fd, event) &&
               (c = fl_conn_of(fd)) && fl_lock(&s->lock) == FL_LOCKED) {
      note(s, epfd, op, fd, c, event); /* another thread has connected it meanwhile */
      fl_unlock(&s->lock);
    }
    errno = saved;
    return r;
  }
  fl_process_check();
  if (fl_lock(&s->lock) != FL_LOCKED) {
    int r = REAL(epoll_ctl)(epfd, op, fd, event);
    if (r == 0)
      fl_conn_pin(c, FL_WHY_LOCK);
    return r;
  }
  FL_HOLD(ctl_jumped, s);
  struct fl_item *it = fl_epoll_of(epfd) == s && fl_conn_of(fd) == c ? fl_item_find(s, fd) : NULL;
  if (it && it->conn == c && defer(s, epfd, op, it, event, &error)) {
    fl_unlock(&s->lock);
    if (error == 0)
      return 0;
    errno = error;
    return -1;
  }
  if (it)
    fl_item_tell(it, epfd);
  int r = REAL(epoll_ctl)(epfd, op, fd, event), saved = errno;
  if (r == 0)
    note(s, epfd, op, fd, c, event);
  fl_unlock(&s->lock);
  errno = saved;
  return r;
}

void fl_epoll_note(struct fl_epoll *s, int fd, const struct epoll_event *event) {
  struct fl_conn *c = fl_conn_of(fd);

  if (!c || fl_lock(&s->lock) != FL_LOCKED)
    return;
  note(s, s->fd, EPOLL_CTL_ADD, fd, c, event);
  fl_unlock(&s->lock);
}

void fl_epoll_conn_gone(struct fl_conn *c, struct fl_local *l, bool closing) {
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
    struct fl_item *found = fl_item_find(s, fd);
    if (found && found == it && found->conn == c) {
      if (FL_UNLIKELY(found->gone) && closing)
        fl_syscall6(__NR_epoll_ctl, s->fd, EPOLL_CTL_DEL, fd, 0, 0, 0); /* nobody is to hear of it any more */
      fl_item_delete(found);
    }
    fl_unlock(&s->lock);
  }
}
