/* SPDX-License-Identifier: MIT */
/*
 * registry/daemon/closing.c - closing what others passed.
 *
 * Whoever passes a descriptor and closes his own copy leaves the last one to us, and a close can take its time: a TCP
 * socket with SO_LINGER waits for its peer, a file on FUSE for its server. The first wait ends with a signal, so a
 * timer sends one while there is work; this covers the copies as well that the kernel closes for us, because they came
 * too many at once or were never received. What is neither a socket nor a timer is closed by a thread of its own.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "daemon.h"
#include "say.h"

#define GUARD_US 20000
#define THREADS_MAX 32
#define THREAD_STACK 65536

static _Atomic int threads; /* relaxed: only a count */

static void wake(int signal) {}

void closing_guard(bool on) {
  static bool installed, armed;
  struct itimerval t = {0};

  if (!installed) {
    struct sigaction a = {.sa_handler = wake}; /* no SA_RESTART: what waits shall return */
    sigaction(SIGALRM, &a, NULL);
    installed = true;
  }
  if (on == armed)
    return;
  if (on)
    t.it_value.tv_usec = t.it_interval.tv_usec = GUARD_US;
  setitimer(ITIMER_REAL, &t, NULL);
  armed = on;
}

static void *close_slowly(void *fd) {
  close((int)(intptr_t)fd);
  atomic_fetch_sub_explicit(&threads, 1, memory_order_relaxed);
  return NULL;
}

static void close_in_thread(int fd) {
  pthread_attr_t attr;
  pthread_t thread;
  sigset_t all, old;
  bool started;

  if (atomic_load_explicit(&threads, memory_order_relaxed) >= THREADS_MAX) {
    /* Somebody holds up all of them, on purpose. What is left open is bounded by our limit of descriptors; without any
     * left, nobody is let in, and connections stay on TCP. */
    say(SD_WARNING, "%d closes of passed files hang: a descriptor is left open", THREADS_MAX);
    return;
  }
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the loop's */
  pthread_attr_init(&attr);
  pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attr, THREAD_STACK);
  atomic_fetch_add_explicit(&threads, 1, memory_order_relaxed);
  started = pthread_create(&thread, &attr, close_slowly, (void *)(intptr_t)fd) == 0;
  pthread_attr_destroy(&attr);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (!started)
    close_slowly((void *)(intptr_t)fd);
}

bool passed_timer(int fd) {
  static const char want[] = "anon_inode:[timerfd]";
  char path[32], link[sizeof(want)] = "";

  snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  return readlink(path, link, sizeof(link)) == (ssize_t)sizeof(want) - 1 && memcmp(link, want, sizeof(want) - 1) == 0;
}

void close_passed(const int *fds, int count) {
  for (int i = 0; i < count; i++) {
    int type;
    socklen_t len = sizeof(type);

    if (getsockopt(fds[i], SOL_SOCKET, SO_TYPE, &type, &len) == 0 || passed_timer(fds[i]))
      close(fds[i]);
    else
      close_in_thread(fds[i]);
  }
}
