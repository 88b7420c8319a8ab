/* SPDX-License-Identifier: MIT */
/*
 * trampoline/commit.h - changed code, without a mapping that is writable and executable: the pages are copied into a
 * memfd, changed there, and mapped over the old ones, readable and executable. At no moment is a page missing its
 * permission to execute, and nothing here is refused by PR_SET_MDWE.
 */
#pragma once

#include "plan.h"

/* Writes the stubs of all sites that are not refused, and then lets the sites jump there. *patched: how many.
 * False: the system does not allow it; *patched is 0 if nothing was changed, and what was changed is right by itself.
 */
bool fl_commit(const struct fl_object *o, const struct fl_plan *p, uint32_t *patched);

/* One change of a few bytes within a page. */
bool fl_commit_bytes(uintptr_t at, const uint8_t *bytes, size_t n);

/* A page of code near an object (within reach of a 32-bit distance from all of it); 0: none. */
uintptr_t fl_commit_near(const struct fl_object *o, const uint8_t *code, size_t n);
