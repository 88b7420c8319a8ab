/* SPDX-License-Identifier: MIT */
/*
 * What the registry costs: medians in microseconds, of one process that plays both ends, so that no wake-up of another
 * CPU is in them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"

#define ROUNDS 4000

enum what { TUPLE, LOOKUP, MISS, START_WAIT, ABANDON, POLL_IDLE, START_PAIRED, POLL_PAIRED, WHATS };
static const char *const names[WHATS] = {
    "fl_tuple_of",    "fl_peer_lookup, found",    "fl_peer_lookup, not found", "fl_rdv_start that waits",
    "fl_rdv_abandon", "fl_rdv_poll, nobody came", "fl_rdv_start that pairs",   "fl_rdv_poll that pairs",
};
static double times[WHATS][ROUNDS];

static double now(void) {
  struct timespec t;

  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;

  return (x > y) - (x < y);
}

static void expect(bool ok, const char *what) {
  if (ok)
    return;
  fprintf(stderr, "unexpected result: %s\n", what);
  exit(1);
}

#define TIMED(what, call) \
  do { \
    double t0 = now(); \
    call; \
    times[what][i] = now() - t0; \
  } while (0)

int main(void) {
  struct ends e = tcp_pair(V4);
  struct fl_tuple c, s, miss;
  struct fl_rdv rc, rs;
  struct fl_pairing pc, ps;
  uint64_t inode;
  uid_t uid;

  fl_tuple_of(e.server, &s);
  for (int i = 0; i < ROUNDS; i++) {
    enum fl_rdv_result result = FL_RDV_ERROR;
    int rcode = 0;

    TIMED(TUPLE, rcode = fl_tuple_of(e.client, &c));
    expect(rcode == 0, names[TUPLE]);
    TIMED(LOOKUP, rcode = fl_peer_lookup(&c, &uid, &inode));
    expect(rcode == 0, names[LOOKUP]);
    miss = c;
    miss.remote.s6_addr[13] = 9;
    miss.cookie = 0;
    TIMED(MISS, rcode = fl_peer_lookup(&miss, &uid, &inode));
    expect(rcode < 0, names[MISS]);

    TIMED(START_WAIT, result = fl_rdv_start(&rc, &c, RING, BASE_FD, &pc));
    expect(result == FL_RDV_WAIT, names[START_WAIT]);
    TIMED(ABANDON, fl_rdv_abandon(&rc));

    fl_rdv_start(&rc, &c, RING, BASE_FD, &pc);
    TIMED(POLL_IDLE, result = fl_rdv_poll(&rc, &pc));
    expect(result == FL_RDV_WAIT, names[POLL_IDLE]);
    TIMED(START_PAIRED, result = fl_rdv_start(&rs, &s, RING, BASE_FD, &ps));
    expect(result == FL_RDV_PAIRED, names[START_PAIRED]);
    TIMED(POLL_PAIRED, result = fl_rdv_poll(&rc, &pc));
    expect(result == FL_RDV_PAIRED, names[POLL_PAIRED]);
    fl_pairing_drop(&ps);
    fl_pairing_drop(&pc);
  }
  for (int w = 0; w < WHATS; w++) {
    qsort(times[w], ROUNDS, sizeof(double), by_value);
    printf("%-28s median %7.2f us   p99 %7.2f us\n", names[w], times[w][ROUNDS / 2], times[w][ROUNDS * 99 / 100]);
  }
  return 0;
}
