/* SPDX-License-Identifier: MIT */
#include "say.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void say(const char *priority, const char *format, ...) {
  char line[1024];
  va_list args;

  va_start(args, format);
  vsnprintf(line, sizeof(line), format, args);
  va_end(args);
  fprintf(stderr, "%s%s\n", getenv("JOURNAL_STREAM") ? priority : "fastlocald: ", line);
}
