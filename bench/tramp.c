/* SPDX-License-Identifier: MIT */
/*
 * bench/tramp.c - what the trampolines cost those who do not need them.
 *
 *   tramp LIBRARY              a call on a descriptor that is not ours: nanoseconds more than without a stub
 *   tramp LIBRARY PROGRAM...   the start of a program: milliseconds, by FASTLOCAL_TRAMP, with and without plans in the
 * cache
 *
 * All ways take turns, so that they share the machine's moods; medians.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;

  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;

  return (x > y) - (x < y);
}
static double quantile(double *v, size_t n, double q) {
  qsort(v, n, sizeof *v, by_value);
  return v[(size_t)(q * (double)(n - 1))];
}

/* ---- a call ---- */

/* One of them can be patched. To the other's instruction something jumps, so it never is. */
__attribute__((noinline)) static long with_stub(long fd, const void *p, long n) {
  long r;

  __asm__ volatile("movl $1, %%eax\n\tsyscall" : "=a"(r) : "D"(fd), "S"(p), "d"(n) : "rcx", "r11", "memory");
  return r;
}
__attribute__((noinline)) static long without(long fd, const void *p, long n) {
  long r;

  __asm__ volatile("testq %%rdi, %%rdi\n\tmovl $1, %%eax\n\tjs 1f\n1:\tsyscall"
                   : "=a"(r)
                   : "D"(fd), "S"(p), "d"(n)
                   : "rcx", "r11", "memory", "cc");
  return r;
}

enum { BLOCKS = 4001, CALLS = 400 };

static double block(long (*f)(long, const void *, long), long fd) {
  double begin = now();

  for (int i = 0; i < CALLS; i++)
    if (f(fd, "", 1) != 1)
      err(1, "write");
  return (now() - begin) * 1e9 / CALLS;
}

static bool patched(long (*f)(long, const void *, long)) {
  const uint8_t *code = (const uint8_t *)(uintptr_t)f, *at = memmem(code, 64, "\x0f\x05", 2);

  return at && at - code >= 5 && at[-5] == 0xe9;
}

static int calls(void) {
  static double without_[BLOCKS], stub[BLOCKS], more[BLOCKS];
  int fd = open("/dev/null", O_WRONLY);

  for (int i = 0; i < BLOCKS; i++) {
    /* in turns, and each first as often as the other */
    if (i % 2)
      without_[i] = block(without, fd);
    stub[i] = block(with_stub, fd);
    if (i % 2 == 0)
      without_[i] = block(without, fd);
    more[i] = stub[i] - without_[i];
  }
  double middle = quantile(more, BLOCKS, 0.5);
  printf("%s: %.1f ns without a stub, %.2f ns more at one that %s patched (%.2f between the fastest blocks)\n",
         getenv("FASTLOCAL_TRAMP"), quantile(without_, BLOCKS, 0.5), middle, patched(with_stub) ? "is" : "is not",
         quantile(stub, BLOCKS, 0) - quantile(without_, BLOCKS, 0));
  return 0;
}

/* ---- a start ---- */

enum { STARTS = 41, SETTINGS = 4 };

static const struct way {
  const char *name, *tramp;
  bool cached;
} ways[] = {
    {"no library", NULL, false},    {"off", "off", false},
    {"auto, cached", "auto", true}, {"auto, not cached", "auto", false},
    {"libc, cached", "libc", true}, {"libc, not cached", "libc", false},
    {"all, cached", "all", true},   {"all, not cached", "all", false},
};
enum { OFF = 1, WAYS = sizeof ways / sizeof *ways };

static char *text(const char *name, const char *value) {
  char *s;

  if (asprintf(&s, "%s=%s", name, value) < 0)
    err(1, "asprintf");
  return s;
}

static void run(char **argv, char **environment, bool quiet) {
  posix_spawn_file_actions_t actions;
  int status;
  pid_t pid;

  posix_spawn_file_actions_init(&actions);
  if (quiet)
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  errno = posix_spawnp(&pid, argv[0], &actions, NULL, argv, environment);
  if (errno)
    err(1, "%s", argv[0]);
  if (waitpid(pid, &status, 0) != pid || status)
    errx(1, "%s: status %d", argv[0], status);
  posix_spawn_file_actions_destroy(&actions);
}

static void settings_of(char **to, const char *library, const char *tramp, const char *cache) {
  *to++ = text("PATH", getenv("PATH"));
  if (tramp) {
    *to++ = text("LD_PRELOAD", library);
    *to++ = text("FASTLOCAL_TRAMP", tramp);
    *to++ = text("XDG_CACHE_HOME", cache);
  }
  *to = NULL;
}

static int starts(char **argv, const char *library) {
  static double took[WAYS][STARTS];
  char cache[] = "/tmp/fl-bench-XXXXXX", *environment[WAYS][SETTINGS + 1], *clear[] = {"rm", "-r", cache, NULL};

  if (!mkdtemp(cache))
    err(1, "%s", cache);
  for (int w = 0; w < WAYS; w++)
    settings_of(environment[w], library, ways[w].tramp, ways[w].cached ? cache : "/proc/none");
  for (int i = -2; i < STARTS; i++) /* the first fill the cache */
    for (int w = 0; w < WAYS; w++) {
      double begin = now();
      run(argv, environment[w], true);
      if (i >= 0)
        took[w][i] = (now() - begin) * 1e3;
    }
  double off = quantile(took[OFF], STARTS, 0.5);
  for (int w = 0; w < WAYS; w++) {
    double middle = quantile(took[w], STARTS, 0.5);
    printf("%-18s %7.2f ms, %+.2f to off; a tenth below %.2f\n", ways[w].name, middle, middle - off,
           took[w][STARTS / 10]);
  }
  run(clear, environ, false);
  return 0;
}

int main(int argc, char **argv) {
  if (argc < 2)
    errx(2, "usage: tramp LIBRARY [PROGRAM ARGUMENT...]");
  if (strcmp(argv[1], "-") == 0)
    return calls();
  if (argc > 2)
    return starts(argv + 2, argv[1]);
  for (int i = 0; i < 2; i++) { /* this program with and without */
    char *environment[SETTINGS + 1], *self[] = {argv[0], "-", NULL};
    settings_of(environment, argv[1], i ? "all" : "off", "/proc/none");
    run(self, environment, false);
  }
  return 0;
}
