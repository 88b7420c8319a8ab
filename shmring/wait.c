/* SPDX-License-Identifier: MIT */
/* shmring/wait.c - see wait.h. Every figure below is explained in docs/design.md, "Waiting". */
#include "wait.h"

#include <dlfcn.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <time.h>

#define KERNEL_EVERY_NS 4000u /* while spinning, look at the kernel lane this often */
#define CLOCK_EVERY 8u        /* looks between two looks at the clock, which costs as much as they do */
#define YIELD_SHARE 20u
#define YIELD_LATE_NS 150000u  /* a yield that took longer, and brought nothing, went to a third party; */
#define YIELD_LOST_NS 1000000u /* one that took so long did, whatever it brought */
#define BACKOFF_MAX_NS 2000000000u
#define LONG 4u /* times spin_ns */
#define LONG_TRIES 3u
#define SHORT 32u /* spin_ns divided by this */
#define GAP_MIN 16u
#define GAP_MAX 256u

ptrdiff_t fl_rseq_cpu;

/* All relaxed: hints, of which a stale value costs a microsecond at most. */
static _Atomic uint64_t mult, inverse;   /* nanoseconds per tick and ticks per nanosecond, 32.32 fixed point */
static bool fixed;                       /* written before there are threads */
static _Atomic uint64_t contended_until; /* fl_now() */
static _Atomic uint64_t backoff;         /* ticks */

