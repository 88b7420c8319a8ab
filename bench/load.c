/* SPDX-License-Identifier: MIT */
#include "load.h"

#include <err.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "histogram.h"
#include "process.h"
#include "sockets.h"

/* Comparing each large reply would measure memcmp, so the whole reply is checked once in so many. */
enum { CHECK_EVERY = 256, MAX_EVENTS = 64, IDLE_EXCHANGES = 24 };

static const struct argp_option options[] = {
    {"connections", 'c', "N", 0, "Connections, each with one request under way (1)", 0},
    {"exchanges", 'n', "N", 0, "Stop each connection after N exchanges (0: when the time is over)", 0},
    {"duration", 't', "SECONDS", 0, "Measured time (1)", 0},
    {"warmup", 'w', "SECONDS", 0, "Time before it that is not measured (0.2)", 0},
    {"cpu", 'p', "CPU", 0, "Pin this process to one CPU", 0},
    {"epoll", 'e', NULL, 0, "Non-blocking sockets and epoll (level-triggered), instead of blocking calls", 0},
    {"idle", 'i', "N", 0, "With --epoll: N more connections, which are used for a moment before (0)", 0},
    {"reconnect", 'r', "N", 0, "A new connection for every N exchanges", 0},
    {"hold", 'h', NULL, 0, "Keep the idle connections open until SIGTERM", 0},
    {0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state) {
  struct load *load = state->input;
  switch (key) {
  case 'c': load->connections = process_parse_number(arg); return 0;
  case 'n': load->exchanges = process_parse_number(arg); return 0;
  case 't': load->duration = process_parse_seconds(arg); return 0;
  case 'w': load->warmup = process_parse_seconds(arg); return 0;
  case 'p': load->cpu = (int)process_parse_number(arg); return 0;
  case 'e': load->epoll = true; return 0;
  case 'i': load->idle = process_parse_number(arg); return 0;
  case 'r': load->reconnect = process_parse_number(arg); return 0;
  case 'h': load->hold = true; return 0;
  case ARGP_KEY_END:
    if (load->connections < 1 || (load->connections > 1 && !load->epoll))
      argp_error(state, "several connections need --epoll");
    if (load->idle && !load->epoll)
      argp_error(state, "idle connections need --epoll");
    if (load->reconnect && load->epoll)
      argp_error(state, "--reconnect is for blocking calls");
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

const struct argp load_argp = {.options = options, .parser = parse_option};

/* The measured part of a run. */
struct window {
  uint64_t warm_ns;     /* measuring begins with the first exchange that ends after this... */
  uint64_t deadline_ns; /* ...and no exchange begins after this */
  uint64_t first_ns, last_ns;
  double cpu_at_first;
  struct histogram latency;
};

static struct window window_open(const struct load *load) {
  uint64_t now = process_now_ns();
  uint64_t warm = now + (uint64_t)(load->warmup * 1e9);
  return (struct window){.warm_ns = warm, .deadline_ns = warm + (uint64_t)(load->duration * 1e9)};
}

static void window_record(struct window *w, uint64_t began, uint64_t ended) {
  if (ended < w->warm_ns)
    return;
  if (w->first_ns == 0) {
    w->first_ns = ended;
    w->cpu_at_first = process_cpu_seconds();
    return;
  }
  histogram_add(&w->latency, ended - began);
  w->last_ns = ended;
}

static void window_print(const struct window *w) {
  if (w->latency.count == 0)
    errx(1, "nothing measured");
  const struct histogram *h = &w->latency;
  double count = (double)h->count;
  double seconds = (double)(w->last_ns - w->first_ns) / 1e9;
  printf("{\"transactions\": %.0f, \"seconds\": %.6f, \"per_second\": %.1f, \"p50_us\": %.3f, \"p99_us\": %.3f, "
         "\"p999_us\": %.3f, \"cpu_us\": %.4f}\n",
         count, seconds, count / seconds, histogram_quantile(h, 0.5) / 1e3, histogram_quantile(h, 0.99) / 1e3,
         histogram_quantile(h, 0.999) / 1e3, (process_cpu_seconds() - w->cpu_at_first) * 1e6 / count);
  fflush(stdout);
}

static bool finished(const struct load *load, const struct window *w, uint64_t exchanges, uint64_t now) {
  return process_stopping || now >= w->deadline_ns || (load->exchanges != 0 && exchanges >= load->exchanges);
}

static void check_reply(const struct load *load, const char *reply, uint64_t exchanges) {
  if (exchanges % CHECK_EVERY == 0 && memcmp(reply, load->expected, load->expected_len) != 0)
    errx(1, "wrong reply");
}

static void hold_open(const struct load *load) {
  while (load->hold && !process_stopping)
    pause();
}

/* ---- blocking calls ---- */

static void exchange_blocking(const struct load *load, int fd, char *reply) {
  if (!sock_write_full(fd, load->request, load->request_len) || !sock_read_full(fd, reply, load->expected_len))
    err(1, "exchange");
}

static void run_blocking(const struct load *load) {
  char *reply = malloc(load->expected_len);
  int fd = load->reconnect ? -1 : sock_connect(load->address, false);
  struct window w = window_open(load);

  uint64_t began = process_now_ns();
  for (uint64_t n = 0; !finished(load, &w, n, began); n++) {
    if (load->reconnect && n % load->reconnect == 0) {
      if (fd >= 0)
        close(fd);
      fd = sock_connect(load->address, false);
    }
    exchange_blocking(load, fd, reply);
    /* One look at the clock for each exchange: it costs a tenth of the fastest ones. */
    uint64_t ended = process_now_ns();
    window_record(&w, began, ended);
    check_reply(load, reply, n);
    began = ended;
  }
  window_print(&w);
  hold_open(load);
  close(fd);
  free(reply);
}

/* ---- epoll ---- */

struct connection {
  int fd;
  bool want_out; /* registered for EPOLLOUT, too */
  size_t sent, received;
  uint64_t exchanges, began;
  char *reply;
};

struct loop {
  const struct load *load;
  struct window window;
  struct connection *connections;
  unsigned long active; /* connections that have an exchange under way */
  int epoll_fd;
};

static void watch(struct loop *loop, struct connection *c, int op) {
  struct epoll_event event = {.events = EPOLLIN | (c->want_out ? EPOLLOUT : 0U), .data.ptr = c};
  if (epoll_ctl(loop->epoll_fd, op, c->fd, &event) < 0)
    err(1, "epoll_ctl");
}

/* Sends what is left of the request; asks for EPOLLOUT only while the socket is full. */
static void send_request(struct loop *loop, struct connection *c) {
  const struct load *load = loop->load;
  while (c->sent < load->request_len) {
    ssize_t n = write(c->fd, load->request + c->sent, load->request_len - c->sent);
    if (n < 0 && errno != EAGAIN)
      err(1, "write");
    if (n < 0)
      break;
    c->sent += (size_t)n;
  }
  bool full = c->sent < load->request_len;
  if (full != c->want_out) {
    c->want_out = full;
    watch(loop, c, EPOLL_CTL_MOD);
  }
}

static void begin_exchange(struct loop *loop, struct connection *c, uint64_t now) {
  c->sent = c->received = 0;
  c->began = now;
  send_request(loop, c);
}

static void end_exchange(struct loop *loop, struct connection *c) {
  uint64_t now = process_now_ns();
  window_record(&loop->window, c->began, now);
  check_reply(loop->load, c->reply, c->exchanges++);
  if (finished(loop->load, &loop->window, c->exchanges, now))
    loop->active--;
  else
    begin_exchange(loop, c, now);
}

static void on_event(struct loop *loop, struct connection *c, uint32_t events) {
  if (events & EPOLLOUT)
    send_request(loop, c);
  if (!(events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
    return;
  ssize_t n = read(c->fd, c->reply + c->received, loop->load->expected_len - c->received);
  if (n < 0 && errno == EAGAIN)
    return;
  if (n <= 0)
    errx(1, "read: %s", n == 0 ? "end of stream" : strerror(errno));
  c->received += (size_t)n;
  if (c->received == loop->load->expected_len)
    end_exchange(loop, c);
}

static void open_connections(struct loop *loop) {
  for (unsigned long i = 0; i < loop->load->connections; i++) {
    struct connection *c = &loop->connections[i];
    *c = (struct connection){.fd = sock_connect(loop->load->address, false), .reply = malloc(loop->load->expected_len)};
    sock_set_nonblocking(c->fd);
    watch(loop, c, EPOLL_CTL_ADD);
  }
}

/* In the same set, and paired, where that is to be had. They end with the process. */
static void open_idle(struct loop *loop) {
  const struct load *load = loop->load;
  struct connection *idle = calloc(load->idle, sizeof *idle);
  char *reply = malloc(load->expected_len);
  for (unsigned long i = 0; i < load->idle; i++) {
    idle[i].fd = sock_connect(load->address, false);
    for (int n = 0; n < IDLE_EXCHANGES; n++)
      exchange_blocking(load, idle[i].fd, reply);
    sock_set_nonblocking(idle[i].fd);
    watch(loop, &idle[i], EPOLL_CTL_ADD);
  }
  free(reply);
}

static void run_epoll(const struct load *load) {
  struct loop loop = {.load = load, .epoll_fd = epoll_create1(EPOLL_CLOEXEC), .active = load->connections};
  loop.connections = calloc(load->connections, sizeof *loop.connections);
  if (load->idle)
    open_idle(&loop);
  open_connections(&loop);
  loop.window = window_open(load);
  for (unsigned long i = 0; i < load->connections; i++)
    begin_exchange(&loop, &loop.connections[i], process_now_ns());

  while (loop.active > 0) {
    struct epoll_event events[MAX_EVENTS];
    int n = epoll_wait(loop.epoll_fd, events, MAX_EVENTS, -1);
    if (n < 0 && (errno != EINTR || process_stopping))
      err(1, "epoll_wait");
    for (int i = 0; i < n; i++)
      on_event(&loop, events[i].data.ptr, events[i].events);
  }
  window_print(&loop.window);
  while (load->hold && !process_stopping) { /* as a program does that has nothing to do: it waits for all of them */
    struct epoll_event events[MAX_EVENTS];
    epoll_wait(loop.epoll_fd, events, MAX_EVENTS, -1);
  }
  for (unsigned long i = 0; i < load->connections; i++) {
    close(loop.connections[i].fd);
    free(loop.connections[i].reply);
  }
  free(loop.connections);
  close(loop.epoll_fd);
}

void load_run(const struct load *load) {
  process_handle_signals();
  process_pin(load->cpu);
  process_many_descriptors();
  if (load->epoll)
    run_epoll(load);
  else
    run_blocking(load);
}
