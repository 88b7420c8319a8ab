/* SPDX-License-Identifier: MIT */
/*
 * preload/signals.c - handlers that are counted.
 *
 * Each function that the application installs as a handler gets a slot for life, and each slot has two small functions,
 * the stubs: one for installation with SA_RESTART and one for without. The kernel is given the stub in place of the
 * handler. It counts, and jumps to the handler.
 *
 * The kernel's table therefore says everything about a signal's disposition, and there is no second table to keep in
 * step: the stub's address stands for the application's function and for the flag, and a slot never changes once it is
 * taken. Whatever races, whoever installs (a handler, a vfork child that shares our memory, libc itself putting back
 * what it read), handler and flags change together because the kernel changes them together.
 *
 * No locks, no allocation, no system calls of our own: all of this may run in a handler, and with every signal blocked.
 */
#include "signals.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

#include "export.h"
#include "real.h"

/* Exported by libc, but declared by none of its headers (or not with _GNU_SOURCE). */
struct fl_sigvec { /* struct sigvec of 4.2BSD, which the headers had until glibc 2.20 */
  sighandler_t sv_handler;
  int sv_mask;
  int sv_flags;
};
enum { FL_SV_ONSTACK = 1, FL_SV_INTERRUPT = 2, FL_SV_RESETHAND = 4 };
int __sigaction(int sig, const struct sigaction *act, struct sigaction *old);
sighandler_t bsd_signal(int sig, sighandler_t handler);
int sigvec(int sig, const struct fl_sigvec *vec, struct fl_sigvec *old);

/*
 * Always called with three arguments: the kernel passes them whether SA_SIGINFO is set or not, and some handlers
 * installed without it do look at the context.
 */
typedef void handler_fn(int sig, siginfo_t *info, void *context);

__thread struct fl_signals fl_signals __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* ---- stubs ---- */

/*
 * Slots are taken in order and never given back. Release and acquire order nothing but the pointer itself; a stub needs
 * not even that, because it only runs after a rt_sigaction that came after the slot was taken.
 */
static _Atomic(handler_fn *) handlers[FL_SIGNALS_HANDLERS];

/* X(n) for all slots, in octal, so that numbers can be pasted together from digits. */
/* clang-format off */
#define FOR_8(X, n) X(n##0) X(n##1) X(n##2) X(n##3) X(n##4) X(n##5) X(n##6) X(n##7)
#define FOR_64(X, n) \
  FOR_8(X, n##0) \
  FOR_8(X, n##1) FOR_8(X, n##2) FOR_8(X, n##3) FOR_8(X, n##4) FOR_8(X, n##5) FOR_8(X, n##6) FOR_8(X, n##7)
#define FOR_ALL(X) FOR_64(X, 0) FOR_64(X, 01)
/* clang-format on */

/*
 * The call is the last thing that a stub does, and the compiler makes it a jump: the handler then returns to the
 * kernel's frame by itself, and neither a backtrace, nor an exception, nor a stack of MINSIGSTKSZ bytes can tell that
 * we were there.
 */
#define STUBS(n) \
  static void restart_##n(int sig, siginfo_t *info, void *context) { \
    atomic_fetch_add_explicit(&fl_signals.any, 1, memory_order_relaxed); \
    atomic_load_explicit(&handlers[n], memory_order_relaxed)(sig, info, context); \
  } \
  static void norestart_##n(int sig, siginfo_t *info, void *context) { \
    atomic_fetch_add_explicit(&fl_signals.any, 1, memory_order_relaxed); \
    atomic_fetch_add_explicit(&fl_signals.norestart, 1, memory_order_relaxed); \
    atomic_load_explicit(&handlers[n], memory_order_relaxed)(sig, info, context); \
  }
FOR_ALL(STUBS)

