/* SPDX-License-Identifier: MIT */
/*
 * tests/process/common.h - a connection to a far end, and what the tests do with it.
 *
 * A test program listens, starts tests/process/far.c as the other end, and accepts. The far end sends back what it
 * gets, and says at the end what it has seen; that is printed by far_finish. What a program prints is the same on plain
 * TCP.
 */
#pragma once

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

__attribute__((noreturn, format(printf, 1, 2))) static inline void die(const char *format, ...) {
  va_list args;
  int saved = errno;

  va_start(args, format);
  dprintf(2, "%d: ", getpid());
  vdprintf(2, format, args);
  dprintf(2, " (%s)\n", strerror(saved));
  va_end(args);
  kill(0, SIGTERM); /* the whole group: nobody is to wait for us */
  _exit(99);
}

/* At once and whole, so that processes can take turns. */
__attribute__((format(printf, 1, 2))) static inline void say(const char *format, ...) {
  char line[512];
  va_list args;

  va_start(args, format);
  int n = vsnprintf(line, sizeof line, format, args);
  va_end(args);
  if (write(1, line, (size_t)n) != n)
    die("stdout");
}

/* ---- bytes ---- */

static inline void fill(unsigned char *p, size_t n, uint64_t seed) {
  uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;

  for (size_t i = 0; i < n; i++) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    p[i] = (unsigned char)x;
  }
}

static inline uint64_t hash(uint64_t h, const unsigned char *p, size_t n) { /* FNV-1a */
  for (size_t i = 0; i < n; i++)
    h = (h ^ p[i]) * 0x100000001b3u;
  return h;
}

static inline void send_all(int fd, const void *p, size_t n) {
  for (size_t done = 0; done < n;) {
    ssize_t k = send(fd, (const char *)p + done, n - done, MSG_NOSIGNAL);
    if (k < 0 && errno == EINTR)
      continue;
    if (k <= 0)
      die("send");
    done += (size_t)k;
  }
}

/* A reader that never sleeps: whether the bytes may go over the ring then depends on nothing but the library. */
static __thread bool awake;

static inline ssize_t recv_some(int fd, void *p, size_t n) {
  ssize_t k;

  if (!awake)
    return recv(fd, p, n, 0);
  while ((k = recv(fd, p, n, MSG_DONTWAIT)) < 0 && errno == EAGAIN)
    sched_yield();
  return k;
}

static inline void recv_all(int fd, void *p, size_t n) {
  for (size_t done = 0; done < n;) {
    ssize_t k = recv_some(fd, (char *)p + done, n - done);
    if (k < 0 && errno == EINTR)
      continue;
    if (k <= 0)
      die("recv: %zd of %zu bytes", k, n);
    done += (size_t)k;
  }
}

/* `messages` of `size` bytes there and back. */
static inline void pingpong(int fd, unsigned messages, size_t size, uint64_t seed) {
  unsigned char out[65536], in[65536];

  for (unsigned i = 0; i < messages; i++) {
    fill(out, size, seed + i);
    send_all(fd, out, size);
    recv_all(fd, in, size);
    if (memcmp(in, out, size) != 0)
      die("message %u differs", i);
  }
}

/* Enough for the two ends to find each other. */
static inline void warm(int fd) { pingpong(fd, 400, 64, 1); }

/* Much more than all that went before; both ends stay awake for it. */
#define MUCH 16384
static inline void much(int fd) {
  awake = true;
  pingpong(fd, 3000, MUCH, 2);
  awake = false;
}

/* ---- turns between processes ---- */

struct turn {
  int to_child[2], to_parent[2];
};

static inline void turn_init(struct turn *t) {
  if (pipe(t->to_child) || pipe(t->to_parent))
    die("pipe");
}
static inline void turn_give(const int pipe[2]) {
  if (write(pipe[1], "t", 1) != 1)
    die("turn");
}
static inline void turn_wait(const int pipe[2]) {
  char c;
  if (read(pipe[0], &c, 1) != 1)
    die("turn");
}

/* Waits for a child and says how it ended. */
static inline void reap(pid_t pid, const char *who) {
  int status;

  if (waitpid(pid, &status, 0) != pid)
    die("waitpid");
  if (WIFEXITED(status))
    say("%s: exit %d\n", who, WEXITSTATUS(status));
  else
    say("%s: signal %d\n", who, WTERMSIG(status));
}

/* ---- the far end ---- */

struct far {
  pid_t pid;
  int out;
};

static inline int listen_any(int *port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof a;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

  if (fd < 0 || bind(fd, (struct sockaddr *)&a, len) || listen(fd, 64) || getsockname(fd, (struct sockaddr *)&a, &len))
    die("listen");
  *port = ntohs(a.sin_port);
  return fd;
}

/* far MODE PORT [REST], see far.c. */
static inline struct far far_start(int port, const char *mode, const char *rest) {
  struct far f;
  int p[2];
  char path[4096], number[16], *slash;
  posix_spawn_file_actions_t actions;
  ssize_t n = readlink("/proc/self/exe", path, sizeof path - 8);

  if (n < 0 || pipe2(p, O_CLOEXEC))
    die("far");
  path[n] = 0;
  slash = strrchr(path, '/');
  strcpy(slash + 1, "far");
  snprintf(number, sizeof number, "%d", port);
  char *argv[] = {(char *)"far", (char *)mode, number, (char *)rest, NULL};
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, p[1], 1);
  if ((errno = posix_spawn(&f.pid, path, &actions, NULL, argv, environ)))
    die("%s", path);
  posix_spawn_file_actions_destroy(&actions);
  close(p[1]);
  f.out = p[0];
  return f;
}

/* Prints what the far end says until it ends. (It need not be a child of this process any more.) */
static inline void far_finish(struct far *f) {
  char buf[4096];
  ssize_t n;

  while ((n = read(f->out, buf, sizeof buf)) > 0)
    if (write(1, buf, (size_t)n) != n)
      die("stdout");
  close(f->out);
  waitpid(f->pid, NULL, 0);
}

static inline int accept_one(int listener) {
  int fd = accept(listener, NULL, NULL);

  if (fd < 0)
    die("accept");
  return fd;
}

/* A connection to a far end that echoes (see far.c for the modes), in use for a while already. */
static inline int echo_connection(struct far *f, const char *mode) {
  int port, listener = listen_any(&port);

  *f = far_start(port, mode, NULL);
  int fd = accept_one(listener);
  close(listener);
  warm(fd);
  return fd;
}

/* Bytes for us are there, and not read. */
static inline void wait_readable(int fd) {
  struct pollfd p = {.fd = fd, .events = POLLIN};

  while (poll(&p, 1, -1) != 1)
    ;
}

static inline void set_cloexec(int fd) {
  if (fcntl(fd, F_SETFD, FD_CLOEXEC))
    die("F_SETFD");
}
