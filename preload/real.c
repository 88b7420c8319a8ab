/* SPDX-License-Identifier: MIT */
#include "real.h"

#include <dlfcn.h>
#include <errno.h>

struct fl_real fl_real;

static void nothing(void) {}
void (*fl_real_testcancel)(void) = nothing;

static int missing(void) {
  errno = ENOSYS;
  return -1;
}

void *fl_real_one(void **slot, const char *name) {
  void *f = dlsym(RTLD_NEXT, name);

  if (!f)
    return (void *)missing;
  *slot = f; /* the same value whoever stores it */
  return f;
}

void fl_real_init(void) {
#define X(name) \
  if (!fl_real.name) \
    fl_real_one((void **)&fl_real.name, #name);
  FL_REAL_FUNCTIONS(X)
#undef X
  void (*f)(void) = (void (*)(void))dlsym(RTLD_DEFAULT, "pthread_testcancel");
  if (f)
    fl_real_testcancel = f;
}
