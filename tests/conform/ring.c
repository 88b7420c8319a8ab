/* SPDX-License-Identifier: MIT */
/*
 * tests/conform/ring.c - does the library use its rings for a connection of this very process? Its memory is read
 * (preload/arena.h), so that nothing has to be called for it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "conform.h"
#include "preload/arena.h"

static const struct fl_arena *arena(void) {
  static const struct fl_arena *found;
  static bool looked;
  char line[512];
  FILE *f;

  if (looked)
    return found;
  looked = true;
  f = fopen("/proc/self/maps", "re");
  while (f && fgets(line, sizeof line, f)) {
    uint64_t start, end;
    char perms[8];
    if (strstr(line, "/memfd:" FL_ARENA_NAME) &&
        sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s", &start, &end, perms) == 3 && perms[3] == 's') {
      found = (const struct fl_arena *)(uintptr_t)start; /* NOLINT(performance-no-int-to-ptr): that is what it is */
      break;
    }
  }
  if (f)
    fclose(f);
  return found;
}

static const struct fl_conn *conn_of(int fd) {
  const struct fl_arena *a = arena();
  const struct fl_conn *c;

  if (!a)
    return NULL;
  c = (const struct fl_conn *)((const char *)a + a->conn_offset);
  for (uint32_t i = 0; i < a->used_high; i++, c++) {
    if (c->used % 2 == 0 || c->closed || c->fd_hint != fd)
      continue;
    for (int h = 0; h < FL_HOLDERS; h++)
      if (c->holder[h] == getpid())
        return c;
  }
  return NULL;
}

bool on_ring(int fd) {
  const struct fl_conn *c = conn_of(fd);
  return c && fl_conn_usable(c);
}

uint64_t ring_bytes(int fd, bool sent) {
  const struct fl_conn *c = conn_of(fd);
  return !c ? 0 : sent ? c->tx_ring.bytes : c->rx_ring.bytes;
}
