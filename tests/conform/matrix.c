/* SPDX-License-Identifier: MIT */
/* tests/conform/matrix.c - from the declarations of groups to single cases. */
#include <stdio.h>
#include <string.h>

#include "conform.h"

static uint64_t combinations(const struct group *g) {
  uint64_t n = 1;

  for (int d = 0; d < DIMS_MAX && g->dims[d].count; d++)
    n *= (uint64_t)g->dims[d].count;
  return n;
}

static bool place(struct selected *s, unsigned group, uint64_t index) {
  s->group = groups[group];
  s->index = index;
  for (int d = DIMS_MAX - 1; d >= 0; d--) {
    int count = s->group->dims[d].count;
    s->v[d] = count ? (int)(index % (uint64_t)count) : 0;
    index /= count ? (uint64_t)count : 1;
  }
  return !s->group->skip || !s->group->skip(s->v);
}

bool next_case(struct selected *s, unsigned *group) {
  uint64_t index = s->group ? s->index + 1 : 0;

  for (; *group < group_count; ++*group, index = 0)
    for (; index < combinations(groups[*group]); index++)
      if (place(s, *group, index))
        return true;
  return false;
}

/* Spread over all values of all dimensions: a stride would meet the same ones again and again. */
bool in_ci(const struct selected *s) {
  uint64_t x = (s->index + 1) * 0x9e3779b97f4a7c15u;

  return s->group->every <= 1 || (x >> 32) % s->group->every == 0;
}

void case_name(const struct selected *s, char *to, size_t size) {
  size_t n = (size_t)snprintf(to, size, "%s", s->group->name);

  for (int d = 0; d < DIMS_MAX && s->group->dims[d].count && n < size; d++)
    n += (size_t)snprintf(to + n, size - n, "/%s", s->group->dims[d].values[s->v[d]]);
}
