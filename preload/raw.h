/* SPDX-License-Identifier: MIT */
/*
 * preload/raw.h - libc's wrappers of system calls, made here.
 *
 * Where trampolines lead libc's own system calls to the hooks, the hooks cannot call libc for the kernel lane: they
 * would arrive at themselves. Then the table of real.h gets these instead, which do the same (errno, cancellation, the
 * conversions of glibc) and make the system call in this library, which is never patched.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "conn.h"
#include "real.h"

/* Set while a call is answered that is no cancellation point: one made by syscall(), or by a program's own instruction.
 */
extern FL_TLS bool fl_raw_nocancel;

/* Was pthread_cancel ever called? Nothing else cancels a thread. */
extern FL_HIDDEN _Atomic bool fl_raw_cancels;

/* What the hooks use in place of pthread_testcancel. */
static inline void fl_testcancel(void) {
  /* relaxed: who calls pthread_cancel has stored it before that, and no cancellation arrives at a definite moment */
  if (FL_UNLIKELY(atomic_load_explicit(&fl_raw_cancels, memory_order_relaxed)) && !fl_raw_nocancel)
    fl_real_testcancel();
}

/* Is this process known to have one thread only? Then none can be cancelled asynchronously. */
bool fl_raw_single(void);

/* Do all of the functions concerned come from the object that `inside` knows? Otherwise another library stands between
 * us and libc, and is not to be left out. */
bool fl_raw_possible(bool (*inside)(uintptr_t address));

/* Puts them into the table, for good. Before anything is patched; other threads may be in either. */
void fl_raw_use(void);
