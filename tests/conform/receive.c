/* SPDX-License-Identifier: MIT */
/* tests/conform/receive.c - what the calls that receive return. */
#include <errno.h>
#include <sys/ioctl.h>
#include <sys/time.h>

#include "calls.h"
#include "groups.h"
#include "states.h"

static const int flag_values[] = {0,
                                  MSG_PEEK,
                                  MSG_WAITALL,
                                  MSG_DONTWAIT,
                                  MSG_TRUNC,
                                  MSG_PEEK | MSG_TRUNC,
                                  MSG_PEEK | MSG_WAITALL,
                                  MSG_WAITALL | MSG_DONTWAIT,
                                  MSG_WAITALL | MSG_TRUNC,
                                  MSG_ERRQUEUE,
                                  MSG_NOSIGNAL | MSG_MORE,
                                  MSG_CMSG_CLOEXEC};
#define FLAG_NAMES \
  "0", "PEEK", "WAITALL", "DONTWAIT", "TRUNC", "PEEK+TRUNC", "PEEK+WAITALL", "WAITALL+DONTWAIT", "WAITALL+TRUNC", \
      "ERRQUEUE", "NOSIGNAL+MORE", "CMSG_CLOEXEC"

enum mode { BLOCKING, NONBLOCKING, TIMED };
#define MODE_NAMES "blocking", "O_NONBLOCK", "SO_RCVTIMEO"
#define TIMEOUT_MS 20

static const size_t sizes[] = {0, 1, 5, 10, 25, 200, 200000};
#define SIZE_NAMES "0", "1", "5", "10", "25", "200", "200000"

