/* SPDX-License-Identifier: MIT */
/*
 * preload/io.h - sending and receiving on a followed connection, whatever the call was.
 *
 * Each exported function describes its call in a struct fl_io and gives the function that makes exactly that call
 * natively; fl_send and fl_recv choose the lane. Both return what the application is to see, with errno set on -1.
 */
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include "conn.h"
#include "mem.h"

struct fl_io;
typedef ssize_t (*fl_native)(int fd, const struct fl_io *io);

struct fl_io {
  fl_native native; /* makes the application's own call; a cancellation point */
  const struct iovec *iov;
  int iovcnt;
  size_t len;            /* sum of the iovecs */
  int flags;             /* MSG_* */
  struct msghdr *msg;    /* of recvmsg and sendmsg, else NULL */
  struct sockaddr *addr; /* of recvfrom, else NULL */
  socklen_t *addrlen;
  const struct sockaddr *to; /* of sendto */
  socklen_t tolen;
  size_t limit; /* size of the buffer for the fortified calls */
  bool plain;   /* read, readv, write, writev: a length of 0 returns 0 at once */
};

ssize_t fl_send(struct fl_conn *c, int fd, const struct fl_io *io);
ssize_t fl_recv(struct fl_conn *c, int fd, const struct fl_io *io);

/* The same for one buffer without addresses, on a connection that is paired (fast.c). */
struct fl_call {
  fl_native native;
  bool plain;
};
ssize_t fl_send_one(struct fl_conn *c, int fd, const void *buf, size_t n, int flags, const struct fl_call *call);
ssize_t fl_recv_one(struct fl_conn *c, int fd, void *buf, size_t n, int flags, const struct fl_call *call);

/* The same, once the lock is held, which is released on return, and the descriptor was found to be c's: a send that may
 * take the ring, and what is left of a receive that has `got` bytes. */
ssize_t fl_send_locked(struct fl_conn *c, int fd, const struct fl_io *io);
ssize_t fl_recv_locked(struct fl_conn *c, int fd, const struct fl_io *io, size_t got);

/* The same on a connection that has no ring (plain.c). False: it has, or is about to have, and nothing was done. */
bool fl_plain_send(struct fl_conn *c, int fd, const struct fl_io *io, ssize_t *n);
bool fl_plain_recv(struct fl_conn *c, int fd, const struct fl_io *io, ssize_t *n);

/* Sends n bytes that lie in a file (sendfile). Returns false if the kernel is to do it: the caller then makes the
 * native call between fl_send_enter and fl_send_end. */
bool fl_send_file(struct fl_conn *c, int fd, int in, off_t *offset, size_t n, ssize_t *result);

/* A native call that sends: between them the ring is not used for sending. `hint` bytes may be sent at most. False,
 * with errno: bytes that the receiver wants back come first, and there is no room for them. No lock held. */
bool fl_send_enter(struct fl_conn *c, int fd, size_t hint, int flags);
void fl_send_end(struct fl_conn *c, ssize_t sent);

/*
 * The receiver may want back what it has not read (fl_rx_recall): sends as much of that as TCP takes now. True if
 * nothing is owed any more. To be called before this end sleeps, or goes: nobody else can send these bytes. tx_lock
 * held.
 */
bool fl_send_back(struct fl_conn *c, int fd);

/* The same for a caller without locks (a set's is allowed) that has entered c, cheap if there is nothing to do. */
void fl_send_back_if_asked(struct fl_conn *c, int fd);

/* The same before an orderly end: waits a little for room. tx_lock held. */
void fl_send_back_last(struct fl_conn *c, int fd);

/* Before a native sleep of this end for c, entered: true if the other end has not read all that is in its ring. It may
 * then want it back, and cannot wake us: the sleep must be short (fl_nap_ns). */
bool fl_send_unread(const struct fl_conn *c);

/* Is TCP's buffer of c known to be empty, so that epoll would call it writable? Asks the kernel once after each native
 * send; fl_send_free does not ask. [any thread, c entered or its set locked] */
bool fl_send_drained(struct fl_conn *c, int fd);
static inline bool fl_send_free(struct fl_conn *c) {
  /* seq_cst on tx_busy: as in tx_usable; ktx is complete when 0 is seen */
  return fl_conn_usable(c) && atomic_load_explicit(&c->tx_busy, memory_order_seq_cst) == 0 &&
         atomic_load_explicit(&c->ktx_gone, memory_order_relaxed) ==
             atomic_load_explicit(&c->ktx, memory_order_relaxed) &&
         !atomic_load_explicit(&c->shut_wr, memory_order_relaxed) && !c->tx.broken;
}

/* How long such a sleep may last, the n-th in a row (from 0): nanoseconds. */
static inline uint64_t fl_nap_ns(unsigned n) { return 1000000u << (n < 6 ? n : 6); }

/*
 * Readiness for poll, select and epoll. fl_rx_ready: are ring bytes next in the stream (so that a read would not
 * block)? `seen` (for edge-triggered waiters; else NULL) is the head last reported: only newer bytes count, and *seen
 * is advanced when they do.
 */
bool fl_rx_ready(struct fl_conn *c, uint64_t *seen);

/* The peer says that it sent nothing on the kernel lane that is not consumed, and announced no end. A hint. */
bool fl_rx_quiet(const struct fl_conn *c);

/* Sum of the lengths, as far as one call goes, or -1 if the kernel is to say what is wrong with them. */
ssize_t fl_iov_len(const struct iovec *iov, int n);

/* Can all of this be read? What a hook looks into, and the call would not, is asked about first: an address that is bad
 * is the kernel's to refuse. */
static inline bool fl_addr_readable(const void *p, size_t n) { return FL_LIKELY(fl_mem_readable(p, n) == n); }
