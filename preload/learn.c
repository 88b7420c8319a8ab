/* SPDX-License-Identifier: MIT */
/* preload/learn.c - see learn.h. */
#include "learn.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "arena_alloc.h"
#include "conn.h"
#include "options.h"
#include "registry/sys.h"
#include "stats.h"

/* What makes up for the time that pairing took (docs/design.md, "Pairing"). */
#define WORTH_MESSAGES 20u
#define WORTH_BYTES (512u << 10)
#define SHIFT_MAX 5u /* a connection that lives long is on its rings after 256 messages in any case */

/* Of the end that accepted; 0 if that cannot be told. */
static uint16_t service_port(const struct fl_local *l, int fd) {
  struct sockaddr_in6 at = {0}; /* the port lies where it does in sockaddr_in */
  socklen_t len = sizeof at;
  long call = l->accepted ? __NR_getsockname : __NR_getpeername;

  return fl_syscall6(call, fd, (long)&at, (long)&len, 0, 0, 0) == 0 ? ntohs(at.sin6_port) : 0;
}

uint32_t fl_learn_after(struct fl_local *l, int fd) {
  if (fl_options.pair_fixed)
    return fl_options.pair_after;
  l->service = service_port(l, fd);
  return fl_options.pair_after << atomic_load_explicit(fl_arena_learnt(l->service), memory_order_relaxed);
}

void fl_learn_end(const struct fl_conn *c, const struct fl_local *l) {
  if (l->starts == 0 || fl_options.pair_fixed)
    return; /* it never looked */
  uint64_t bytes, messages;
  fl_stats_conn(c, &bytes, &messages);
  bool worth = fl_conn_paired(c) && (messages >= l->ops + WORTH_MESSAGES || bytes >= l->bytes + WORTH_BYTES);
  /* relaxed, both: connections that end at the same time may be counted as one */
  _Atomic uint8_t *p = fl_arena_learnt(l->service);
  uint8_t shift = atomic_load_explicit(p, memory_order_relaxed);
  if (worth && shift > 0)
    atomic_store_explicit(p, shift - 1, memory_order_relaxed);
  /* not if the next one like it would not look anyway: of many that ended together each would raise it */
  if (!worth && shift < SHIFT_MAX && fl_learn_enough(messages, bytes, (uint64_t)fl_options.pair_after << shift))
    atomic_store_explicit(p, shift + 1, memory_order_relaxed);
}
