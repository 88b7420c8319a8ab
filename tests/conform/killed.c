/* SPDX-License-Identifier: MIT */
/* tests/conform/killed.c - one end is killed at any moment; the other sees a prefix of the stream, and its end. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "groups.h"
#include "waits.h"

enum { K_WHO, K_DOES, K_READER, K_SEED };
enum { FLOODS, ECHOES, SENDS_SLOWLY, RECEIVES };
#define INSTANTS "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"

/* What the end does until it is killed, or its peer. */
static void act(int does, uint64_t from) {
  static char text[20000];
  uint64_t at = from;

  for (unsigned i = 0;; i++) {
    size_t n = does == FLOODS ? 1 + i * 7919 % sizeof text : 1 + i % 50;
    if (does == RECEIVES || does == ECHOES) {
      ssize_t got = recv(run.fd, text, sizeof text, 0);
      if (got <= 0)
        return;
      if (does == RECEIVES)
        continue;
      n = (size_t)got;
    }
    fill(text, at, n);
    for (size_t done = 0; done < n;) {
      ssize_t k = send(run.fd, text + done, n - done, MSG_NOSIGNAL);
      if (k <= 0)
        return;
      done += (size_t)k;
    }
    at += n;
    if (does == SENDS_SLOWLY)
      pause_us(20 + i % 7 * 30);
  }
}

/* Reads to the end: is it the pattern? The end may be a reset where what was sent to the dead one was not read. */
static void read_all(int reader, bool may_reset) {
  uint64_t got = 0, wrong = 0, begin = clock_ms();
  struct waiting w;
  char c[5000], right[5000];
  ssize_t n;

  if (reader)
    wait_open(&w, reader >= 2 ? EPOLL_WAIT : POLL);
  if (reader)
    wait_add(&w, run.fd, EPOLLIN | (reader == 3 ? EPOLLET : 0));
  for (;;) {
    uint32_t events[WAIT_FDS];
    if (reader && wait_for(&w, 3000000, NULL, events) != 1) {
      note("nothing comes any more");
      break;
    }
    while ((n = recv(run.fd, c, sizeof c, reader ? MSG_DONTWAIT : 0)) > 0) {
      fill(right, got, (size_t)n);
      for (ssize_t i = 0; i < n; i++)
        wrong += c[i] != right[i];
      got += (uint64_t)n;
      if (reader == 1)
        break;
    }
    if (n == 0 || (n < 0 && errno != EAGAIN))
      break;
  }
  if (reader)
    wait_close(&w);
  note("%llu wrong, then %s", (unsigned long long)wrong,
       n == 0 || (may_reset && errno == ECONNRESET) ? "the end" : error_name(errno));
  note("%s", clock_ms() - begin > 4000 ? "late" : "in time");
}

static void killed(const int *v) {
  enum end dies = v[K_WHO] ? SERVER : CLIENT;
  unsigned after = (unsigned)(v[K_SEED] * 131 + v[K_DOES] * 17 + v[K_READER] * 7) % 2500;

  connect_ends(AF_INET);
  onto_ring();
  ON(dies) {
    pid_t pid = fork();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      act(v[K_DOES], 0);
      _exit(0);
    }
    close_fd(); /* from here on the child alone has it */
    release();
    pause_us(after);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
  }
  ON(OTHER(dies)) {
    bool sends = v[K_DOES] == RECEIVES || v[K_DOES] == ECHOES;
    pid_t pid = sends ? fork() : -1;
    if (pid == 0) {
      act(SENDS_SLOWLY, 0);
      _exit(0);
    }
    read_all(v[K_READER], sends);
    if (pid > 0)
      waitpid(pid, NULL, 0); /* it learns of it too */
  }
}

const struct group killed_group = {
    .name = "killed",
    .what = "kill -9 of either end at any moment, whatever it does: the other reads a prefix, and then the end",
    .dims = {DIM("who", "client", "server"), DIM("does", "floods", "echoes", "sends-slowly", "receives"),
             DIM("reader", "recv", "poll", "epoll_wait", "EPOLLET"), DIM("instant", INSTANTS)},
    .run = killed,
    .every = 8,
    .flags = ALONE,
};
