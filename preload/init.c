/* SPDX-License-Identifier: MIT */
/* preload/init.c - start and end of the library in a process. When anything is missing everything passes through. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "conn.h"
#include "dispatch.h"
#include "inherit.h"
#include "log.h"
#include "mem.h"
#include "options.h"
#include "process.h"
#include "real.h"
#include "tramp.h"

extern void __tsan_init(void) __attribute__((weak));
extern void __msan_init(void) __attribute__((weak));

/*
 * Tools that follow every access, or every step by which threads are put in order, see neither our atomics nor that
 * bytes came over a socket: they would report races and uninitialized memory in a program that has none.
 */
static bool watched(void) {
#ifndef __SANITIZE_THREAD__ /* a library that was built so itself is what is to be looked at */
  if (__tsan_init)
    return true;
#endif
  const char *preloads = getenv("LD_PRELOAD"); /* NOLINT(concurrency-mt-unsafe): in the constructor */
  return __msan_init || (preloads && (strstr(preloads, "/vgpreload_helgrind") || strstr(preloads, "/vgpreload_drd")));
}

__attribute__((constructor)) static void init(void) {
  char err[256];
  int saved = errno;

  fl_real_init();
  fl_mem_init();
  if (fl_options_load(err, sizeof err) != 0)
    fl_log_bad_value(err);
  else if (!fl_options.disable && !watched() && fl_process_init()) {
    fl_process_hooks_init();
    fl_inherit_load();
  }
  if (fl_options.spin_fixed)
    fl_wait_fixed();
  fl_syscall_init();
  if (fl_fds)
    fl_tramp_start();
  errno = saved;
}

__attribute__((destructor)) static void fini(void) {
  if (fl_fds)
    fl_process_exit();
}
