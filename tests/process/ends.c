/* SPDX-License-Identifier: MIT */
/*
 * tests/process/ends.c - how a process ends, and what the far end of its connection sees.
 *
 *   ends HOW read|unread    HOW: _exit _Exit exit quick_exit return kill thread handler
 *   ends child unread       a forked child ends with bytes unread, which are then read by the parent
 *   ends close read|unread  close, for comparison
 *   ends helper unread      close after a helper, which could inherit the descriptor, has ended
 */
#include <pthread.h>

#include "common.h"

static void *end_thread(void *arg) {
  _exit(4);
  return arg;
}

static void on_signal(int sig) { _exit(6); }

/* Returns main's status. */
static int end(const char *how, int fd) {
  if (!strcmp(how, "_exit"))
    _exit(3);
  if (!strcmp(how, "_Exit"))
    _Exit(3);
  if (!strcmp(how, "exit"))
    exit(3);
  if (!strcmp(how, "quick_exit"))
    quick_exit(3);
  if (!strcmp(how, "kill"))
    kill(getpid(), SIGKILL);
  if (!strcmp(how, "thread")) {
    pthread_t t;
    pthread_create(&t, NULL, end_thread, NULL);
    for (;;)
      pause();
  }
  if (!strcmp(how, "handler")) {
    signal(SIGUSR1, on_signal);
    raise(SIGUSR1);
  }
  if (!strcmp(how, "helper") && system("true"))
    die("system");
  if (!strcmp(how, "close") || !strcmp(how, "helper"))
    close(fd);
  return 5;
}

int main(int argc, char **argv) {
  char buf[1000] = {0};
  int port, listener = listen_any(&port);

  if (argc != 3)
    return 2;
  struct far far = far_start(port, "echo", NULL);
  pid_t pid = fork(); /* before there is a connection: this process only watches */
  if (pid == 0) {
    int fd = accept_one(listener);
    close(listener);
    warm(fd);
    send_all(fd, buf, sizeof buf);
    wait_readable(fd);
    if (!strcmp(argv[2], "read"))
      recv_all(fd, buf, sizeof buf);
    if (!strcmp(argv[1], "child")) {
      pid_t inner = fork();
      if (inner == 0)
        exit(1);
      reap(inner, "inner");
      recv_all(fd, buf, sizeof buf);
      pingpong(fd, 100, 100, 1);
      exit(0);
    }
    return end(argv[1], fd);
  }
  close(listener);
  reap(pid, "process");
  far_finish(&far);
  return 0;
}
