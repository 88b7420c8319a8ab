/* SPDX-License-Identifier: MIT */
/*
 * shmring/wait.h - how to wait for the other end before sleeping: spin, yield, or not at all.
 *
 * The caller owns the loop and the condition; this decides what to do between two looks:
 *
 *     struct fl_wait w;
 *     for (fl_wait_begin(&w, hist, peer_cpu, spin_ns);;) {
 *       if (condition) { fl_wait_end(&w, true); break; }
 *       switch (fl_wait_step(&w)) {
 *       case FL_WAIT_AGAIN: continue;
 *       case FL_WAIT_KERNEL: look at the kernel with a zero timeout; continue;
 *       case FL_WAIT_SLEEP: fl_wait_end(&w, false); sleep natively;
 *       }
 *     }
 *
 * Policy. Peer on another CPU: spin up to spin_ns. After a spin in vain the next ones are longer (LONG times): when
 * both ends have fallen asleep, an answer takes two wake-ups, and an end that gives up sooner than that would keep both
 * asleep for ever. When those bring nothing either, spins become short, and a long one is tried ever more rarely. Same
 * CPU: give it the CPU a few times (sched_yield), unless yields come back late, which means that a third party took it.
 * Then sleep.
 *
 * Threads: a struct fl_wait belongs to one wait. A struct fl_wait_hist may be shared by threads: its fields are hints.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

/* Outcome of recent waits of one kind (a connection, an epoll set). Zero is a fresh one. */
struct fl_wait_hist {
  uint32_t fails; /* spins in a row that brought nothing */
  uint32_t skips; /* waits that spin only briefly before a long one is tried again */
  uint32_t gap;   /* how many there were before the last long one */
};

enum fl_wait_verdict {
  FL_WAIT_AGAIN,  /* look again now */
  FL_WAIT_KERNEL, /* look again, and also at the kernel lane */
  FL_WAIT_SLEEP,  /* waited long enough */
};

struct fl_wait {
  struct fl_wait_hist *hist;
  uint64_t begin, last, deadline, kernel_at; /* fl_now() units */
  uint64_t longest;                          /* longest yield */
  uint32_t looks;
  int peer_cpu;
  bool same_cpu;
  bool none;  /* do not wait at all */
  bool brief; /* says nothing about whether spinning pays */
};

/* A cheap monotonic clock, in its own units, and its rate. Source: the time-stamp counter, calibrated once. [any
 * thread] */
#if defined(__x86_64__)
static inline uint64_t fl_now(void) { return __rdtsc(); }
#else
uint64_t fl_now(void);
#endif
uint64_t fl_ns_to_ticks(uint64_t ns);

/* Another value about every 4 ms (the kernel's timer: 1 to 10); half of the price. For equality only. [any thread] */
static inline uint64_t fl_tick(void) {
  struct timespec ts;

  clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
  return (uint64_t)ts.tv_sec << 30 | (uint64_t)ts.tv_nsec;
}
uint64_t fl_ticks_to_ns(uint64_t ticks);

/* CPU on which the caller runs: rseq's cpu_id where glibc registered it, else getcpu. [any thread] */
int fl_cpu_ask(void);

/* rseq (glibc 2.35 and later): offset of struct rseq's cpu_id from the thread pointer; 0: not registered. Looked up by
 * name: a reference, though weak, would keep the library from loading with an older glibc. */
extern ptrdiff_t fl_rseq_cpu __attribute__((visibility("hidden")));

static inline int fl_cpu(void) {
#if defined(__x86_64__) || defined(__aarch64__)
  if (__builtin_expect(fl_rseq_cpu != 0, 1)) {
    int cpu = *(const volatile int *)((const char *)__builtin_thread_pointer() + fl_rseq_cpu);
    if (__builtin_expect(cpu >= 0, 1))
      return cpu;
  }
#endif
  return fl_cpu_ask();
}

/* True while yielding is known to hurt: the CPU went to a third party a moment ago. [any thread] */
bool fl_wait_contended(void);

/* From now on every wait of this process spins its full time, whatever that brings. To be called once, at the start. */
void fl_wait_fixed(void);

/* spin_ns 0 means never to spin; peer_cpu -1 means unknown, which counts as another CPU. */
void fl_wait_begin(struct fl_wait *w, struct fl_wait_hist *hist, int peer_cpu, uint64_t spin_ns);
enum fl_wait_verdict fl_wait_step(struct fl_wait *w);
void fl_wait_end(struct fl_wait *w, bool found);