static const struct {
  handler_fn *restart, *norestart;
} stubs[FL_SIGNALS_HANDLERS] = {
#define ENTRY(n) {restart_##n, norestart_##n},
    FOR_ALL(ENTRY)
#undef ENTRY
};

/* ---- the application's handler <-> what the kernel has ---- */

/* SIG_DFL, SIG_IGN, and values that no function has (SIG_HOLD, SIG_ERR). */
static bool is_constant(handler_fn *h) {
  return (uintptr_t)h <= (uintptr_t)SIG_HOLD || (uintptr_t)h == (uintptr_t)SIG_ERR;
}

/* The application's handler behind a stub; anything else as it is. */
static handler_fn *unwrapped(handler_fn *h) {
  if (is_constant(h))
    return h;
  for (size_t i = 0; i < FL_SIGNALS_HANDLERS; i++) {
    handler_fn *known =
        atomic_load_explicit(&handlers[i], memory_order_acquire); /* pairs with the claim in wrapped() */
    if (!known)
      break;
    if (h == stubs[i].restart || h == stubs[i].norestart)
      return known;
  }
  return h;
}

/* The stub for a handler; the handler itself if there is no slot left: it works, unnoticed. */
static handler_fn *wrapped(handler_fn *h, bool restart) {
  /* A stub may come back from the application, which read it with a raw rt_sigaction. */
  h = unwrapped(h);
  if (is_constant(h))
    return h;
  for (size_t i = 0; i < FL_SIGNALS_HANDLERS; i++) {
    handler_fn *known = atomic_load_explicit(&handlers[i], memory_order_acquire); /* pairs with the claim below */

    /* Claims the slot. Whoever loses finds in `known` the handler that it was taken for, which may be the same. */
    if (!known &&
        atomic_compare_exchange_strong_explicit(&handlers[i], &known, h, memory_order_release, memory_order_acquire))
      known = h;
    if (known == h)
      return restart ? stubs[i].restart : stubs[i].norestart;
  }
  return h;
}

/* sigaction. Through copies: act may be old, and old never shows a stub, even to a handler that runs meanwhile. */
static int install(int sig, const struct sigaction *act, struct sigaction *old) {
  struct sigaction ours, was;

  if (act) {
    ours = *act;
    ours.sa_sigaction = wrapped(ours.sa_sigaction, ours.sa_flags & SA_RESTART);
  }
  if (REAL(sigaction)(sig, act ? &ours : NULL, old ? &was : NULL) != 0)
    return -1;
  if (old) {
    was.sa_sigaction = unwrapped(was.sa_sigaction);
    *old = was;
  }
  return 0;
}

/* What signal and its kind have in common. Returns the previous handler, or SIG_ERR with errno. */
static sighandler_t install_simple(int sig, sighandler_t handler, int flags, bool block_itself) {
  struct sigaction act = {.sa_handler = handler, .sa_flags = flags}, old;

  if (handler == SIG_ERR || sig < 1 || sig >= NSIG) {
    errno = EINVAL;
    return SIG_ERR;
  }
  if (block_itself)
    sigaddset(&act.sa_mask, sig); /* fails only for libc's own signals, which sigaction then refuses */
  return install(sig, &act, &old) == 0 ? old.sa_handler : SIG_ERR;
}

/* ---- exported ---- */

FL_EXPORT int sigaction(int sig, const struct sigaction *act, struct sigaction *old) { return install(sig, act, old); }

FL_EXPORT int __sigaction(int sig, const struct sigaction *act, struct sigaction *old) {
  return install(sig, act, old);
}

/*
 * siginterrupt and signal share a set in libc: for its signals, signal leaves SA_RESTART out. Theirs cannot be read,
 * and libc's siginterrupt would change the flag without exchanging the stub; so both functions are done here, on a set
 * of ours. Relaxed: a single word that orders nothing else.
 */
static _Atomic uint64_t interrupting;

static uint64_t bit_of(int sig) { return UINT64_C(1) << (sig - 1); }

