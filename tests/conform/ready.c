/* SPDX-License-Identifier: MIT */
/* tests/conform/ready.c - what poll, select and epoll say. */
#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "groups.h"
#include "states.h"
#include "waits.h"

static const uint32_t triggers[] = {0, EPOLLET, EPOLLONESHOT, EPOLLET | EPOLLONESHOT, EPOLLEXCLUSIVE};
#define TRIGGER_NAMES "level", "EPOLLET", "EPOLLONESHOT", "EPOLLET+EPOLLONESHOT", "EPOLLEXCLUSIVE"

static const uint32_t interests[] = {EPOLLIN,
                                     EPOLLOUT,
                                     EPOLLIN | EPOLLOUT,
                                     EPOLLRDHUP,
                                     EPOLLIN | EPOLLRDHUP,
                                     EPOLLPRI,
                                     EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLRDNORM | EPOLLWRNORM |
                                         EPOLLRDBAND,
                                     0};
#define INTEREST_NAMES "IN", "OUT", "IN+OUT", "RDHUP", "IN+RDHUP", "PRI", "all", "nothing"

static bool interest_fits(int wait, int trigger, int interest) {
  if (trigger && !by_epoll((enum wait_call)wait))
    return false;
  if (by_select((enum wait_call)wait) && (interests[interest] & ~(uint32_t)(EPOLLIN | EPOLLOUT | EPOLLPRI)))
    return false;
  /* the kernel allows no other interest beside it */
  return triggers[trigger] != EPOLLEXCLUSIVE || !(interests[interest] & ~(uint32_t)(EPOLLIN | EPOLLOUT));
}

/* ---- what is there already ---- */

enum { W_CALL, W_TRIGGER, W_INTEREST, W_STATE, W_SINCE, W_BESIDE, W_TIMEOUT };
enum { BEFORE, AFTER };
enum { NOTHING, IDLE_PIPE, FULL_PIPE };

static bool ready_skip(const int *v) {
  return !interest_fits(v[W_CALL], v[W_TRIGGER], v[W_INTEREST]) ||
         (v[W_SINCE] == BEFORE && !by_epoll((enum wait_call)v[W_CALL])) ||
         (v[W_BESIDE] && (v[W_INTEREST] > 2 || v[W_TIMEOUT] > 1)) || (v[W_TIMEOUT] > 1 && v[W_INTEREST] > 2);
}

static void ready(const int *v) {
  static const long timeouts[] = {0, 300, 12000};
  enum state state = (enum state)v[W_STATE];
  enum end reader = (v[W_CALL] + v[W_STATE]) % 2 ? SERVER : CLIENT;
  uint32_t events = interests[v[W_INTEREST]] | triggers[v[W_TRIGGER]];
  struct waiting w;
  int p[2] = {-1, -1};
  char c[8];

  connect_ends(AF_INET);
  onto_ring();
  ON(reader) {
    wait_open(&w, (enum wait_call)v[W_CALL]);
    if (v[W_SINCE] == BEFORE) {
      wait_add(&w, run.fd, events);
      do_wait(&w, "before", 0, NULL);
    }
  }
  make_state(state, reader);
  ON(reader) {
    if (v[W_SINCE] == AFTER)
      wait_add(&w, run.fd, events);
    if (v[W_BESIDE]) {
      if (pipe2(p, O_CLOEXEC))
        note("pipe");
      wait_add(&w, p[0], EPOLLIN);
    }
    if (v[W_BESIDE] == FULL_PIPE && write(p[1], "xyz", 3) != 3)
      note("pipe");
    uint64_t begin = clock_ms();
    do_wait(&w, "first", timeouts[v[W_TIMEOUT]], NULL);
    note_time("took", begin, 0);
    do_wait(&w, "again", 0, NULL);
    note_data("some", recv(run.fd, c, 5, MSG_DONTWAIT), c);
    do_wait(&w, "some read", 0, NULL);
    drain("rest");
    do_wait(&w, "all read", 0, NULL);
    if (v[W_TRIGGER] >= 2) {
      wait_change(&w, 0, events);
      do_wait(&w, "armed again", 0, NULL);
    }
  }
  if (state_alive(state)) {
    ON(OTHER(reader)) put(7);
    ON(reader) {
      await_bytes(7);
      do_wait(&w, "more", 0, NULL);
      do_wait(&w, "still more", 0, NULL);
      drain("more");
      do_wait(&w, "all read", 0, NULL);
    }
  }
  ON(reader) {
    wait_close(&w);
    close(p[0]);
    close(p[1]);
  }
  if (state_alive(state))
    talk();
}

