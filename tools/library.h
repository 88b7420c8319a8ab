/* SPDX-License-Identifier: MIT */
/* tools/library.h - where the library is that belongs to this command. */
#pragma once

#include <limits.h>
#include <stdbool.h>

/* Beside this very command: in the build tree, or where `meson install` puts it. False: it is not there. */
bool library_find(char out[PATH_MAX]);
