/* SPDX-License-Identifier: MIT */
/*
 * registry/daemon/metrics.c - counters as Prometheus reads them, for whoever connects to a socket of their own and
 * says anything: the answer is sent in one piece, so nobody can keep the loop waiting.
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

static void answer(int fd) {
  char *text = NULL, head[128];
  size_t size = 0;
  FILE *f = open_memstream(&text, &size);

  if (!f)
    return;
  write_all(f);
  fclose(f);
  snprintf(head, sizeof(head),
           "HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: %zu\r\n\r\n", size);
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

  if (reader < readers || reader > readers + READERS)
    return false;
  if (reader == readers) {
    let_in();
    return true;
  }
  /* whatever he asks for, this is all there is */
  if (recv(*reader, request, sizeof(request), MSG_DONTWAIT) > 0)
    answer(*reader);
  close(*reader);
  *reader = -1;
  return true;
}
