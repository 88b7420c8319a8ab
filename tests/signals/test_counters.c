/* SPDX-License-Identifier: MIT */
/* What a spin learns: linked with preload/signals.c itself, whose counters no other library can see. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include "preload/signals.h"
#include "raw.h"

int __sigaction(int sig, const struct sigaction *act, struct sigaction *old);
sighandler_t bsd_signal(int sig, sighandler_t handler);
struct fl_sigvec {
  sighandler_t handler;
  int mask, flags;
};
int sigvec(int sig, const struct fl_sigvec *vec, struct fl_sigvec *old);

static void nothing(int sig) {}

static void install(int sig, sighandler_t handler, int flags) {
  struct sigaction act = {.sa_handler = handler, .sa_flags = flags};

  cr_assert_eq(sigaction(sig, &act, NULL), 0);
}

/* Raises SIGUSR1, and says how far the counters went: 0, 1 (any only), or 2 (both). */
static int counted(void) {
  uint32_t any = fl_signals_any(), norestart = fl_signals_norestart();

  raise(SIGUSR1);
  any = fl_signals_any() - any;
  norestart = fl_signals_norestart() - norestart;
  cr_assert(any <= 1 && norestart <= any, "%u %u", any, norestart);
  return (int)(any + norestart);
}

Test(counters, sigaction_decides_by_SA_RESTART) {
  install(SIGUSR1, nothing, SA_RESTART);
  cr_assert_eq(counted(), 1);
  install(SIGUSR1, nothing, 0);
  cr_assert_eq(counted(), 2);
  install(SIGUSR1, nothing, SA_RESTART | SA_NODEFER | (int)SA_RESETHAND);
  cr_assert_eq(counted(), 1);
}

Test(counters, every_function_that_installs_is_counted) {
  struct sigaction act = {.sa_handler = nothing};
  struct fl_sigvec restarts = {nothing, 0, 0}, interrupts = {nothing, 0, 2};

  signal(SIGUSR1, nothing);
  cr_assert_eq(counted(), 1);
  bsd_signal(SIGUSR1, nothing);
  cr_assert_eq(counted(), 1);
  ssignal(SIGUSR1, nothing);
  cr_assert_eq(counted(), 1);
  sysv_signal(SIGUSR1, nothing);
  cr_assert_eq(counted(), 2);
  __sysv_signal(SIGUSR1, nothing);
  cr_assert_eq(counted(), 2);
  sigset(SIGUSR1, nothing);
  cr_assert_eq(counted(), 2);
  __sigaction(SIGUSR1, &act, NULL);
  cr_assert_eq(counted(), 2);
  sigvec(SIGUSR1, &restarts, NULL);
  cr_assert_eq(counted(), 1);
  sigvec(SIGUSR1, &interrupts, NULL);
  cr_assert_eq(counted(), 2);
}

Test(counters, siginterrupt_changes_what_is_counted) {
  signal(SIGUSR1, nothing);
  siginterrupt(SIGUSR1, 1);
  cr_assert_eq(counted(), 2);
  signal(SIGUSR1, nothing);
  cr_assert_eq(counted(), 2);
  siginterrupt(SIGUSR1, 0);
  cr_assert_eq(counted(), 1);
}

Test(counters, ignored_and_default_signals_are_not_counted) {
  signal(SIGUSR1, SIG_IGN);
  cr_assert_eq(counted(), 0);
  install(SIGUSR1, SIG_IGN, 0);
  cr_assert_eq(counted(), 0);
  uint32_t any = fl_signals_any();
  raise(SIGCHLD);
  cr_assert_eq(fl_signals_any(), any);
}

Test(counters, a_raw_handler_works_unnoticed) {
  struct raw_sigaction raw;

  install(SIGUSR1, nothing, 0);
  cr_assert_eq(raw_rt_sigaction(SIGUSR1, NULL, &raw), 0);
  raw.handler = nothing;
  cr_assert_eq(raw_rt_sigaction(SIGUSR1, &raw, NULL), 0);
  cr_assert_eq(counted(), 0);
}

Test(counters, a_raw_saved_action_is_counted_by_its_new_flags) {
  struct raw_sigaction raw;
  struct sigaction act = {.sa_flags = 0};

  install(SIGUSR1, nothing, SA_RESTART);
  cr_assert_eq(raw_rt_sigaction(SIGUSR1, NULL, &raw), 0);
  act.sa_handler = raw.handler;
  cr_assert_eq(sigaction(SIGUSR1, &act, NULL), 0);
  cr_assert_eq(counted(), 2, "once, and as without SA_RESTART");
}

static volatile uint32_t inside_any, inside_norestart; /* volatile: raise is declared as one that does not call back */
static void look(int sig) {
  inside_any = fl_signals_any();
  inside_norestart = fl_signals_norestart();
}

Test(counters, a_handler_finds_itself_already_counted) {
  uint32_t any = fl_signals_any(), norestart = fl_signals_norestart();

  install(SIGUSR1, look, 0);
  raise(SIGUSR1);
  cr_assert_eq(inside_any, any + 1);
  cr_assert_eq(inside_norestart, norestart + 1);
  cr_assert_eq(fl_signals_any(), any + 1);
}

