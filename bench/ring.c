/* SPDX-License-Identifier: MIT */
/*
 * bench/ring.c - the limit: the messages of bench/rr.c and bench/stream.c, moved by shmring alone. Two processes share
 * one segment and do nothing but look at it: no sockets, no locks, no waiting policy, no other lane.
 */
#include <argp.h>
#include <err.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "histogram.h"
#include "process.h"
#include "shmring/fast.h"

enum { READ_SIZE = 64 * 1024 }; /* as bench/stream.c */

struct arguments {
  const char *what;
  unsigned long size, ring;
  double duration, warmup;
  int cpu[2];
};

static const struct argp_option options[] = {
    {"size", 's', "BYTES", 0, "Length of a message (1)", 0},
    {"ring", 'r', "BYTES", 0, "Size of a ring (262144)", 0},
    {"duration", 't', "SECONDS", 0, "Measured time (1)", 0},
    {"warmup", 'w', "SECONDS", 0, "Time before it that is not measured (0.2)", 0},
    {"cpu", 'p', "CPU", 0, "Pin the end that sends first to one CPU", 0},
    {"peer-cpu", 'q', "CPU", 0, "Pin the other end", 0},
    {0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state) {
  struct arguments *a = state->input;
  switch (key) {
  case 's': a->size = process_parse_number(arg); return 0;
  case 'r': a->ring = process_parse_number(arg); return 0;
  case 't': a->duration = process_parse_seconds(arg); return 0;
  case 'w': a->warmup = process_parse_seconds(arg); return 0;
  case 'p': a->cpu[0] = (int)process_parse_number(arg); return 0;
  case 'q': a->cpu[1] = (int)process_parse_number(arg); return 0;
  case ARGP_KEY_ARG:
    if (state->arg_num != 0 || (strcmp(arg, "rr") != 0 && strcmp(arg, "stream") != 0))
      argp_usage(state);
    a->what = arg;
    return 0;
  case ARGP_KEY_END:
    if (a->what == NULL)
      argp_usage(state);
    if (a->size == 0 || !fl_ring_size_valid(a->ring))
      argp_error(state, "a size that cannot be");
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp argp = {
    .options = options,
    .parser = parse_option,
    .args_doc = "rr|stream",
    .doc = "Request-response, or one-way throughput, through a bare ring between two processes on two CPUs.",
};

struct end {
  struct fl_tx tx;
  struct fl_rx rx;
};

static void ring_write(struct end *e, const char *buf, size_t len) {
  struct iovec iov = {(char *)buf, len};
  if (fl_tx_push_fast(&e->tx, buf, len, 0))
    return;
  for (size_t done = 0, n; done < len; done += n)
    if (fl_tx_push(&e->tx, &iov, done, len - done, 0, &n) == FL_TX_BROKEN)
      errx(1, "broken");
}

/* At least one byte, unless the other end has said that no more will come: then 0. */
static size_t ring_read(struct end *e, char *buf, size_t len) {
  struct fl_span span[2];
  uint64_t need;
  size_t got = 0;
  while (got < len) {
    const unsigned char *from;
    size_t fast = fl_rx_peek_fast(&e->rx, 0, &from);
    if (fast) {
      fast = fast < len - got ? fast : len - got;
      memcpy(buf + got, from, fast);
      fl_rx_consume(&e->rx, fast);
      got += fast;
      continue;
    }
    enum fl_rx_result r = fl_rx_peek(&e->rx, 0, span, &need);
    if (r == FL_RX_EMPTY && (got > 0 || (fl_rx_flags(&e->rx) & FL_FLAG_FIN)))
      break;
    if (r == FL_RX_EMPTY) {
      fl_rx_publish(&e->rx); /* the sender may wait for room */
      continue;
    }
    if (r != FL_RX_RING)
      errx(1, "broken");
    size_t n = span[0].len < len - got ? span[0].len : len - got;
    memcpy(buf + got, span[0].base, n);
    fl_rx_consume(&e->rx, n);
    got += n;
  }
  return got;
}

static void ring_read_full(struct end *e, char *buf, size_t len) {
  for (size_t done = 0; done < len;) {
    size_t n = ring_read(e, buf + done, len - done);
    if (n == 0)
      exit(0); /* the other end has ended */
    done += n;
  }
}

static void rr_serve(const struct arguments *a, struct end *e) {
  char *message = malloc(a->size);
  for (;;) {
    ring_read_full(e, message, a->size);
    ring_write(e, message, a->size);
  }
}

static void rr_ask(const struct arguments *a, struct end *e) {
  char *message = calloc(1, a->size), *reply = malloc(a->size);
  struct histogram *latency = calloc(1, sizeof *latency);
  uint64_t began = process_now_ns(), warm = began + (uint64_t)(a->warmup * 1e9), first = 0,
           deadline = warm + (uint64_t)(a->duration * 1e9);
  while (began < deadline) {
    ring_write(e, message, a->size);
    ring_read_full(e, reply, a->size);
    uint64_t ended = process_now_ns();
    if (first)
      histogram_add(latency, ended - began);
    else if (ended >= warm)
      first = ended;
    began = ended;
  }
  if (latency->count == 0)
    errx(1, "nothing measured");
  printf("{\"per_second\": %.1f, \"p50_us\": %.3f, \"p99_us\": %.3f, \"p999_us\": %.3f}\n",
         (double)latency->count * 1e9 / (double)(began - first), histogram_quantile(latency, 0.5) / 1e3,
         histogram_quantile(latency, 0.99) / 1e3, histogram_quantile(latency, 0.999) / 1e3);
}

static void stream_send(const struct arguments *a, struct end *e) {
  char *buf = calloc(1, a->size);
  uint64_t deadline = process_now_ns() + (uint64_t)((a->warmup + a->duration) * 1e9);
  while (process_now_ns() < deadline)
    ring_write(e, buf, a->size);
}

static void stream_receive(const struct arguments *a, struct end *e) {
  char *buf = malloc(READ_SIZE);
  uint64_t warm = process_now_ns() + (uint64_t)(a->warmup * 1e9), first = 0, now = 0;
  double bytes = 0;
  for (size_t n; (n = ring_read(e, buf, READ_SIZE)) > 0;) {
    now = process_now_ns();
    if (first)
      bytes += (double)n;
    else if (now >= warm)
      first = now;
  }
  if (bytes <= 0)
    errx(1, "nothing measured");
  printf("{\"mb_per_second\": %.2f}\n", bytes * 1e3 / (double)(now - first));
}

int main(int argc, char **argv) {
  struct arguments a = {.size = 1, .ring = 4 << 20, .duration = 1, .warmup = 0.2, .cpu = {-1, -1}};
  argp_parse(&argp, argc, argv, 0, NULL, &a);
  bool stream = strcmp(a.what, "stream") == 0;
  void *base =
      mmap(NULL, fl_segment_bytes((uint32_t)a.ring), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED)
    err(1, "mmap");
  struct fl_segment *segment = fl_segment_init(base, (uint32_t)a.ring);

  pid_t child = fork();
  if (child < 0)
    err(1, "fork");
  struct end e;
  process_pin(a.cpu[child == 0]);
  fl_attach(segment, (uint32_t)a.ring, child == 0, &e.tx, &e.rx);
  fl_rx_watch(&e.rx);
  if (child == 0) {
    (stream ? stream_receive : rr_serve)(&a, &e);
    return 0;
  }
  (stream ? stream_send : rr_ask)(&a, &e);
  fl_tx_flag(&e.tx, FL_FLAG_FIN);
  int status;
  if (waitpid(child, &status, 0) < 0 || status != 0)
    errx(1, "the other end failed");
  return 0;
}
