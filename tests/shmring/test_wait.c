/* SPDX-License-Identifier: MIT */
/* tests/shmring/test_wait.c - the waiting policy, without assertions on how long anything takes. */
#include "shmring/wait.h"

#include "check.h"
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

Test(wait, the_clock_does_not_go_back) {
  uint64_t last = fl_now();

  for (int i = 0; i < 10000; i++) {
    uint64_t now = fl_now();
    cr_assert(now >= last);
    last = now;
  }
}

Test(wait, ticks_and_nanoseconds_convert_back) {
  /* the rate is refined once, by the first call after a millisecond: let that happen before the two are compared */
  fl_ns_to_ticks(1);
  usleep(3000);
  fl_ns_to_ticks(1);
  uint64_t ns = fl_ticks_to_ns(fl_ns_to_ticks(1000000000));

  cr_assert(ns > 990000000 && ns < 1010000000, "%lu", (unsigned long)ns);
}

/* The thread loses its CPU between a look at one clock and a look at the other, when the two are compared first. */
static int late;

int clock_gettime(clockid_t clock, struct timespec *ts) {
  struct timespec pause = {0, 30000000};
  int r = (int)syscall(SYS_clock_gettime, clock, ts);

  if (late > 0 && late-- == 1)
    syscall(SYS_nanosleep, &pause, NULL);
  return r;
}

Test(wait, the_rate_is_right_though_the_first_look_at_the_clocks_was_interrupted) {
  struct timespec a, b;

  late = 1;
  fl_ns_to_ticks(1);
  usleep(3000);
  fl_ns_to_ticks(1);
  clock_gettime(CLOCK_MONOTONIC, &a);
  uint64_t begin = fl_now();
  usleep(100000);
  uint64_t ns = fl_ticks_to_ns(fl_now() - begin);
  clock_gettime(CLOCK_MONOTONIC, &b);
  double true_ns = (double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec);
  cr_assert((double)ns > true_ns / 2 && (double)ns < true_ns * 2, "%lu of %f", (unsigned long)ns, true_ns);
}

Test(wait, no_budget_means_no_waiting) {
  struct fl_wait_hist h = {0};
  struct fl_wait w;

  fl_wait_begin(&w, &h, -1, 0);
  cr_assert_eq(fl_wait_step(&w), FL_WAIT_SLEEP);
  fl_wait_end(&w, false);
  cr_assert_eq(h.fails, 0);
}

Test(wait, every_wait_comes_to_an_end) {
  struct fl_wait_hist h = {0};

  for (int cpu = -1; cpu < 4; cpu++)
    for (int i = 0; i < 50; i++) {
      struct fl_wait w;
      unsigned long steps = 0;

      fl_wait_begin(&w, &h, cpu, 20000);
      while (fl_wait_step(&w) != FL_WAIT_SLEEP)
        cr_assert(++steps < 100000000ul);
      cr_assert_eq(fl_wait_step(&w), FL_WAIT_SLEEP);
      fl_wait_end(&w, false);
    }
}

Test(wait, a_wait_that_found_something_forgets_the_failures) {
  struct fl_wait_hist h = {.fails = 4, .skips = 7, .gap = 16};
  struct fl_wait w = {.hist = &h, .begin = 1, .deadline = 2};

  fl_wait_end(&w, true);
  cr_assert_eq(h.fails, 0);
  cr_assert_eq(h.skips, 0);
  cr_assert_eq(h.gap, 0);
}

/* Ticks from the beginning of a wait to its deadline. */
static uint64_t budget(struct fl_wait_hist *h, uint64_t spin_ns, bool found) {
  struct fl_wait w;

  fl_wait_begin(&w, h, -1, spin_ns);
  fl_wait_end(&w, found);
  return fl_ticks_to_ns(w.deadline - w.begin);
}

Test(wait, waits_in_vain_are_first_longer_then_short_with_a_long_one_ever_more_rarely) {
  struct fl_wait_hist h = {0};
  uint64_t first = budget(&h, 50000, false);

  for (int i = 0; i < 3; i++)
    cr_assert(budget(&h, 50000, false) > 3 * first);
  uint64_t before = 0;
  for (int round = 0; round < 4; round++) {
    uint64_t gap = 0;
    while (budget(&h, 50000, false) < first)
      cr_assert(++gap < 1000);
    cr_assert(gap > before);
    before = gap;
  }
  budget(&h, 50000, true);
  uint64_t again = budget(&h, 50000, true);
  cr_assert(again > first / 2 && again < 2 * first);
}

Test(wait, the_cpu_is_one_of_those_allowed) {
  cpu_set_t set;

  cr_assert_eq(sched_getaffinity(0, sizeof set, &set), 0);
  int cpu = fl_cpu();
  cr_assert(cpu >= 0 && CPU_ISSET(cpu, &set));
}
