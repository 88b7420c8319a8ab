/* SPDX-License-Identifier: MIT */
/*
 * What a program sees when it installs handlers and asks for them. Nothing here knows of the library: the same program
 * runs without it and with it, and both must pass.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "raw.h"

struct old_sigvec { /* as old programs have it */
  sighandler_t handler;
  int mask;
  int flags;
};
int sigvec_2_2_5(int sig, const struct old_sigvec *vec, struct old_sigvec *old);
__asm__(".symver sigvec_2_2_5,sigvec@GLIBC_2.2.5");

int __sigaction(int sig, const struct sigaction *act, struct sigaction *old);
sighandler_t bsd_signal(int sig, sighandler_t handler);

static volatile sig_atomic_t ran_first, ran_second;
static void first(int sig) { ran_first = sig; }
static void second(int sig) { ran_second = sig; }
static void with_info(int sig, siginfo_t *info, void *context) { ran_first = sig; }

static struct sigaction now(int sig) {
  struct sigaction act;

  memset(&act, 0xa5, sizeof act);
  cr_assert_eq(sigaction(sig, NULL, &act), 0);
  return act;
}

static void assert_action(int sig, sighandler_t handler, int flags, int masked) {
  struct sigaction act = now(sig);

  cr_assert_eq(act.sa_handler, handler);
  act.sa_flags &= ~(0x04000000 | SA_INTERRUPT); /* SA_RESTORER is libc's own; the other, newer kernels do not keep */
  cr_assert_eq(act.sa_flags, flags, "%x", act.sa_flags);
  for (int s = 1; s < NSIG; s++)
    if (s != 32 && s != 33)
      cr_assert_eq(sigismember(&act.sa_mask, s), s == masked, "signal %d", s);
}

/* ---- the functions of the signal family ---- */

static const struct {
  const char *name;
  sighandler_t (*function)(int, sighandler_t);
  int flags;
  bool masks_itself;
} simple[] = {
    {"signal", signal, SA_RESTART, true},
    {"bsd_signal", bsd_signal, SA_RESTART, true},
    {"ssignal", ssignal, SA_RESTART, true},
    {"sysv_signal", sysv_signal, (int)SA_RESETHAND | SA_NODEFER, false},
    {"__sysv_signal", __sysv_signal, (int)SA_RESETHAND | SA_NODEFER, false},
    {"sigset", sigset, 0, false},
};

Test(installing, each_simple_function_returns_the_previous_handler) {
  for (size_t i = 0; i < sizeof simple / sizeof *simple; i++) {
    cr_assert_eq(simple[i].function(SIGUSR1, first), SIG_DFL, "%s", simple[i].name);
    cr_assert_eq(simple[i].function(SIGUSR1, second), first, "%s", simple[i].name);
    cr_assert_eq(simple[i].function(SIGUSR1, SIG_IGN), second, "%s", simple[i].name);
    cr_assert_eq(simple[i].function(SIGUSR1, first), SIG_IGN, "%s", simple[i].name);
    cr_assert_eq(simple[i].function(SIGUSR1, SIG_DFL), first, "%s", simple[i].name);
  }
}

Test(installing, each_simple_function_sets_its_own_flags_and_mask) {
  for (size_t i = 0; i < sizeof simple / sizeof *simple; i++) {
    simple[i].function(SIGUSR1, first);
    assert_action(SIGUSR1, first, simple[i].flags, simple[i].masks_itself ? SIGUSR1 : 0);
  }
}

Test(installing, each_simple_function_refuses_what_is_no_signal) {
  static const int bad[] = {-1, 0, 32, 33, NSIG, 1000, SIGKILL, SIGSTOP};

  for (size_t i = 0; i < sizeof simple / sizeof *simple; i++)
    for (size_t j = 0; j < sizeof bad / sizeof *bad; j++) {
      errno = 0;
      cr_assert_eq(simple[i].function(bad[j], first), SIG_ERR, "%s(%d)", simple[i].name, bad[j]);
      cr_assert_eq(errno, EINVAL, "%s(%d)", simple[i].name, bad[j]);
    }
}

Test(installing, signal_refuses_SIG_ERR_as_a_handler) {
  for (size_t i = 0; i < 5; i++) { /* but sigset does not */
    signal(SIGUSR1, first);
    errno = 0;
    cr_assert_eq(simple[i].function(SIGUSR1, SIG_ERR), SIG_ERR);
    cr_assert_eq(errno, EINVAL, "%s", simple[i].name);
    cr_assert_eq(now(SIGUSR1).sa_handler, first);
  }
}

