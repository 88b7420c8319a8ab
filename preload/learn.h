/* SPDX-License-Identifier: MIT */
/*
 * preload/learn.h - how long connections of a service live, so that those which end soon do not pay for pairing.
 *
 * To pair costs as much as some tens of exchanges over TCP on one CPU. How long a connection will live nobody knows,
 * but those of one service resemble each other: while its connections end soon after they looked for their peer, the
 * next ones wait longer before they do. Both ends see the same, and come to the same answer. What is learnt belongs to
 * the fork family: a server that forks for each connection learns as well.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define FL_LEARN_MESSAGE_BYTES (6u << 10) /* so many bytes count as a message: a stream is worth it sooner */

/* Has a connection that waits for `after` messages carried enough to look for its peer? */
static inline bool fl_learn_enough(uint64_t messages, uint64_t bytes, uint64_t after) {
  return messages >= after || bytes >= after * FL_LEARN_MESSAGE_BYTES;
}

struct fl_conn;
struct fl_local;

/* After how many messages the connection of this descriptor looks for its peer. With a number in FASTLOCAL_PAIR_AFTER
 * it is that number. [any thread] */
uint32_t fl_learn_after(struct fl_local *l, int fd);

/* A connection ends: was it worth to look for its peer? The caller is the one who closes it. [any thread] */
void fl_learn_end(const struct fl_conn *c, const struct fl_local *l);
