/* SPDX-License-Identifier: MIT */
/* tools/library.c - see library.h. */
#include "library.h"

#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

bool library_find(char out[PATH_MAX]) {
  static const char *const places[] = {"../preload", FL_LIBDIR_FROM_BINDIR, "../lib"};
  char self[PATH_MAX], path[PATH_MAX + 256];
  ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

  if (n <= 0)
    return false;
  self[n] = '\0';
  dirname(self); /* in place, as self holds a '/' */
  for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
    snprintf(path, sizeof(path), "%s/%s/libfastlocal.so", self, places[i]);
    if (realpath(path, out) && access(out, R_OK) == 0)
      return true;
  }
  return false;
}
