/* SPDX-License-Identifier: MIT */
/*
 * trampoline/commit.h - changed code, without a mapping that is writable and executable.
 *
 * With one thread the bytes are written through /proc/self/mem, as a debugger does it: the mapping and its name stay
 * what they are, so that unwinders that go by mappings (perf) find the object's tables. With several, or where that is
 * refused, the pages are copied into a memfd, changed there, and mapped over the old ones, readable and executable: a
 * thread sees the old page or the new one. At no moment is a page missing its permission to execute, and PR_SET_MDWE
 * refuses neither.
 */
#pragma once

#include "plan.h"

/* Writes the stubs of all sites that are not refused, and then lets the sites jump there. running: other threads may be
 * there. *patched: how many. False: the system does not allow it; *patched is 0 if nothing was changed, and what was
 * changed is right by itself. */
bool fl_commit(const struct fl_object *o, const struct fl_plan *p, bool running, uint32_t *patched);

/* One change of a few bytes within a page, whoever runs there. */
bool fl_commit_bytes(uintptr_t at, const uint8_t *bytes, size_t n);

/* A page of code near an object (within reach of a 32-bit distance from all of it); 0: none. */
uintptr_t fl_commit_near(const struct fl_object *o, const uint8_t *code, size_t n);
