/* SPDX-License-Identifier: MIT */
#include "waits.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/time.h>
#include <unistd.h>

void wait_open(struct waiting *w, enum wait_call call) {
  *w = (struct waiting){.call = call, .epfd = by_epoll(call) ? epoll_create1(EPOLL_CLOEXEC) : -1};
}

void wait_add(struct waiting *w, int fd, uint32_t events) {
  struct epoll_event e = {.events = events, .data.u32 = (uint32_t)w->n};

  w->fd[w->n] = fd;
  w->events[w->n++] = events;
  if (w->epfd >= 0 && epoll_ctl(w->epfd, EPOLL_CTL_ADD, fd, &e))
    note_ret("EPOLL_CTL_ADD", -1);
}

void wait_change(struct waiting *w, int at, uint32_t events) {
  struct epoll_event e = {.events = events, .data.u32 = (uint32_t)at};

  w->events[at] = events;
  if (w->epfd >= 0 && epoll_ctl(w->epfd, EPOLL_CTL_MOD, w->fd[at], &e))
    note_ret("EPOLL_CTL_MOD", -1);
}

void wait_close(struct waiting *w) {
  if (w->epfd >= 0)
    close(w->epfd);
  w->epfd = -1;
}

static struct timespec *spec_of(long us, struct timespec *t) {
  *t = (struct timespec){us / 1000000, us % 1000000 * 1000};
  return us < 0 ? NULL : t;
}

static int ms_of(long us) { return us < 0 ? -1 : (int)((us + 999) / 1000); }

static long by_poll(struct waiting *w, long us, const sigset_t *mask, uint32_t got[WAIT_FDS]) {
  struct pollfd p[WAIT_FDS];
  struct timespec t;
  long ret;

  for (int i = 0; i < w->n; i++)
    p[i] = (struct pollfd){.fd = w->fd[i], .events = (short)w->events[i], .revents = 0x55};
  ret = w->call == POLL ? poll(p, (nfds_t)w->n, ms_of(us)) : ppoll(p, (nfds_t)w->n, spec_of(us, &t), mask);
  for (int i = 0; i < w->n && ret >= 0; i++)
    got[i] = (uint32_t)(unsigned short)p[i].revents;
  return ret;
}

static long selected(struct waiting *w, long us, const sigset_t *mask, uint32_t got[WAIT_FDS]) {
  static const uint32_t bits[3] = {EPOLLIN, EPOLLOUT, EPOLLPRI};
  fd_set sets[3];
  struct timespec t;
  struct timeval v = {us / 1000000, us % 1000000};
  int last = -1;
  long ret;

  for (int k = 0; k < 3; k++)
    FD_ZERO(&sets[k]);
  for (int i = 0; i < w->n; i++) {
    for (int k = 0; k < 3; k++)
      if (w->events[i] & bits[k])
        FD_SET(w->fd[i], &sets[k]);
    last = w->fd[i] > last ? w->fd[i] : last;
  }
  ret = w->call == SELECT ? select(last + 1, &sets[0], &sets[1], &sets[2], us < 0 ? NULL : &v)
                          : pselect(last + 1, &sets[0], &sets[1], &sets[2], spec_of(us, &t), mask);
  for (int i = 0; i < w->n && ret >= 0; i++)
    for (int k = 0; k < 3; k++)
      got[i] |= FD_ISSET(w->fd[i], &sets[k]) ? bits[k] : 0;
  return ret;
}

static long waited(struct waiting *w, long us, const sigset_t *mask, uint32_t got[WAIT_FDS]) {
  struct epoll_event e[WAIT_FDS];
  struct timespec t;
  long ret;

  pause_us(60); /* the exception "epoll-lag" */
  if (w->call == EPOLL_WAIT)
    ret = epoll_wait(w->epfd, e, WAIT_FDS, ms_of(us));
  else if (w->call == EPOLL_PWAIT)
    ret = epoll_pwait(w->epfd, e, WAIT_FDS, ms_of(us), mask);
  else
    ret = epoll_pwait2(w->epfd, e, WAIT_FDS, spec_of(us, &t), mask);
  for (long i = 0; i < ret; i++)
    got[e[i].data.u32 % WAIT_FDS] |= e[i].events;
  return ret;
}

long wait_for(struct waiting *w, long timeout_us, const sigset_t *mask, uint32_t got[WAIT_FDS]) {
  memset(got, 0, WAIT_FDS * sizeof *got);
  return by_epoll(w->call)    ? waited(w, timeout_us, mask, got)
         : by_select(w->call) ? selected(w, timeout_us, mask, got)
                              : by_poll(w, timeout_us, mask, got);
}

long do_wait(struct waiting *w, const char *what, long timeout_us, const sigset_t *mask) {
  uint32_t got[WAIT_FDS];
  long ret = wait_for(w, timeout_us, mask, got);
  int saved = errno;

  note_ret(what, ret);
  for (int i = 0; i < w->n; i++)
    if (got[i])
      note("  %d %s", i, epoll_text(got[i]));
  errno = saved;
  return ret;
}
