/* SPDX-License-Identifier: MIT */
/*
 * What a handler sees when it runs, and what it may do. Like test_installing.c, the same program runs without the
 * library and with it.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "raw.h"

static void install(int sig, void (*handler)(int, siginfo_t *, void *), int flags) {
  struct sigaction act = {.sa_sigaction = handler, .sa_flags = flags};

  cr_assert_eq(sigaction(sig, &act, NULL), 0);
}

static bool blocked(int sig) {
  sigset_t mask;

  pthread_sigmask(SIG_BLOCK, NULL, &mask);
  return sigismember(&mask, sig);
}

static volatile sig_atomic_t ran, depth, deepest;
static void count(int sig, siginfo_t *info, void *context) { ran++; }

/* ---- arguments ---- */

static volatile siginfo_t got_info; /* volatile: raise is declared as one that does not call back */
static volatile int got_errno;

static void keep_arguments(int sig, siginfo_t *info, void *context) {
  got_errno = errno;
  ran = sig;
  got_info = *info;
}

Test(delivery, siginfo_arrives) {
  install(SIGUSR1, keep_arguments, SA_SIGINFO);
  cr_assert_eq(sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 4711}), 0);
  cr_assert_eq(ran, SIGUSR1);
  cr_assert_eq(got_info.si_signo, SIGUSR1);
  cr_assert_eq(got_info.si_code, SI_QUEUE);
  cr_assert_eq(got_info.si_pid, getpid());
  cr_assert_eq(got_info.si_value.sival_int, 4711);
}

static void block_usr2_on_return(int sig, siginfo_t *info, void *context) {
  sigaddset(&((ucontext_t *)context)->uc_sigmask, SIGUSR2);
}

Test(delivery, the_context_can_be_changed) {
  install(SIGUSR1, block_usr2_on_return, SA_SIGINFO);
  raise(SIGUSR1);
  cr_assert(blocked(SIGUSR2));
  cr_assert_not(blocked(SIGUSR1));
}

Test(delivery, the_context_arrives_without_SA_SIGINFO_too) {
  install(SIGUSR1, block_usr2_on_return, 0);
  raise(SIGUSR1);
  cr_assert(blocked(SIGUSR2));
}

Test(delivery, errno_passes_through) {
  install(SIGUSR1, keep_arguments, SA_SIGINFO);
  errno = ENOTTY;
  raise(SIGUSR1);
  cr_assert_eq(got_errno, ENOTTY);
  cr_assert_eq(errno, ENOTTY);
}

/* ---- flags ---- */

Test(delivery, SA_RESETHAND_resets) {
  struct sigaction act;

  install(SIGURG, count, SA_SIGINFO | (int)SA_RESETHAND); /* whose default is to be ignored */
  raise(SIGURG);
  cr_assert_eq(sigaction(SIGURG, NULL, &act), 0);
  cr_assert_eq(act.sa_handler, SIG_DFL);
  raise(SIGURG);
  cr_assert_eq(ran, 1);
}

static void nest(int sig, siginfo_t *info, void *context) {
  if (++depth > deepest)
    deepest = depth;
  if (depth < 5)
    raise(SIGUSR1);
  depth--;
  ran++;
}

Test(delivery, SA_NODEFER_nests) {
  install(SIGUSR1, nest, SA_NODEFER);
  raise(SIGUSR1);
  cr_assert_eq(deepest, 5);
  cr_assert_eq(ran, 5);
}

static void raise_once(int sig, siginfo_t *info, void *context) {
  if (++depth > deepest)
    deepest = depth;
  if (ran++ == 0)
    raise(SIGUSR1);
  depth--;
}

Test(delivery, without_SA_NODEFER_it_waits) {
  install(SIGUSR1, raise_once, 0);
  raise(SIGUSR1);
  cr_assert_eq(deepest, 1);
  cr_assert_eq(ran, 2);
}

static void check_mask(int sig, siginfo_t *info, void *context) {
  ran = blocked(SIGUSR1) && blocked(SIGUSR2) && !blocked(SIGHUP);
}

Test(delivery, sa_mask_is_in_force) {
  struct sigaction act = {.sa_sigaction = check_mask};

  sigaddset(&act.sa_mask, SIGUSR2);
  sigaction(SIGUSR1, &act, NULL);
  raise(SIGUSR1);
  cr_assert_eq(ran, 1);
  cr_assert_not(blocked(SIGUSR2));
}

static char *stack;
static size_t stack_size;
static void check_stack(int sig, siginfo_t *info, void *context) {
  char here;

  ran = (uintptr_t)&here - (uintptr_t)stack < stack_size ? 1 : 2;
}

Test(delivery, SA_ONSTACK_uses_the_other_stack) {
  stack_size = (size_t)sysconf(_SC_MINSIGSTKSZ) + 1024; /* hardly more than the kernel's frame */
  stack = malloc(stack_size);
  cr_assert_eq(sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = stack_size}, NULL), 0);
  install(SIGUSR1, check_stack, SA_ONSTACK);
  raise(SIGUSR1);
  cr_assert_eq(ran, 1);
  install(SIGUSR1, check_stack, 0);
  raise(SIGUSR1);
  cr_assert_eq(ran, 2);
}

