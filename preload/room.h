/* SPDX-License-Identifier: MIT */
/*
 * preload/room.h - how much memory the rings of this process may use, and when they give it back.
 *
 * A connection's small messages lie in the page of its control blocks, and the first page of its sending ring is free.
 * What the ring needs beyond that is asked for when it is full, and counted: of all connections of the process together
 * there are FASTLOCAL_MEMORY megabytes. A connection that is refused goes on with what it has, and sends the rest over
 * TCP. A ring that was read to its end, and into which nothing was sent for FL_ROOM_IDLE_NS, gives back all of its
 * pages; who looks for that is a thread that sleeps for the connection anyway, or another connection that needs the
 * memory.
 */
#pragma once

#include "conn.h"

#define FL_ROOM_IDLE_NS 100000000u

/* May this process map one segment more? Each is a mapping, of which the kernel allows 65,530 (vm.max_map_count); half
 * of them are left to the program. */
bool fl_room_for_mapping(void);

/* A segment was mapped, or unmapped, for a connection. */
void fl_room_mapped(int one);

/* Just paired, or given back, with tx_lock held: the ring is small. */
static inline void fl_room_begin(struct fl_conn *c) { c->tx.limit = c->tx.start + FL_PAGE; }

/* Is it the limit that keeps the ring from taking `more` bytes more? Then, if there is memory, the limit is raised, and
 * the result is true: try again. tx_lock held. */
bool fl_room_grow(struct fl_conn *c, size_t more);

/* Does the sending ring hold pages that it could give back when it is idle? A hint, if tx_lock is not held. */
static inline bool fl_room_held(const struct fl_conn *c) {
  return FL_UNLIKELY(c->tx.used > FL_WINDOW) && !c->tx.broken && fl_conn_usable(c);
}

/* Gives them back if it is idle. For a caller that has entered the connection, or holds a lock of it; does nothing if
 * tx_lock is taken. True if nothing is held any more. */
bool fl_room_shrink(struct fl_conn *c, uint64_t now);

/* The connection ends in this process: what it has is nobody's. */
void fl_room_gone(struct fl_local *l);