Test(installing, sigset_holds_and_releases) {
  sigset_t mask;

  cr_assert_eq(sigset(SIGUSR1, first), SIG_DFL);
  cr_assert_eq(sigset(SIGUSR1, SIG_HOLD), first);
  pthread_sigmask(SIG_BLOCK, NULL, &mask);
  cr_assert(sigismember(&mask, SIGUSR1));
  assert_action(SIGUSR1, first, 0, 0);
  cr_assert_eq(sigset(SIGUSR1, SIG_HOLD), SIG_HOLD);
  raise(SIGUSR1);
  cr_assert_eq(ran_second, 0);
  cr_assert_eq(sigset(SIGUSR1, second), SIG_HOLD);
  cr_assert_eq(ran_second, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, NULL, &mask);
  cr_assert_not(sigismember(&mask, SIGUSR1));
  cr_assert_eq(sigset(SIGUSR1, SIG_DFL), second);
}

Test(installing, siginterrupt_changes_the_flag_and_keeps_the_handler) {
  signal(SIGUSR1, first);
  cr_assert_eq(siginterrupt(SIGUSR1, 1), 0);
  assert_action(SIGUSR1, first, 0, SIGUSR1);
  cr_assert_eq(siginterrupt(SIGUSR1, 0), 0);
  assert_action(SIGUSR1, first, SA_RESTART, SIGUSR1);
}

Test(installing, siginterrupt_decides_what_signal_sets_later) {
  siginterrupt(SIGUSR1, 1);
  signal(SIGUSR1, first);
  signal(SIGUSR2, first);
  assert_action(SIGUSR1, first, 0, SIGUSR1);
  assert_action(SIGUSR2, first, SA_RESTART, SIGUSR2);
  siginterrupt(SIGUSR1, 0);
  signal(SIGUSR1, second);
  assert_action(SIGUSR1, second, SA_RESTART, SIGUSR1);
}

Test(installing, siginterrupt_refuses_what_is_no_signal) {
  static const int bad[] = {-1, 0, 32, 33, NSIG, SIGKILL};

  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    errno = 0;
    cr_assert_eq(siginterrupt(bad[i], 1), -1, "%d", bad[i]);
    cr_assert_eq(errno, EINVAL, "%d", bad[i]);
  }
}

Test(installing, sigvec_of_old_programs_shows_the_previous_handler) {
  struct old_sigvec vec = {first, 1 << (SIGUSR2 - 1), 1 | 4 /* on stack, reset */}, old;

  cr_assert_eq(sigvec_2_2_5(SIGUSR1, &vec, &old), 0);
  cr_assert_eq(old.handler, SIG_DFL);
  assert_action(SIGUSR1, first, SA_ONSTACK | (int)SA_RESETHAND | SA_RESTART, SIGUSR2);
  vec.handler = second;
  vec.flags = 2; /* interrupt */
  cr_assert_eq(sigvec_2_2_5(SIGUSR1, &vec, &old), 0);
  cr_assert_eq(old.handler, first);
  cr_assert_eq(old.mask, 1 << (SIGUSR2 - 1));
  cr_assert_eq(old.flags, 1 | 4);
  assert_action(SIGUSR1, second, 0, SIGUSR2);
  cr_assert_eq(sigvec_2_2_5(SIGUSR1, NULL, &old), 0);
  cr_assert_eq(old.handler, second);
  cr_assert_eq(old.flags, 2);
  errno = 0;
  cr_assert_eq(sigvec_2_2_5(SIGKILL, &vec, &old), -1);
  cr_assert_eq(errno, EINVAL);
}

Test(installing, sigignore_after_a_handler) {
  signal(SIGUSR1, first);
  cr_assert_eq(sigignore(SIGUSR1), 0);
  cr_assert_eq(signal(SIGUSR1, first), SIG_IGN);
}

/* ---- sigaction ---- */