static uint64_t monotonic_ns(void) {
  struct timespec ts;

  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

#if defined(__x86_64__)
static void relax(void) { _mm_pause(); }

/* Both clocks at one time, known to `slack` ticks: a thread that loses its CPU between two looks tries again. */
struct instant {
  uint64_t ns, ticks, slack;
};
static struct instant both_clocks(void) {
  struct instant best = {.slack = UINT64_MAX};

  for (int i = 0; i < 4; i++) {
    uint64_t t0 = __rdtsc(), ns = monotonic_ns(), t1 = __rdtsc();
    if (t1 - t0 < best.slack)
      best = (struct instant){ns, t0 + (t1 - t0) / 2, t1 - t0};
  }
  return best;
}

/*
 * The rate is found by comparing the two clocks over a growing span: a rough value (from 20 us) at the first call,
 * refined when a later call finds that a millisecond has passed. Only waiting times depend on it.
 */
static uint64_t rate(void) {
  enum { NEVER, NOW, BEGUN };
  static _Atomic int state;
  static struct instant begin;
  static _Atomic bool fine;
  uint64_t m = atomic_load_explicit(&mult, memory_order_relaxed);

  if (m && atomic_load_explicit(&fine, memory_order_relaxed))
    return m;
  /* acquire: pairs with the release below; `begin` is whole */
  int s = atomic_load_explicit(&state, memory_order_acquire);
  if (s == NEVER &&
      atomic_compare_exchange_strong_explicit(&state, &s, NOW, memory_order_relaxed, memory_order_relaxed)) {
    begin = both_clocks();
    atomic_store_explicit(&state, s = BEGUN, memory_order_release);
    while (monotonic_ns() - begin.ns < 20000)
      relax();
  }
  if (s != BEGUN) /* another thread is at it, or one that this handler interrupted: short waits, for a moment */
    return 1ull << 32;
  struct instant now = both_clocks();
  uint64_t ns = now.ns - begin.ns, ticks = now.ticks - begin.ticks;
  if (ns == 0 || ticks == 0)
    return m ? m : 1ull << 32;
  m = (uint64_t)(((unsigned __int128)ns << 32) / ticks);
  atomic_store_explicit(&inverse, (uint64_t)(((unsigned __int128)ticks << 32) / ns), memory_order_relaxed);
  atomic_store_explicit(&mult, m, memory_order_relaxed);
  if (ns > 1000000 && begin.slack + now.slack < ticks / 256)
    atomic_store_explicit(&fine, true, memory_order_relaxed);
  return m;
}
uint64_t fl_ticks_to_ns(uint64_t ticks) { return (uint64_t)(((unsigned __int128)ticks * rate()) >> 32); }
uint64_t fl_ns_to_ticks(uint64_t ns) {
  rate();
  return (uint64_t)(((unsigned __int128)ns * atomic_load_explicit(&inverse, memory_order_relaxed)) >> 32);
}
#else
uint64_t fl_now(void) { return monotonic_ns(); }
static void relax(void) {
#if defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}
uint64_t fl_ticks_to_ns(uint64_t ticks) { return ticks; }
uint64_t fl_ns_to_ticks(uint64_t ns) { return ns; }
#endif

__attribute__((constructor)) static void find_rseq(void) {
  const ptrdiff_t *offset = dlsym(RTLD_DEFAULT, "__rseq_offset");
  const unsigned *size = dlsym(RTLD_DEFAULT, "__rseq_size");

  if (offset && size && *size)
    fl_rseq_cpu = *offset + 4; /* struct rseq: cpu_id_start, cpu_id; the kernel keeps them up to date */
}

int fl_cpu_ask(void) { return sched_getcpu(); }

bool fl_wait_contended(void) {
  uint64_t until = atomic_load_explicit(&contended_until, memory_order_relaxed);

  return until && (int64_t)(until - fl_now()) > 0;
}

/*
 * A yield of `lost` ticks went to somebody else. None for so long that such losses stay below a twentieth of the time;
 * and for twice as long as the last time if that was only a moment ago, for then somebody computes without end.
 */
static void contend(uint64_t now, uint64_t lost) {
  uint64_t until = atomic_load_explicit(&contended_until, memory_order_relaxed);
  uint64_t last = atomic_load_explicit(&backoff, memory_order_relaxed), next = lost * YIELD_SHARE;

  if (now - until < last && next < 2 * last)
    next = 2 * last;
  uint64_t most = fl_ns_to_ticks(BACKOFF_MAX_NS);
  if (next > most)
    next = most;
  atomic_store_explicit(&backoff, next, memory_order_relaxed);
  atomic_store_explicit(&contended_until, now + next, memory_order_relaxed);
}

void fl_wait_fixed(void) { fixed = true; }

void fl_wait_begin(struct fl_wait *w, struct fl_wait_hist *hist, int peer_cpu, uint64_t spin_ns) {
  *w = (struct fl_wait){.hist = hist, .peer_cpu = peer_cpu};
  if (spin_ns == 0) {
    w->none = true;
    return;
  }
  w->begin = w->last = fl_now();
  w->same_cpu = peer_cpu >= 0 && peer_cpu == fl_cpu();
  w->kernel_at = w->begin + fl_ns_to_ticks(KERNEL_EVERY_NS);
  if (fixed) {
    w->deadline = w->begin + fl_ns_to_ticks(spin_ns);
    return;
  }
  if (w->same_cpu && fl_wait_contended()) {
    w->none = true;
    return;
  }
  uint32_t skips = hist->skips; /* once: threads that share it must not bring it below 0 */
  if (hist->fails > LONG_TRIES && skips) {
    hist->skips = skips - 1;
    w->brief = true;
    spin_ns /= SHORT;
  } else if (hist->fails) {
    spin_ns *= LONG;
  }
  w->deadline = w->begin + fl_ns_to_ticks(spin_ns);
}

enum fl_wait_verdict fl_wait_step(struct fl_wait *w) {
  if (w->none)
    return FL_WAIT_SLEEP;

  if (w->same_cpu) {
    if ((int64_t)(w->last - w->deadline) >= 0)
      return FL_WAIT_SLEEP;
    sched_yield();
    uint64_t now = fl_now();
    if (now - w->last > w->longest)
      w->longest = now - w->last;
    if (!fixed && w->longest > fl_ns_to_ticks(YIELD_LATE_NS))
      w->none = true; /* one more look, then sleep */
    w->last = now;
    if ((int64_t)(now - w->kernel_at) >= 0) {
      w->kernel_at = now + fl_ns_to_ticks(KERNEL_EVERY_NS);
      return FL_WAIT_KERNEL;
    }
    return FL_WAIT_AGAIN;
  }

  relax();
  if (++w->looks % CLOCK_EVERY)
    return FL_WAIT_AGAIN;
  uint64_t now = fl_now();
  w->last = now;
  if ((int64_t)(now - w->deadline) >= 0) {
    w->none = true;
    return FL_WAIT_AGAIN;
  }
  if ((int64_t)(now - w->kernel_at) >= 0) {
    w->kernel_at = now + fl_ns_to_ticks(KERNEL_EVERY_NS);
    return FL_WAIT_KERNEL;
  }
  return FL_WAIT_AGAIN;
}

void fl_wait_end(struct fl_wait *w, bool found) {
  struct fl_wait_hist *h = w->hist;

  if (w->deadline == 0 || fixed)
    return;
  if (w->same_cpu) {
    if (w->longest > fl_ns_to_ticks(found ? YIELD_LOST_NS : YIELD_LATE_NS))
      contend(w->last, w->longest);
    return;
  }
  if (found) {
    *h = (struct fl_wait_hist){0};
  } else if (!w->brief) {
    h->fails++;
    if (h->fails > LONG_TRIES) {
      h->gap = h->gap == 0 ? GAP_MIN : h->gap < GAP_MAX ? 2 * h->gap : GAP_MAX;
      h->skips = h->gap;
    }
  }
}
