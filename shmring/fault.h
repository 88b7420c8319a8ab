/* SPDX-License-Identifier: MIT */
/*
 * shmring/fault.h - places where a test may make something go wrong. Without the build option fault_points all of it
 * expands to nothing.
 *
 * A *point* is a place with a name: FL_FAULT(tx_published). Whoever loads the library may define fl_fault_hit, which is
 * then called with the point each time that it is passed, and may kill, stop or delay the process there. Every raw
 * system call of the library (registry/sys.h) is shown to fl_fault_call, which may let it fail or answer in the
 * kernel's place, and to fl_fault_called afterwards.
 *
 * The functions run in the midst of the library, with locks held: they may only make system calls of their own, by
 * other means than libc's.
 */
#pragma once

#ifdef FL_FAULT_POINTS
#include <stdbool.h>

/* One entry per place; the entries of the library lie one after the other (fl_fault_points). */
typedef const char *const fl_fault_point;

extern void fl_fault_hit(fl_fault_point *at) __attribute__((weak, visibility("default")));
extern bool fl_fault_call(long nr, const long args[6], long *result) __attribute__((weak, visibility("default")));
extern void fl_fault_called(long nr, const long args[6], long result) __attribute__((weak, visibility("default")));

/* The library's points, for whoever loaded it: dlsym(RTLD_DEFAULT, "fl_fault_points"). The result is the end. */
fl_fault_point *fl_fault_points(fl_fault_point **first);

#define FL_FAULT(point) \
  do { \
    static fl_fault_point fl_fault_here __attribute__((section("fl_faults"), used)) = #point; \
    if (fl_fault_hit) \
      fl_fault_hit(&fl_fault_here); \
  } while (0)
#else
#define FL_FAULT(point) ((void)0)
#endif
