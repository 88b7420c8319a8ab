/* SPDX-License-Identifier: MIT */
/*
 * tests/cost/calls.c - the same few calls, over and over, both ends in one thread: nothing ever waits, so how many
 * instructions the library spends on each round does not depend on the machine. Plain sockets; knows nothing of the
 * library. Run by scripts/cost; `calls WHAT ROUNDS` by itself prints the nanoseconds of a round.
 */
#include <err.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define WARM 64 /* rounds before: connections pair, tables grow */

static int listener, epoll_fd, pipe_fds[2], client, server;
static struct sockaddr_in address;
static char message[65536];

static void check(bool ok, const char *what) {
  if (!ok)
    err(1, "%s", what);
}

static void write_all(int fd, size_t size) { check(write(fd, message, size) == (ssize_t)size, "write"); }

static void read_all(int fd, size_t size) {
  for (size_t n = 0; n < size;) {
    ssize_t got = read(fd, message + n, size - n);
    check(got > 0, "read");
    n += (size_t)got;
  }
}

static void listen_somewhere(void) {
  socklen_t len = sizeof address;

  address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  check(listener >= 0 && bind(listener, (struct sockaddr *)&address, len) == 0 && listen(listener, 16) == 0, "listen");
  check(getsockname(listener, (struct sockaddr *)&address, &len) == 0, "getsockname");
}

static void open_both(int flags) {
  int one = 1;

  client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  check(client >= 0 && connect(client, (struct sockaddr *)&address, sizeof address) == 0, "connect");
  check((server = accept4(listener, NULL, NULL, SOCK_CLOEXEC | flags)) >= 0, "accept");
  check(setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0, "TCP_NODELAY");
  check(setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0, "TCP_NODELAY");
}

static void exchange(size_t size) {
  write_all(client, size);
  read_all(server, size);
  write_all(server, size);
  read_all(client, size);
}

/* ---- what is measured ---- */

/* connect, accept, one exchange, close: what a client without keep-alive does */
static void round_connection(void) {
  open_both(0);
  exchange(1);
  check(close(client) == 0 && read(server, message, 1) == 0 && close(server) == 0, "close");
}

/* the same, at a server with an event loop */
static void round_event_loop(void) {
  struct epoll_event event = {.events = EPOLLIN};

  open_both(SOCK_NONBLOCK);
  event.data.fd = server;
  check(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, server, &event) == 0, "epoll_ctl");
  write_all(client, 1);
  check(epoll_wait(epoll_fd, &event, 1, -1) == 1, "epoll_wait");
  read_all(server, 1);
  write_all(server, 1);
  read_all(client, 1);
  check(close(client) == 0 && epoll_wait(epoll_fd, &event, 1, -1) == 1 && read(server, message, 1) == 0, "end of file");
  check(close(server) == 0, "close");
}

static void round_exchange_1(void) { exchange(1); }
static void round_exchange_64(void) { exchange(64); }
static void round_exchange_16k(void) { exchange(16384); }

static void round_exchange_epoll(void) {
  struct epoll_event event;

  write_all(client, 1);
  check(epoll_wait(epoll_fd, &event, 1, -1) == 1, "epoll_wait");
  read_all(server, 1);
  write_all(server, 1);
  read_all(client, 1);
}

static void round_pipe(void) {
  write_all(pipe_fds[1], 1);
  read_all(pipe_fds[0], 1);
}

static void round_poll_pipe(void) {
  struct pollfd p = {.fd = pipe_fds[1], .events = POLLOUT};
  check(poll(&p, 1, -1) == 1, "poll");
}

static void round_epoll_pipe(void) {
  struct epoll_event event;
  check(epoll_wait(epoll_fd, &event, 1, 0) == 1, "epoll_wait");
}

static void set_up_pair(void) {
  listen_somewhere();
  open_both(0);
}

static void set_up_epoll(void) {
  struct epoll_event event = {.events = EPOLLIN};

  listen_somewhere();
  open_both(SOCK_NONBLOCK);
  check((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) >= 0, "epoll_create1");
  check(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, server, &event) == 0, "epoll_ctl");
}

static void set_up_listener(void) {
  listen_somewhere();
  check((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) >= 0, "epoll_create1");
}

static void set_up_pipe(void) {
  struct epoll_event event = {.events = EPOLLOUT};

  check(pipe(pipe_fds) == 0 && (epoll_fd = epoll_create1(EPOLL_CLOEXEC)) >= 0, "pipe");
  check(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, pipe_fds[1], &event) == 0, "epoll_ctl");
}

static const struct what {
  const char *name;
  void (*set_up)(void), (*round)(void);
} whats[] = {
    {"connection", set_up_listener, round_connection},
    {"event-loop", set_up_listener, round_event_loop},
    {"exchange-1", set_up_pair, round_exchange_1},
    {"exchange-64", set_up_pair, round_exchange_64},
    {"exchange-16k", set_up_pair, round_exchange_16k},
    {"exchange-epoll", set_up_epoll, round_exchange_epoll},
    {"pipe", set_up_pipe, round_pipe},
    {"poll-pipe", set_up_pipe, round_poll_pipe},
    {"epoll-pipe", set_up_pipe, round_epoll_pipe},
};

static double now_ns(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

/* What is counted: everything that is called from here. */
__attribute__((noinline)) static void measured(void (*round)(void), unsigned long rounds) {
  for (unsigned long n = 0; n < rounds; n++)
    round();
}

int main(int argc, char **argv) {
  unsigned long rounds = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;

  for (size_t i = 0; argc == 3 && i < sizeof whats / sizeof whats[0]; i++) {
    if (strcmp(argv[1], whats[i].name) != 0)
      continue;
    whats[i].set_up();
    for (int n = 0; n < WARM; n++)
      whats[i].round();
    double begin = now_ns();
    measured(whats[i].round, rounds);
    printf("%.1f\n", rounds ? (now_ns() - begin) / (double)rounds : 0);
    return 0;
  }
  errx(2, "usage: calls WHAT ROUNDS");
}
