/* SPDX-License-Identifier: MIT */
/* tools/doctor_host.c - the checks of `fastlocal doctor` that concern others: the host registry, and peers. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "doctor.h"
#include "inspect.h"
#include "preload/conn.h"
#include "preload/options.h"
#include "registry/host.h"
#include "registry/message.h"

#define PATIENCE_MS 5000

bool tcp_ends(int ends[2]) {
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
  socklen_t len = sizeof(at);
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

  ends[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ends[1] = -1;
  if (listener >= 0 && ends[0] >= 0 && bind(listener, (struct sockaddr *)&at, len) == 0 && listen(listener, 1) == 0 &&
      getsockname(listener, (struct sockaddr *)&at, &len) == 0 && connect(ends[0], (struct sockaddr *)&at, len) == 0)
    ends[1] = accept(listener, NULL, NULL);
  if (listener >= 0)
    close(listener);
  if (ends[1] >= 0)
    return true;
  if (ends[0] >= 0)
    close(ends[0]);
  return false;
}

/* ---- the host registry ---- */

static void explain_connect(const char *socket, int error) {
  static const char about[] = "registry";

  switch (error) {
  case ENOENT:
  case ENOTDIR:
    report(WARNING, about,
           "%s is not here, so only ends in this network namespace find each other. For other containers: run "
           "fastlocald on "
           "the host, and mount its directory here (docker: -v /run/fastlocal:/run/fastlocal:ro)",
           socket);
    return;
  case ECONNREFUSED:
    report(
        BAD, about,
        "%s is here, but nobody listens: fastlocald does not run, or the socket was mounted and not its directory, and "
        "fastlocald was started anew since",
        socket);
    return;
  case EACCES:
  case EPERM:
    report(BAD, about, "%s may not be reached by user %u: %s (its mode, or a security module)", socket,
           (unsigned)geteuid(), strerror(error));
    return;
  default: report(BAD, about, "%s cannot be reached: %s", socket, strerror(error));
  }
}

/* The first answer on one of two connections: its number, -1 if none came in time. *rc as fl_host_receive. */
static int hear(const int fd[2], struct fl_host_message *m, struct fl_pairing *p, int *rc) {
  struct pollfd ready[2] = {{.fd = fd[0], .events = POLLIN}, {.fd = fd[1], .events = POLLIN}};

  *m = (struct fl_host_message){0};
  if (poll(ready, 2, PATIENCE_MS) < 1)
    return -1;
  int first = ready[0].revents ? 0 : 1;
  *rc = fl_host_receive(fd[first], m, p, NULL);
  return first;
}

static void explain_answer(const struct fl_host_message *m, int rc) {
  static const char about[] = "registry";

  if (rc == -EPROTO) {
    report(BAD, about, "fastlocald speaks version %u, and this command version %u: they have to be of one release",
           m->version, FL_HOST_VERSION);
  } else if (m->type == 0) {
    report(BAD, about, "fastlocald hung up (%s): a limit of processes for this user and container, or another version",
           strerror(-rc));
  } else if (m->type == FL_HOST_PAIRED) {
    if (rc == 0)
      report(FINE, about, "fastlocald pairs connections of this user in this container");
    else
      report(BAD, about, "the memory that fastlocald sent cannot be used: %s", strerror(-rc));
  } else {
    switch (m->why) {
    case FL_HOST_WHY_POLICY:
      report(WARNING, about,
             "fastlocald's policy does not allow this process to pair with itself over any port. Perhaps it allows "
             "certain ports, or other users or containers: see /etc/fastlocal/fastlocald.conf on the host");
      break;
    case FL_HOST_WHY_LIMIT:
      report(BAD, about,
             "this user and container have used up their share of connections or memory: fastlocald's limits");
      break;
    case FL_HOST_WHY_NO_PROOF:
      report(BAD, about, "fastlocald may not match connections: it needs CAP_BPF and CAP_PERFMON");
      break;
    default: report(BAD, about, "fastlocald refuses a connection on 127.0.0.1, reason %u", m->why);
    }
  }
}

void check_registry(const char *socket) {
  struct fl_host_message m;
  struct fl_pairing p = {0};
  int ends[2], fd[2], rc = 0;

  if (!*socket) {
    report(WARNING, "registry", "FASTLOCAL_REGISTRY is empty: only ends in this network namespace find each other");
    return;
  }
  fd[0] = fl_host_connect(socket, 0);
  if (fd[0] < 0) {
    explain_connect(socket, -fd[0]);
    return;
  }
  fd[1] = fl_host_connect(socket, 0);
  if (fd[1] < 0 || !tcp_ends(ends)) {
    report(BAD, "registry", "it could not be tried: %s", strerror(fd[1] < 0 ? -fd[1] : errno));
  } else {
    for (int i = 0; i < 2; i++)
      fl_host_send(fd[i], FL_HOST_ASK, 1, fl_options.ring, ends[i]);
    if (hear(fd, &m, &p, &rc) >= 0)
      explain_answer(&m, rc);
    else
      report(BAD, "registry", "fastlocald does not answer: it is stopped, or far too busy");
    fl_pairing_drop(&p);
    for (int i = 0; i < 2; i++)
      close(ends[i]);
    close(fd[1]);
  }
  close(fd[0]);
}

