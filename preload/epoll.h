/* SPDX-License-Identifier: MIT */
/*
 * preload/epoll.h - epoll sets of this process that hold followed connections.
 *
 * The kernel's epoll stays the truth for everything that sleeps. On top of it a set has a list of *hot* items:
 * registrations whose connection watches its ring. epoll_wait looks at these first, then spins, and turns all of them
 * NATIVE before it sleeps. A connection may be WATCHING only while no thread sleeps natively in a set that holds it
 * (fl_epoll_may_watch).
 */
#pragma once

#include <signal.h>
#include <sys/epoll.h>
#include <time.h>

#include "conn.h"

/* A descriptor of an epoll set appears (epoll_create, dup) or goes. */
void fl_epoll_open(int epfd);
void fl_epoll_share(struct fl_epoll *set, int epfd);
void fl_epoll_forget(struct fl_epoll *set, int epfd);

/* The set is polled, or put into another set: its items wait natively from now on. */
void fl_epoll_nested(struct fl_epoll *set);

/* epoll_ctl on a set. */
int fl_epoll_ctl(struct fl_epoll *set, int epfd, int op, int fd, struct epoll_event *event);

/* Somebody else gets a descriptor of a connection, or perhaps of a set: the kernel is told what it was not told of
 * registrations. No locks held. */
void fl_epoll_tell_all(void);

/* A connection that is pinned as NESTED was read: if nothing is left in its ring, the kernel is told so. No locks held.
 */
void fl_epoll_drained(struct fl_conn *c);

/* A socket that was put into a set before it was connected (FL_STREAM_WAITED) has become a connection, or was closed.
 */
void fl_early_connected(int fd);
void fl_early_closed(int fd);

/* The last descriptor of a connection in this process goes; closing: it is still open. */
void fl_epoll_conn_gone(struct fl_conn *c, struct fl_local *l, bool closing);

/*
 * Lets c watch its ring, unless a thread sleeps natively in a set that holds it, or it is nonblocking and nobody is
 * known to wait for it through us. The sets are locked (tried, not waited for) around the change, so that no thread
 * goes to sleep between the look and the change. Called with rx_lock held.
 */
void fl_epoll_watch(struct fl_conn *c, struct fl_local *l);

/* epoll_wait, epoll_pwait and epoll_pwait2 on a set: timeout NULL waits for ever. */
int fl_epoll_wait(struct fl_epoll *set, int epfd, struct epoll_event *events, int max, const struct timespec *timeout,
                  const sigset_t *mask);

/* Around a fork: nobody is in the midst of changing a set that the child inherits. */
void fl_epoll_fork_prepare(void);
void fl_epoll_forked_parent(void);
void fl_epoll_forked_child(void);
