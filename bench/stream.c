/* SPDX-License-Identifier: MIT */
/*
 * bench/stream.c - one way: one end writes for a while, the other reads to the end of the stream.
 *
 * Each end prints what it saw after the warm-up; the receiver's rate is the one that counts.
 */
#include <argp.h>
#include <err.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "process.h"
#include "sockets.h"

enum { READ_SIZE = 64 * 1024 };

struct arguments {
  const char *role, *address;
  unsigned long size;
  double duration, warmup;
  int cpu;
  bool reverse, nagle;
};

static const struct argp_option options[] = {
    {"size", 's', "BYTES", 0, "Length of a write (16384)", 0},
    {"duration", 't', "SECONDS", 0, "Measured time (1)", 0},
    {"warmup", 'w', "SECONDS", 0, "Time before it that is not measured (0.2)", 0},
    {"cpu", 'p', "CPU", 0, "Pin this process to one CPU", 0},
    {"reverse", 'r', NULL, 0, "The server sends; must be the same at both ends", 0},
    {"nagle", 'n', NULL, 0, "Do not set TCP_NODELAY", 0},
    {0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state) {
  struct arguments *a = state->input;
  switch (key) {
  case 's':
    a->size = process_parse_number(arg);
    if (a->size == 0)
      argp_error(state, "a write has at least one byte");
    return 0;
  case 't': a->duration = process_parse_seconds(arg); return 0;
  case 'w': a->warmup = process_parse_seconds(arg); return 0;
  case 'p': a->cpu = (int)process_parse_number(arg); return 0;
  case 'r': a->reverse = true; return 0;
  case 'n': a->nagle = true; return 0;
  case ARGP_KEY_ARG:
    if (state->arg_num == 0 && (strcmp(arg, "server") == 0 || strcmp(arg, "client") == 0))
      a->role = arg;
    else if (state->arg_num == 1)
      a->address = arg;
    else
      argp_usage(state);
    return 0;
  case ARGP_KEY_END:
    if (a->address == NULL)
      argp_usage(state);
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp argp = {
    .options = options,
    .parser = parse_option,
    .args_doc = "server|client ADDRESS",
    .doc =
        "One-way throughput over a stream socket; the client sends.\v"
        "ADDRESS is a port of 127.0.0.1, or IPv4:PORT (0: any; the server prints it) or a path that begins with '/'.",
};

/* What one end saw from the first operation after the warm-up. */
struct meter {
  uint64_t warm_ns, first_ns;
  double bytes, cpu_at_first;
};

static struct meter meter_open(const struct arguments *a) {
  return (struct meter){.warm_ns = process_now_ns() + (uint64_t)(a->warmup * 1e9)};
}

static void meter_add(struct meter *m, uint64_t now, ssize_t bytes) {
  if (m->first_ns != 0) {
    m->bytes += (double)bytes;
  } else if (now >= m->warm_ns) {
    m->first_ns = now;
    m->cpu_at_first = process_cpu_seconds();
  }
}

static void meter_print(const struct meter *m, const char *end) {
  double seconds = (double)(process_now_ns() - m->first_ns) / 1e9;
  if (m->bytes <= 0)
    errx(1, "nothing measured");
  printf("{\"end\": \"%s\", \"bytes\": %.0f, \"seconds\": %.6f, \"mb_per_second\": %.2f, "
         "\"cpu_ns_per_byte\": %.5f}\n",
         end, m->bytes, seconds, m->bytes / seconds / 1e6, (process_cpu_seconds() - m->cpu_at_first) * 1e9 / m->bytes);
  fflush(stdout);
}

/* Writes for the given time, then says so and waits until the other end has read it all. */
static void send_stream(const struct arguments *a, int fd) {
  char *buf = calloc(1, a->size);
  struct meter m = meter_open(a);
  uint64_t deadline = m.warm_ns + (uint64_t)(a->duration * 1e9);
  for (uint64_t now = process_now_ns(); now < deadline && !process_stopping; now = process_now_ns()) {
    if (!sock_write_full(fd, buf, a->size))
      err(1, "write");
    meter_add(&m, now, (ssize_t)a->size);
  }
  shutdown(fd, SHUT_WR);
  if (read(fd, buf, 1) != 0)
    err(1, "the other end did not close in order");
  meter_print(&m, "sender");
  free(buf);
}

static void receive_stream(const struct arguments *a, int fd) {
  char *buf = malloc(READ_SIZE);
  struct meter m = meter_open(a);
  for (;;) {
    ssize_t n = read(fd, buf, READ_SIZE);
    if (n < 0 && errno == EINTR && !process_stopping)
      continue;
    if (n < 0)
      err(1, "read");
    if (n == 0)
      break;
    meter_add(&m, process_now_ns(), n);
  }
  meter_print(&m, "receiver");
  free(buf);
}

static void serve(const struct arguments *a) {
  int listener = sock_listen(a->address);
  while (!process_stopping) {
    int fd = sock_accept(listener, a->nagle);
    if (fd < 0)
      continue;
    if (a->reverse)
      send_stream(a, fd);
    else
      receive_stream(a, fd);
    close(fd);
  }
  close(listener);
}

static void join(const struct arguments *a) {
  int fd = sock_connect(a->address, a->nagle);
  if (a->reverse)
    receive_stream(a, fd);
  else
    send_stream(a, fd);
  close(fd);
}

int main(int argc, char **argv) {
  struct arguments a = {.size = 16384, .duration = 1, .warmup = 0.2, .cpu = -1};
  argp_parse(&argp, argc, argv, 0, NULL, &a);
  process_handle_signals();
  process_pin(a.cpu);
  if (strcmp(a.role, "server") == 0)
    serve(&a);
  else
    join(&a);
  return 0;
}
