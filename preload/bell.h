/* SPDX-License-Identifier: MIT */
/*
 * preload/bell.h - bells: how a sender that keeps to the ring wakes a receiver that sleeps in the kernel.
 *
 * A bell is an eventfd of the receiving process. It belongs to one waiter (an epoll set, or a call of poll or recv),
 * not to a connection, so a process has few; it has a random number, by which lane.h knows it. Whoever sleeps with it
 * waits for it beside its TCP sockets. To ring it the sending process needs its descriptor:
 *
 *   - Each process with paired connections has a mailbox, a datagram socket with a random abstract name, which it
 * writes into the segments together with a key.
 *   - A receiver that would like to sleep offers its bell's number in the lane. A sender that does not know it asks for
 *     it there, and the receiver posts the eventfd to the sender's mailbox; before its next sleep the two agree.
 *   - What comes without the key, or is not an eventfd, is thrown away.
 *
 * All of this is a matter of speed: without a bell the receiver sleeps in NATIVE, and the bytes come over TCP.
 *
 * Trust. Both ends of an eventfd may change its flags and its count. A process of the same user could make our write
 * block, and could do worse by other means; to other users' processes no bell and no key are given.
 *
 * Far bells, between network namespaces, perhaps between users: fastlocald carries them, as no mailbox can be reached.
 * The ends may mean harm, so these are timerfds. They are rung by setting their count of ticks, and cleared by setting
 * the time, neither of which can block whatever the other holders do; and those that ring it are of one user and one
 * network namespace, `who`, so that who takes back a ring takes back his own only. A set has one for each `who`.
 *
 * Descriptors: own bells, the mailbox, and one for each bell of a peer, at most FL_BELLS_MAX; CLOEXEC, at high numbers,
 * marked FL_TAG_PRIVATE.
 */
#pragma once

#include "conn.h"

#define FL_BELLS_MAX 128

struct fl_bell {
  int fd;       /* -1: there is none, and none is to be had */
  int32_t pid;  /* whose it is: a child that inherits it does not sleep with it; 0: not made yet */
  uint32_t who; /* who has it: see Far bells; 0: processes of this user in this network namespace */
  uint64_t id;
};

#define FL_BELL_FAR 0x40000000 /* in the number of a bell's descriptor that is passed around here: a timerfd */

/* Makes b a bell of this process if it is not one yet. False: none is to be had, sleep natively. */
bool fl_bell_ready(struct fl_bell *b);
void fl_bell_close(struct fl_bell *b);

/* A bell for `who`, for the length of one call that sleeps, NULL if there is none. The same thread, or a
 * single-threaded process, gets the same one each time. */
struct fl_bell *fl_bell_borrow(uint32_t who);
void fl_bell_return(struct fl_bell *b);

/* The process may not even wait for a descriptor more than its own (RLIMIT_NOFILE, which poll looks at, was lowered):
 * no more bells are lent. */
void fl_bell_refuse(void);

/* Clears a bell that was rung. Never blocks. */
void fl_bell_clear(const struct fl_bell *b);

/* Rings one's own. */
static inline void fl_bell_own(const struct fl_bell *b);

/*
 * Puts the receiving direction of c, which is mapped, to BELL with b if nothing was published beyond `head`. False: see
 * fl_rx_bell; the other end is then told of b, so that it may work the next time. Keeps errno.
 */
bool fl_bell_rest(struct fl_conn *c, uint64_t head, const struct fl_bell *b);

/* ---- the sender; tx_lock held, all three ---- */

/* The descriptor that rings the receiver of c, -1 if this process does not have it. */
int fl_bell_of(struct fl_conn *c);

/* After a send that had to take the kernel lane: looks whether the receiver has a bell to offer. Keeps errno. */
void fl_bell_learn(struct fl_conn *c);

/* fastlocald has brought a bell, which is of any kind; fd is taken. */
void fl_bell_arrived(uint64_t id, int fd);

/* Rings what fl_bell_of gave. Async-signal-safe, never blocks, keeps errno. */
void fl_bell_ring(int fd);

/* ---- life of a connection ---- */

/* c was just paired with a process of this network namespace, of the same user or not; or with `who`. Both locks held.
 */
void fl_bell_paired(struct fl_conn *c, uint32_t who, bool same_user);
/* This process's last descriptor of c goes; tx_lock held. */
void fl_bell_gone(struct fl_conn *c);

void fl_bell_fork_prepare(void);
void fl_bell_forked(bool child);

static inline void fl_bell_own(const struct fl_bell *b) { fl_bell_ring(b->who ? b->fd | FL_BELL_FAR : b->fd); }
