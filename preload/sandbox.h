/* SPDX-License-Identifier: MIT */
/*
 * preload/sandbox.h - a process that forbids itself system calls (seccomp).
 *
 * What such a filter lets through is what the program itself needs; a call of ours that it does not know is most often
 * the end of the process. So the library leaves the process before the filter is in force: its connections are put on
 * TCP for good, what lies unread in rings is handed over, bells are taken out of epoll sets, and from then on every
 * hook passes through as if there were no library.
 */
#pragma once

/* Before the system call `number` is made. Leaves the process if it is prctl or seccomp and puts a filter in force.
 * Keeps errno. [any thread; once] */
void fl_sandbox_before(long number, const long *arg);
