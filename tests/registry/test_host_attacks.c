/* SPDX-License-Identifier: MIT */
/* fastlocald and clients that mean no good: nobody gets what is not his, others are served, and what was held comes
 * back. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon.h"

TestSuite(host_attacks, .timeout = 60);

/* A daemon, a connection whose true ends are served at the beginning and at the end, and what the daemon held at first.
 */
struct scene {
  struct daemon_run r;
  struct ends e;
  int x, y, fds;
  long rss;
};

static struct scene scene(const char *policy) {
  struct scene s;

  private_network();
  s.r = daemon_start(policy);
  s.e = tcp_pair(V4);
  s.x = join(&s.r);
  s.y = join(&s.r);
  must_pair(s.x, s.e.client, s.y, s.e.server);
  usleep(50000); /* it closes what it sent behind the answer */
  s.fds = daemon_fds(&s.r);
  s.rss = daemon_rss_kb(&s.r);
  return s;
}

static void calm(struct scene *s) {
  must_pair(s->x, s->e.client, s->y, s->e.server);
  for (int i = 0; i < 200 && daemon_fds(&s->r) != s->fds; i++)
    usleep(10000);
  cr_assert_eq(daemon_fds(&s->r), s->fds, "the daemon holds descriptors");
  cr_assert(SANITIZED || daemon_rss_kb(&s->r) < s->rss + 2000, "%ld KB, %ld before", daemon_rss_kb(&s->r), s->rss);
  daemon_stop(&s->r);
}

static struct fl_host_message message(enum fl_host_type type, uint64_t id) {
  return (struct fl_host_message){
      .magic = FL_HOST_MAGIC, .version = FL_HOST_VERSION, .type = (uint16_t)type, .ring_size = RING, .id = id};
}

/* ---- what is passed ---- */

static int other_socket(int kind) {
  struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  int fd;

  switch (kind) {
  case 0: return open("/dev/null", O_RDONLY);
  case 1: return socket(AF_INET, SOCK_STREAM, 0); /* not connected */
  case 2: return tcp_listener(V4);
  case 3:
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    any.sin_port = htons(9);
    cr_assert_eq(connect(fd, (void *)&any, sizeof(any)), 0);
    return fd;
  case 4: return socket(AF_UNIX, SOCK_STREAM, 0);
  case 5: return socket(AF_INET6, SOCK_STREAM, 0);
  default: return -1;
  }
}

Test(host_attacks, sockets_that_are_no_connection) {
  struct scene s = scene(NULL);
  int z = join(&s.r);

  for (int kind = 0; kind <= 5; kind++) {
    int fd = other_socket(kind);
    ask_about(z, (uint64_t)kind, fd);
    struct said said = hear(z, 5000);
    cr_assert_eq(said.m.type, FL_HOST_REFUSED, "kind %d", kind);
    cr_assert_eq(said.m.why, FL_HOST_WHY_SOCKET);
    close(fd);
  }
  close(z);
  calm(&s);
}

