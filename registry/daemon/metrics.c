/* SPDX-License-Identifier: MIT */
/*
 * registry/daemon/metrics.c - counters as Prometheus reads them, for whoever connects to a socket of their own: the
 * answer is sent before anything is read, in one piece, so nobody can keep the loop waiting.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon.h"

#define OWNERS_MAX 200 /* those with the most pairs are not sought out: a host with more looks at the sums */

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

void metrics_serve(int listener) {
  int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  char *text = NULL, head[128];
  size_t size = 0;
  FILE *f;

  if (fd < 0)
    return;
  f = open_memstream(&text, &size);
  if (f) {
    write_all(f);
    fclose(f);
    snprintf(head, sizeof(head),
             "HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: %zu\r\n\r\n", size);
    if (send(fd, head, strlen(head), MSG_NOSIGNAL | MSG_MORE) == (ssize_t)strlen(head))
      (void)!send(fd, text, size, MSG_NOSIGNAL); /* cut where the reader's buffer is too small: he sees the length */
  }
  free(text);
  close(fd);
}
