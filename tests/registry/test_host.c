/* SPDX-License-Identifier: MIT */
/* fastlocald: which ends it pairs, and which not. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon.h"

TestSuite(host, .timeout = 60);

static void pass(int from, int to, size_t n) {
  static char bytes[1 << 20];

  cr_assert_eq(send(from, bytes, n, 0), (ssize_t)n);
  cr_assert_eq(recv(to, bytes, n, MSG_WAITALL), (ssize_t)n);
}

static void exchange(const struct ends *e, size_t there, size_t back) {
  pass(e->client, e->server, there);
  pass(e->server, e->client, back);
}

Test(host, pairs_the_two_ends_of_a_connection) {
  private_network();
  struct daemon_run r = daemon_start(NULL);
  int x = join(&r), y = join(&r);

  for (int f = V4; f <= MAPPED; f++) {
    struct ends e = tcp_pair((enum family)f);
    must_pair(x, e.client, y, e.server);
    must_pair(x, e.server, y, e.client);
    exchange(&e, 5000, 77);
    must_pair(x, e.client, y, e.server);
    close_ends(&e);
  }
  daemon_stop(&r);
}

Test(host, finds_the_ends_whatever_has_passed_and_is_under_way) {
  private_network();
  struct daemon_run r = daemon_start(NULL);
  int x = join(&r), y = join(&r);
  struct ends e = tcp_pair(V4);
  char byte = 0;

  send(e.client, &byte, 1, 0); /* not read */
  must_pair(x, e.client, y, e.server);
  shutdown(e.client, SHUT_WR);
  must_pair(x, e.server, y, e.client);
  close_ends(&e);
  daemon_stop(&r);
}

Test(host, numbers_that_wrap_around) {
  private_network();
  struct daemon_run r = daemon_start(NULL);
  int x = join(&r), y = join(&r);
  struct ends e = tcp_pair(V4);

  for (int i = 0; i < (SANITIZED ? 100 : 4200); i++) /* more than 4 GiB */
    pass(e.client, e.server, 1 << 20);
  must_pair(x, e.client, y, e.server);
  close_ends(&e);
  daemon_stop(&r);
}

Test(host, other_connections_never_match) {
  private_network();
  struct daemon_run r = daemon_start(NULL);
  int x = join(&r), y = join(&r);
  struct ends a = tcp_pair(V4), b = tcp_pair(V4);

  ask_about(x, 1, a.client);
  ask_about(y, 2, b.server);
  ask_about(x, 3, a.client); /* the same socket anew, as by another process: the last question counts */
  ask_about(y, 4, b.server);
  cr_assert(hear(x, 200).silent);
  cr_assert(hear(y, 0).silent);
  ask_about(x, 5, b.client);
  struct said s = hear(x, 5000);
  cr_assert_eq(s.m.id, 5);
  cr_assert_eq(s.m.type, FL_HOST_PAIRED);
  cr_assert_eq(hear(y, 5000).m.id, 4);
  daemon_stop(&r);
}

Test(host, a_socket_connected_to_itself_is_refused) {
  private_network();
  struct daemon_run r = daemon_start(NULL);
  int x = join(&r), fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_port = htons(7777)};

  cr_assert_eq(bind(fd, (void *)&at, sizeof(at)), 0);
  cr_assert_eq(connect(fd, (void *)&at, sizeof(at)), 0);
  ask_about(x, 1, fd);
  cr_assert_eq(hear(x, 5000).m.type, FL_HOST_REFUSED);
  daemon_stop(&r);
}

/* For this process and the daemon. Skips the test where they are not to be had. */
static void more_descriptors(rlim_t n) {
  struct rlimit r;

  cr_assert_eq(getrlimit(RLIMIT_NOFILE, &r), 0);
  r.rlim_cur = r.rlim_cur < n ? n : r.rlim_cur;
  r.rlim_max = r.rlim_max < n ? n : r.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &r) < 0)
    cr_skip_test("this process may not have %lu descriptors", (unsigned long)n);
}

/* 200 namespaces with the same 50 connections each, as far as addresses go. */
enum { SPACES = SANITIZED ? 50 : 200, TUPLES = 50 };

struct end {
  int fd, client;
};