/* ---- peers ---- */

static const char *advice(unsigned reason) {
  switch (reason) {
  case FL_WHY_WAITING: return "if that lasts while they talk, the process at the other end has no library";
  case FL_WHY_NO_PEER: return "the process at the other end is in this network namespace: start it with the library";
  case FL_WHY_REMOTE:
    return "it is on another host, or in another container and no fastlocald could be asked: mount /run/fastlocal";
  case FL_WHY_ELSEWHERE:
    return "it is on another host, or behind a proxy, or its process has no library or no /run/fastlocal";
  case FL_WHY_DENIED: return "see the policy on the host; ends of different users need a rule";
  case FL_WHY_REFUSED:
    return "its socket was made by one user and is used by another, or users cannot be told apart here";
  case FL_WHY_ERROR: return "see the lines about calls, memory and descriptors; FASTLOCAL_LOG=warn names the call";
  case FL_WHY_BUSY: return "later connections are looked at again";
  case FL_WHY_SHARED: return "until one process is left that holds it";
  case FL_WHY_COUNTS: return "io_uring, or system calls that the library does not see: try FASTLOCAL_TRAMP=auto";
  default: return "docs/limits.md says more";
  }
}

struct reasons {
  unsigned count[256];
  char first[256][96]; /* a process and a descriptor, for each */
  unsigned connections, paired, processes;
};

static void count(struct reasons *r, const struct inspect_process *p) {
  r->processes++;
  for (size_t i = 0; i < p->count; i++) {
    const struct inspect_conn *c = &p->conns[i];
    r->connections++;
    r->paired += c->usable;
    if (c->reason >= sizeof(r->count) / sizeof(r->count[0]) || c->reason == FL_WHY_NONE)
      continue;
    if (r->count[c->reason]++ == 0)
      snprintf(r->first[c->reason], sizeof(r->first[0]), "%s(%d), descriptor %d", p->name, (int)p->pid, c->fd);
  }
}

static void look_at(struct reasons *r, pid_t pid) {
  struct inspect_process p = {0};

  if (inspect_process(pid, &p) == INSPECT_OK)
    count(r, &p);
  free(p.conns);
}

static void look_at_chosen(struct reasons *r, const pid_t *pids, size_t n) {
  for (size_t i = 0; i < n; i++) {
    struct inspect_process p = {0};
    switch (inspect_process(pids[i], &p)) {
    case INSPECT_OK: count(r, &p); break;
    case INSPECT_NONE:
      report(BAD, "process",
             "%d does not have the library: LD_PRELOAD was not set for it, it is static, or its libc is another",
             (int)pids[i]);
      break;
    case INSPECT_FOREIGN: report(BAD, "process", "%d has another version of the library", (int)pids[i]); break;
    case INSPECT_DENIED: report(WARNING, "process", "%d may not be read by this user", (int)pids[i]); break;
    case INSPECT_GONE: report(BAD, "process", "%d does not exist", (int)pids[i]); break;
    }
    free(p.conns);
  }
}

void check_peers(const pid_t *pids, size_t n) {
  struct reasons *r = calloc(1, sizeof(*r));
  DIR *proc = n == 0 ? opendir("/proc") : NULL;
  struct dirent *entry;

  if (!r)
    return;
  look_at_chosen(r, pids, n);
  while (proc && (entry = readdir(proc)))
    if (isdigit((unsigned char)entry->d_name[0]))
      look_at(r, (pid_t)strtol(entry->d_name, NULL, 10));
  if (proc)
    closedir(proc);
  report(FINE, "peers", "%u processes here have the library; of their %u connections %u use the rings", r->processes,
         r->connections, r->paired);
  for (unsigned i = 1; i < sizeof(r->count) / sizeof(r->count[0]); i++) {
    if (r->count[i] == 0)
      continue;
    bool young = i == FL_WHY_YOUNG;
    report(young ? FINE : WARNING, "peers", "%u on TCP: %s (%s)%s%s", r->count[i], inspect_reason(i), r->first[i],
           young ? "" : ": ", young ? "" : advice(i));
  }
  free(r);
}
