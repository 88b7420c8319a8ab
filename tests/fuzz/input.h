/* SPDX-License-Identifier: MIT */
/* tests/fuzz/input.h - takes the fuzzer's bytes one decision at a time. When they are used up every answer is 0. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct input {
  const uint8_t *at, *end;
};

static inline void take(struct input *in, void *out, size_t n) {
  size_t have = (size_t)(in->end - in->at) < n ? (size_t)(in->end - in->at) : n;

  memset(out, 0, n);
  if (have == 0)
    return;
  memcpy(out, in->at, have);
  in->at += have;
}
static inline uint8_t take8(struct input *in) {
  uint8_t v;
  take(in, &v, sizeof v);
  return v;
}
static inline uint16_t take16(struct input *in) {
  uint16_t v;
  take(in, &v, sizeof v);
  return v;
}
static inline uint32_t take32(struct input *in) {
  uint32_t v;
  take(in, &v, sizeof v);
  return v;
}
static inline uint64_t take64(struct input *in) {
  uint64_t v;
  take(in, &v, sizeof v);
  return v;
}
static inline int more(const struct input *in) { return in->at < in->end; }

/* What must hold, also where asserts are compiled out: libFuzzer keeps the input that ends here. */
#define MUST(condition) \
  do { \
    if (!(condition)) { \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      abort(); \
    } \
  } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
