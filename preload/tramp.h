/* SPDX-License-Identifier: MIT */
/* preload/tramp.h - FASTLOCAL_TRAMP: which objects of this process are patched, and what that means for the rest. */
#pragma once

#include <stdbool.h>

/* Patches what the option says. Once, at the end of the library's constructor. */
void fl_tramp_start(void);

/*
 * libc is about to make a stream for a connection. If so far nothing needed libc to be patched (`auto`), and no other
 * thread runs, it is patched now. Returns fl_tramp_stdio.
 */
bool fl_tramp_for_stdio(void);

/* Does stdio's own reading and writing arrive at the hooks? Then a connection may be used through it. */
extern bool fl_tramp_stdio;

/* fd is, or is no longer, one that the table knows. */
void fl_tramp_note(int fd, bool ours);