Test(installing, sigaction_shows_every_flag_and_the_mask) {
  static const int flags[] = {0,
                              SA_RESTART,
                              SA_SIGINFO,
                              SA_NODEFER,
                              (int)SA_RESETHAND,
                              SA_ONSTACK,
                              SA_NOCLDSTOP,
                              SA_NOCLDWAIT,
                              SA_SIGINFO | SA_RESTART | SA_ONSTACK | SA_NODEFER | SA_NOCLDSTOP | (int)SA_RESETHAND};
  sighandler_t previous = SIG_DFL;

  for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
    struct sigaction act = {.sa_flags = flags[i]}, old;

    if (flags[i] & SA_SIGINFO)
      act.sa_sigaction = with_info;
    else
      act.sa_handler = i % 2 ? first : second;
    sigaddset(&act.sa_mask, SIGHUP);
    struct sigaction copy = act;
    cr_assert_eq((i % 2 ? sigaction : __sigaction)(SIGCHLD, &act, &old), 0);
    cr_assert_arr_eq(&act, &copy, sizeof act, "the caller's own is not changed");
    cr_assert_eq(old.sa_handler, previous);
    assert_action(SIGCHLD, act.sa_handler, flags[i], SIGHUP);
    previous = act.sa_handler;
  }
}

Test(installing, SIG_DFL_and_SIG_IGN_pass_through) {
  sighandler_t both[] = {SIG_IGN, SIG_DFL};

  for (int i = 0; i < 2; i++) {
    struct sigaction act = {.sa_handler = both[i], .sa_flags = SA_RESTART};
    struct raw_sigaction raw;

    cr_assert_eq(sigaction(SIGUSR1, &act, NULL), 0);
    assert_action(SIGUSR1, both[i], SA_RESTART, 0);
    cr_assert_eq(raw_rt_sigaction(SIGUSR1, NULL, &raw), 0);
    cr_assert_eq(raw.handler, both[i]);
  }
}

Test(installing, one_object_may_be_both_new_and_old) {
  struct sigaction act = {.sa_handler = second, .sa_flags = SA_RESTART};
  struct sigaction *volatile same = &act; /* restrict forbids it, programs do it */

  signal(SIGUSR1, first);
  cr_assert_eq(sigaction(SIGUSR1, &act, same), 0);
  cr_assert_eq(act.sa_handler, first);
  cr_assert_eq(now(SIGUSR1).sa_handler, second);
}

Test(installing, what_was_read_can_be_put_back) {
  struct sigaction saved, act = {.sa_handler = second};

  signal(SIGUSR1, first);
  sigaction(SIGUSR1, &act, &saved);
  sigaction(SIGUSR1, &saved, NULL);
  raise(SIGUSR1);
  cr_assert_eq(ran_first, SIGUSR1);
  cr_assert_eq(ran_second, 0);
  assert_action(SIGUSR1, first, SA_RESTART, SIGUSR1);
}

Test(installing, a_refused_call_changes_nothing) {
  static const int bad[] = {-1, 0, 32, 33, NSIG, SIGKILL, SIGSTOP};

  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    struct sigaction act = {.sa_handler = first}, old, copy;

    memset(&old, 0xa5, sizeof old);
    copy = old;
    errno = 0;
    cr_assert_eq(sigaction(bad[i], &act, &old), -1, "%d", bad[i]);
    cr_assert_eq(errno, EINVAL);
    cr_assert_arr_eq(&old, &copy, sizeof old);
  }
}

Test(installing, a_call_that_succeeds_leaves_errno_alone) {
  struct sigaction act = {.sa_handler = first}, old;

  errno = ENOTTY;
  sigaction(SIGUSR1, &act, &old);
  signal(SIGUSR1, second);
  siginterrupt(SIGUSR1, 1);
  sigset(SIGUSR1, first);
  raise(SIGUSR1);
  cr_assert_eq(errno, ENOTTY);
}

/* ---- beside libc ---- */

Test(installing, a_handler_set_by_a_raw_system_call_is_shown_and_works) {
  struct raw_sigaction raw;

  signal(SIGUSR1, second); /* for a restorer */
  cr_assert_eq(raw_rt_sigaction(SIGUSR1, NULL, &raw), 0);
  raw.handler = first;
  cr_assert_eq(raw_rt_sigaction(SIGUSR1, &raw, NULL), 0);
  cr_assert_eq(now(SIGUSR1).sa_handler, first);
  raise(SIGUSR1);
  cr_assert_eq(ran_first, SIGUSR1);
  cr_assert_eq(ran_second, 0);
  cr_assert_eq(signal(SIGUSR1, second), first);
}

