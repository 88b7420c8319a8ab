/* SPDX-License-Identifier: MIT */
/*
 * Two threads install handlers for the same two signals as fast as they can, and signal themselves and each other. Each
 * handler always goes with the same flags and the same mask, so that one with those of another would be noticed, both
 * by the handler when it runs and by whoever asks for the old action. Runs without the library too.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define OPERATIONS 1000000u /* of both threads */
#define KINDS 16
#define ALTSTACK (256u << 10)

static atomic_uint wrong, runs;
static pthread_t threads[2];
static __thread struct { /* volatile: raise is declared as one that does not call back */
  char *altstack;
  volatile unsigned random, runs;
} self __attribute__((tls_model("initial-exec")));

/* Of the kinds of handlers. The mask holds a signal of its own: SIGRTMIN + kind. */
static int flags_of(int kind) {
  return (kind & 1 ? SA_RESTART : 0) | (kind & 2 ? SA_SIGINFO : 0) | (kind & 4 ? SA_ONSTACK : 0) |
         (kind & 8 ? SA_NODEFER : 0);
}
static bool on_altstack(const char *p) { return (uintptr_t)p - (uintptr_t)self.altstack < ALTSTACK; }

static unsigned next_random(void) { return self.random = self.random * 1664525u + 1013904223u; }

static void install_some(int sig);

static void check(int kind, int sig, siginfo_t *info) {
  sigset_t mask;
  char here;

  pthread_sigmask(SIG_BLOCK, NULL, &mask);
  if ((sig != SIGUSR1 && sig != SIGUSR2) || !sigismember(&mask, SIGRTMIN + kind) || (kind & 4 && !on_altstack(&here)) ||
      (kind & 2 && (info->si_signo != sig || info->si_pid != getpid())) || (!(kind & 8) && !sigismember(&mask, sig)))
    atomic_fetch_add(&wrong, 1);
  self.runs++;
  atomic_fetch_add(&runs, 1);
  if (kind == 5)
    install_some(sig);
}

#define FOR_KINDS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define HANDLER(n) \
  static void handler_##n(int sig, siginfo_t *info, void *context) { check(n, sig, info); }
FOR_KINDS(HANDLER)
#define NAME(n) handler_##n,
static void (*const handlers[KINDS])(int, siginfo_t *, void *) = {FOR_KINDS(NAME)};

static void install_some(int sig) {
  int kind = (int)(next_random() >> 16) % KINDS;
  struct sigaction act = {.sa_sigaction = handlers[kind], .sa_flags = flags_of(kind)}, old;

  sigaddset(&act.sa_mask, SIGRTMIN + kind);
  sigaddset(&act.sa_mask, SIGUSR1);
  sigaddset(&act.sa_mask, SIGUSR2);
  sigdelset(&act.sa_mask, kind & 8 ? sig : 0);
  if (sigaction(sig, &act, &old) != 0)
    atomic_fetch_add(&wrong, 1);
  for (int was = 0; was < KINDS; was++)
    if (old.sa_sigaction == handlers[was]) {
      if ((old.sa_flags & ~0x04000000) != flags_of(was) || !sigismember(&old.sa_mask, SIGRTMIN + was) ||
          sigismember(&old.sa_mask, SIGRTMIN + (was + 1) % KINDS))
        atomic_fetch_add(&wrong, 1);
      return;
    }
  atomic_fetch_add(&wrong, 1); /* none of ours */
}

static pthread_barrier_t ready;

static void *hammer(void *arg) {
  int me = (int)(intptr_t)arg;
  stack_t before; /* ASan has its own, and wants to find it at the end */

  self.random = (unsigned)me + 1;
  self.altstack = malloc(ALTSTACK);
  if (sigaltstack(&(stack_t){.ss_sp = self.altstack, .ss_size = ALTSTACK}, &before) != 0)
    abort();
  pthread_barrier_wait(&ready);
  for (unsigned i = 0; i < OPERATIONS / 2; i++) {
    unsigned r = next_random() >> 16;
    int sig = r & 1 ? SIGUSR1 : SIGUSR2;

    install_some(sig);
    if (r % 4 == 0)
      pthread_kill(threads[1 - me], sig);
    if (r % 8 == 0) {
      unsigned runs_before = self.runs;
      raise(sig);
      if (self.runs == runs_before)
        atomic_fetch_add(&wrong, 1);
    }
  }
  pthread_barrier_wait(&ready); /* a thread that has ended cannot be signalled */
  sigaltstack(&before, NULL);
  free(self.altstack);
  return NULL;
}

Test(hammer, handler_flags_and_mask_always_belong_together, .timeout = 120) {
  static const int sigs[] = {SIGUSR1, SIGUSR2};

  for (int i = 0; i < 2; i++) {
    struct sigaction act = {.sa_sigaction = handlers[0], .sa_flags = flags_of(0)};
    sigaddset(&act.sa_mask, SIGRTMIN);
    cr_assert_eq(sigaction(sigs[i], &act, NULL), 0);
  }
  pthread_barrier_init(&ready, NULL, 3);
  for (int i = 0; i < 2; i++)
    cr_assert_eq(pthread_create(&threads[i], NULL, hammer, (void *)(intptr_t)i), 0);
  pthread_barrier_wait(&ready);
  pthread_barrier_wait(&ready);
  for (int i = 0; i < 2; i++)
    pthread_join(threads[i], NULL);
  cr_assert_eq(wrong, 0, "%u wrong of %u runs", wrong, runs);
  cr_assert_gt(runs, OPERATIONS / 16);
}
