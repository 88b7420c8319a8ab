/* SPDX-License-Identifier: MIT */
/* tests/conform/turns.c - the two ends take turns, by a count of steps in shared memory. */
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "conform.h"
#include "futex.h"

struct run run;

/* An end whose peer ended in the middle of a step that it owed. */
static void peer_ended(void) {
  note("the other end is gone");
  _exit(98);
}

static void wait_turn(uint32_t wanted) {
  for (unsigned looks = 0;; looks++) {
    /* acquire: pairs with the release in give; what the other end did in its step is visible */
    uint32_t turn = atomic_load_explicit(&run.shared->turn, memory_order_acquire);
    if ((int32_t)(turn - wanted) >= 0)
      return;
    if (atomic_load_explicit(&run.shared->gone[OTHER(run.me)], memory_order_relaxed) &&
        atomic_load_explicit(&run.shared->turn, memory_order_acquire) == turn)
      peer_ended();
    futex_wait(&run.shared->turn, turn, 20);
  }
}

static void give(void) {
  /* release: pairs with the acquire in wait_turn */
  atomic_store_explicit(&run.shared->turn, run.step, memory_order_release);
  futex_wake(&run.shared->turn);
}

bool turn_begin(enum end end) {
  run.step++;
  run.released = false;
  wait_turn(end == run.me ? run.step - 1 : run.step);
  return end == run.me;
}

bool turn_end(void) {
  if (!run.released)
    give();
  return false;
}

void release(void) {
  run.released = true;
  give();
}

void pause_us(unsigned us) {
  struct timespec t = {us / 1000000, us % 1000000 * 1000};
  syscall(SYS_nanosleep, &t, NULL);
}

static char state_of(int tid) {
  char path[64], text[512], *end;
  ssize_t n;

  snprintf(path, sizeof path, "/proc/%d/stat", tid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return 'X';
  n = read(fd, text, sizeof text - 1);
  close(fd);
  text[n > 0 ? n : 0] = 0;
  end = strrchr(text, ')');
  return end ? end[2] : 'X';
}

void settle(enum end end) {
  unsigned asleep = 0;

  for (int i = 0; i < 400 && asleep < 3; i++) {
    char s = state_of(atomic_load(&run.shared->tid[end]));
    if (s == 'X' || s == 'Z')
      return;
    asleep = s == 'S' ? asleep + 1 : 0;
    pause_us(250);
  }
}

void thread_is_me(void) { atomic_store(&run.shared->tid[run.me], (int32_t)syscall(SYS_gettid)); }

void send_signal(enum end end, int sig) { syscall(SYS_tkill, atomic_load(&run.shared->tid[end]), sig); }

uint64_t clock_ms(void) {
  struct timespec t;

  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}
