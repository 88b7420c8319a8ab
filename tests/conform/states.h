/* SPDX-License-Identifier: MIT */
/* tests/conform/states.h - what can lie in a stream, and how it can have ended, before a call is made. */
#pragma once

#include "conform.h"

enum state {
  EMPTY,
  SOME,
  MESSAGES,
  ON_KERNEL,
  BOTH_LANES,
  LANES_IN_TURN,
  BIG,
  FIN,
  SOME_FIN,
  CLOSED,
  SOME_CLOSED,
  RESET,
  SOME_RESET,
  SHUT_READING,
  SOME_SHUT_READING,
  STATES
};
#define STATE_NAMES \
  "empty", "some", "messages", "kernel-lane", "both-lanes", "lanes-in-turn", "big", "fin", "some+fin", "closed", \
      "some+closed", "reset", "some+reset", "shut-rd", "some+shut-rd"

#define BIG_BYTES 50000

/* Bytes that lie there for the reader. */
size_t state_bytes(enum state s);
/* No more will come: a receive does not block. */
static inline bool state_ended(enum state s) { return s >= FIN; }
/* The other end can still send. */
static inline bool state_alive(enum state s) { return s < FIN; }

/* Steps: brings the stream to `reader` into a state, as the reader sees it. */
void make_state(enum state s, enum end reader);
