/* SPDX-License-Identifier: MIT */
/*
 * preload/process.h - who else holds the connections: fork, exec, spawned helpers, and the end of this process.
 *
 * A connection may use its rings only while one process holds its descriptors. Every way to a second process first puts
 * another entry into the connection's list of holders (which is enough for fl_conn_usable to say no) and then sets the
 * receiving direction to NATIVE, in this order: see fl_conn_watch. The entries used, besides pids:
 *
 *   negative       a child that is being made by the thread -1 - entry, and whose pid is not known yet; not to be
 * purged FL_HOLDER_GONE a helper that has ended, and may have used the descriptor: purged like a dead process this pid,
 * twice  this process is about to become another program, or to end: nothing may come into its rings
 *
 * A holder that is found dead may have moved bytes that nobody counted (a program without the library, or a process
 * killed in the middle of a call): whoever purges it compares the counts with the kernel's before the rings are used
 * again.
 *
 * process.c: fork and the end of a process. exec.c: exec. spawn.c: posix_spawn, system, popen.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct fl_conn;
struct fl_local;
struct fl_tuple;

#define FL_HOLDER_GONE INT32_MAX /* beyond any pid_max, so kill() says ESRCH */

/* ---- for the rest of the library ---- */

/* Registers the fork and quick_exit handlers. Once, after fl_process_init. */
void fl_process_hooks_init(void);

/* In a child that has memory of its own, once, before anything else is done there. handlers_ran: the parent prepared
 * this fork (fl_process_check passes false: a clone that no handler saw). Leaves errno alone. */
void fl_process_forked_child(bool handlers_ran);

/* This process ends: writes the statistics, and leaves every connection as TCP leaves one whose process ended.
 * Idempotent, async-signal-safe, leaves errno alone. Hooks still work afterwards, on the kernel lane. */
void fl_process_exit(void);

/* Is that process dead? A zombie counts as dead if it is a child of this process. [any thread] */
bool fl_process_gone(int32_t pid);

/* Some descriptor of c that is open in this process and is this very connection, or -1. Needs the tuple, so not for
 * FL_FRESH; walks the table. */
int fl_process_fd_of(const struct fl_conn *c);

/* ---- shared by process.c, exec.c and spawn.c ---- */

/* Entries of `holder` in c's list. */
unsigned fl_holder_count(const struct fl_conn *c, int32_t holder);

/* Makes one entry `from` into `to`; false if there was none. Of two processes that try the same, one succeeds. */
bool fl_holder_replace(struct fl_conn *c, int32_t from, int32_t to);

/* Another holder, and so nothing more may come into our ring. */
void fl_holder_lend(struct fl_conn *c, int32_t holder);

/* The entry for a child that the calling thread is about to make. */
int32_t fl_holder_unborn(void);

/* For every connection of the arena that has the entry `from`, also those that were closed here meanwhile: replaces one
 * such entry by `to`, or drops it if `to` is 0. */
void fl_holders_settle(int32_t from, int32_t to);

/* The descriptors of this process that are connections: calls f once for each connection, with its lowest descriptor
 * and how many more there are. Costs next to nothing when there are none. */
void fl_process_walk(void (*f)(struct fl_conn *c, struct fl_local *l, int fd, void *arg), void *arg);

/* Does a new program inherit the connection (is one of its descriptors, of which fd is the lowest, not FD_CLOEXEC)? */
bool fl_process_inherits(const struct fl_conn *c, const struct fl_local *l, int fd);

/* Is the open file behind fd the connection c, and not something that came to the number unseen? */
bool fl_process_same_socket(const struct fl_conn *c, int fd);
bool fl_process_same_tuple(const struct fl_conn *c, const struct fl_tuple *t);

/* Bytes of the ring that were not read, 0 if another process is to get them (fl_hand_over). Publishes the tail, so that
 * the peer knows what was. */
uint64_t fl_process_unread(struct fl_conn *c);

/*
 * fd, which is c, goes to somebody who may not know of the ring: another program, or another process. What lies unread
 * there is asked back from the peer, who sends it over TCP (fl_rx_recall); waits for that, for a twentieth of a second
 * at most: later it comes all the same, with the peer's next call. No more may come into the ring: c is pinned, or has
 * another holder. No locks held. False: the peer cannot send them again, and they stay where they are.
 */
bool fl_hand_over(struct fl_conn *c, int fd);
