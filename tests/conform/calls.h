/* SPDX-License-Identifier: MIT */
/* tests/conform/calls.h - every call that receives or sends, behind one interface, with all that it reports noted. */
#pragma once

#include <sys/uio.h>

#include "conform.h"

enum recv_call { READ, RECV, RECVFROM, RECVMSG, RECVMMSG, READV, PREADV2, RECV_CALLS };
#define RECV_CALL_NAMES "read", "recv", "recvfrom", "recvmsg", "recvmmsg", "readv", "preadv2"
enum send_call { WRITE, SEND, SENDTO, SENDMSG, SENDMMSG, WRITEV, PWRITEV2, SENDFILE, SPLICE, SEND_CALLS };
#define SEND_CALL_NAMES "write", "send", "sendto", "sendmsg", "sendmmsg", "writev", "pwritev2", "sendfile", "splice"

/* Do these calls take MSG_ flags, and more than one iovec? */
static inline bool recv_flags(enum recv_call c) { return c >= RECV && c <= RECVMMSG; }
static inline bool recv_vector(enum recv_call c) { return c >= RECVMSG; }
static inline bool send_flags(enum send_call c) { return c >= SEND && c <= SENDMMSG; }
static inline bool send_vector(enum send_call c) { return c >= SENDMSG && c <= PWRITEV2; }

/* How a buffer is cut into iovecs. */
enum shape { ONE, PIECES, EMPTY_ONES, MANY, TOO_MANY, SHAPES };
#define SHAPE_NAMES "one", "pieces", "empty-ones", "IOV_MAX", "beyond-IOV_MAX"

/* Receives up to n bytes into run.buf with a call; notes the result, the data, addresses, flags, control lengths and
 * whether anything behind the result was written to. */
long do_recv(enum recv_call call, int fd, size_t n, int flags, enum shape shape);

/* Sends the next n bytes of the pattern; counts those that went. */
long do_send(enum send_call call, int fd, size_t n, int flags, enum shape shape);
