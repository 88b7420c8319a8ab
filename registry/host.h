/* SPDX-License-Identifier: MIT */
/*
 * registry/host.h - what a process and fastlocald, the registry of the host, say to each other.
 *
 * An end that does not find its peer in its own network namespace asks the daemon, over an AF_UNIX socket that is
 * mounted into its container, and passes a duplicate of its TCP socket along. The daemon takes from the kernel what
 * only the two ends of one connection have in common (daemon/prove.h), closes the duplicate at once, and waits for
 * the other end's question. Then both get the same sealed memfd. No bytes of the application pass through the daemon:
 * if it ends, connections go on, and new ones stay on TCP until it is back.
 *
 * One SOCK_SEQPACKET connection for each process. Every message, in both directions, is one struct fl_host_message of
 * the version that its sender knows; who meets another version says so and leaves it at that. A library that meets
 * another daemon stays on TCP.
 *
 * All functions are non-blocking, use raw system calls, leave errno alone, and never print.
 */
#pragma once

#include "registry/embedded.h"

#define FL_HOST_SOCKET "/run/fastlocal/registry.sock"
#define FL_HOST_METRICS "/run/fastlocald/metrics.sock" /* where the daemon is asked for counters and clients */
#define FL_HOST_MAGIC 0x74736f6c66u                    /* "flost" */
#define FL_HOST_VERSION 1u

#define FL_HOST_TAKES_BELLS 1u

enum fl_host_type {
  /* process -> daemon */
  FL_HOST_ASK = 1, /* with the TCP socket: who is at the other end? May be repeated: the last one counts. */
  FL_HOST_CANCEL,  /* no longer interested */
  FL_HOST_CLOSED,  /* a paired connection has ended: no longer counted against this process */

  /* both ways, with a timerfd: how the other end of a paired connection can be woken (preload/bell.h). Only to and from
   * those that take bells. */
  FL_HOST_BELL,

  /* daemon -> process */
  FL_HOST_PAIRED = 64, /* with the memfd: the other end has got the same */
  FL_HOST_REFUSED,     /* the policy does not allow this pair, or the socket cannot be used: do not ask again */
  FL_HOST_BUSY,        /* over a limit: ask again later, if at all */
  FL_HOST_OTHER,       /* this daemon speaks `version` only */
};

/* Why not, for people: `why` of FL_HOST_REFUSED and FL_HOST_BUSY. */
enum fl_host_why {
  FL_HOST_WHY_NONE,
  FL_HOST_WHY_POLICY,    /* no rule allows the two processes to pair */
  FL_HOST_WHY_SOCKET,    /* not a connected TCP socket */
  FL_HOST_WHY_AMBIGUOUS, /* several processes have asked with sockets that cannot be told apart */
  FL_HOST_WHY_LIMIT,     /* the client's share of connections, memory or questions is used up */
  FL_HOST_WHY_NO_PROOF,  /* the daemon lacks the privileges to match connections */
};

/* The same layout for every process of a host. */
struct fl_host_message {
  uint64_t magic;
  uint16_t version;
  uint16_t type;      /* enum fl_host_type */
  uint32_t ring_size; /* ASK: wanted; PAIRED: bytes of each ring */
  uint64_t id;        /* the asking process's name for its connection, never used twice by it */
  union {
    struct {
      uint16_t why; /* enum fl_host_why */
      uint16_t end; /* PAIRED: 0 or 1, for fl_attach */
      uint32_t who; /* ASK: FL_HOST_TAKES_BELLS, or 0. PAIRED: stands for the other end's user and network namespace; 0:
                       bells cannot be passed */
    };
    uint64_t bell; /* BELL: its number */
  };
};
_Static_assert(sizeof(struct fl_host_message) == 32, "no padding: the struct is sent as it is");

/* Connects to a daemon. The descriptor, at a number of base_fd or above if there is room, or -errno: -ENOENT,
 * -ECONNREFUSED (it is not running), -EAGAIN (its backlog is full), ... */
int fl_host_connect(const char *path, int base_fd);

/* Sends one message; a TCP socket goes with FL_HOST_ASK, else tcp_fd is -1. 0; -EAGAIN: the daemon does not read; other
 * -errno: the connection is of no use any more. */
int fl_host_send(int fd, enum fl_host_type type, uint64_t id, uint32_t ring_size, int tcp_fd);

/* Sends a timerfd by which this process can be woken to the other end of the paired connection `id`. The same. */
int fl_host_send_bell(int fd, uint64_t id, uint64_t bell, int timer);

/*
 * Takes one answer. 0: *m is checked; for FL_HOST_PAIRED the segment is mapped and *out is the caller's; for
 * FL_HOST_BELL *bell is, a descriptor of any kind (with NULL for bell it is closed). -EAGAIN: nothing has come. -EBADF,
 * -EPERM, ..., with *m filled and m->id valid (type FL_HOST_PAIRED): this one connection cannot be paired. -EPROTO: a
 * daemon of another version. Any other -errno, with m->type 0: the connection to the daemon is lost.
 */
int fl_host_receive(int fd, struct fl_host_message *m, struct fl_pairing *out, int *bell);
