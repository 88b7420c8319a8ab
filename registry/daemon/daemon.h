/* SPDX-License-Identifier: MIT */
/*
 * registry/daemon/daemon.h - the daemon's state: clients, what they asked, and who is paired with whom.
 *
 * One thread, one epoll set. A client is one process's connection. Its owner is the kernel's word on where it comes
 * from, user and network namespace; limits are per owner. A question is one end of a TCP connection; it waits until the
 * other end asks, and then the two are a pair until one end says that it is closed, or its process goes.
 */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <uthash.h>

#include "compare.h"
#include "policy.h"
#include "prove.h"
#include "registry/host.h"

struct owner {
  struct owner_key {
    uint64_t netns;
    uint64_t uid;
  } key;
  uint32_t clients, waiting, pairs;
  uint64_t memory;
  double tokens; /* messages that may be read now */
  uint64_t tokens_at;
  bool warned; /* that a limit was met */
  UT_hash_handle hh;
};

struct client {
  int fd;
  uint64_t serial; /* grows with every client */
  pid_t pid;       /* 0: in a namespace that this process does not see */
  struct identity who;
  struct owner *owner;
  struct question *questions;
  uint32_t waiting, pairs;    /* of its questions */
  uint32_t asked, refused;    /* so far */
  struct client *prev, *next; /* all clients, by serial */
  struct client *paused_next; /* those whose owner has spent its messages */
  bool paused;
};

struct question {
  struct question_key {
    struct client *client;
    uint64_t id;
  } key;
  struct proof proof;
  struct fl_tuple tuple; /* of the TCP socket */
  int held;              /* compare.h: a duplicate of it while the question waits, -1 */
  uint32_t ring_size;
  bool takes_bells;
  uint16_t bells;         /* passed on for it */
  uint64_t since;         /* now_ns() */
  struct question *other; /* the other end, once paired */
  UT_hash_handle hh;
  struct question *same_prev, *same_next; /* waiting, and with the same received_from */
  struct question *age_prev, *age_next;   /* waiting, oldest first */
  struct question *own_prev, *own_next;   /* of the same client */
};

/* Since the start. */
struct counters {
  uint64_t clients, questions, pairs, refused, busy, expired, bad;
};

struct daemon {
  int epoll, listener;
  bool compares;  /* sequence numbers cannot be read, and the policy was to compare (compare.h) */
  bool listening; /* the listener is in the set: there is room for clients */
  struct policy *policy;
  struct client *clients, *paused;
  struct owner *owners;
  struct counters counters;
  uint32_t nclients, nwaiting, npairs;
};

extern struct daemon d;

uint64_t now_ns(void);

/* ---- clients.c ---- */

void clients_accept(void);
/* Reads what a client says, a little at a time. May free it. */
void client_ready(struct client *c);
/* Lets those speak again whose pause is over. */
void clients_resume(uint64_t now);
/* Milliseconds until then, -1 if nobody is paused. */
int clients_timeout(void);
void clients_close_all(void);
/* False: the client does not read, or is gone; it will be noticed when it is read from. */
bool client_send(struct client *c, const struct fl_host_message *m, int passed);

/* ---- match.c ---- */

/* A client asks, with a socket that stays the caller's. */
void match_ask(struct client *c, const struct fl_host_message *m, int tcp_fd);
/* Passes a bell on to the other end of a pair; it stays the caller's. */
void match_bell(struct client *c, const struct fl_host_message *m, int timer);
/* It does not ask any more, or the connection is closed. */
void match_forget(struct client *c, uint64_t id);
void match_forget_all(struct client *c);
/* Drops questions that waited too long, and compares those that may belong together. Returns the milliseconds until
 * there may be more to do, -1 if none wait. */
int match_expire(uint64_t now);

/* ---- metrics.c ---- */

/* Gives the counters, and the list of clients, to those who connect to this listening stream socket. */
bool metrics_open(int listener);
/* Is this event's mark one of ours? Then it is dealt with. */
bool metrics_ready(void *mark);

/* ---- closing.c ---- */

/* Is it a timerfd? Those are bells, and there are many. */
bool passed_timer(int fd);

/* Closes descriptors that a client passed, which may be anything, without ever being held up for long. */
void close_passed(const int *fds, int count);
/* Around work in which descriptors may be closed: bounds how long the kernel may wait in a close. */
void closing_guard(bool on);
