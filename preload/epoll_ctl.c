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

/*
 * A registration appears, or is changed to want input, while the ring holds bytes and another thread sleeps in the set:
 * the kernel knows nothing of those bytes and would let it sleep. Ask the kernel for writability as well, which wakes
 * it; it puts the registration right and reports what is true (unkick). Set locked.
 */
void fl_item_kick(struct fl_epoll *s, int epfd, struct fl_item *it) {
  struct epoll_event e = {.events = it->events | EPOLLOUT, .data = it->data};

  if (it->kicked || fl_syscall6(__NR_epoll_ctl, epfd, EPOLL_CTL_MOD, it->fd, (long)&e, 0, 0) != 0)
    return;
  it->kicked = true;
  s->kicked++;
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
  it->seen = UINT64_MAX; /* what is there now is news */
  if (it->kicked) {
    it->kicked = false;
    set->kicked--;
  }
  if (!fl_conn_mapped(c))
    return;
  bool asleep = atomic_load_explicit(&set->sleepers, memory_order_relaxed) > 0;
  if (asleep || (it->events & (EPOLLONESHOT | EPOLLEXCLUSIVE)))
    fl_conn_native(c);
  if (fl_item_wants_in(it) && fl_rx_ready(c, NULL)) {
    fl_item_heat(it); /* bytes in the ring are looked for through the hot list */
    if (asleep)
      fl_item_kick(set, epfd, it);
  } else if (fl_rx_state(&c->rx) != FL_NATIVE) { /* also BELL, of a registration that is gone: it rings only once */
    fl_item_heat(it);
  }
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
    if (r == 0 && fl_entry_epoll(entry))
      fl_epoll_nested(fl_entry_epoll(entry));
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
