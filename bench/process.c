/* SPDX-License-Identifier: MIT */
#include "process.h"

#include <err.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

volatile sig_atomic_t process_stopping;

static void on_stop(int sig) { process_stopping = 1; }

void process_handle_signals(void) {
  /* No SA_RESTART: a sleeping accept or read must come back. The signal that lands just before the sleep is lost, so
   * whoever stops us repeats it. */
  struct sigaction stop = {.sa_handler = on_stop};
  sigaction(SIGTERM, &stop, NULL);
  sigaction(SIGINT, &stop, NULL);
  signal(SIGPIPE, SIG_IGN);
}

void process_pin(int cpu) {
  if (cpu < 0)
    return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET((unsigned)cpu, &set);
  if (sched_setaffinity(0, sizeof set, &set) < 0)
    err(1, "pin to CPU %d", cpu);
}

void process_many_descriptors(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
    err(1, "getrlimit");
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
    err(1, "setrlimit");
}

uint64_t process_now_ns(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000000000U + (uint64_t)ts.tv_nsec;
}

static double seconds(struct timeval tv) { return (double)tv.tv_sec + (double)tv.tv_usec / 1e6; }

double process_cpu_seconds(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double process_parse_seconds(const char *text) {
  char *end;
  double value = strtod(text, &end);
  if (end == text || *end != '\0' || !(value >= 0 && value <= 86400))
    errx(1, "%s: not a number of seconds", text);
  return value;
}

unsigned long process_parse_number(const char *text) {
  char *end;
  unsigned long value = strtoul(text, &end, 10);
  if (end == text || *end != '\0' || text[0] == '-')
    errx(1, "%s: not a number", text);
  return value;
}