Test(installing, an_action_read_by_a_raw_system_call_can_be_put_back_by_sigaction) {
  struct raw_sigaction raw;
  struct sigaction act = {.sa_flags = 0};

  signal(SIGUSR1, first);
  cr_assert_eq(raw_rt_sigaction(SIGUSR1, NULL, &raw), 0);
  signal(SIGUSR1, second);
  act.sa_handler = raw.handler;
  cr_assert_eq(sigaction(SIGUSR1, &act, NULL), 0);
  cr_assert_eq(now(SIGUSR1).sa_handler, first);
  raise(SIGUSR1);
  cr_assert_eq(ran_first, SIGUSR1);
  cr_assert_eq(ran_second, 0);
}

Test(installing, system_puts_back_what_it_changed) {
  struct sigaction act = {.sa_handler = first, .sa_flags = SA_RESTART};

  sigaction(SIGINT, &act, NULL);
  act.sa_handler = second;
  sigaction(SIGQUIT, &act, NULL);
  cr_assert_eq(system("true"), 0);
  assert_action(SIGINT, first, SA_RESTART, 0);
  assert_action(SIGQUIT, second, SA_RESTART, 0);
}

/* ---- other processes ---- */

Test(installing, a_forked_child_has_the_handlers_and_its_own_changes) {
  signal(SIGUSR1, first);
  pid_t pid = fork();
  if (pid == 0) {
    bool right = now(SIGUSR1).sa_handler == first;
    raise(SIGUSR1);
    right = right && ran_first == SIGUSR1 && signal(SIGUSR1, second) == first;
    raise(SIGUSR1);
    _exit(right && ran_second == SIGUSR1 ? 0 : 1);
  }
  int status;
  cr_assert_eq(waitpid(pid, &status, 0), pid);
  cr_assert_eq(status, 0);
  cr_assert_eq(now(SIGUSR1).sa_handler, first);
  raise(SIGUSR1);
  cr_assert_eq(ran_first, SIGUSR1);
  cr_assert_eq(ran_second, 0);
}

/* A vfork child shares our memory but not our dispositions. */
static volatile sig_atomic_t ran_in_child;
static void child_only(int sig) { ran_in_child = sig; }

Test(installing, a_vfork_child_that_resets_and_installs_leaves_the_parent_alone) {
  signal(SIGUSR1, first);
  signal(SIGUSR2, second);
  pid_t pid = vfork();
  if (pid == 0) {
    signal(SIGUSR1, SIG_DFL);
    signal(SIGUSR2, child_only);
    raise(SIGUSR2);
    _exit(0);
  }
  int status;
  cr_assert_eq(waitpid(pid, &status, 0), pid);
  cr_assert_eq(status, 0);
  cr_assert_eq(ran_in_child, SIGUSR2);
  cr_assert_eq(now(SIGUSR1).sa_handler, first);
  cr_assert_eq(now(SIGUSR2).sa_handler, second);
  raise(SIGUSR1);
  raise(SIGUSR2);
  cr_assert_eq(ran_first, SIGUSR1);
  cr_assert_eq(ran_second, SIGUSR2);
}

/* ---- more handlers than anybody has ---- */

static volatile sig_atomic_t which;
#define FOR_8(X, n) X(n##0) X(n##1) X(n##2) X(n##3) X(n##4) X(n##5) X(n##6) X(n##7)
#define FOR_64(X, n) \
  FOR_8(X, n##0) \
  FOR_8(X, n##1) FOR_8(X, n##2) FOR_8(X, n##3) FOR_8(X, n##4) FOR_8(X, n##5) FOR_8(X, n##6) FOR_8(X, n##7)
#define FOR_ALL(X) FOR_64(X, 0) FOR_64(X, 01) FOR_64(X, 02) FOR_64(X, 03)
#define HANDLER(n) \
  static void handler_##n(int sig) { which = n; }
FOR_ALL(HANDLER)
#define NAME(n) handler_##n,
static const sighandler_t many[] = {FOR_ALL(NAME)};

Test(installing, any_number_of_handlers_works) {
  sighandler_t previous = SIG_DFL;

  for (int round = 0; round < 2; round++)
    for (int i = 0; i < (int)(sizeof many / sizeof *many); i++) {
      cr_assert_eq(signal(SIGUSR1, many[i]), previous);
      which = -1;
      raise(SIGUSR1);
      cr_assert_eq(which, i);
      previous = many[i];
    }
}