FL_EXPORT int siginterrupt(int sig, int flag) {
  struct sigaction act;

  if (install(sig, NULL, &act) != 0)
    return -1; /* this includes a sig that has no bit */
  if (flag) {
    atomic_fetch_or_explicit(&interrupting, bit_of(sig), memory_order_relaxed);
    act.sa_flags &= ~SA_RESTART;
  } else {
    atomic_fetch_and_explicit(&interrupting, ~bit_of(sig), memory_order_relaxed);
    act.sa_flags |= SA_RESTART;
  }
  return install(sig, &act, NULL);
}

FL_EXPORT sighandler_t signal(int sig, sighandler_t handler) {
  bool interrupts = sig >= 1 && sig < NSIG && (atomic_load_explicit(&interrupting, memory_order_relaxed) & bit_of(sig));

  return install_simple(sig, handler, interrupts ? 0 : SA_RESTART, true);
}

FL_EXPORT sighandler_t bsd_signal(int sig, sighandler_t handler) { return signal(sig, handler); }

FL_EXPORT sighandler_t ssignal(int sig, sighandler_t handler) { return signal(sig, handler); }

FL_EXPORT sighandler_t __sysv_signal(int sig, sighandler_t handler) {
  return install_simple(sig, handler, SA_RESETHAND | SA_NODEFER | SA_INTERRUPT, false);
}

FL_EXPORT sighandler_t sysv_signal(int sig, sighandler_t handler) {
  return install_simple(sig, handler, SA_RESETHAND | SA_NODEFER | SA_INTERRUPT, false);
}

/* Also changes this thread's mask: SIG_HOLD blocks, anything else unblocks. Returns SIG_HOLD if sig was blocked. */
FL_EXPORT sighandler_t sigset(int sig, sighandler_t disposition) {
  struct sigaction act = {.sa_handler = disposition}, old;
  bool hold = disposition == SIG_HOLD;
  sigset_t set, blocked;

  sigemptyset(&set);
  if (sigaddset(&set, sig) != 0 || (!hold && install(sig, &act, &old) != 0))
    return SIG_ERR;
  /* NOLINTNEXTLINE(concurrency-mt-unsafe): of this thread, with all libcs for Linux */
  if (sigprocmask(hold ? SIG_BLOCK : SIG_UNBLOCK, &set, &blocked) != 0)
    return SIG_ERR;
  if (sigismember(&blocked, sig))
    return SIG_HOLD;
  if (hold && install(sig, NULL, &old) != 0)
    return SIG_ERR;
  return old.sa_handler;
}

/* Only programs linked before glibc 2.21 still call it. */
FL_EXPORT int sigvec(int sig, const struct fl_sigvec *vec, struct fl_sigvec *old) {
  struct sigaction act = {0}, was;

  if (vec) {
    act.sa_handler = vec->sv_handler;
    act.sa_mask.FL_SIGSET_WORDS[0] = (unsigned)vec->sv_mask;
    act.sa_flags = (vec->sv_flags & FL_SV_ONSTACK ? SA_ONSTACK : 0) |
                   (vec->sv_flags & FL_SV_INTERRUPT ? 0 : SA_RESTART) |
                   (vec->sv_flags & FL_SV_RESETHAND ? (int)SA_RESETHAND : 0);
  }
  if (install(sig, vec ? &act : NULL, &was) != 0)
    return -1;
  if (old) {
    old->sv_handler = was.sa_handler;
    old->sv_mask = (int)was.sa_mask.FL_SIGSET_WORDS[0];
    old->sv_flags = (was.sa_flags & SA_ONSTACK ? FL_SV_ONSTACK : 0) |
                    (was.sa_flags & SA_RESTART ? 0 : FL_SV_INTERRUPT) |
                    (was.sa_flags & (int)SA_RESETHAND ? FL_SV_RESETHAND : 0);
  }
  return 0;
}
