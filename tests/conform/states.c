/* SPDX-License-Identifier: MIT */
#include "states.h"

#include <unistd.h>

size_t state_bytes(enum state s) {
  switch (s) {
  case SOME:
  case ON_KERNEL:
  case SOME_FIN:
  case SOME_CLOSED:
  case SOME_RESET:
  case SOME_SHUT_READING: return 10;
  case MESSAGES: return 12;
  case BOTH_LANES: return 20;
  case LANES_IN_TURN: return 30;
  case BIG: return BIG_BYTES;
  default: return 0;
  }
}

static void send_bytes(enum state s) {
  switch (s) {
  case MESSAGES:
    put(3);
    put(4);
    put(5);
    return;
  case ON_KERNEL: put_kernel(10); return;
  case BOTH_LANES:
    put(10);
    put_kernel(10);
    return;
  case LANES_IN_TURN:
    put_kernel(10);
    put(10);
    put_kernel(10);
    return;
  default: put(state_bytes(s)); return;
  }
}

static void end_stream(enum state s) {
  struct linger none = {.l_onoff = 1, .l_linger = 0};

  if (s == FIN || s == SOME_FIN)
    shutdown(run.fd, SHUT_WR);
  if (s == RESET || s == SOME_RESET)
    setsockopt(run.fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
  if (s == CLOSED || s == SOME_CLOSED || s == RESET || s == SOME_RESET)
    close_fd();
}

void make_state(enum state s, enum end reader) {
  ON(OTHER(reader)) {
    if (state_bytes(s))
      send_bytes(s);
    end_stream(s);
  }
  ON(reader) {
    await_bytes(state_bytes(s));
    if (s >= FIN && s <= SOME_RESET)
      await_end();
    if (s == SHUT_READING || s == SOME_SHUT_READING)
      note_ret("shutdown", shutdown(run.fd, SHUT_RD));
  }
}
