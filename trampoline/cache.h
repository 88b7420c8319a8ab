/* SPDX-License-Identifier: MIT */
/*
 * trampoline/cache.h - plans that were made before, one file per object, named by its build id. Only what belongs to
 * this user, and that nobody else may write, is read or written; and fl_plan_fits compares every byte before a plan is
 * used.
 */
#pragma once

#include "plan.h"

/* The directory for this user into buf: $XDG_CACHE_HOME/fastlocal or $HOME/.cache/fastlocal; for root
 * /var/cache/fastlocal if neither is set. NULL: none. */
const char *fl_cache_directory(char *buf, size_t size);

/* How a plan was made, see fl_plan_how; or an empty one, where a look at the object was not worth its time. */
enum fl_cached { FL_CACHED_PLAIN, FL_CACHED_CAREFUL, FL_CACHED_NOTHING };

/* False: there is none for this object, or it is not to be believed. */
bool fl_cache_read(const char *directory, const struct fl_object *o, struct fl_plan *p, enum fl_cached how);

/* Makes the directory (0700) if need be. Whatever fails, the plan is made again next time. */
void fl_cache_write(const char *directory, const struct fl_object *o, const struct fl_plan *p, enum fl_cached how);
