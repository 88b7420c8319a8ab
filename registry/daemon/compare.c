/* SPDX-License-Identifier: MIT */
/* registry/daemon/compare.c - see compare.h. */
#include "compare.h"

#include <linux/tcp.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

struct counts {
  uint64_t sent, received; /* bytes */
  uint32_t segments_out, segments_in;
  uint8_t own_scale, peer_scale;
};

/* What one socket says at one moment; false: Linux before 4.19. */
static bool read_counts(int fd, struct counts *out) {
  struct tcp_info info = {0};
  socklen_t len = sizeof(info);

  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 ||
      len < offsetof(struct tcp_info, tcpi_bytes_retrans) + sizeof(info.tcpi_bytes_retrans))
    return false;
  *out = (struct counts){.sent = info.tcpi_bytes_sent - info.tcpi_bytes_retrans,
                         .received = info.tcpi_bytes_received,
                         .segments_out = info.tcpi_data_segs_out - info.tcpi_total_retrans,
                         .segments_in = info.tcpi_data_segs_in,
                         .own_scale = info.tcpi_rcv_wscale,
                         .peer_scale = info.tcpi_snd_wscale};
  return true;
}

static bool same(const struct counts *x, const struct counts *y) {
  return x->sent == y->sent && x->received == y->received && x->segments_out == y->segments_out &&
         x->segments_in == y->segments_in;
}

static bool reversed(const struct fl_tuple *a, const struct fl_tuple *b) {
  return memcmp(&a->local, &b->remote, sizeof(a->local)) == 0 && memcmp(&a->remote, &b->local, sizeof(a->local)) == 0 &&
         a->local_port == b->remote_port && a->remote_port == b->local_port;
}

bool compare_equal(int a, const struct fl_tuple *ta, int b, const struct fl_tuple *tb) {
  struct counts x, y, again;

  if (!reversed(ta, tb) || !ta->netns || !tb->netns || ta->netns == tb->netns)
    return false;
  /* b's are those of a moment in which a's did not change */
  if (!read_counts(a, &x) || !read_counts(b, &y) || !read_counts(a, &again) || !same(&x, &again))
    return false;
  return x.sent == y.received && y.sent == x.received && x.sent + x.received > 0 && x.segments_out == y.segments_in &&
         y.segments_out == x.segments_in && x.own_scale == y.peer_scale && y.own_scale == x.peer_scale;
}

/* FNV-1a */
static uint32_t mix(uint32_t h, const void *data, size_t len) {
  const unsigned char *p = data;

  while (len-- > 0)
    h = (h ^ *p++) * 16777619u;
  return h;
}

static uint32_t hash(const struct in6_addr *from, in_port_t from_port, const struct in6_addr *to, in_port_t to_port) {
  uint32_t h = mix(2166136261u, from, sizeof(*from));

  h = mix(h, &from_port, sizeof(from_port));
  h = mix(h, to, sizeof(*to));
  return mix(h, &to_port, sizeof(to_port));
}

struct proof compare_proof(const struct fl_tuple *t) {
  return (struct proof){.sent_from = hash(&t->local, t->local_port, &t->remote, t->remote_port),
                        .received_from = hash(&t->remote, t->remote_port, &t->local, t->local_port)};
}
