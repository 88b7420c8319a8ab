/* SPDX-License-Identifier: MIT */
/* tests/conform/timing.c - timeouts do not end early, and not much too late, whatever happens meanwhile. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "calls.h"
#include "groups.h"
#include "waits.h"

enum { T_CALL, T_TIME, T_MEANWHILE, T_STATE };
enum { IN_RECV = WAIT_CALLS, IN_RECV_ALL, IN_SEND };
enum { QUIET, ANOTHER_IS_BUSY, PEER_NAPS };
enum { NOT_YET_ASLEEP, SLEPT_BEFORE, PINNED };

static const long times_us[] = {100, 700, 1000, 5000, 12000, 60000};

static uint64_t clock_us(void) {
  struct timespec t;

  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void verdict(const char *what, uint64_t begin, long wanted, long slack) {
  long took = (long)(clock_us() - begin);

  note("%s %s", what, took + slack < wanted ? "early" : took > wanted + 1000000 ? "late" : "in time");
}

/* The other messages of this process: a second connection that is in use all the time. */
static void *busy(void *arg) {
  int *fd = arg;
  char c[64];

  while (recv(*fd, c, sizeof c, MSG_DONTWAIT) != 0) {
  }
  return NULL;
}

static void one(const int *v) {
  long us = times_us[v[T_TIME]];
  struct timeval t = {us / 1000000, us % 1000000};
  struct waiting w;
  uint64_t begin;

  if (v[T_CALL] < WAIT_CALLS) {
    wait_open(&w, (enum wait_call)v[T_CALL]);
    wait_add(&w, run.fd, EPOLLIN);
    for (int i = 0; i < 3; i++) {
      begin = clock_us();
      do_wait(&w, "wait", us, NULL);
      verdict("  took", begin, us, 0);
    }
    wait_close(&w);
    return;
  }
  /* these count in ticks of up to 10 ms: from the last one on */
  setsockopt(run.fd, SOL_SOCKET, v[T_CALL] == IN_SEND ? SO_SNDTIMEO : SO_RCVTIMEO, &t, sizeof t);
  for (int i = 0; i < 3; i++) {
    begin = clock_us();
    if (v[T_CALL] == IN_SEND) {
      long n;
      while ((n = send(run.fd, run.buf, 300000, 0)) > 0) {
        run.shared->value[0] += n;
        begin = clock_us();
      }
      note_ret("send", n);
    } else {
      note_ret("recv", recv(run.fd, run.buf, 10, v[T_CALL] == IN_RECV_ALL ? MSG_WAITALL : 0));
    }
    verdict("  took", begin, us, 10000);
  }
  memset(&t, 0, sizeof t);
  setsockopt(run.fd, SOL_SOCKET, v[T_CALL] == IN_SEND ? SO_SNDTIMEO : SO_RCVTIMEO, &t, sizeof t);
}

static void timing(const int *v) {
  enum end me = v[T_CALL] % 2 ? SERVER : CLIENT;
  int first = -1;
  pthread_t thread;

  if (v[T_MEANWHILE] == ANOTHER_IS_BUSY) {
    connect_ends(AF_INET);
    onto_ring();
    first = run.fd;
    run.fd = -1;
  }
  connect_ends(AF_INET);
  onto_ring();
  if (v[T_STATE] == SLEPT_BEFORE) {
    ON(me) {
      release();
      note_ret("recv", recv(run.fd, run.buf, 1, 0));
    }
    ON(OTHER(me)) {
      settle(me);
      put(1);
    }
  }
  ON(me) {
    if (v[T_STATE] == PINNED) {
      set_int(run.fd, SOL_SOCKET, SO_RCVLOWAT, 2);
      set_int(run.fd, SOL_SOCKET, SO_RCVLOWAT, 1);
    }
    if (first >= 0)
      pthread_create(&thread, NULL, busy, &first);
    release();
    one(v);
    run.shared->value[1] = 1;
  }
  ON(OTHER(me)) {
    if (first >= 0)
      for (unsigned i = 0; !run.shared->value[1] && i < 100000; i++) {
        if (send(first, "b", 1, MSG_DONTWAIT | MSG_NOSIGNAL) != 1)
          pause_us(100);
        pause_us(20);
      }
    if (v[T_MEANWHILE] == PEER_NAPS)
      pause_us(3000);
    if (first >= 0)
      close(first);
  }
  ON(me) if (first >= 0) {
    pthread_join(thread, NULL);
    close(first);
  }
  if (v[T_CALL] == IN_SEND)
    ON(OTHER(me)) {
      int64_t got = 0;
      while (got < run.shared->value[0]) {
        await_bytes(1);
        long n = recv(run.fd, run.buf, BUF_BYTES, MSG_DONTWAIT);
        if (n <= 0)
          break;
        got += n;
      }
      note("what was sent %s", got == run.shared->value[0] ? "came" : "did not all come");
    }
  talk();
}

const struct group timing_group = {
    .name = "timing",
    .what =
        "Timeouts of each call end not early, and less than a second late: quiet, and with another connection in use",
    .dims = {DIM("call", WAIT_CALL_NAMES, "recv", "recv-WAITALL", "send"),
             DIM("timeout", "0.1ms", "0.7ms", "1ms", "5ms", "12ms", "60ms"),
             DIM("meanwhile", "quiet", "another-in-use", "peer-elsewhere"),
             DIM("state", "watching", "slept-before", "pinned")},
    .run = timing,
    .every = 6,
};
