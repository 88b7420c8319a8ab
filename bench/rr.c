/* SPDX-License-Identifier: MIT */
/*
 * bench/rr.c - request-response: the client sends SIZE bytes, the server sends the same SIZE bytes back.
 */
#include <argp.h>
#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "load.h"
#include "process.h"
#include "sockets.h"

struct arguments {
  struct load load;
  const char *role;
  unsigned long size;
};

static const struct argp_option options[] = {
    {"size", 's', "BYTES", 0, "Length of a request and of its reply (1); must be the same at both ends", 0},
    {0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state) {
  struct arguments *a = state->input;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->load; return 0;
  case 's':
    a->size = process_parse_number(arg);
    if (a->size == 0)
      argp_error(state, "a message has at least one byte");
    return 0;
  case ARGP_KEY_ARG:
    if (state->arg_num == 0 && (strcmp(arg, "server") == 0 || strcmp(arg, "client") == 0))
      a->role = arg;
    else if (state->arg_num == 1)
      a->load.address = arg;
    else
      argp_usage(state);
    return 0;
  case ARGP_KEY_END:
    if (a->load.address == NULL)
      argp_usage(state);
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp_child children[] = {{.argp = &load_argp}, {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse_option,
    .args_doc = "server|client ADDRESS",
    .doc =
        "Request-response over a stream socket.\v"
        "ADDRESS is a port of 127.0.0.1, or IPv4:PORT (0: any; the server prints it) or a path that begins with '/'. "
        "The server heeds --size, --cpu and --epoll.",
    .children = children,
};

/* ---- blocking server: one connection after the other ---- */

static unsigned long serve_blocking(int listener, size_t size) {
  char *message = malloc(size);
  unsigned long served = 0;
  while (!process_stopping) {
    int fd = sock_accept(listener, false);
    if (fd < 0)
      continue;
    while (sock_read_full(fd, message, size) && sock_write_full(fd, message, size))
      served++;
    close(fd);
  }
  free(message);
  return served;
}

/* ---- epoll server ---- */

struct connection {
  int fd;
  size_t received; /* of this request */
  size_t sent;     /* of its reply */
  char message[];
};

static void watch(int epoll_fd, int op, struct connection *c, uint32_t events) {
  struct epoll_event event = {.events = events, .data.ptr = c};
  if (epoll_ctl(epoll_fd, op, c->fd, &event) < 0)
    err(1, "epoll_ctl");
}

static void accept_one(int epoll_fd, int listener, size_t size) {
  int fd = sock_accept(listener, false);
  if (fd < 0)
    return;
  struct connection *c = calloc(1, sizeof *c + size);
  c->fd = fd;
  sock_set_nonblocking(fd);
  watch(epoll_fd, EPOLL_CTL_ADD, c, EPOLLIN);
}

/* Sends what is left of the reply. False: the connection is dead. */
static bool send_reply(int epoll_fd, struct connection *c, size_t size, bool was_full) {
  ssize_t n = write(c->fd, c->message + c->sent, size - c->sent);
  if (n < 0 && errno != EAGAIN)
    return false;
  c->sent += n > 0 ? (size_t)n : 0;
  bool full = c->sent < size;
  if (full != was_full)
    watch(epoll_fd, EPOLL_CTL_MOD, c, full ? EPOLLOUT : EPOLLIN);
  if (!full)
    c->received = c->sent = 0;
  return true;
}

/* False: the connection is over. */
static bool on_event(int epoll_fd, struct connection *c, size_t size, uint32_t events, unsigned long *served) {
  if (c->received == size)
    return send_reply(epoll_fd, c, size, true);
  ssize_t n = read(c->fd, c->message + c->received, size - c->received);
  if (n < 0 && errno == EAGAIN)
    return true;
  if (n <= 0)
    return false;
  c->received += (size_t)n;
  if (c->received < size)
    return true;
  ++*served;
  return send_reply(epoll_fd, c, size, false);
}

static unsigned long serve_epoll(int listener, size_t size) {
  int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  struct connection accepting = {.fd = listener};
  sock_set_nonblocking(listener);
  watch(epoll_fd, EPOLL_CTL_ADD, &accepting, EPOLLIN);

  unsigned long served = 0;
  while (!process_stopping) {
    struct epoll_event events[64];
    int n = epoll_wait(epoll_fd, events, 64, -1);
    for (int i = 0; i < n; i++) {
      struct connection *c = events[i].data.ptr;
      if (c == &accepting) {
        accept_one(epoll_fd, listener, size);
      } else if (!on_event(epoll_fd, c, size, events[i].events, &served)) {
        close(c->fd);
        free(c);
      }
    }
  }
  close(epoll_fd);
  return served;
}

static void serve(const struct arguments *a) {
  process_handle_signals();
  process_pin(a->load.cpu);
  process_many_descriptors();
  int listener = sock_listen(a->load.address);
  double cpu = process_cpu_seconds();
  unsigned long served = a->load.epoll ? serve_epoll(listener, a->size) : serve_blocking(listener, a->size);
  close(listener);
  cpu = process_cpu_seconds() - cpu;
  printf("{\"transactions\": %lu, \"cpu_us\": %.4f}\n", served, served ? cpu * 1e6 / (double)served : 0);
}

static void request(struct arguments *a) {
  char *message = malloc(a->size);
  for (size_t i = 0; i < a->size; i++)
    message[i] = (char)(i * 7 + i / 256);
  a->load.request = a->load.expected = message;
  a->load.request_len = a->load.expected_len = a->size;
  load_run(&a->load);
  free(message);
}

int main(int argc, char **argv) {
  struct arguments a = {.load = {LOAD_DEFAULTS}, .size = 1};
  argp_parse(&argp, argc, argv, 0, NULL, &a);
  if (strcmp(a.role, "server") == 0)
    serve(&a);
  else
    request(&a);
  return 0;
}
