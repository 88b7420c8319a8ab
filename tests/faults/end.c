/* SPDX-License-Identifier: MIT */
/* tests/faults/end.c - one end of an iteration: connects, exchanges, and looks whether anything was left behind. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "registry/sys.h"
#include "traffic.h"

#define FDS 1024
#define PRIVATE_FROM 512 /* where the library keeps bells, */
#define PRIVATE_MAX 20   /* so many at most: the process's own, which stay */
#define STEP_US 50

void fail(struct shared *s, const char *format, ...) {
  va_list args;

  if (atomic_exchange(&s->failed, 1))
    return; /* the first one is the cause */
  va_start(args, format);
  vsnprintf(s->failure, sizeof s->failure, format, args);
  va_end(args);
}

static void on_signal(int number) { (void)number; }

/* ---- what is left behind ---- */

static int count_fds(int from, int to) {
  int n = 0;

  for (int fd = from; fd < to; fd++)
    n += fl_sys_fcntl(fd, F_GETFD, 0) >= 0;
  return n;
}

static void name_fds(char *out, size_t size) {
  char path[64], target[128];
  size_t n = 0;

  for (int fd = 0; fd < FDS && n < size - 1; fd++) {
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(path, target, sizeof target - 1);
    if (len <= 0)
      continue;
    target[len] = '\0';
    int k = snprintf(out + n, size - n, " %d:%s", fd, target);
    n += k < 0 ? 0 : (size_t)k;
  }
}

static int count_segments(void) {
  FILE *maps = fopen("/proc/self/maps", "re");
  char line[512];
  int n = 0;

  while (maps && fgets(line, sizeof line, maps))
    n += strstr(line, "/memfd:fastlocal (deleted)") != NULL;
  if (maps)
    fclose(maps);
  return n;
}

/* ---- connections ---- */

static void die_badly(struct shared *s, const char *what) {
  fail(s, "%s: %s", what, strerror(errno));
  _exit(1);
}

/* Has the other end died before it got there? */
static bool alone(const struct shared *s, int end) {
  return atomic_load(&s->deaths[!end]) || atomic_load(&s->quit[!end]);
}

static void accept_links(struct side *side) {
  struct shared *s = side->s;
  struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(s->port)};
  int one = 1, listener = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

  if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
      bind(listener, (struct sockaddr *)&a, sizeof a) < 0 || listen(listener, CONNS) < 0)
    die_badly(s, "listen");
  atomic_store(&s->listening, 1);
  for (int i = 0; i < side->n; i++) {
    struct pollfd p = {.fd = listener, .events = POLLIN};
    while (poll(&p, 1, 100) == 0 && !alone(s, side->end))
      ;
    side->link[i].fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (side->link[i].fd < 0)
      side->n = i;
    else
      atomic_store(&s->linked[side->end], (uint32_t)i + 1);
  }
  close(listener);
}

static void connect_links(struct side *side) {
  struct shared *s = side->s;
  bool v6 = mix(s->plan.seed ^ 6) % 4 == 0;
  struct sockaddr_in a4 = {
      .sin_family = AF_INET, .sin_port = htons(s->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_port = htons(s->port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};

  while (!atomic_load(&s->listening)) {
    if (alone(s, side->end))
      _exit(0);
    usleep(STEP_US);
  }
  for (int i = 0; i < side->n; i++) {
    int fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
      die_badly(s, "socket");
    if (connect(fd, v6 ? (void *)&a6 : (void *)&a4, v6 ? sizeof a6 : sizeof a4) < 0) {
      if (!alone(s, side->end) && errno != ECONNREFUSED && errno != ECONNRESET)
        die_badly(s, "connect");
      close(fd);
      side->n = i;
      break;
    }
    side->link[i].fd = fd;
    atomic_store(&s->linked[side->end], (uint32_t)i + 1);
  }
}

/* Small buffers of the kernel lane, so that both lanes are full often. */
static void shrink(struct side *side) {
  for (int i = 0; i < side->n; i++) {
    int size = 4096 << (mix(side->random + (uint64_t)i) % 8);
    if (mix(side->random ^ 5) % 2)
      setsockopt(side->link[i].fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  }
}

void end_run(struct shared *s, int end) {
  struct side side;
  struct sigaction act = {.sa_handler = on_signal};

  traffic_plan(s, end, &side);
  act.sa_flags = side.random & 1 ? SA_RESTART : 0;
  sigaction(SIGUSR1, &act, NULL);
  signal(SIGPIPE, SIG_IGN);
  int before = count_fds(0, PRIVATE_FROM);
  inject_as(s, end);
  if (end == 1)
    accept_links(&side);
  else
    connect_links(&side);
  shrink(&side);
  traffic_run(&side);
  for (int i = 0; i < side.n; i++)
    close(side.link[i].fd);
  inject_as(s, -1);

  int after = count_fds(0, PRIVATE_FROM), kept = count_fds(PRIVATE_FROM, FDS), mapped = count_segments();
  if (after != before || kept > PRIVATE_MAX) {
    char names[FAIL_TEXT - 100];
    name_fds(names, sizeof names);
    fail(s, "end %d: %d descriptors, %d before, and %d of the library:%s", end, after, before, kept, names);
  } else if (mapped) {
    fail(s, "end %d: %d segments are still mapped", end, mapped);
  }
  if (side.random & 2)
    _exit(0);
  exit(0);
}
