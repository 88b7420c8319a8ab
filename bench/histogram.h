/* SPDX-License-Identifier: MIT */
/*
 * bench/histogram.h - a log-linear histogram of 64-bit values, after HdrHistogram (no C library of it is in Debian 12).
 *
 * Every power of two is cut in 64 equal parts, so a percentile is right within 1.6 percent.
 */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_SUB_BITS = 6, HISTOGRAM_BUCKETS = (64 - HISTOGRAM_SUB_BITS + 1) << HISTOGRAM_SUB_BITS };

struct histogram {
  uint64_t count;
  uint64_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_add(struct histogram *h, uint64_t value);

/* The value below or at which `fraction` (0 to 1) of the values lie: the middle of its bucket; 0 when empty. */
double histogram_quantile(const struct histogram *h, double fraction);

#endif
