/* SPDX-License-Identifier: MIT */
/*
 * preload/log.h - the log of FASTLOCAL_LOG. One write() of one line, with no stdio, allocation or lock; errno is kept.
 * To a file opened for the one line (O_APPEND, no descriptor is kept), or to standard error.
 */
#pragma once

#include "options.h"

#define fl_log(level, ...) \
  do { \
    if (__builtin_expect(fl_options.log_level >= (level), 0)) \
      fl_log_write(level, __VA_ARGS__); \
  } while (0)

void fl_log_write(int level, const char *format, ...) __attribute__((format(printf, 2, 3), cold));

/* Says once, whatever the level, that a value is bad: to the log file if there is one, else to standard error. */
void fl_log_bad_value(const char *message);

/* ---- for stats.c: the same way of writing ---- */

/* Appends to a file (created with mode 0600; a symbolic link is refused) by one write. 0 or -errno. */
int fl_log_append(const char *path, const void *data, size_t len);

/* The program's name without its folder, as it was called. */
const char *fl_log_program(void);