const struct group ready_group = {
    .name = "ready",
    .what =
        "What poll, select and epoll say of each state of the stream, with each trigger, before and after it is read",
    .dims = {DIM("wait", WAIT_CALL_NAMES), DIM("trigger", TRIGGER_NAMES), DIM("interest", INTEREST_NAMES),
             DIM("state", STATE_NAMES), DIM("registered", "before", "after"),
             DIM("beside", "nothing", "idle-pipe", "readable-pipe"), DIM("timeout", "0", "0.3ms", "12ms")},
    .run = ready,
    .skip = ready_skip,
    .every = 12,
};

/* ---- what comes while it waits ---- */

enum { L_CALL, L_TRIGGER, L_INTEREST, L_COMES, L_WHEN, L_TIMEOUT };
enum { BYTES, KERNEL_BYTES, PIECES, A_FIN, A_CLOSE, A_RESET, BYTES_FIN };
#define COMES_NAMES "bytes", "kernel-bytes", "pieces-of-both", "fin", "close", "reset", "bytes+fin"

static bool later_skip(const int *v) {
  uint32_t interest = interests[v[L_INTEREST]];
  /* what it does not ask for does not wake it; what it asks for must not be there already */
  if (!interest_fits(v[L_CALL], v[L_TRIGGER], v[L_INTEREST]) || (interest & EPOLLOUT))
    return true;
  return !(interest & EPOLLIN) && (v[L_COMES] != A_RESET || by_select((enum wait_call)v[L_CALL])) &&
         !(v[L_COMES] >= A_FIN && (interest & EPOLLRDHUP));
}

static void come(int what) {
  struct linger none = {.l_onoff = 1, .l_linger = 0};

  switch (what) {
  case BYTES: put(10); return;
  case KERNEL_BYTES: put_kernel(10); return;
  case PIECES:
    put(10);
    put_kernel(10);
    put(10);
    return;
  case A_FIN: shutdown(run.fd, SHUT_WR); return;
  case A_CLOSE: close_fd(); return;
  case A_RESET:
    setsockopt(run.fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    close_fd();
    return;
  case BYTES_FIN:
    put(10);
    shutdown(run.fd, SHUT_WR);
    return;
  default: return;
  }
}

static void ready_later(const int *v) {
  enum end reader = (v[L_CALL] + v[L_COMES]) % 2 ? SERVER : CLIENT;
  struct waiting w;
  long timeout = v[L_TIMEOUT] ? 2000000 : FOREVER;
  bool ends = v[L_COMES] >= A_FIN && v[L_COMES] <= BYTES_FIN;

  connect_ends(AF_INET);
  onto_ring();
  for (int round = 0; round < 3; round++) { /* when it has slept once it may wait in another way */
    ON(reader) {
      if (round == 0) {
        wait_open(&w, (enum wait_call)v[L_CALL]);
        wait_add(&w, run.fd, interests[v[L_INTEREST]] | triggers[v[L_TRIGGER]]);
      } else if (v[L_TRIGGER] >= 2 && triggers[v[L_TRIGGER]] != EPOLLEXCLUSIVE) {
        wait_change(&w, 0, interests[v[L_INTEREST]] | triggers[v[L_TRIGGER]]);
      }
      release();
      /* of two things that come one after the other the first may be seen alone */
      if (v[L_COMES] == BYTES_FIN || v[L_COMES] == A_RESET || v[L_COMES] == A_CLOSE) {
        struct trace *t = &run.shared->trace[run.me];
        uint32_t length = t->length;
        long n = do_wait(&w, "woken", timeout, NULL);
        t->length = length;
        note_ret("woken", n);
      } else {
        do_wait(&w, "woken", timeout, NULL);
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
      if (ends)
        await_end();
      else
        await_bytes(v[L_COMES] == PIECES ? 30 : 10);
      drain("read");
      /* whether one edge or two were seen is luck */
      if (ends && v[L_COMES] != BYTES_FIN && triggers[v[L_TRIGGER]] != EPOLLET)
        do_wait(&w, "all read", 0, NULL);
    }
    if (ends)
      break;
  }
  ON(reader) wait_close(&w);
  if (!ends)
    talk();
}

const struct group ready_later_group = {
    .name = "ready-later",
    .what = "A wait that sleeps or spins, and what comes meanwhile, three times",
    .dims = {DIM("wait", WAIT_CALL_NAMES), DIM("trigger", TRIGGER_NAMES), DIM("interest", INTEREST_NAMES),
             DIM("comes", COMES_NAMES), DIM("when", "soon", "asleep"), DIM("timeout", "none", "2s")},
    .run = ready_later,
    .skip = later_skip,
    .every = 2,
};
