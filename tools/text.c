/* SPDX-License-Identifier: MIT */
/* tools/text.c - see text.h. */
#include "text.h"

#include <inttypes.h>
#include <stdio.h>

void format_bytes(uint64_t bytes, char *out, size_t size) {
  static const char units[] = "KMGTPE";
  double n = (double)bytes;
  int unit = -1;

  while (n >= 999.5 && unit < 5) {
    n /= 1024;
    unit++;
  }
  if (unit < 0)
    snprintf(out, size, "%" PRIu64, bytes);
  else
    snprintf(out, size, "%.*f%c", n < 9.95 ? 1 : 0, n, units[unit]);
}
