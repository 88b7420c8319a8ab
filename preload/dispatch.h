/* SPDX-License-Identifier: MIT */
/* preload/dispatch.h - what dispatch.c asks the hooks, and offers to syscall(). */
#pragma once

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/select.h>

/* Is something of ours in the array, or in the sets (where the call asks for input)? */
bool fl_poll_concerned(const struct pollfd *fds, nfds_t n);
bool fl_select_concerned(int n, const fd_set *rd, const fd_set *wr, const fd_set *ex);

/* syscall() with a number that matters, or before fl_syscall_real is known. */
long fl_syscall_hook(long nr, long a, long b, long c, long d, long e, long f);

/* libc's syscall, which gets all other numbers by a jump: vfork must not return twice into a frame of ours. */
extern void *fl_syscall_real;
extern uint8_t fl_syscall_wanted[512]; /* by number */
void fl_syscall_init(void);
