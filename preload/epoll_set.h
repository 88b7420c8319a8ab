/* SPDX-License-Identifier: MIT */
/* preload/epoll_set.h - what epoll.c (sets), epoll_ctl.c (registrations) and epoll_wait.c (waiting) share. */
#pragma once

#include "bell.h"
#include "epoll.h"

#undef uthash_fatal
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define FL_SET_FAR 16
#define FL_ALL_NEWS UINT64_MAX

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
  uint64_t seen;         /* edge-triggered: the head last reported; FL_ALL_NEWS: what is unread is news */
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
  struct fl_early *early;   /* registrations of sockets that are not connected yet: epoll_early.c */
  struct fl_item **hot;
  _Atomic uint32_t nhot;
  uint32_t hot_size;
  uint32_t rounds, turn;
  uint32_t unasked;    /* rounds since the kernel was asked */
  uint32_t wakes;      /* native sleeps that ended */
  uint64_t kernel_at;  /* fl_now() of the last look at the kernel */
  uint64_t looked_at;  /* what the kernel had to tell then has been reported */
  uint8_t kernel_only; /* calls for one event that got the kernel's, one after the other */
  bool crowded;        /* more than one thread has slept in it at once */
  uint32_t kicked;     /* items that are */
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
  return (it->events & EPOLLET) && it->seen != FL_ALL_NEWS ? it->seen : it->conn->rx.tail;
}

/* Does its ring hold what its waiter does not know of? Then it is on the hot list: nothing else would find these bytes,
 * if they come after kernel bytes, or were left when the connection turned NATIVE. */
static inline bool fl_item_news(const struct fl_item *it) {
  return fl_item_wants_in(it) && fl_conn_mapped(it->conn) && fl_rx_head(&it->conn->rx) != fl_item_known(it);
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
/*
 * The kernel knows nothing of what lies in a ring. Where it has to say that a registration has input (a thread sleeps
 * in the set without a bell; or something else waits for the set itself), it is asked for writability as well, which
 * wakes who waits. fl_set_unkick takes that out of what is reported. Set locked.
 */
void fl_item_kick(struct fl_epoll *s, int epfd, struct fl_item *it);

/* Calls f for each set of this process; no set is locked. */
void fl_epoll_each(void (*f)(struct fl_epoll *s, void *arg), void *arg);

/* The connection fd is registered in s already. */
void fl_epoll_note(struct fl_epoll *s, int fd, const struct epoll_event *event);

/* A registration of a socket that is not connected yet. False: it is by now. */
bool fl_early_note(struct fl_epoll *s, int op, int fd, const struct epoll_event *event);
void fl_early_clear(struct fl_epoll *s); /* set locked */

/* The bell that threads which sleep in the set wait for, NULL if there is none. Made at the first call. Set locked. */
const struct fl_bell *fl_set_bell(struct fl_epoll *s);

/* The one for c: `bell`, which fl_set_bell gave, or one for the container of c's other end. NULL if there is none. */
const struct fl_bell *fl_set_far_bell(struct fl_epoll *s, const struct fl_conn *c);
static inline const struct fl_bell *fl_set_bell_for(struct fl_epoll *s, const struct fl_bell *bell,
                                                    const struct fl_conn *c) {
  return FL_LIKELY(!bell || !fl_local_of(c)->who) ? bell : fl_set_far_bell(s, c);
}

/* Wakes a thread that sleeps in the set: the ring of an item has bytes of which it does not know. Set locked. */
void fl_set_wake(struct fl_epoll *s, int epfd, struct fl_item *it);

/* What the kernel has just said, made to say what the application asked for; returns how many events are left. Puts
 * kicked registrations right, but for those whose bytes are still there in a set that something else waits for. Set
 * locked. */
int fl_set_unkick(struct fl_epoll *s, int epfd, struct epoll_event *events, int n);
