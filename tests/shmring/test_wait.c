/* SPDX-License-Identifier: MIT */
/* tests/shmring/test_wait.c - the waiting policy, without assertions on how long anything takes. */
#include "shmring/wait.h"

#include "check.h"
#include <sched.h>
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

Test(wait, no_budget_means_no_waiting) {
  struct fl_wait_hist h = {0};
  struct fl_wait w;

  fl_wait_begin(&w, &h, -1, 0);
  cr_assert_eq(fl_wait_step(&w), FL_WAIT_SLEEP);
  fl_wait_end(&w, false);
  cr_assert_eq(h.budget_shift, 0);
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

Test(wait, a_wait_that_found_something_restores_the_budget) {
  struct fl_wait_hist h = {.budget_shift = 4};
  struct fl_wait w = {.hist = &h, .begin = 1, .deadline = 2};

  fl_wait_end(&w, true);
  cr_assert_eq(h.budget_shift, 0);
  cr_assert_eq(h.skips, 0);
}

Test(wait, waits_in_vain_shrink_the_budget_then_skip) {
  struct fl_wait_hist h = {0};
  struct fl_wait w = {.hist = &h, .begin = 1, .deadline = 2};

  for (uint32_t i = 1; i <= 5; i++) {
    fl_wait_end(&w, false);
    cr_assert_eq(h.budget_shift, i);
    cr_assert_eq(h.skips, 0);
  }
  fl_wait_end(&w, false);
  cr_assert(h.skips > 0);
}

Test(wait, the_cpu_is_one_of_those_allowed) {
  cpu_set_t set;

  cr_assert_eq(sched_getaffinity(0, sizeof set, &set), 0);
  int cpu = fl_cpu();
  cr_assert(cpu >= 0 && CPU_ISSET(cpu, &set));
}
