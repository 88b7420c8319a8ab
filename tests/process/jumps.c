/* SPDX-License-Identifier: MIT */
/*
 * tests/process/jumps.c - a signal handler leaves a wait with siglongjmp, many times; the connection goes on.
 *
 *   jumps recv | poll | select | epoll | send | long
 *
 * long: the jump is made with longjmp, from a handler on a stack of its own.
 */
#include <setjmp.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/time.h>

#include "common.h"

static sigjmp_buf back;
static volatile int jumps;
static bool plain;

static void on_alarm(int sig) {
  (void)sig;
  jumps++;
  if (plain)
    longjmp(back, 1);
  siglongjmp(back, 1);
}

static int ep = -1;

static void wait_once(int fd, const char *how) {
  static char big[1 << 20];
  struct epoll_event e;
  char c;

  if (!strcmp(how, "poll")) {
    wait_readable(fd);
  } else if (!strcmp(how, "select")) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    select(fd + 1, &set, NULL, NULL, NULL);
  } else if (!strcmp(how, "epoll")) {
    epoll_wait(ep, &e, 1, -1);
  } else if (!strcmp(how, "send")) {
    for (;;) /* until the handler leaves it */
      if (send(fd, big, sizeof big, 0) < 0)
        die("send");
  } else if (recv(fd, &c, 1, 0) != -1) {
    die("recv");
  }
}

int main(int argc, char **argv) {
  struct far far;
  const char *how = argc == 2 ? argv[1] : "";
  struct itimerval timer = {.it_value.tv_usec = 700};
  static char stack[65536];
  stack_t own = {.ss_sp = stack, .ss_size = sizeof stack};
  struct sigaction act = {.sa_handler = on_alarm};
  int fd = echo_connection(&far, "echo");

  plain = !strcmp(how, "long");
  if (plain) {
    act.sa_flags = SA_ONSTACK | SA_NODEFER;
    sigaltstack(&own, NULL);
  }
  sigaction(SIGALRM, &act, NULL);
  if (!strcmp(how, "epoll")) {
    struct epoll_event e = {.events = EPOLLIN};
    ep = epoll_create1(0);
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
  }
  for (int i = 0; i < 200; i++) {
    timer.it_value.tv_usec = 20 + i * 17 % 3000; /* in the spin, and in the sleep */
    if (sigsetjmp(back, 1) == 0) {
      setitimer(ITIMER_REAL, &timer, NULL);
      wait_once(fd, how);
      die("nothing was there");
    }
    if (!strcmp(how, "send"))
      break; /* how much went out nobody knows */
    char out[64], in[64];
    memset(out, i, sizeof out);
    send_all(fd, out, sizeof out);
    if (ep >= 0) {
      struct epoll_event e;
      if (epoll_wait(ep, &e, 1, -1) != 1)
        die("epoll_wait");
    }
    recv_all(fd, in, sizeof in);
    if (memcmp(in, out, sizeof in))
      die("differs");
  }
  say("%d jumps\n", jumps);
  if (strcmp(how, "send")) {
    much(fd);
    close(fd);
    far_finish(&far);
  } else {
    kill(far.pid, SIGKILL);
    waitpid(far.pid, NULL, 0);
  }
  return 0;
}