static void make_space(struct end ends[2 * TUPLES], const struct daemon_run *r) {
  private_network();
  int client = join(r);
  for (int i = 0; i < TUPLES; i++) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_port = htons(2000)};
    struct sockaddr_in from = to;
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

    from.sin_port = htons((in_port_t)(3000 + i));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    cr_assert_eq(bind(listener, (void *)&to, sizeof(to)), 0);
    cr_assert_eq(listen(listener, 1), 0);
    cr_assert_eq(bind(fd, (void *)&from, sizeof(from)), 0);
    cr_assert_eq(connect(fd, (void *)&to, sizeof(to)), 0);
    ends[2 * i] = (struct end){fd, client};
    ends[2 * i + 1] = (struct end){accept(listener, NULL, NULL), client};
    close(listener);
  }
}

static void shuffle(unsigned *order, unsigned n) {
  for (unsigned i = 0; i < n; i++)
    order[i] = i;
  srand(1);
  for (unsigned i = n - 1; i > 0; i--) {
    unsigned k = (unsigned)rand() % (i + 1), t = order[i];
    order[i] = order[k];
    order[k] = t;
  }
}

Test(host, ten_thousand_connections_with_the_same_addresses_in_many_namespaces) {
  enum { ENDS = 2 * SPACES * TUPLES };
  static struct end ends[ENDS];
  static unsigned order[ENDS];
  static ino_t segments[ENDS];
  unsigned answers = 0;

  more_descriptors(ENDS + 1000);
  private_network();
  struct daemon_run r = daemon_start(NULL);
  for (int s = 0; s < SPACES; s++)
    make_space(ends + s * 2 * TUPLES, &r);
  shuffle(order, ENDS);
  for (unsigned i = 0; i < ENDS; i++)
    ask_about(ends[order[i]].client, order[i], ends[order[i]].fd);
  for (int s = 0; s < SPACES; s++)
    for (int i = 0; i < 2 * TUPLES; i++, answers++) {
      struct said x = hear(ends[s * 2 * TUPLES].client, 10000);
      cr_assert_eq(x.m.type, FL_HOST_PAIRED, "namespace %d: %u answers", s, answers);
      struct stat st;
      cr_assert_eq(fstat(x.memfd, &st), 0);
      segments[x.m.id] = st.st_ino;
      close(x.memfd); /* the number of its file is not used again while the other end's is on its way */
    }
  for (int i = 0; i < ENDS; i += 2)
    cr_assert_eq(segments[i], segments[i + 1], "end %d is paired with another's", i);
  daemon_stop(&r);
}

/* ---- who may ---- */

/* A process of another user, which asks about fd, and says what it heard: the type of the answer. */
static int as_other(const struct daemon_run *r, uid_t uid, int fd) {
  int pipes[2], type = -1;

  cr_assert_eq(pipe(pipes), 0);
  pid_t pid = fork();
  if (pid == 0) {
    if (setresuid(uid, uid, uid) < 0)
      _exit(1);
    int client = join(r);
    ask_about(client, 1, fd);
    type = hear(client, 5000).m.type;
    if (write(pipes[1], &type, sizeof(type)) != sizeof(type))
      _exit(1);
    _exit(0);
  }
  close(pipes[1]);
  cr_assert_eq(read(pipes[0], &type, sizeof(type)), (ssize_t)sizeof(type));
  close(pipes[0]);
  waitpid(pid, NULL, 0);
  return type;
}

