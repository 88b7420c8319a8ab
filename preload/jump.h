/* SPDX-License-Identifier: MIT */
/*
 * preload/jump.h - what a call holds while it waits, for the case that a signal handler leaves it with longjmp.
 *
 * A wait that holds something registers it on its own stack. longjmp is interposed: what lies in the frames that a jump
 * leaves is let go. (On x86-64, where the target's stack pointer can be read from the buffer; elsewhere such a jump
 * leaves a connection on TCP.)
 */
#pragma once

#include "conn.h"

struct fl_held {
  struct fl_held *below;
  void (*release)(void *what); /* in the signal handler, before the jump: async-signal-safe */
  void *what;
};
extern FL_TLS struct fl_held *fl_held_top __attribute__((visibility("hidden")));

/* Signal fences: a handler on this thread is the only other reader. */
static inline void fl_hold(struct fl_held *h, void (*release)(void *what), void *what) {
  *h = (struct fl_held){fl_held_top, release, what};
  atomic_signal_fence(memory_order_seq_cst);
  fl_held_top = h;
  atomic_signal_fence(memory_order_seq_cst);
}
static inline void fl_let_go(struct fl_held *h) {
  atomic_signal_fence(memory_order_seq_cst);
  fl_held_top = h->below;
}

/* Holds until the end of the block, or until a cancellation leaves it. */
#define FL_HOLD(release, what) \
  struct fl_held fl_held_here __attribute__((cleanup(fl_let_go))); \
  fl_hold(&fl_held_here, release, what)