/* ---- handlers that do things ---- */

static void other(int sig, siginfo_t *info, void *context) { ran += 100; }
static void replace_itself(int sig, siginfo_t *info, void *context) {
  struct sigaction act = {.sa_sigaction = other}, old;

  ran++;
  if (sigaction(sig, &act, &old) != 0 || old.sa_sigaction != replace_itself)
    ran = -1000;
}

Test(delivery, a_handler_may_install_another) {
  install(SIGUSR1, replace_itself, 0);
  raise(SIGUSR1);
  cr_assert_eq(ran, 1);
  raise(SIGUSR1);
  cr_assert_eq(ran, 101);
}

static struct sigaction chained;
static void chain(int sig, siginfo_t *info, void *context) {
  ran++;
  chained.sa_sigaction(sig, info, context);
}

Test(delivery, a_handler_may_call_the_one_before_it) {
  struct sigaction act = {.sa_sigaction = chain, .sa_flags = SA_SIGINFO};

  install(SIGUSR1, other, SA_SIGINFO);
  sigaction(SIGUSR1, &act, &chained);
  cr_assert_eq(chained.sa_sigaction, other);
  raise(SIGUSR1);
  cr_assert_eq(ran, 101);
}

static sigjmp_buf back;
static void jump(int sig, siginfo_t *info, void *context) { siglongjmp(back, sig); }

Test(delivery, siglongjmp_leaves_a_handler) {
  install(SIGUSR1, jump, 0);
  for (volatile int i = 0; i < 1000; i++) {
    if (sigsetjmp(back, 1) == 0) {
      raise(SIGUSR1);
      cr_assert_fail("returned");
    }
    cr_assert_not(blocked(SIGUSR1));
  }
}

Test(delivery, siglongjmp_leaves_a_fault) {
  volatile char *nowhere = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  volatile int faults = 0;

  install(SIGSEGV, jump, SA_NODEFER);
  for (volatile int i = 0; i < 100; i++)
    if (sigsetjmp(back, 1) == 0)
      *nowhere = 1;
    else
      faults++;
  cr_assert_eq(faults, 100);
}

/* An exception or a cancellation unwinds the stack from the handler into what it interrupted. */
static volatile sig_atomic_t cleaned;
static void clean(int *guard) { cleaned++; }
static void leave(int sig, siginfo_t *info, void *context) { pthread_exit((void *)4711); }

static void touch(void *p) { *(volatile char *)p = 0; }
static void (*volatile touch_unforeseen)(void *) = touch; /* a compiler that sees touch knows that it throws nothing */

static void *fault(void *nowhere) {
  __attribute__((cleanup(clean), unused)) int guard = 0;

  touch_unforeseen(nowhere);
  return NULL;
}

Test(delivery, unwinding_passes_from_a_handler_into_what_it_interrupted) {
  void *nowhere = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *result;
  pthread_t thread;

  install(SIGSEGV, leave, SA_SIGINFO);
  cr_assert_eq(pthread_create(&thread, NULL, fault, nowhere), 0);
  cr_assert_eq(pthread_join(thread, &result), 0);
  cr_assert_eq(result, (void *)4711);
  cr_assert_eq(cleaned, 1);
}

static void *volatile returns_to;
static void look_back(int sig, siginfo_t *info, void *context) { returns_to = __builtin_return_address(0); }

Test(delivery, a_handler_returns_straight_to_the_kernel) {
  struct raw_sigaction raw;

#if !defined(__OPTIMIZE__) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  cr_skip_test("an unoptimised library leaves a frame of its own");
#endif
  install(SIGUSR1, look_back, 0);
  cr_assert_eq(raw_rt_sigaction(SIGUSR1, NULL, &raw), 0);
  raise(SIGUSR1);
  cr_assert_eq(returns_to, (void *)raw.restorer);
}

/* A timer goes on until the sleep ends; the third signal brings the byte. */
static int pipe_ends[2];
static bool brings_byte;
static void tick(int sig, siginfo_t *info, void *context) {
  if (++ran == 3 && brings_byte && write(pipe_ends[1], "x", 1) != 1)
    abort();
}

static ssize_t read_with_ticks(int flags) {
  struct itimerval every_ms = {{0, 1000}, {0, 1000}}, off = {{0, 0}, {0, 0}};
  char byte;

  cr_assert_eq(pipe(pipe_ends), 0);
  install(SIGALRM, tick, flags);
  setitimer(ITIMER_REAL, &every_ms, NULL);
  ssize_t n = read(pipe_ends[0], &byte, 1);
  setitimer(ITIMER_REAL, &off, NULL);
  return n;
}

Test(delivery, a_sleep_restarts_after_a_handler_with_SA_RESTART) {
  brings_byte = true;
  cr_assert_eq(read_with_ticks(SA_RESTART), 1);
}

Test(delivery, a_sleep_ends_after_a_handler_without_SA_RESTART) {
  cr_assert_eq(read_with_ticks(0), -1);
  cr_assert_eq(errno, EINTR);
}