static void set_mode(enum mode m) {
  struct timeval t = {0, TIMEOUT_MS * 1000};

  if (m == NONBLOCKING)
    no_blocking(run.fd, true);
  if (m == TIMED)
    setsockopt(run.fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
}

static void note_pending(void) {
  int there = -1;

  note_ret("FIONREAD", ioctl(run.fd, FIONREAD, &there));
  note("  %d", there);
}

static void note_error(void) {
  int error = -1;
  socklen_t len = sizeof error;

  note_ret("SO_ERROR", getsockopt(run.fd, SOL_SOCKET, SO_ERROR, &error, &len));
  note("  %s", error_name(error));
}

/* ---- one call, with everything there already ---- */

enum { R_CALL, R_FLAGS, R_MODE, R_STATE, R_SIZE, R_SHAPE, R_FAMILY };

static bool would_block(const int *v) {
  size_t there = state_bytes((enum state)v[R_STATE]), wanted = sizes[v[R_SIZE]];
  int flags = flag_values[v[R_FLAGS]];

  if (state_ended((enum state)v[R_STATE]) || (flags & (MSG_DONTWAIT | MSG_ERRQUEUE)) || v[R_MODE] == NONBLOCKING)
    return false;
  if (wanted == 0 && !recv_flags((enum recv_call)v[R_CALL]))
    return false;
  return there == 0 || ((flags & MSG_WAITALL) && there < wanted);
}

static bool receive_skip(const int *v) {
  enum recv_call call = (enum recv_call)v[R_CALL];

  if ((v[R_FLAGS] && !recv_flags(call)) || (v[R_SHAPE] && (!recv_vector(call) || v[R_SIZE] == 0)))
    return true;
  if (v[R_MODE] == BLOCKING && would_block(v))
    return true;
  /* a dimension that the call does not know is varied with one value of the others */
  return (v[R_FAMILY] && (v[R_FLAGS] > 2 || v[R_SHAPE])) || (v[R_SHAPE] && v[R_FLAGS] > 2) ||
         (v[R_SHAPE] > EMPTY_ONES && v[R_MODE]);
}

static void receive(const int *v) {
  enum state state = (enum state)v[R_STATE];
  enum end reader = (v[R_CALL] + v[R_STATE] + v[R_SIZE]) % 2 ? SERVER : CLIENT;

  connect_ends(v[R_FAMILY] ? AF_INET6 : AF_INET);
  onto_ring();
  make_state(state, reader);
  ON(reader) {
    set_mode((enum mode)v[R_MODE]);
    uint64_t begin = clock_ms();
    long ret =
        do_recv((enum recv_call)v[R_CALL], run.fd, sizes[v[R_SIZE]], flag_values[v[R_FLAGS]], (enum shape)v[R_SHAPE]);
    note_time("took", begin, ret < 0 && v[R_MODE] == TIMED && would_block(v) ? TIMEOUT_MS : 0);
    note_pending();
    drain("rest");
    note_error();
    drain("after that");
  }
  if (state_alive(state)) {
    ON(reader) no_blocking(run.fd, false);
    talk();
  }
}

const struct group receive_group = {
    .name = "receive",
    .what = "What each call that receives returns, with each flag, for each state of the stream",
    .dims = {DIM("call", RECV_CALL_NAMES), DIM("flags", FLAG_NAMES), DIM("mode", MODE_NAMES), DIM("state", STATE_NAMES),
             DIM("size", SIZE_NAMES), DIM("buffer", SHAPE_NAMES), DIM("family", "IPv4", "IPv6")},
    .run = receive,
    .skip = receive_skip,
    .every = 16,
};

/* ---- a call that waits for what comes later ---- */

enum { L_CALL, L_FLAGS, L_MODE, L_COMES, L_SIZE, L_WHEN };
enum { BYTES, KERNEL_BYTES, PIECES_OF_BOTH, THEN_FIN, THEN_CLOSE, THEN_RESET, BYTES_FIN, BYTES_CLOSE };
#define COMES_NAMES "bytes", "kernel-bytes", "pieces-of-both", "fin", "close", "reset", "bytes+fin", "bytes+close"

static bool later_skip(const int *v) {
  enum recv_call call = (enum recv_call)v[L_CALL];
  int flags = flag_values[v[L_FLAGS]];

  if ((v[L_FLAGS] && !recv_flags(call)) || (flags & (MSG_DONTWAIT | MSG_ERRQUEUE)) || v[L_MODE] == NONBLOCKING ||
      v[L_SIZE] == 0)
    return true;
  if ((flags & MSG_WAITALL) && v[L_MODE] == TIMED && sizes[v[L_SIZE]] > 25)
    return true; /* they take as long as the timeout */
  /* it would wait for ever */
  return (flags & MSG_WAITALL) && v[L_MODE] == BLOCKING && v[L_COMES] <= PIECES_OF_BOTH &&
         sizes[v[L_SIZE]] > (v[L_COMES] == PIECES_OF_BOTH ? 30u : 10u);
}

static void come(int what) {
  switch (what) {
  case KERNEL_BYTES: put_kernel(10); return;
  case PIECES_OF_BOTH:
    put(10);
    put_kernel(10);
    put(10);
    return;
  case THEN_FIN: shutdown(run.fd, SHUT_WR); return;
  case THEN_CLOSE: close_fd(); return;
  case THEN_RESET: {
    struct linger none = {.l_onoff = 1, .l_linger = 0};
    setsockopt(run.fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    close_fd();
    return;
  }
  case BYTES_FIN:
    put(10);
    shutdown(run.fd, SHUT_WR);
    return;
  case BYTES_CLOSE:
    put(10);
    close_fd();
    return;
  default: put(10); return;
  }
}

static void receive_later(const int *v) {
  enum end reader = (v[L_CALL] + v[L_COMES]) % 2 ? SERVER : CLIENT;
  bool pieces = v[L_COMES] == PIECES_OF_BOTH;

  connect_ends(AF_INET);
  onto_ring();
  ON(reader) {
    int flags = flag_values[v[L_FLAGS]];
    if (v[L_MODE] == TIMED) {
      struct timeval t = {0, 300000};
      setsockopt(run.fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    }
    release();
    /* of several pieces a call may get the first alone, as on TCP: all together are the same */
    if (pieces && !(flags & MSG_WAITALL)) {
      static const struct timeval second = {1, 0};
      char c[64];
      long got = 0;
      setsockopt(run.fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
      while (got < 30) {
        long n = recv(run.fd, c + got, 30 - (size_t)got, 0);
        if (n <= 0)
          break;
        got += n;
      }
      note_data("all", got, c);
    } else {
      do_recv((enum recv_call)v[L_CALL], run.fd, sizes[v[L_SIZE]], flags, ONE);
    }
  }
  ON(OTHER(reader)) {
    if (v[L_WHEN])
      settle(reader);
    else
      pause_us(100);
    come(v[L_COMES]);
  }
  ON(reader) {
    if (v[L_COMES] >= THEN_FIN)
      await_end();
    note_pending();
    drain("rest");
    note_error();
  }
  if (v[L_COMES] <= PIECES_OF_BOTH)
    talk();
}

const struct group receive_later_group = {
    .name = "receive-later",
    .what = "A call that receives, and what comes while it waits",
    .dims = {DIM("call", RECV_CALL_NAMES), DIM("flags", FLAG_NAMES), DIM("mode", MODE_NAMES), DIM("comes", COMES_NAMES),
             DIM("size", SIZE_NAMES), DIM("when", "soon", "asleep")},
    .run = receive_later,
    .skip = later_skip,
    .every = 8,
};

/* ---- again and again: after some sleeps the receiver has a bell, and sleeps in another way ---- */

enum { A_CALL, A_MODE, A_LAST };
enum { NOTHING_COMES, LAST_FIN, LAST_RESET };

static bool again_skip(const int *v) {
  return v[A_MODE] == NONBLOCKING || (v[A_MODE] == BLOCKING && v[A_LAST] == NOTHING_COMES);
}

static void receive_again(const int *v) {
  static const struct timeval ample = {5, 0};
  enum end reader = (v[A_CALL] + v[A_LAST]) % 2 ? SERVER : CLIENT;

  connect_ends(AF_INET);
  onto_ring();
  if (v[A_MODE] == TIMED)
    ON(reader) setsockopt(run.fd, SOL_SOCKET, SO_RCVTIMEO, &ample, sizeof ample);
  for (int round = 0; round < 5; round++) {
    ON(reader) {
      release();
      do_recv((enum recv_call)v[A_CALL], run.fd, 25, 0, ONE);
    }
    ON(OTHER(reader)) {
      settle(reader);
      put(10);
    }
  }
  ON(reader) {
    uint64_t begin = clock_ms();
    if (v[A_MODE] == TIMED && v[A_LAST] == NOTHING_COMES)
      set_mode(TIMED);
    release();
    do_recv((enum recv_call)v[A_CALL], run.fd, 25, 0, ONE);
    if (v[A_LAST] == NOTHING_COMES)
      note_time("took", begin, TIMEOUT_MS);
  }
  ON(OTHER(reader)) {
    if (v[A_LAST] != NOTHING_COMES) {
      settle(reader);
      come(v[A_LAST] == LAST_FIN ? THEN_FIN : THEN_RESET);
    }
  }
  if (v[A_LAST] == NOTHING_COMES)
    talk();
}

const struct group receive_again_group = {
    .name = "receive-again",
    .what = "A call that sleeps until something comes, five times, and then until nothing comes or the end",
    .dims = {DIM("call", RECV_CALL_NAMES), DIM("mode", MODE_NAMES), DIM("last", "nothing", "fin", "reset")},
    .run = receive_again,
    .skip = again_skip,
    .every = 2,
};
