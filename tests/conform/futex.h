/* SPDX-License-Identifier: MIT */
/* tests/conform/futex.h - sleeping on a word of shared memory, past all that a library could interpose. */
#pragma once

#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Until the word is not `seen`, or `ms` milliseconds have gone by. May return early. */
static inline void futex_wait(_Atomic uint32_t *word, uint32_t seen, unsigned ms) {
  struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};
  syscall(SYS_futex, word, FUTEX_WAIT, seen, &t, NULL, 0);
}

static inline void futex_wake(_Atomic uint32_t *word) {
  syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}