Test(host, users_do_not_pair_with_others_unless_a_rule_allows_it) {
  need_root();
  private_network();
  struct daemon_run r = daemon_start("# none but the preset\n");
  struct ends e = tcp_pair(V4);
  int x = join(&r);

  ask_about(x, 1, e.client);
  cr_assert_eq(as_other(&r, NOBODY, e.server), FL_HOST_REFUSED);
  cr_assert_eq(hear(x, 5000).m.why, FL_HOST_WHY_POLICY);

  static const struct {
    const char *policy;
    int expected;
  } cases[] = {
      {"rules = ( { action = \"allow\"; users = [ \"root\", \"nobody\" ]; } );", FL_HOST_PAIRED},
      {"rules = ( { action = \"allow\"; users = [ 0, 1 ]; } );", FL_HOST_REFUSED},
      {"rules = ( { action = \"allow\"; } );", FL_HOST_PAIRED},
      {"rules = ( { action = \"deny\"; users = [ 65534 ]; }, { action = \"allow\"; } );", FL_HOST_REFUSED},
      {"rules = ( );", FL_HOST_REFUSED},
      {"rules = ( { action = \"allow\"; ports = \"1\"; } );", FL_HOST_REFUSED},
      {"rules = ( { action = \"allow\"; ports = \"1024-65535\"; } );", FL_HOST_PAIRED},
      {"rules = ( { action = \"allow\"; cgroups = [ \"/no-such-group*\" ]; } );", FL_HOST_REFUSED},
      {"rules = ( { action = \"allow\"; cgroups = [ \"/*\" ]; same = \"cgroup\"; } );", FL_HOST_PAIRED},
  };
  for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
    daemon_write_policy(&r, cases[i].policy);
    kill(r.pid, SIGHUP);
    usleep(50000);
    ask_about(x, 2 + i, e.client);
    cr_assert_eq(as_other(&r, NOBODY, e.server), cases[i].expected, "%s", cases[i].policy);
    struct said s = hear(x, 5000);
    cr_assert_eq(s.m.type, cases[i].expected);
    close(s.memfd);
  }
  daemon_stop(&r);
}

Test(host, a_policy_with_an_error_keeps_the_old_one) {
  need_root();
  private_network();
  struct daemon_run r = daemon_start("rules = ( { action = \"allow\"; } );");
  struct ends e = tcp_pair(V4);
  int x = join(&r);

  daemon_write_policy(&r, "rules = ( { action = \"deny\"; }\n\n;");
  kill(r.pid, SIGHUP);
  usleep(50000);
  ask_about(x, 1, e.client);
  cr_assert_eq(as_other(&r, NOBODY, e.server), FL_HOST_PAIRED);
  daemon_stop(&r);
}

Test(host, limits_of_a_client) {
  private_network();
  struct daemon_run r = daemon_start("limits = { waiting = 2; pairs = 2; clients = 3; };");
  struct ends e[4];
  int x = join(&r), y = join(&r);

  for (int i = 0; i < 4; i++)
    e[i] = tcp_pair(V4);
  for (unsigned i = 0; i < 2; i++)
    ask_about(x, i, e[i].client);
  ask_about(x, 2, e[2].client);
  cr_assert_eq(hear(x, 5000).m.type, FL_HOST_BUSY);
  /* both ends are the same user's, in one namespace: one pair counts for two */
  ask_about(y, 10, e[0].server);
  cr_assert_eq(hear(y, 5000).m.type, FL_HOST_PAIRED);
  cr_assert_eq(hear(x, 5000).m.type, FL_HOST_PAIRED);
  ask_about(y, 11, e[1].server);
  cr_assert_eq(hear(y, 5000).m.why, FL_HOST_WHY_LIMIT);
  cr_assert_eq(hear(x, 5000).m.type, FL_HOST_BUSY);
  cr_assert_eq(fl_host_send(x, FL_HOST_CLOSED, 0, 0, -1), 0); /* makes room */
  must_pair(x, e[1].client, y, e[1].server);
  int z = join(&r), one_too_many = join(&r);
  cr_assert(hear(one_too_many, 5000).gone);
  must_pair(z, e[3].client, y, e[3].server);
  daemon_stop(&r);
}

/* ---- the daemon comes and goes ---- */

/* What there was between two processes and the daemon when it was killed. STOPPED: it had not read what was asked. */
enum step { JOINED, ASKED, ASKED_STOPPED, BOTH_ASKED_STOPPED, PAIRED, BELL_STOPPED, CLOSED_STOPPED, CLOSED, STEPS };

