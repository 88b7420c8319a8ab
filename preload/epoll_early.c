/* SPDX-License-Identifier: MIT */
/*
 * preload/epoll_early.c - sockets that are put into an epoll set before they are connected (nginx does so for its
 * upstreams). The kernel keeps the registration, so the connection that such a socket becomes is waited for in that set
 * from its first moment on.
 *
 * Until then the table's entry says that there may be such a registration (FL_STREAM_WAITED), and the set keeps what it
 * was made with.
 */
#include <stdlib.h>

#include "epoll_set.h"

struct fl_early {
  struct fl_early *next;
  int fd;
  struct epoll_event event;
};

static struct fl_early *take(struct fl_epoll *s, int fd) {
  for (struct fl_early **p = &s->early; *p; p = &(*p)->next)
    if ((*p)->fd == fd) {
      struct fl_early *e = *p;
      *p = e->next;
      return e;
    }
  return NULL;
}

void fl_early_clear(struct fl_epoll *s) {
  while (s->early)
    free(take(s, s->early->fd));
}

bool fl_early_note(struct fl_epoll *s, int op, int fd, const struct epoll_event *event) {
  if (fl_lock(&s->lock) != FL_LOCKED)
    return false;
  struct fl_early *e = take(s, fd);
  if (op == EPOLL_CTL_DEL) {
    free(e);
    e = NULL;
  } else if (e || (e = malloc(sizeof *e))) {
    *e = (struct fl_early){s->early, fd, *event};
    s->early = e;
  }
  fl_unlock(&s->lock);
  /* after that: whoever connects sees the mark and finds the set's note, or the entry is another one by now */
  if (fl_stream_mark(fd, e ? FL_STREAM_WAITED : op == EPOLL_CTL_DEL ? 0 : FL_STREAM_ODD))
    return true;
  if (fl_lock(&s->lock) == FL_LOCKED) {
    free(take(s, fd));
    fl_unlock(&s->lock);
  }
  return false;
}

struct connected {
  int fd;
  bool open;
};

static void set_connected(struct fl_epoll *s, void *arg) {
  const struct connected *what = arg;

  if (fl_lock(&s->lock) != FL_LOCKED)
    return;
  struct fl_early *e = take(s, what->fd);
  fl_unlock(&s->lock);
  if (e && what->open)
    fl_epoll_note(s, e->fd, &e->event);
  free(e);
}

void fl_early_connected(int fd) { fl_epoll_each(set_connected, &(struct connected){fd, true}); }
void fl_early_closed(int fd) { fl_epoll_each(set_connected, &(struct connected){fd, false}); }
