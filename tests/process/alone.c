/* SPDX-License-Identifier: MIT */
/*
 * tests/process/alone.c - both ends of a connection are in this process, which does what libraries are not asked about:
 *
 *   alone lanes    sends by turns in ways that take the one lane and the other, and nothing is read meanwhile
 *   alone fsize    may write no files (RLIMIT_FSIZE)
 *   alone nofile   may open nothing more (RLIMIT_NOFILE), and waits
 */
#include <pthread.h>

#include "common.h"

static int a, b; /* the two ends */

static void message(int from, int to, size_t n) {
  unsigned char out[64], in[64];

  fill(out, n, n);
  send_all(from, out, n);
  recv_all(to, in, n);
  if (memcmp(in, out, n) != 0)
    die("a message differs");
}

static void talk(int turns) {
  for (int i = 0; i < turns; i++) {
    message(a, b, 64);
    message(b, a, 64);
  }
}

static void begin(void) {
  struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof addr;
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

  a = socket(AF_INET, SOCK_STREAM, 0);
  if (bind(listener, (struct sockaddr *)&addr, len) < 0 || listen(listener, 1) < 0 ||
      getsockname(listener, (struct sockaddr *)&addr, &len) < 0 || connect(a, (struct sockaddr *)&addr, len) < 0)
    die("connection");
  b = accept(listener, NULL, NULL);
  close(listener);
}

/* ---- lanes ---- */

static void lanes(void) {
  enum { TURNS = 200 };
  char out[2 * TURNS], in[2 * TURNS];

  talk(400);
  fill((unsigned char *)out, sizeof out, 1);
  for (int i = 0; i < TURNS; i++) /* a flag that the ring cannot honour, and that does nothing */
    if (send(a, out + 2 * i, 1, 0) != 1 || send(a, out + 2 * i + 1, 1, MSG_DONTROUTE) != 1)
      die("send");
  recv_all(b, in, sizeof in);
  say("all came, %s\n", memcmp(in, out, sizeof in) ? "in another order" : "in order");
}

/* ---- limits ---- */

static void fsize(void) {
  struct rlimit limit, none = {0, 0};

  getrlimit(RLIMIT_FSIZE, &limit);
  none.rlim_max = limit.rlim_max;
  if (setrlimit(RLIMIT_FSIZE, &none))
    die("setrlimit");
  talk(400);
  setrlimit(RLIMIT_FSIZE, &limit);
  say("went on\n");
}

static void *send_later(void *what) {
  struct timespec ts = {0, 20000000};

  for (int i = 0; i < 4; i++) {
    nanosleep(&ts, NULL);
    send_all(a, what, 64);
  }
  return NULL;
}

/* Waits that may sleep with more than the one descriptor, which is all that is allowed. */
static void nofile(void) {
  struct rlimit limit;
  unsigned char buf[64] = "";
  pthread_t thread;

  getrlimit(RLIMIT_NOFILE, &limit);
  for (int round = 0; round < 2; round++) {
    struct pollfd p = {.fd = b, .events = POLLIN};
    talk(400);
    if (pthread_create(&thread, NULL, send_later, buf))
      die("thread");
    for (int i = 0; i < 4; i++) {
      if (i % 2 == 0 && poll(&p, 1, -1) != 1)
        die("poll");
      recv_all(b, buf, sizeof buf);
    }
    pthread_join(thread, NULL);
    limit.rlim_cur = 1;
    if (setrlimit(RLIMIT_NOFILE, &limit))
      die("setrlimit");
  }
  say("went on\n");
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "";

  begin();
  if (!strcmp(what, "lanes"))
    lanes();
  else if (!strcmp(what, "fsize"))
    fsize();
  else if (!strcmp(what, "nofile"))
    nofile();
  else
    die("which?");
  return 0;
}
