/* SPDX-License-Identifier: MIT */
/* tests/registry/daemon.c - see daemon.h. */
#include "daemon.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "registry/message.h"

#define START_MS 5000

static void pause_ms(int ms) { usleep((useconds_t)ms * 1000); }

static void launch(struct daemon_run *r) {
  const char *program = getenv("FASTLOCALD");

  if (!program || access(program, X_OK) < 0)
    cr_skip_test("there is no fastlocald");
  r->pid = fork();
  if (r->pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nothing behind */
    execl(program, program, "--socket", r->socket, r->policy[0] ? "--policy" : NULL, r->policy, NULL);
    _exit(127);
  }
  for (int i = 0; i < START_MS / 5; i++) {
    int status, fd = fl_host_connect(r->socket, 0);
    if (fd >= 0) {
      close(fd);
      return;
    }
    if (waitpid(r->pid, &status, WNOHANG) == r->pid)
      cr_skip_test("fastlocald does not run here");
    pause_ms(5);
  }
  cr_assert_fail("fastlocald does not start");
}

struct daemon_run daemon_start(const char *policy) {
  struct daemon_run r = {.dir = "/tmp/fastlocald-test-XXXXXX"};

  cr_assert_not_null(mkdtemp(r.dir));
  chmod(r.dir, 0755);
  snprintf(r.socket, sizeof(r.socket), "%s/socket", r.dir);
  if (policy) {
    snprintf(r.policy, sizeof(r.policy), "%s/policy", r.dir);
    daemon_write_policy(&r, policy);
  }
  launch(&r);
  return r;
}

void daemon_write_policy(const struct daemon_run *r, const char *text) {
  FILE *f = fopen(r->policy, "w");

  cr_assert_not_null(f);
  fputs(text, f);
  fclose(f);
}

void daemon_restart(struct daemon_run *r) { launch(r); }

void daemon_kill(struct daemon_run *r) {
  kill(r->pid, SIGKILL);
  waitpid(r->pid, NULL, 0);
}

void daemon_stop(struct daemon_run *r) {
  int status;

  kill(r->pid, SIGTERM);
  waitpid(r->pid, &status, 0);
  unlink(r->policy);
  cr_assert_eq(status, 0, "the daemon ended with status %x", (unsigned)status);
  cr_assert_eq(access(r->socket, F_OK), -1, "the socket is left behind");
  cr_assert_eq(rmdir(r->dir), 0);
}

int daemon_fds(const struct daemon_run *r) {
  char path[64];
  int n = 0;

  snprintf(path, sizeof(path), "/proc/%d/fd", (int)r->pid);
  DIR *dir = opendir(path);
  while (dir && readdir(dir))
    n++;
  if (dir)
    closedir(dir);
  return n;
}

static void proc_line(const struct daemon_run *r, const char *file, char *line, size_t size, const char *begins) {
  char path[64];

  snprintf(path, sizeof(path), "/proc/%d/%s", (int)r->pid, file);
  FILE *f = fopen(path, "r");
  line[0] = '\0';
  while (f && fgets(line, (int)size, f) && strncmp(line, begins, strlen(begins)) != 0)
    ;
  if (f)
    fclose(f);
}

long daemon_rss_kb(const struct daemon_run *r) {
  char line[256];

  proc_line(r, "status", line, sizeof(line), "VmRSS:");
  return strtol(line + strlen("VmRSS:"), NULL, 10);
}

double daemon_cpu_seconds(const struct daemon_run *r) {
  char line[1024];
  unsigned long user, system;

  proc_line(r, "stat", line, sizeof(line), "");
  char *rest = strrchr(line, ')');
  cr_assert(rest && sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) == 2);
  return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

int join(const struct daemon_run *r) {
  int fd;

  while ((fd = fl_host_connect(r->socket, 0)) == -EAGAIN) /* its backlog is full */
    pause_ms(1);
  cr_assert_geq(fd, 0, "%s", strerror(-fd));
  return fd;
}

void ask_about(int client, uint64_t id, int tcp_fd) {
  struct pollfd room = {.fd = client, .events = POLLOUT};
  int rc;

  /* a daemon that reads more slowly than we write */
  while ((rc = fl_host_send(client, FL_HOST_ASK, id, RING, tcp_fd)) == -EAGAIN)
    cr_assert_eq(poll(&room, 1, 5000), 1);
  cr_assert_eq(rc, 0, "%s", strerror(-rc));
}

struct said hear(int client, int milliseconds) {
  struct said s = {.memfd = -1};
  struct pollfd p = {.fd = client, .events = POLLIN};
  int fds[FL_MESSAGE_FDS], count;

  if (poll(&p, 1, milliseconds) <= 0) {
    s.silent = true;
    return s;
  }
  int rc = fl_message_receive(client, &s.m, sizeof(s.m), fds, &count);
  s.gone = rc < 0;
  if (count > 0)
    s.memfd = fds[0];
  for (int i = 1; i < count; i++)
    close(fds[i]);
  return s;
}

bool same_file(int a, int b) {
  struct stat x, y;

  return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_ino == y.st_ino && x.st_dev == y.st_dev;
}

void must_pair(int client_a, int a, int client_b, int b) {
  ask_about(client_a, 1000, a);
  ask_about(client_b, 2000, b);
  struct said x = hear(client_a, 5000), y = hear(client_b, 5000);
  cr_assert_eq(x.m.type, FL_HOST_PAIRED, "got %u, reason %u", x.m.type, x.m.why);
  cr_assert_eq(y.m.type, FL_HOST_PAIRED);
  cr_assert_eq(x.m.id, 1000);
  cr_assert_eq(y.m.id, 2000);
  cr_assert_neq(x.m.end, y.m.end);
  cr_assert_eq(x.m.ring_size, RING);
  cr_assert(same_file(x.memfd, y.memfd));
  close(x.memfd);
  close(y.memfd);
}
