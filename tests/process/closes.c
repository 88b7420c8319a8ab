/* SPDX-License-Identifier: MIT */
/*
 * tests/process/closes.c - a thread closes a descriptor while another one uses it.
 *
 *   closes ROUNDS
 *
 * When both close it, one of them does, and the other one is told that there is none. Any other use succeeds or is told
 * that there is none.
 */
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/select.h>

#include "common.h"

static _Atomic int victim = -1; /* to be closed by both, once each; -2: the end */
static _Atomic int done, closed;

static void close_it(int fd) {
  if (close(fd) == 0)
    atomic_fetch_add(&closed, 1);
  else if (errno != EBADF)
    die("close");
}

static void *other(void *arg) {
  int fd;

  for (;;) {
    while ((fd = atomic_load(&victim)) == -1)
      sched_yield();
    if (fd == -2)
      return arg;
    close_it(fd);
    atomic_store(&victim, -1);
    atomic_store(&done, 1);
  }
}

static void both_close(int fd) {
  if (fd < 0)
    die("no descriptor");
  atomic_store(&closed, 0);
  atomic_store(&done, 0);
  atomic_store(&victim, fd);
  close_it(fd);
  while (!atomic_load(&done))
    sched_yield();
  if (atomic_load(&closed) != 1)
    die("closed %d times", atomic_load(&closed));
}

static int set; /* an epoll set */

static void use(int fd, unsigned how) {
  struct pollfd p = {fd, POLLIN, 0};
  struct epoll_event event = {EPOLLIN, {.fd = fd}};
  struct timeval none = {0, 0};
  fd_set fds;
  int r;

  switch (how % 4) {
  case 0:
    if ((r = dup(fd)) >= 0)
      close(r);
    break;
  case 1: r = poll(&p, 1, 0); break;
  case 2: r = epoll_ctl(set, EPOLL_CTL_ADD, fd, &event); break;
  default:
    FD_ZERO(&fds);
    FD_SET(fd, &fds);
    r = select(fd + 1, &fds, NULL, NULL, &none);
  }
  if (r < 0 && errno != EBADF && errno != EEXIST) /* a registration outlives its number while the file is open */
    die("use %u", how % 4);
}

/* The other thread closes fd meanwhile. */
static void use_closed(int fd, unsigned how) {
  if (fd < 0)
    die("no descriptor");
  atomic_store(&done, 0);
  atomic_store(&victim, fd);
  use(fd, how);
  while (!atomic_load(&done))
    sched_yield();
}

int main(int argc, char **argv) {
  struct far far;
  pthread_t thread;
  int rounds = argc > 1 ? atoi(argv[1]) : 1000, fd = echo_connection(&far, "sleeper");

  set = epoll_create1(0);

  pthread_create(&thread, NULL, other, NULL);
  for (int i = 0; i < rounds; i++) {
    both_close(dup(fd));
    both_close(epoll_create1(0));
    use_closed(dup(fd), (unsigned)i);
    use_closed(epoll_create1(0), (unsigned)i);
  }
  atomic_store(&victim, -2);
  pthread_join(thread, NULL);
  close(set);
  close(fd);
  waitpid(far.pid, NULL, 0);
  say("closed\n");
  return 0;
}