Test(host_attacks, a_connection_that_is_closed_or_reset) {
  struct scene s = scene(NULL);
  int z = join(&s.r);

  for (int i = 0; i < 2; i++) {
    struct ends e = tcp_pair(V4);
    struct linger reset = {.l_onoff = 1};
    if (i == 1)
      setsockopt(e.server, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    close(e.server);
    if (i == 0)
      shutdown(e.client, SHUT_WR);
    usleep(10000);
    ask_about(z, 1, e.client);
    cr_assert_eq(hear(z, 5000).m.type, FL_HOST_REFUSED);
    close(e.client);
    close(e.listener);
  }
  close(z);
  calm(&s);
}

/* ---- claims ---- */

Test(host_attacks, a_stranger_without_the_socket_gets_nothing) {
  struct scene s = scene("rules = ( { action = \"allow\"; } );");
  struct ends mine = tcp_pair(V4), his = tcp_pair(V4);
  int z = join(&s.r);

  /* he has other connections to the same server, and says what he likes in the message */
  ask_about(s.x, 1, mine.client);
  for (uint64_t id = 0; id < 100; id++) {
    ask_about(z, id, his.client);
    fl_host_send(z, FL_HOST_CANCEL, 1, 0, -1); /* of another's question */
    fl_host_send(z, FL_HOST_CLOSED, 1, 0, -1);
  }
  cr_assert(hear(z, 100).silent);
  ask_about(s.y, 2, mine.server);
  struct said x = hear(s.x, 5000), y = hear(s.y, 5000);
  cr_assert_eq(x.m.type, FL_HOST_PAIRED);
  cr_assert(same_file(x.memfd, y.memfd));
  close(x.memfd);
  close(y.memfd);
  cr_assert(hear(z, 0).silent);
  close(z);
  close_ends(&mine);
  close_ends(&his);
  calm(&s);
}

Test(host_attacks, the_same_question_again_and_again) {
  struct scene s = scene(NULL);
  int z = join(&s.r);

  for (int i = 0; i < 1000; i++) {
    struct fl_host_message m = message(FL_HOST_ASK, 7); /* replayed, byte for byte */
    cr_assert_eq(send_fds(z, &m, sizeof(m), &s.e.client, 1), 0);
    if (i % 100 == 99)
      usleep(10000);
  }
  cr_assert(hear(z, 100).silent);
  close(z);
  calm(&s);
}

/* ---- messages ---- */

Test(host_attacks, forged_and_cut_messages) {
  struct scene s = scene(NULL);
  struct fl_host_message good = message(FL_HOST_ASK, 1);
  unsigned char bytes[2 * sizeof(good)] = {0};
  int fds[2] = {s.e.client, s.e.server};

  for (size_t len = 1; len <= sizeof(bytes); len++) { /* every length but the right one */
    int z = join(&s.r);
    memcpy(bytes, &good, sizeof(good));
    if (len == sizeof(good))
      bytes[0] ^= 1; /* the magic number */
    cr_assert_eq(send_fds(z, bytes, len, fds, 1), 0);
    cr_assert(hear(z, 5000).gone, "length %zu", len);
    close(z);
  }
  for (int type = 0; type < 256; type++) {
    struct fl_host_message m = message((enum fl_host_type)type, 1);
    int z = join(&s.r);
    bool known = type == FL_HOST_CANCEL || type == FL_HOST_CLOSED;
    cr_assert_eq(send_fds(z, &m, sizeof(m), fds, 0), 0);
    struct said said = hear(z, known ? 20 : 5000);
    cr_assert(known ? said.silent : said.gone, "type %d", type);
    close(z);
  }
  /* two sockets, none, one where there should be none */
  for (int n = 0; n <= 2; n++) {
    struct fl_host_message m = message(n == 1 ? FL_HOST_CANCEL : FL_HOST_ASK, 1);
    int z = join(&s.r);
    cr_assert_eq(send_fds(z, &m, sizeof(m), fds, n), 0);
    cr_assert(hear(z, 5000).gone);
    close(z);
  }
  calm(&s);
}

Test(host_attacks, another_version_is_told_and_let_go) {
  struct scene s = scene(NULL);
  struct fl_host_message m = message(FL_HOST_ASK, 1);
  int z = join(&s.r);

  m.version = FL_HOST_VERSION + 1;
  cr_assert_eq(send_fds(z, &m, sizeof(m), &s.e.client, 1), 0);
  struct said said = hear(z, 5000);
  cr_assert_eq(said.m.type, FL_HOST_OTHER);
  cr_assert_eq(said.m.version, FL_HOST_VERSION);
  cr_assert(hear(z, 5000).gone);
  close(z);
  calm(&s);
}

Test(host_attacks, rings_of_impossible_size) {
  static const uint32_t sizes[] = {0, 1, 4096, 100000, 1u << 31, UINT32_MAX};
  struct scene s = scene(NULL);
  int z = join(&s.r);

  for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
    cr_assert_eq(fl_host_send(z, FL_HOST_ASK, i, sizes[i], s.e.client), 0);
    cr_assert_eq(hear(z, 5000).m.type, FL_HOST_REFUSED);
  }
  close(z);
  calm(&s);
}

/* ---- much of everything ---- */

Test(host_attacks, ten_thousand_descriptors) {
  struct scene s = scene(NULL);
  struct fl_host_message m = message(FL_HOST_ASK, 1);
  int fds[250];

  for (int i = 0; i < 250; i++)
    fds[i] = i & 1 ? s.e.client : STDERR_FILENO;
  for (int i = 0; i < 40; i++) {
    int z = join(&s.r);
    cr_assert_eq(send_fds(z, &m, sizeof(m), fds, 250), 0);
    if (i & 1)
      cr_assert(hear(z, 5000).gone);
    close(z);
  }
  calm(&s);
}

