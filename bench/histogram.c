/* SPDX-License-Identifier: MIT */
#include "histogram.h"

/* Values below 64 have a bucket each; above, `shift` is how many low bits the bucket forgets. */
static unsigned bucket_of(uint64_t value) {
  if (value < (1U << HISTOGRAM_SUB_BITS))
    return (unsigned)value;
  unsigned shift = 63 - (unsigned)__builtin_clzll(value) - HISTOGRAM_SUB_BITS;
  return ((shift + 1) << HISTOGRAM_SUB_BITS) + (unsigned)(value >> shift) - (1U << HISTOGRAM_SUB_BITS);
}

static double middle_of(unsigned bucket) {
  if (bucket < (1U << HISTOGRAM_SUB_BITS))
    return bucket;
  unsigned shift = (bucket >> HISTOGRAM_SUB_BITS) - 1;
  uint64_t sub = (bucket & ((1U << HISTOGRAM_SUB_BITS) - 1)) + (1U << HISTOGRAM_SUB_BITS);
  return ((double)sub + 0.5) * (double)(1ULL << shift);
}

void histogram_add(struct histogram *h, uint64_t value) {
  h->count++;
  h->buckets[bucket_of(value)]++;
}

double histogram_quantile(const struct histogram *h, double fraction) {
  uint64_t wanted = (uint64_t)(fraction * (double)h->count + 0.5);
  uint64_t seen = 0;
  for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
    seen += h->buckets[i];
    if (h->buckets[i] != 0 && seen >= wanted)
      return middle_of(i);
  }
  return 0;
}
