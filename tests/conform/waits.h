/* SPDX-License-Identifier: MIT */
/* tests/conform/waits.h - every call that waits for descriptors, behind one interface. */
#pragma once

#include <signal.h>

#include "conform.h"

enum wait_call { POLL, PPOLL, SELECT, PSELECT, EPOLL_WAIT, EPOLL_PWAIT, EPOLL_PWAIT2, WAIT_CALLS };
#define WAIT_CALL_NAMES "poll", "ppoll", "select", "pselect", "epoll_wait", "epoll_pwait", "epoll_pwait2"
static inline bool by_epoll(enum wait_call c) { return c >= EPOLL_WAIT; }
static inline bool by_select(enum wait_call c) { return c == SELECT || c == PSELECT; }
static inline bool with_mask(enum wait_call c) { return c == PPOLL || c == PSELECT || c >= EPOLL_PWAIT; }

#define WAIT_FDS 8
#define FOREVER (-1L)

struct waiting {
  enum wait_call call;
  int epfd; /* -1 for the others */
  int n, fd[WAIT_FDS];
  uint32_t events[WAIT_FDS]; /* EPOLL bits, which are poll's; EPOLLET and the like for epoll only */
};

/* Opens an epoll set where one is needed. */
void wait_open(struct waiting *w, enum wait_call call);
void wait_add(struct waiting *w, int fd, uint32_t events);
void wait_change(struct waiting *w, int at, uint32_t events); /* EPOLL_CTL_MOD */
void wait_close(struct waiting *w);

/* Waits, and says in got[] what came for each descriptor; notes nothing. Keeps errno. */
long wait_for(struct waiting *w, long timeout_us, const sigset_t *mask, uint32_t got[WAIT_FDS]);

/* Waits, and notes `what`, the result, and for each descriptor that has events, in the order in which they were added,
 * which. (Of the order in which epoll reports several no program can know more than that it is fair.) */
long do_wait(struct waiting *w, const char *what, long timeout_us, const sigset_t *mask);
