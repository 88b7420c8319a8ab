/* SPDX-License-Identifier: MIT */
/* preload/fault.c - the list of fault points; only in a library for tests. */
#include "shmring/fault.h"

#include "export.h"

#ifdef FL_FAULT_POINTS
extern fl_fault_point __start_fl_faults[], __stop_fl_faults[]; /* the linker's */

FL_EXPORT fl_fault_point *fl_fault_points(fl_fault_point **first) {
  *first = __start_fl_faults;
  return __stop_fl_faults;
}
#endif
