/* SPDX-License-Identifier: MIT */
/*
 * registry/daemon/metrics.c - counters as Prometheus reads them, and the list of clients for `fastlocal stat` and
 * `top`, for whoever connects to a socket of their own. Each answer is sent in one piece, so nobody can keep the loop
 * waiting.
 *
 *     GET /processes?after=SERIAL   JSON: those of a higher serial number, at most PAGE of them
 *     anything else                 the counters
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon.h"

#define OWNERS_MAX 200 /* those with the most pairs are not sought out: a host with more looks at the sums */

#define PAGE 200       /* fits into a socket's buffer */
#define CGROUP_MAX 255 /* of a longer path the end */

#define READERS 8

static int readers[READERS + 1]; /* the listener first; -1: free */

static void value(FILE *f, const char *name, const char *type, const char *help, uint64_t v) {
  fprintf(f, "# HELP fastlocald_%s %s\n# TYPE fastlocald_%s %s\nfastlocald_%s %" PRIu64 "\n", name, help, name, type,
          name, v);
}

static void owners(FILE *f, const char *name, const char *help, uint64_t (*of)(const struct owner *o)) {
  unsigned n = 0;

  fprintf(f, "# HELP fastlocald_%s %s\n# TYPE fastlocald_%s gauge\n", name, help, name);
  for (const struct owner *o = d.owners; o && n < OWNERS_MAX; o = o->hh.next, n++)
    fprintf(f, "fastlocald_%s{uid=\"%" PRIu64 "\",netns=\"%" PRIu64 "\"} %" PRIu64 "\n", name, o->key.uid, o->key.netns,
            of(o));
}

static uint64_t owner_clients(const struct owner *o) { return o->clients; }
static uint64_t owner_pairs(const struct owner *o) { return o->pairs; }
static uint64_t owner_memory(const struct owner *o) { return o->memory; }

static void write_all(FILE *f) {
  value(f, "clients", "gauge", "Processes that are connected.", d.nclients);
  value(f, "waiting", "gauge", "Connections whose other end has not asked yet.", d.nwaiting);
  value(f, "pairs", "gauge", "Connections that are paired.", d.npairs);
  value(f, "clients_total", "counter", "Processes that have connected.", d.counters.clients);
  value(f, "questions_total", "counter", "Questions for the other end of a connection.", d.counters.questions);
  value(f, "pairs_total", "counter", "Connections paired.", d.counters.pairs);
  value(f, "refused_total", "counter", "Questions refused, by the policy or for their socket.", d.counters.refused);
  value(f, "busy_total", "counter", "Questions turned away at a limit.", d.counters.busy);
  value(f, "expired_total", "counter", "Questions whose other end never asked.", d.counters.expired);
  value(f, "bad_total", "counter", "Processes sent away for what they said.", d.counters.bad);
  owners(f, "owner_clients", "Processes, by user and network namespace.", owner_clients);
  owners(f, "owner_pairs", "Ends of paired connections, by user and network namespace.", owner_pairs);
  owners(f, "owner_ring_bytes", "Address space of their rings, by user and network namespace.", owner_memory);
}

/* A JSON string. Whoever made the cgroup chose its bytes. */
static void json_string(FILE *f, const char *s) {
  size_t len = strlen(s);

  fputc('"', f);
  for (s += len > CGROUP_MAX ? len - CGROUP_MAX : 0; *s; s++)
    if (*s < ' ' || *s > '~' || *s == '"' || *s == '\\')
      fprintf(f, "\\u%04x", (unsigned char)*s);
    else
      fputc(*s, f);
  fputc('"', f);
}

static void write_processes(FILE *f, uint64_t after) {
  unsigned n = 0;

  fputc('[', f);
  for (const struct client *c = d.clients; c && n < PAGE; c = c->next) {
    if (c->serial <= after)
      continue;
    fprintf(f,
            "%s{\"serial\":%" PRIu64 ",\"pid\":%d,\"uid\":%u,\"netns\":%" PRIu64
            ",\"waiting\":%u,\"pairs\":%u,\"asked\":%u,\"refused\":%u,\"cgroup\":",
            n++ ? ",\n" : "", c->serial, (int)c->pid, c->who.uid, c->who.netns, c->waiting, c->pairs, c->asked,
            c->refused);
    json_string(f, c->who.cgroup ? c->who.cgroup : "");
    fputc('}', f);
  }
  fputs("]\n", f);
}

#define PROCESSES "GET /processes?after="

static void answer(int fd, const char *request) {
  char *text = NULL, head[128];
  size_t size = 0;
  FILE *f = open_memstream(&text, &size);
  bool list = strncmp(request, PROCESSES, strlen(PROCESSES)) == 0;

  if (!f)
    return;
  if (list)
    write_processes(f, strtoull(request + strlen(PROCESSES), NULL, 10));
  else
    write_all(f);
  fclose(f);
  snprintf(head, sizeof(head), "HTTP/1.0 200 OK\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n",
           list ? "application/json" : "text/plain; version=0.0.4", size);
  if (send(fd, head, strlen(head), MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)strlen(head))
    (void)!send(fd, text, size, MSG_NOSIGNAL | MSG_DONTWAIT); /* cut where there is no room: he sees the length */
  free(text);
}

bool metrics_open(int listener) {
  struct epoll_event e = {.events = EPOLLIN, .data.ptr = &readers[0]};

  for (int i = 0; i <= READERS; i++)
    readers[i] = -1;
  readers[0] = listener;
  return epoll_ctl(d.epoll, EPOLL_CTL_ADD, listener, &e) == 0;
}

static void let_in(void) {
  int fd = accept4(readers[0], NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), i = 1;

  while (i < READERS && readers[i] >= 0)
    i++;
  struct epoll_event e = {.events = EPOLLIN, .data.ptr = &readers[i]};
  if (fd < 0)
    return;
  if (readers[i] >= 0 || epoll_ctl(d.epoll, EPOLL_CTL_ADD, fd, &e) < 0)
    close(fd);
  else
    readers[i] = fd;
}

bool metrics_ready(void *mark) {
  int *reader = mark;
  char request[4096];
  ssize_t n;

  if (reader < readers || reader > readers + READERS)
    return false;
  if (reader == readers) {
    let_in();
    return true;
  }
  n = recv(*reader, request, sizeof(request) - 1, MSG_DONTWAIT);
  if (n > 0) {
    request[n] = '\0';
    answer(*reader, request);
  }
  close(*reader);
  *reader = -1;
  return true;
}
