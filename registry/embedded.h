/* SPDX-License-Identifier: MIT */
/*
 * registry/embedded.h - the embedded registry: how the two ends of a TCP connection in one network namespace find each
 * other and come to share a segment, with no daemon and no files.
 *
 * The kernel's abstract AF_UNIX namespace is the registry; a name is the canonical 4-tuple of the connection. The end that
 * binds the name first listens; the other finds it taken, connects, checks who listens, and hands over a sealed memfd in
 * one message; the listener checks who sent it. "Who" is a uid: SO_PEERCRED of the rendezvous must be the uid that the
 * kernel reports (sock_diag, exact reversed tuple) for the TCP socket at the other end. Nothing survives a crash: the
 * name dies with its socket.
 *
 * Every function is non-blocking, uses raw system calls (it runs below the interposed ones), leaves errno alone, and
 * never prints. Private descriptors: the sock_diag query opens and closes one within a call; a rendezvous keeps at most
 * one (fl_rdv_fd) between calls, CLOEXEC, moved to a high number; after success or failure none remains.
 *
 * Threads: a struct fl_rdv belongs to one thread at a time; different ones are independent.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <netinet/in.h>
#include <sys/types.h>

#include "shmring/lane.h"

/* One end as its own process sees it. IPv4 addresses are stored v4-mapped (::ffff:a.b.c.d), so that an AF_INET6 socket
 * with a mapped address and its AF_INET peer agree. Ports are in network byte order. */
struct fl_tuple {
  struct in6_addr local, remote;
  in_port_t local_port, remote_port;
  uint8_t v4; /* both addresses are IPv4 or v4-mapped */
};

/* Reads the tuple of a connected AF_INET or AF_INET6 stream socket. 0, or -errno (ENOTCONN: not connected yet;
 * EPROTONOSUPPORT: not a TCP socket). */
int fl_tuple_of(int fd, struct fl_tuple *t);

/* Looks up the TCP socket at the other end (t reversed) in this network namespace. 0 and its uid and inode; -ENOENT: no
 * such socket here, the peer is on another host or in another namespace; other -errno: sock_diag is refused. */
int fl_peer_lookup(const struct fl_tuple *t, uid_t *uid, uint64_t *inode);

/* The abstract name (without the leading NUL) for the canonical tuple; returns its length, below 100. Both ends get the
 * same one. */
size_t fl_rdv_name(const struct fl_tuple *t, char name[108]);

enum fl_rdv_result {
  FL_RDV_PAIRED,   /* *seg is mapped, end and ring_size are set; the caller owns the mapping */
  FL_RDV_WAIT,     /* listening: call fl_rdv_poll later */
  FL_RDV_RETRY,    /* nothing is held; worth another fl_rdv_start later (e.g. the listener's backlog was full) */
  FL_RDV_REMOTE,   /* the peer is not in this network namespace: never try again */
  FL_RDV_REFUSED,  /* wrong uid, foreign version, bad message, bad seals: never try again on this connection */
  FL_RDV_ERROR,    /* the system refuses (no descriptors, no memory, no sock_diag): r->error has the errno */
};

struct fl_rdv {
  int fd;        /* listening socket, -1 if none */
  int error;     /* errno of FL_RDV_ERROR, or of the check behind FL_RDV_REFUSED, 0 if none */
  uid_t peer_uid; /* as sock_diag reported it */
  uint32_t ring_size;          /* wanted; the side that creates the memfd decides */
  struct fl_tuple tuple;
};

struct fl_pairing {
  struct fl_segment *seg;
  size_t bytes;
  uint32_t ring_size;
  int end; /* for fl_attach */
};

/*
 * Begins. ring_size must satisfy fl_ring_size_valid. The creator of the segment is end 0. `base_fd` is the lowest number
 * that a kept descriptor may get. FL_RDV_WAIT keeps
 * r->fd open until fl_rdv_poll ends or fl_rdv_abandon.
 */
enum fl_rdv_result fl_rdv_start(struct fl_rdv *r, const struct fl_tuple *t, uint32_t ring_size, int base_fd,
                                struct fl_pairing *out);

/* After FL_RDV_WAIT: has somebody come? A visitor who fails the check is sent away and the wait goes on (at most a few
 * visitors per call). FL_RDV_WAIT, FL_RDV_PAIRED, FL_RDV_REFUSED (too many bad visitors) or FL_RDV_ERROR. */
enum fl_rdv_result fl_rdv_poll(struct fl_rdv *r, struct fl_pairing *out);

/* Gives up and closes the descriptor. Harmless if there is none. */
void fl_rdv_abandon(struct fl_rdv *r);
