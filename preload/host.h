/* SPDX-License-Identifier: MIT */
/*
 * preload/host.h - this process's conversation with fastlocald about its connections: one descriptor for the process,
 * opened when a connection first needs it, and for each connection one question and its answer.
 *
 * Whoever looks takes in what has come for others as well. What is taken in for a connection waits in its
 * struct fl_local. All of it is under one lock of its own, which comes after a connection's locks and is never held
 * across a call that can block.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "registry/embedded.h"

struct fl_conn;
struct fl_local;

/* Of one connection, in struct fl_local; zeros: nothing was asked. Under the lock of host.c. */
struct fl_host_state {
  _Atomic uint8_t state; /* private to host.c; leaves 0 only under the locks of the connection */
  uint64_t id;           /* of the question */
  uint32_t session;      /* connection to the daemon on which it was asked */
  uint32_t who;          /* the other end's user and network namespace, once found; 0: no bells */
  struct fl_pairing pairing;
};

enum fl_host_result {
  FL_HOST_ABSENT,  /* no daemon here, or one of another version; or it does not know the peer: TCP for good */
  FL_HOST_LATER,   /* not now (the daemon is restarting, or over a limit): ask again later */
  FL_HOST_WAITING, /* asked, no answer yet: fl_host_look later */
  FL_HOST_FOUND,   /* *out is the caller's */
  FL_HOST_DENIED,  /* the daemon says no */
};

/* Asks for the other end of the connection whose socket is fd. FL_HOST_ABSENT, FL_HOST_LATER or FL_HOST_WAITING. The
 * locks of c held. */
enum fl_host_result fl_host_ask(struct fl_conn *c, int fd, int base_fd);

/* After FL_HOST_WAITING. Everything but FL_HOST_WAITING ends the question, but FL_HOST_FOUND stays known to the daemon
 * until fl_host_end. The locks of c held. */
enum fl_host_result fl_host_look(struct fl_conn *c, struct fl_pairing *out);

/* Gives the other end of a connection that the daemon paired a timerfd to wake this process by. May fail unseen. */
void fl_host_give_bell(struct fl_conn *c, uint64_t bell, int timer);

/* Takes in what the daemon has sent: bells go to fl_bell_arrived. */
void fl_host_take(void);

/* The connection is no longer looking, or is closed. Harmless if it never asked. */
void fl_host_end(struct fl_conn *c);

/* In the child of a fork: nothing of the conversation is its own. */
void fl_host_forked_child(void);
