/* SPDX-License-Identifier: MIT */
/* tests/registry/daemon.h - a running fastlocald, and conversations with it by hand. */
#pragma once

#include "harness.h"
#include "registry/host.h"

/* Under a sanitizer memory and time are not the daemon's own. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

struct daemon_run {
  pid_t pid;
  char dir[64], socket[96], policy[96];
};

/* Starts the daemon, with this text as its policy file unless NULL, and waits until it answers. Skips the test where it
 * was not built, or may not read sequence numbers. */
struct daemon_run daemon_start(const char *policy);
void daemon_write_policy(const struct daemon_run *r, const char *text);
/* The same place again, after it was killed. */
void daemon_restart(struct daemon_run *r);
void daemon_kill(struct daemon_run *r);
/* Ends it with SIGTERM; it must end with success. */
void daemon_stop(struct daemon_run *r);

int daemon_fds(const struct daemon_run *r);
long daemon_rss_kb(const struct daemon_run *r);
double daemon_cpu_seconds(const struct daemon_run *r);

int join(const struct daemon_run *r);
void ask_about(int client, uint64_t id, int tcp_fd);

/* What the daemon says. `memfd` is -1, or the segment, by which two ends can be compared: see same_file. */
struct said {
  bool silent, gone; /* nothing came; the daemon closed the connection */
  struct fl_host_message m;
  int memfd;
};
struct said hear(int client, int milliseconds);
bool same_file(int a, int b);

/* Both ask, and are paired with each other. */
void must_pair(int client_a, int a, int client_b, int b);
