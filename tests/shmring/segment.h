/* SPDX-License-Identifier: MIT */
/* tests/shmring/segment.h - a segment between two pages that may not be touched, with both ends attached. */
#pragma once

#include "shmring/lane.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define RING FL_RING_MIN

struct pair {
  struct fl_segment *seg;
  unsigned char *base; /* of the segment */
  struct fl_tx tx[2];  /* tx[0] sends to rx[1] */
  struct fl_rx rx[2];
};

static inline struct pair pair_new(uint32_t ring) {
  struct pair p;
  size_t bytes = fl_segment_bytes(ring);

  p.base = mmap(NULL, bytes + 2 * FL_PAGE, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (p.base == MAP_FAILED || mprotect(p.base + FL_PAGE, bytes, PROT_READ | PROT_WRITE))
    abort();
  p.base += FL_PAGE;
  p.seg = fl_segment_init(p.base, ring);
  fl_attach(p.seg, ring, 0, &p.tx[0], &p.rx[0]);
  fl_attach(p.seg, ring, 1, &p.tx[1], &p.rx[1]);
  return p;
}

static inline void pair_free(struct pair *p, uint32_t ring) {
  munmap(p->base - FL_PAGE, fl_segment_bytes(ring) + 2 * FL_PAGE);
}

static inline enum fl_tx_result push(struct fl_tx *tx, const void *bytes, size_t len, uint64_t koff, size_t *done) {
  struct iovec iov = {(void *)bytes, len};

  return fl_tx_push(tx, &iov, 0, len, koff, done);
}

/* splitmix64 */
static inline uint64_t rnd(uint64_t *state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15ull);

  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}