static void go_to(enum step step, const struct daemon_run *r, int x, int y, const struct ends *e) {
  int timer;

  if (step == ASKED_STOPPED || step == BOTH_ASKED_STOPPED)
    kill(r->pid, SIGSTOP);
  if (step >= ASKED && step <= BOTH_ASKED_STOPPED)
    ask_about(x, 1, e->client);
  if (step == BOTH_ASKED_STOPPED)
    ask_about(y, 2, e->server);
  if (step >= PAIRED)
    must_pair(x, e->client, y, e->server);
  if (step == BELL_STOPPED || step == CLOSED_STOPPED)
    kill(r->pid, SIGSTOP);
  if (step == BELL_STOPPED) {
    timer = timerfd_create(CLOCK_MONOTONIC, 0);
    cr_assert_eq(fl_host_send_bell(x, 1000, 1, timer), 0);
    close(timer);
  }
  if (step >= CLOSED_STOPPED)
    cr_assert_eq(fl_host_send(x, FL_HOST_CLOSED, 1000, 0, -1), 0);
}

Test(host, killed_at_every_step_and_started_again) {
  private_network();
  struct daemon_run r = daemon_start(NULL);
  struct ends e = tcp_pair(V4);

  for (int step = JOINED; step < STEPS; step++) {
    int x = join(&r), y = join(&r);
    go_to((enum step)step, &r, x, y, &e);
    daemon_kill(&r);
    cr_assert_eq(fl_host_connect(r.socket, 0), -ECONNREFUSED);
    cr_assert(hear(x, 5000).gone);
    cr_assert(hear(y, 5000).gone);
    exchange(&e, 1000, 1000); /* the sockets have not noticed */
    daemon_restart(&r);
    close(x);
    close(y);
    x = join(&r);
    y = join(&r);
    must_pair(x, e.client, y, e.server);
    close(x);
    close(y);
  }
  close_ends(&e);
  daemon_stop(&r);
}

/* ---- cost ---- */

Test(host, many_clients_cost_little_memory_and_no_time) {
  enum { CLIENTS = SANITIZED ? 2000 : 10000 };
  static int clients[CLIENTS];

  more_descriptors(CLIENTS + 1000);
  private_network();
  struct daemon_run r = daemon_start("limits = { clients = 20000; };");
  for (int i = 0; i < CLIENTS; i++)
    clients[i] = join(&r);
  struct ends e = tcp_pair(V4);
  must_pair(clients[0], e.client, clients[CLIENTS - 1], e.server);
  long rss = daemon_rss_kb(&r);
  cr_log_info("%d clients: %ld KB", CLIENTS, rss);
  cr_assert(SANITIZED || rss < 10000);
  double before = daemon_cpu_seconds(&r);
  sleep(1);
  cr_assert_leq(daemon_cpu_seconds(&r) - before, 0.0);
  daemon_stop(&r);
}

Test(host, thousands_of_pairs_in_a_second) {
  enum { PAIRS = 3000, BATCH = 200 }; /* answers that nobody reads have to fit into a socket's buffer */
  static struct ends e[PAIRS];
  struct timespec a, b;

  private_network();
  struct daemon_run r = daemon_start("limits = { messages_per_second = 1000000; };");
  int x = join(&r), y = join(&r), listener = tcp_listener(V4);
  for (int i = 0; i < PAIRS; i++) {
    e[i].client = tcp_connect(listener, V4);
    e[i].server = accept(listener, NULL, NULL);
  }
  double cpu = daemon_cpu_seconds(&r);
  clock_gettime(CLOCK_MONOTONIC, &a);
  for (int i = 0; i < PAIRS; i++) {
    ask_about(x, (uint64_t)i, e[i].client);
    ask_about(y, (uint64_t)i, e[i].server);
    if (i % BATCH < BATCH - 1)
      continue;
    for (int k = 0; k < BATCH; k++) {
      struct said s = hear(x, 5000), t = hear(y, 5000);
      cr_assert(s.m.type == FL_HOST_PAIRED && t.m.type == FL_HOST_PAIRED);
      close(s.memfd);
      close(t.memfd);
    }
  }
  clock_gettime(CLOCK_MONOTONIC, &b);
  cpu = daemon_cpu_seconds(&r) - cpu;
  cr_log_info("%.0f pairs in a second, %.0f in a second of the daemon's time",
              PAIRS / ((double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9), PAIRS / cpu);
  /* of its own time, which other work on the machine leaves alone; 5000 are aimed at */
  cr_assert(SANITIZED || PAIRS / cpu > 2500);
  daemon_stop(&r);
}
