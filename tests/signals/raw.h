/* SPDX-License-Identifier: MIT */
/*
 * tests/signals/raw.h - rt_sigaction as the kernel has it, past libc and past the library.
 */
#pragma once

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

struct raw_sigaction {
  sighandler_t handler;
  unsigned long flags;
  void (*restorer)(void);
  unsigned long mask;
};

static inline long raw_rt_sigaction(int sig, const struct raw_sigaction *act, struct raw_sigaction *old) {
  return syscall(SYS_rt_sigaction, sig, act, old, sizeof act->mask);
}
