/* SPDX-License-Identifier: MIT */
/* tools/top.c - `fastlocal top`: what programs move now, one row for each process, in all containers. */
#include <argp.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "commands.h"
#include "overview.h"
#include "registry/host.h"
#include "text.h"

#define ROWS_PLAIN 1000 /* where the output is no terminal */

struct arguments {
  const char *socket;
  double seconds;
  long rounds; /* 0: until it is stopped */
};

/* A process, and what it moved since the last look. */
struct moved {
  const struct overview_row *row;
  double ring, tcp; /* bytes in a second */
};

static volatile sig_atomic_t stopped;

static void stop(int signal) { stopped = 1; }

static error_t parse(int key, char *arg, struct argp_state *state) {
  struct arguments *a = state->input;
  char *end;

  switch (key) {
  case 's': a->socket = arg; return 0;
  case 'd':
    a->seconds = strtod(arg, &end);
    if (end == arg || *end != '\0' || !(a->seconds >= 0.05 && a->seconds <= 3600))
      argp_error(state, "'%s' is no number of seconds from 0.05 to 3600", arg);
    return 0;
  case 'n':
    a->rounds = strtol(arg, &end, 10);
    if (end == arg || *end != '\0' || a->rounds <= 0)
      argp_error(state, "'%s' is no number of rounds", arg);
    return 0;
  case ARGP_KEY_ARG: argp_usage(state); return EINVAL;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static int by_bytes(const void *a, const void *b) {
  const struct moved *x = a, *y = b;
  double p = x->ring + x->tcp, q = y->ring + y->tcp;

  return p != q ? (p < q) - (p > q) : (x->row->pid > y->row->pid) - (x->row->pid < y->row->pid);
}

static const struct overview_row *find(const struct overview *o, pid_t pid) {
  for (size_t i = 0; i < o->count; i++)
    if (o->rows[i].pid == pid)
      return &o->rows[i];
  return NULL;
}

/* Connections that were closed took their bytes along: then nothing is known of this interval. */
static double rate(uint64_t now, uint64_t before, double seconds) {
  return now > before ? (double)(now - before) / seconds : 0;
}

static size_t screen_rows(void) {
  struct winsize w;

  if (!isatty(STDOUT_FILENO) || ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) < 0 || w.ws_row < 5)
    return ROWS_PLAIN;
  return w.ws_row - 4u;
}

static void print_number(bool known, unsigned long long n) {
  if (known)
    printf(" %8llu", n);
  else
    printf(" %8s", "-");
}

static void print_rate(bool known, double bytes) {
  char text[16] = "-";

  if (known)
    format_bytes((uint64_t)bytes, text, sizeof(text));
  printf(" %8s", text);
}

static void print_row(const struct moved *m) {
  const struct overview_row *r = m->row;
  char process[32];

  snprintf(process, sizeof(process), "%.15s(%d)", r->name, (int)r->pid);
  printf("%-24s %-14.14s", process, r->container);
  print_number(r->readable, r->connections);
  print_number(r->readable, r->paired);
  print_rate(r->readable, m->ring);
  print_rate(r->readable, m->tcp);
  print_number(r->registered, r->waiting);
  print_number(r->registered, r->refused);
  putchar('\n');
}

static void print(const struct overview *o, const struct overview *before, double seconds) {
  struct moved *moved = calloc(o->count + 1, sizeof(*moved));
  size_t connections = 0, paired = 0, rows = screen_rows();
  double ring = 0, tcp = 0;
  char ring_text[16], tcp_text[16];

  if (!moved)
    return;
  for (size_t i = 0; i < o->count; i++) {
    const struct overview_row *r = &o->rows[i], *old = find(before, r->pid);
    moved[i].row = r;
    moved[i].ring = old ? rate(r->ring_bytes, old->ring_bytes, seconds) : 0;
    moved[i].tcp = old ? rate(r->tcp_bytes, old->tcp_bytes, seconds) : 0;
    connections += r->connections;
    paired += r->paired;
    ring += moved[i].ring;
    tcp += moved[i].tcp;
  }
  qsort(moved, o->count, sizeof(*moved), by_bytes);
  format_bytes((uint64_t)ring, ring_text, sizeof(ring_text));
  format_bytes((uint64_t)tcp, tcp_text, sizeof(tcp_text));
  if (isatty(STDOUT_FILENO))
    printf("\033[H\033[J");
  printf(
      "%zu processes, %zu connections, %zu paired; %s/s by rings, %s/s by TCP (each byte where it is sent and where it "
      "is received)%s\n\n",
      o->count, connections, paired, ring_text, tcp_text, o->daemon < 0 ? "; no fastlocald" : "");
  printf("%-24s %-14s %8s %8s %8s %8s %8s %8s\n", "PROCESS", "CONTAINER", "CONNS", "PAIRED", "RING/s", "TCP/s",
         "WAITING", "REFUSED");
  for (size_t i = 0; i < o->count && i < rows; i++)
    print_row(&moved[i]);
  free(moved);
  fflush(stdout);
}

static double now(void) {
  struct timespec t;

  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int cmd_top(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"socket", 's', "PATH", 0, "Where fastlocald gives its metrics [" FL_HOST_METRICS "]", 0},
      {"delay", 'd', "SECONDS", 0, "Between two looks [1]", 0},
      {"rounds", 'n', "NUMBER", 0, "End after so many looks", 0},
      {0},
  };
  static const struct argp argp = {
      .options = options,
      .parser = parse,
      .doc =
          "Shows, once a second, the processes of all containers that run with fastlocal, those first that move most."
          "\vRING/s and TCP/s are bytes in a second, both directions, by the rings and by TCP; WAITING are connections "
          "whose other end fastlocald has not heard of, REFUSED questions that it refused. \"-\": this user may not "
          "read "
          "the process, or fastlocald does not know it. As root on the host, all are seen.",
  };
  struct arguments a = {.socket = FL_HOST_METRICS, .seconds = 1};
  struct sigaction on_stop = {.sa_handler = stop};
  struct overview old, new;

  argp_parse(&argp, argc, argv, 0, NULL, &a);
  sigaction(SIGINT, &on_stop, NULL);
  sigaction(SIGTERM, &on_stop, NULL);
  double before = now();
  if (!overview_collect(a.socket, &old))
    return EXIT_FAILURE;
  overview_explain(argv[0], a.socket, &old);
  for (long round = 0; !stopped && (a.rounds == 0 || round < a.rounds); round++) {
    struct timespec pause = {(time_t)a.seconds, (long)((a.seconds - (double)(time_t)a.seconds) * 1e9)};
    nanosleep(&pause, NULL);
    double at = now();
    if (stopped || !overview_collect(a.socket, &new))
      break;
    print(&new, &old, at - before);
    overview_free(&old);
    old = new;
    before = at;
  }
  overview_free(&old);
  return ferror(stdout) ? EXIT_FAILURE : EXIT_SUCCESS;
}
