/* SPDX-License-Identifier: MIT */
/* preload/epoll_set.h - what epoll.c (sets), epoll_ctl.c (registrations) and epoll_wait.c (waiting) share. */
#pragma once

#include "bell.h"
#include "epoll.h"

#undef uthash_fatal
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define FL_SET_FAR 16

struct fl_item {
  int fd;          /* key: what the kernel's registration is made with */
  uint32_t events; /* as the application wants it, */
  epoll_data_t data;
  bool gone;                   /* nor at all: events is 0 then; */
  bool untold;                 /* but the kernel has */
  struct epoll_event kernel;   /* this; see epoll_ctl.c */
  struct fl_item *prev, *next; /* the other untold ones of the set */
  struct fl_conn *conn;
  struct fl_epoll *set;
  struct fl_item *other; /* registrations of the same connection: under the connection's reg_lock */
  uint32_t hot;          /* 1 + index in the hot list, 0 if not there */
  uint32_t active;       /* the set's `wakes` when its ring last had something */
  uint64_t active_at;    /* fl_now() then, or when it came to the list */
  uint64_t seen;         /* edge-triggered: the head last reported */
  bool kicked;           /* see kick() */
  UT_hash_handle hh;
};

struct fl_epoll {
  fl_lock_t lock;
  _Atomic int32_t nfds;
  _Atomic int32_t sleepers; /* threads natively asleep in it; changed under lock, read under lock */
  _Atomic bool native;      /* nested or polled: no item may be hot */
  struct fl_item *items;    /* hash by fd */
  struct fl_item *untold;   /* registrations that the kernel does not have as they should be */
  struct fl_item **hot;
  _Atomic uint32_t nhot;
  uint32_t hot_size;
  uint32_t rounds, turn;
  uint32_t unasked;   /* rounds since the kernel was asked */
  uint32_t wakes;     /* native sleeps that ended */
  uint64_t kernel_at; /* fl_now() of the last look at the kernel */
  uint64_t looked_at; /* what the kernel had to tell then has been reported */
  uint32_t kicked;    /* items that are */
  bool fork_locked;
  int fd;       /* some descriptor of it */
  int32_t pid;  /* the process that made it */
  bool forked;  /* children of a fork have it as well */
  bool no_bell; /* sleep without */
  /* registered in the set, edge-triggered, with their own address as data; see fl_set_bell */
  struct fl_bell bell, far[FL_SET_FAR]; /* the second for other containers, each for one */
  uint64_t far_full_at;                 /* fl_now() when no free one was found */
  struct fl_wait_hist hist;
  struct fl_epoll *next; /* all sets of the process, or all free ones */
};

static inline bool fl_item_wants_in(const struct fl_item *it) { return it->events & (EPOLLIN | EPOLLRDNORM); }

static inline bool fl_item_wants_out(const struct fl_item *it) { return it->events & (EPOLLOUT | EPOLLWRNORM); }

/* Up to this head its waiter knows: what was reported of an edge-triggered one, else what was read. */
static inline uint64_t fl_item_known(const struct fl_item *it) {
  return it->events & EPOLLET ? it->seen : it->conn->rx.tail;
}

/* Puts an item onto the hot list (false: no room), or takes it off. Set locked. */
bool fl_item_heat(struct fl_item *it);
void fl_item_cool(struct fl_item *it);

struct fl_item *fl_item_find(struct fl_epoll *s, int fd);
/* Unlinks from the connection and frees. Set locked. */
void fl_item_delete(struct fl_item *it);
/* The kernel's registrations become what the application made of them, through any descriptor of the set: before the
 * kernel is asked, or can be by others. One of a single one may delete it. Set locked. */
void fl_item_tell(struct fl_item *it, int epfd);
void fl_set_tell(struct fl_epoll *s, int epfd);
void fl_item_kick(struct fl_epoll *s, int epfd, struct fl_item *it);

/* The bell that threads which sleep in the set wait for, NULL if there is none. Made at the first call. Set locked. */
const struct fl_bell *fl_set_bell(struct fl_epoll *s);

/* The one for c: `bell`, which fl_set_bell gave, or one for the container of c's other end. NULL if there is none. */
const struct fl_bell *fl_set_far_bell(struct fl_epoll *s, const struct fl_conn *c);
static inline const struct fl_bell *fl_set_bell_for(struct fl_epoll *s, const struct fl_bell *bell,
                                                    const struct fl_conn *c) {
  return FL_LIKELY(!bell || !fl_local_of(c)->who) ? bell : fl_set_far_bell(s, c);
}

/* After a native wait: puts kicked registrations right and makes the events say what the application asked for. Set
 * locked. */
void fl_set_unkick(struct fl_epoll *s, int epfd, struct epoll_event *events, int n);
