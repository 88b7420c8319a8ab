/* SPDX-License-Identifier: MIT */
/*
 * bench/load.h - a closed-loop client: every connection has one request under way, and the next is sent when the reply
 * is complete. Used by every request-response program here.
 */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>

struct load {
  /* What to exchange: set by the program. The reply is always `expected`. */
  const char *address;
  const char *request;
  size_t request_len;
  const char *expected;
  size_t expected_len;

  /* How: the options of load_argp, whose input is this struct. Set the defaults with LOAD_DEFAULTS. */
  unsigned long connections;
  unsigned long exchanges; /* for each connection; 0: until the time is over */
  double duration;         /* seconds that are measured, after... */
  double warmup;           /* ...seconds that are not */
  int cpu;                 /* -1: any */
  bool epoll;              /* else blocking calls, and one connection */
  unsigned long reconnect; /* a new connection for every so many exchanges; 0: one for all */
  unsigned long idle;      /* with epoll: connections that are used before, and not any more */
  bool hold;               /* after the result, keep the idle connections until SIGTERM */
};

#define LOAD_DEFAULTS .connections = 1, .duration = 1, .warmup = 0.2, .cpu = -1

extern const struct argp load_argp;

/* Runs the load and prints one JSON object; ends the program when a connection fails or a reply is wrong. */
void load_run(const struct load *load);

#endif
