/* SPDX-License-Identifier: MIT */
/*
 * preload/signals.h - did a signal handler run on this thread?
 *
 * A spin in user space stands for a sleep in the kernel, so a handler that runs during the spin must end it just as it
 * would have ended the sleep:
 *
 *   uint32_t before = fl_signals_any();
 *   ... spin ...
 *   if (fl_signals_any() != before)
 *     return EINTR;
 *
 * Counted are the handlers that the application installs through libc, which signals.c interposes. Not counted, though
 * they work: handlers set by a raw rt_sigaction or by libc itself, and those beyond the first FL_SIGNALS_HANDLERS
 * different functions that a process installs.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#define FL_SIGNALS_HANDLERS 128

/*
 * Written by handlers only, on the thread that reads it. Atomic because a handler may interrupt another in
 * mid-increment, and then no increment may be lost; volatile because nothing in a loop that reads it again tells the
 * compiler that it may have changed. Initial-exec: a handler must not allocate, as the first access to dynamic TLS
 * does.
 */
struct fl_signals {
  volatile _Atomic uint32_t any;
  volatile _Atomic uint32_t norestart;
};
extern __thread struct fl_signals fl_signals __attribute__((tls_model("initial-exec"), visibility("hidden")));

/*
 * Handlers begun on this thread so far, of whatever kind: compare with an earlier value, for equality only (it wraps).
 * What epoll_wait, poll, select and their relatives ask: these return EINTR with SA_RESTART or without.
 *
 * Both are two instructions, async-signal-safe, and need no barrier: only this thread writes. A handler's count
 * precedes the handler, so that a call made by the handler does not count the handler that makes it.
 */
static inline uint32_t fl_signals_any(void) { return atomic_load_explicit(&fl_signals.any, memory_order_relaxed); }

/* Those among them that were installed without SA_RESTART: what recv and its relatives ask when there is no timeout. */
static inline uint32_t fl_signals_norestart(void) {
  return atomic_load_explicit(&fl_signals.norestart, memory_order_relaxed);
}
