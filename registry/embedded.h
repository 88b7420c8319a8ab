/* SPDX-License-Identifier: MIT */
/*
 * registry/embedded.h - the embedded registry: how the two ends of a TCP connection in one network namespace find each
 * other and come to share a segment, with no daemon and no files.
 *
 * The kernel's abstract AF_UNIX namespace is the registry; a name is the canonical 4-tuple of the connection. The end
 * that binds the name first listens; the other finds it taken, connects, checks who listens, and hands over a sealed
 * memfd in one message; the listener checks who sent it. "Who" is a uid: SO_PEERCRED of the rendezvous must be the uid
 * that the kernel reports (sock_diag, exact reversed tuple) for the TCP socket at the other end. Nothing survives a
 * crash: the name dies with its socket.
 *
 * A uid is not yet a connection: the name and the message also carry the kernel's cookies of both TCP sockets, so that
 * only the two sockets that are connected to each other now can be paired; not an earlier connection with the same
 * addresses, and not a forked copy of one end with itself.
 *
 * Every function is non-blocking, uses raw system calls (it runs below the interposed ones), leaves errno alone, and
 * never prints. Private descriptors: the sock_diag query opens and closes one within a call; a rendezvous keeps its
 * listener between calls, and rarely one visitor that has not spoken yet, CLOEXEC and moved to high numbers; after
 * success or failure none remains.
 *
 * After fork, the child closes its copies with fl_rdv_abandon and forgets them: a copy that stays open would keep the
 * name taken, and take visitors that nobody will answer.
 *
 * Limits. A segment's pages are allocated as the rings are used; a process whose memory cgroup is full when it touches
 * one is treated by the kernel as for any page (out-of-memory killer, or SIGBUS under strict overcommit). A visitor
 * may bring a descriptor whose close takes long (a FUSE file, a lingering socket), and so delay fl_rdv_poll; it cannot
 * do more than that. That goes for visitors with the wrong uid, too: what they sent is closed with their connection.
 *
 * Threads: a struct fl_rdv belongs to one thread at a time; different ones are independent.
 */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "shmring/lane.h"

/* One end as its own process sees it. IPv4 addresses are stored v4-mapped (::ffff:a.b.c.d), so that an AF_INET6 socket
 * with a mapped address and its AF_INET peer agree. Ports are in network byte order. */
struct fl_tuple {
  struct in6_addr local, remote;
  in_port_t local_port, remote_port;
  uint8_t v4;      /* both addresses are IPv4 or v4-mapped */
  uint64_t cookie; /* SO_COOKIE of the local socket: which incarnation of these addresses; 0 not known */
  uint64_t netns;  /* SO_NETNS_COOKIE of the local socket: where its addresses mean something; 0 before 5.14 */
};

/* Reads the tuple of a connected AF_INET or AF_INET6 stream socket. 0, or -errno (ENOTCONN: not connected yet, or no
 * longer; EPROTONOSUPPORT: not a TCP socket, connected to itself, or one whose addresses do not name it alone: bound to
 * a device, or link-local). */
int fl_tuple_of(int fd, struct fl_tuple *t);

/*
 * Looks up the TCP socket at the other end (t reversed) in this network namespace. 0, its uid and inode; an inode of 0
 * says that no process has it yet (not accepted), and then the uid means nothing. -ENOENT: no such socket here, the
 * peer is on another host, in another namespace, or closed; -EXDEV: the socket belongs to another namespace than the
 * calling thread; -EOPNOTSUPP: sock_diag does not even show t's own socket (a kernel without tcp_diag, or a connection
 * that has just ended); other -errno: sock_diag is refused.
 */
int fl_peer_lookup(const struct fl_tuple *t, uid_t *uid, uint64_t *inode);

/* Does a uid name one user? In a user namespace that does not map every uid, all others look the same, "nobody", and
 * two of them must not be taken for one. 0, -EPERM, or the -errno of a system with no descriptor left for the question.
 */
int fl_uid_names_one(uid_t uid);

/* The abstract name (without the leading NUL) for the canonical tuple; returns its length, below 100. Both ends get the
 * same one. The name that is bound has "/" and 16 hexadecimal digits more: the sum of both sockets' cookies. */
size_t fl_rdv_name(const struct fl_tuple *t, char name[108]);

enum fl_rdv_result {
  FL_RDV_PAIRED,  /* *seg is mapped, end and ring_size are set; the caller owns the mapping */
  FL_RDV_WAIT,    /* listening: call fl_rdv_poll later */
  FL_RDV_RETRY,   /* nothing is held; worth another fl_rdv_start later (the other end was not yet listening, just gave
                     up, or has not been accepted; or the listener's backlog was full) */
  FL_RDV_REMOTE,  /* the peer is not in this network namespace, or closed: never try again */
  FL_RDV_REFUSED, /* wrong uid, foreign version, bad message, bad seals: never try again on this connection */
  FL_RDV_ERROR,   /* the system refuses (no descriptors, no memory, no sock_diag): r->error has the errno */
};

struct fl_rdv {
  int fd;               /* listening socket, -1 if none */
  int visitor;          /* accepted, has the right uid, but has not sent its message yet; -1 if none */
  int base_fd;          /* lowest number for the two above */
  int error;            /* errno of FL_RDV_ERROR, or of the (last) check behind another result, 0 if none */
  uid_t peer_uid;       /* as sock_diag reported it */
  uint32_t ring_size;   /* wanted; the side that creates the memfd decides */
  uint8_t bad;          /* visitors sent away */
  uint8_t patience;     /* polls that found the visitor silent */
  uint64_t peer_cookie; /* of the TCP socket at the other end */
  struct fl_tuple tuple;
};

struct fl_pairing {
  struct fl_segment *seg;
  size_t bytes;
  uint32_t ring_size;
  int end; /* for fl_attach */
};

/* Unmaps, if there is something, and forgets. */
void fl_pairing_drop(struct fl_pairing *p);

/*
 * Begins. *r is written whole; whatever it held before must have ended. ring_size must satisfy fl_ring_size_valid, and
 * t->cookie must be known (FL_RDV_ERROR with EINVAL if not). The creator of the segment is end 0. `base_fd` is the
 * lowest number that a kept descriptor gets if there is room above it. FL_RDV_WAIT keeps r->fd open until fl_rdv_poll
 * gives another result, or fl_rdv_abandon.
 *
 * FL_RDV_PAIRED from this function does not mean that the other end has taken its half: if it gives up first, the
 * segment is one whose receiver never leaves NATIVE, which is harmless.
 */
enum fl_rdv_result fl_rdv_start(struct fl_rdv *r, const struct fl_tuple *t, uint32_t ring_size, int base_fd,
                                struct fl_pairing *out);

/* After FL_RDV_WAIT: has somebody come? A visitor who fails the check is sent away and the wait goes on (at most a few
 * visitors per call). FL_RDV_WAIT, FL_RDV_PAIRED, FL_RDV_REFUSED (too many bad visitors), FL_RDV_REMOTE (a visitor
 * of another user came, and the TCP socket at the other end is gone) or FL_RDV_ERROR. Only after FL_RDV_WAIT is
 * anything held. */
enum fl_rdv_result fl_rdv_poll(struct fl_rdv *r, struct fl_pairing *out);

/* Gives up and closes the descriptors. Harmless if there are none, but a struct of zeros is not "none": its fd is 0. */
void fl_rdv_abandon(struct fl_rdv *r);
