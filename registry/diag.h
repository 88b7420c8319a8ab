/* SPDX-License-Identifier: MIT */
/* registry/diag.h - what the kernel says about a TCP socket, asked by its addresses. Private to the registry. */
#pragma once

#include "registry/embedded.h"

struct fl_diag {
  uid_t uid;       /* owner, in the caller's user namespace; means nothing if inode is 0 */
  uint64_t inode;  /* 0: no process holds a descriptor (not accepted yet, or closed) */
  uint64_t cookie; /* what SO_COOKIE gives its owner */
};

/* The socket whose local end is t->remote and whose remote end is t->local. 0, or -errno as fl_peer_lookup. */
int fl_diag_peer(const struct fl_tuple *t, struct fl_diag *d);