static volatile int left;
static void nest(int sig) {
  if (--left > 0)
    raise(sig);
}

Test(counters, nested_handlers_count_each) {
  uint32_t any = fl_signals_any(), norestart = fl_signals_norestart();

  left = 7;
  install(SIGUSR1, nest, SA_NODEFER | SA_RESTART);
  raise(SIGUSR1);
  cr_assert_eq(fl_signals_any(), any + 7);
  cr_assert_eq(fl_signals_norestart(), norestart);
}

static sigjmp_buf back;
static void jump(int sig) { siglongjmp(back, 1); }

Test(counters, a_handler_left_by_siglongjmp_has_counted) {
  volatile uint32_t any = fl_signals_any();

  install(SIGUSR1, jump, 0);
  if (sigsetjmp(back, 1) == 0)
    raise(SIGUSR1);
  cr_assert_eq(fl_signals_any(), any + 1);
}

/* ---- threads ---- */

static pthread_barrier_t step;

static void *spin_until_counted(void *result) {
  uint32_t any = fl_signals_any();

  pthread_barrier_wait(&step);
  while (fl_signals_any() == any)
    ; /* as the library does, though without its limit */
  *(uint32_t *)result = fl_signals_any() - any;
  return NULL;
}

Test(counters, a_handler_counts_on_its_own_thread_only) {
  pthread_t thread;
  uint32_t any = fl_signals_any(), there = 0;

  install(SIGUSR1, nothing, 0);
  pthread_barrier_init(&step, NULL, 2);
  cr_assert_eq(pthread_create(&thread, NULL, spin_until_counted, &there), 0);
  pthread_barrier_wait(&step);
  cr_assert_eq(pthread_kill(thread, SIGUSR1), 0);
  pthread_join(thread, NULL);
  cr_assert_eq(there, 1);
  cr_assert_eq(fl_signals_any(), any);
}

static void *start_value(void *result) {
  *(uint32_t *)result = fl_signals_any() + fl_signals_norestart();
  return NULL;
}

Test(counters, a_new_thread_starts_at_zero) {
  pthread_t thread;
  uint32_t there = 1;

  install(SIGUSR1, nothing, 0);
  raise(SIGUSR1);
  cr_assert_eq(pthread_create(&thread, NULL, start_value, &there), 0);
  pthread_join(thread, NULL);
  cr_assert_eq(there, 0);
}

/* ---- processes ---- */

Test(counters, a_forked_child_counts) {
  uint32_t any = fl_signals_any();
  int status;

  install(SIGUSR1, nothing, SA_RESTART);
  pid_t pid = fork();
  if (pid == 0)
    _exit(counted() == 1 ? 0 : 1);
  cr_assert_eq(waitpid(pid, &status, 0), pid);
  cr_assert_eq(status, 0);
  cr_assert_eq(fl_signals_any(), any);
}

Test(counters, a_vfork_child_that_resets_does_not_stop_the_parents_counting) {
  install(SIGUSR1, nothing, 0);
  pid_t pid = vfork();
  if (pid == 0) {
    signal(SIGUSR1, SIG_DFL);
    _exit(0);
  }
  waitpid(pid, NULL, 0);
  cr_assert_eq(counted(), 2);
}

/* ---- slots ---- */

static volatile sig_atomic_t which;
#define FOR_8(X, n) X(n##0) X(n##1) X(n##2) X(n##3) X(n##4) X(n##5) X(n##6) X(n##7)
#define FOR_64(X, n) \
  FOR_8(X, n##0) \
  FOR_8(X, n##1) FOR_8(X, n##2) FOR_8(X, n##3) FOR_8(X, n##4) FOR_8(X, n##5) FOR_8(X, n##6) FOR_8(X, n##7)
#define FOR_ALL(X) FOR_64(X, 0) FOR_64(X, 01) FOR_64(X, 02)
#define HANDLER(n) \
  static void handler_##n(int sig) { which = n; }
FOR_ALL(HANDLER)
#define NAME(n) handler_##n,
static const sighandler_t many[] = {FOR_ALL(NAME)};

Test(counters, handlers_beyond_the_slots_work_uncounted) {
  int seen = 0;

  for (int i = 0; i < (int)(sizeof many / sizeof *many); i++) {
    install(SIGUSR1, many[i], i % 2 ? SA_RESTART : 0);
    int n = counted();
    cr_assert_eq(which, i);
    cr_assert(n == 0 || n == (i % 2 ? 1 : 2));
    cr_assert(n != 0 || i > 0);
    seen += n != 0;
  }
  /* The test framework has a few handlers of its own. */
  cr_assert(seen <= FL_SIGNALS_HANDLERS && seen > FL_SIGNALS_HANDLERS - 16, "%d", seen);
  install(SIGUSR1, many[0], 0);
  cr_assert_eq(counted(), 2, "those that have a slot keep it");
}

Test(counters, a_handler_takes_one_slot_however_often_it_is_installed) {
  for (int i = 0; i < 1000; i++)
    install(i % 2 ? SIGUSR1 : SIGUSR2, many[i % 3], i % 5 ? SA_RESTART : 0);
  for (int i = 0; i < 64; i++) {
    install(SIGUSR1, many[i], 0);
    cr_assert_eq(counted(), 2);
  }
}
