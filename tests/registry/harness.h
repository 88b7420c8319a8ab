/* SPDX-License-Identifier: MIT */
/*
 * tests/registry/harness.h - real TCP connections, and a second process that does what it is told, one step at a time,
 * so that no test depends on luck.
 */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/types.h>
#include <sys/un.h>

#include "registry/embedded.h"

#define RING (64u << 10)
#define BASE_FD 200
#define NOBODY 65534

enum family { V4, V6, MAPPED }; /* MAPPED: an AF_INET client and an AF_INET6 server */
extern const char *const family_name[3];

/* ---- TCP ---- */

struct ends {
  int listener, client, server;
};

/* A network namespace of one's own, with loopback: nobody else's ports. Skips the test where that is refused. */
void private_network(void);
/* Skips a test that needs to become somebody else. */
void need_root(void);

int tcp_listener(enum family f);
int tcp_connect(int listener, enum family f);
struct ends tcp_pair(enum family f);
void close_ends(struct ends *e);

/* ---- a second process ---- */

enum op {
  OP_TUPLE,   /* fl_tuple_of of its socket */
  OP_START,   /* fl_rdv_start with a fresh tuple */
  OP_POLL,    /* fl_rdv_poll */
  OP_ABANDON, /* fl_rdv_abandon */
  OP_ATTACH,  /* fl_attach, and its receiver watches */
  OP_PUSH,    /* fl_tx_push of text */
  OP_PEEK,    /* fl_rx_peek, consume, return the text */
  OP_SETUID,  /* value: the new uid */
  OP_ACCEPT,  /* its socket is a listener: from here on it is the accepted one */
  OP_NETNS,   /* enter a new network namespace */
  OP_USERNS,  /* enter a new user namespace that maps nothing */
  OP_NOFILE,  /* value: how many more descriptors it may have */
  OP_NO_DIAG, /* a seccomp filter refuses netlink sockets */
  OP_CLOSE,   /* closes its socket */
  OP_FDS,     /* counts its descriptors */
};

struct reply {
  int rc; /* of the call; an enum fl_rdv_result for OP_START and OP_POLL */
  int error, fd, end, value;
  uint32_t ring_size;
  bool errno_kept;
  char text[64];
  struct fl_tuple tuple;
};

struct peer {
  pid_t pid;
  int ctl;
};

/* Forks a process that holds a copy of `fd` and nothing else of the caller's. */
struct peer peer_spawn(int fd);
struct reply ask(const struct peer *p, enum op op, int value, const char *text);
static inline struct reply tell(const struct peer *p, enum op op) { return ask(p, op, 0, ""); }
/* Ends it with SIGKILL, and waits for its end. */
void peer_kill(struct peer *p);

/* ---- looking ---- */

int count_fds(void);
/* How many AF_UNIX sockets have a name that begins with that of this connection? */
int count_names(const struct fl_tuple *t);

/* Where a rendezvous listens. */
struct place {
  struct sockaddr_un addr;
  socklen_t len;
};
struct place place_of(int listening_fd);

/* Polls until something else than FL_RDV_WAIT comes, at most `times` times. */
enum fl_rdv_result poll_until(struct fl_rdv *r, struct fl_pairing *p, int times);

/* A visit by hand: connects; -errno if it cannot. */
int visit(const struct place *p);
/* Sends a message with descriptors; 0 or -errno. */
int send_fds(int fd, const void *data, size_t len, const int *fds, int count);