/* Sends what it can for a second, from its own user and namespace. */
static pid_t flooder(const struct daemon_run *r, int fd, unsigned type) {
  pid_t pid = fork();

  if (pid != 0)
    return pid;
  if (setresuid(NOBODY, NOBODY, NOBODY) < 0)
    _exit(1);
  int z = join(r);
  for (time_t end = time(NULL) + 2; time(NULL) < end;) {
    struct fl_host_message m = message((enum fl_host_type)type, 1);
    if (send_fds(z, &m, sizeof(m), &fd, type == FL_HOST_ASK) < 0)
      usleep(100);
  }
  _exit(0);
}

Test(host_attacks, a_flood_does_not_keep_others_waiting) {
  need_root();
  struct scene s = scene("limits = { messages_per_second = 1000; };");
  pid_t pids[8];

  for (int i = 0; i < 8; i++)
    pids[i] = flooder(&s.r, s.e.client, i & 1 ? FL_HOST_ASK : FL_HOST_CANCEL);
  double cpu = daemon_cpu_seconds(&s.r);
  for (int i = 0; i < 20; i++) {
    struct ends e = tcp_pair(V4);
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    must_pair(s.x, e.client, s.y, e.server);
    clock_gettime(CLOCK_MONOTONIC, &b);
    cr_assert_lt((b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000, 1000);
    close_ends(&e);
    usleep(50000);
  }
  cr_assert(SANITIZED || daemon_cpu_seconds(&s.r) - cpu < 0.5, "a flood keeps the daemon busy");
  for (int i = 0; i < 8; i++)
    waitpid(pids[i], NULL, 0);
  calm(&s);
}

Test(host_attacks, a_client_that_does_not_read_its_answers) {
  struct scene s = scene(NULL);
  int z = join(&s.r), null = open("/dev/null", O_RDONLY);

  for (uint64_t id = 0; id < 5000; id++)
    while (fl_host_send(z, FL_HOST_ASK, id, 0, s.e.client) == -EAGAIN) /* each of them is refused */
      usleep(100);
  must_pair(s.x, s.e.client, s.y, s.e.server);
  close(z);
  close(null);
  calm(&s);
}

Test(host_attacks, questions_that_nobody_takes_back) {
  struct scene s = scene("limits = { waiting = 500; };");
  int z = join(&s.r);
  static struct ends e[600];

  for (uint64_t i = 0; i < 600; i++) {
    e[i] = tcp_pair(V4);
    ask_about(z, i, e[i].client);
  }
  for (int i = 0; i < 100; i++)
    cr_assert_eq(hear(z, 5000).m.type, FL_HOST_BUSY);
  cr_assert(hear(z, 50).silent);
  close(z);
  for (int i = 0; i < 600; i++)
    close_ends(&e[i]);
  calm(&s);
}

Test(host_attacks, leaving_at_every_step) {
  struct scene s = scene(NULL);

  for (int i = 0; i < 300; i++) {
    struct ends e = tcp_pair(V4);
    int z = join(&s.r), w = join(&s.r);
    int step = i % 6;
    if (step >= 1)
      ask_about(z, 1, e.client);
    if (step == 2)
      close_ends(&e);
    if (step >= 3)
      ask_about(w, 2, e.server);
    if (step == 4)
      hear(z, 5000);
    if (step == 5)
      fl_host_send(z, FL_HOST_CLOSED, 1, 0, -1);
    close(i & 8 ? w : z);
    close(i & 8 ? z : w);
    if (step != 2)
      close_ends(&e);
  }
  calm(&s);
}

/* Passes sockets whose last close waits for their peer, for an hour, and is gone. */
static void pass_lingering(const struct daemon_run *r, int listener) {
  struct linger an_hour = {.l_onoff = 1, .l_linger = 3600};
  struct fl_host_message m = message(FL_HOST_ASK, 1);
  static char much[1 << 20];
  int fds[20], z = join(r);

  for (int i = 0; i < 20; i++) {
    fds[i] = tcp_connect(listener, V4);
    setsockopt(fds[i], SOL_SOCKET, SO_LINGER, &an_hour, sizeof(an_hour));
    while (send(fds[i], much, sizeof(much), MSG_DONTWAIT) > 0)
      ;
  }
  send_fds(z, &m, sizeof(m), fds, 1);
  send_fds(z, &m, sizeof(m), fds + 1, 3);  /* more than there should be */
  send_fds(z, &m, sizeof(m), fds + 4, 16); /* more than are taken */
}

Test(host_attacks, a_close_that_takes_its_time) {
  struct scene s = scene(NULL);
  int listener = tcp_listener(V4), accepted[20];
  struct timespec a, b;
  pid_t pid = fork();

  if (pid == 0) {
    pass_lingering(&s.r, listener);
    _exit(0); /* a process that ends does not wait */
  }
  for (int i = 0; i < 20; i++)
    accepted[i] = accept(listener, NULL, NULL); /* and never read */
  waitpid(pid, NULL, 0);
  clock_gettime(CLOCK_MONOTONIC, &a);
  must_pair(s.x, s.e.client, s.y, s.e.server);
  clock_gettime(CLOCK_MONOTONIC, &b);
  cr_log_info("after %ld ms", (b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000);
  for (int i = 0; i < 20; i++)
    close(accepted[i]);
  close(listener);
  calm(&s);
}

/* ---- bells ---- */

/* Sends a bell about a connection; the descriptor stays the caller's. */
static void give(int client, uint64_t id, uint64_t bell, int fd) {
  while (fl_host_send_bell(client, id, bell, fd) == -EAGAIN)
    usleep(100);
}

Test(host_attacks, bells_reach_the_other_end_of_a_pair_and_nobody_else) {
  struct scene s = scene(NULL);
  int timer = timerfd_create(CLOCK_MONOTONIC, 0), z = join(&s.r);

  ask_about(s.x, 1, s.e.client);
  give(s.x, 1, 77, timer); /* not paired yet */
  ask_about(s.y, 2, s.e.server);
  struct said x = hear(s.x, 5000), y = hear(s.y, 5000);
  cr_assert(x.m.type == FL_HOST_PAIRED && y.m.type == FL_HOST_PAIRED);
  cr_assert_neq(x.m.who, 0);
  cr_assert_eq(x.m.who, y.m.who, "both are of one user and one namespace");
  close(x.memfd);
  close(y.memfd);
  give(z, 1, 78, timer);        /* another's connection */
  give(s.x, 9, 79, timer);      /* none */
  give(s.x, 1, 80, s.e.client); /* whoever got this would have to close it */
  give(s.x, 1, 81, STDERR_FILENO);
  give(s.x, 1, 82, timer);
  y = hear(s.y, 5000);
  cr_assert_eq(y.m.type, FL_HOST_BELL);
  cr_assert_eq(y.m.id, 2);
  cr_assert_eq(y.m.bell, 82);
  cr_assert_geq(y.memfd, 0);
  close(y.memfd);
  for (uint64_t i = 0; i < 2000; i++) /* and none of them is left open */
    give(s.x, 1, 100 + i, timer);
  int n = 0;
  while (!(y = hear(s.y, 200)).silent) {
    close(y.memfd);
    n++;
  }
  cr_assert_lt(n, 100, "%d bells of one connection", n);
  cr_assert(hear(z, 0).silent);
  fl_host_send(s.x, FL_HOST_CLOSED, 1, 0, -1);
  give(s.x, 1, 83, timer); /* no longer */
  cr_assert(hear(s.y, 100).silent);
  close(timer);
  close(z);
  calm(&s);
}

Test(host_attacks, bells_are_not_sent_to_who_does_not_take_them) {
  struct scene s = scene(NULL);
  struct fl_host_message old = message(FL_HOST_ASK, 2); /* a library that knows no bells */
  int timer = timerfd_create(CLOCK_MONOTONIC, 0);

  ask_about(s.x, 1, s.e.client);
  cr_assert_eq(send_fds(s.y, &old, sizeof(old), &s.e.server, 1), 0);
  struct said x = hear(s.x, 5000), y = hear(s.y, 5000);
  cr_assert(x.m.type == FL_HOST_PAIRED && y.m.type == FL_HOST_PAIRED);
  cr_assert_eq(x.m.who, 0);
  cr_assert_eq(y.m.who, 0);
  close(x.memfd);
  close(y.memfd);
  give(s.x, 1, 77, timer);
  cr_assert(hear(s.y, 100).silent);
  fl_host_send(s.x, FL_HOST_CLOSED, 1, 0, -1);
  close(timer);
  calm(&s);
}
