/* SPDX-License-Identifier: MIT */
/*
 * tests/faults/main.c - the driver: chooses faults, watches, judges and counts.
 *
 *     faults [--seconds N] [--faults N] [--pairs N] [--seed N] [--library PATH] [--plan TEXT] [--repeat N]
 *
 * ends with status 0 if there was no failure. A failure prints the plan of its iteration; --plan with that text, and
 * --repeat, runs it again (threads run differently each time, so it may take several).
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "traffic.h"

#define HANG_MS 20000
#define GENERATION 2000 /* iterations of one pair of warm parents */
#define FAILURES_MAX 5  /* of one pair */
#define PAIRS 8

static struct {
  double seconds;
  uint64_t faults, seed, repeat;
  int pairs;
  const char *library, *plan;
} options = {.seconds = 20, .faults = UINT64_MAX, .pairs = 2, .repeat = 1};

struct table *table;

struct pair {
  struct shared *s;
  int number;
  uint64_t random;
  pid_t warm[2];
  int command[2], report[2], stopped;
};

static double now(void) {
  struct timespec ts;

  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static void give_up(const char *what) {
  perror(what);
  exit(2);
}

/* ---- warm parents ---- */

static void start_one(struct pair *p, int end, int memory, int stopped) {
  int command[2], report[2];
  char number[16], which[2] = {(char)('0' + end), 0}, ring[16];

  if (pipe2(command, O_CLOEXEC) < 0 || pipe2(report, O_CLOEXEC) < 0)
    give_up("pipe");
  p->warm[end] = fork();
  if (p->warm[end] < 0)
    give_up("fork");
  if (p->warm[end] == 0) {
    int fds[] = {command[0], report[1], stopped, memory};
    for (int i = 0; i < 4; i++) /* out of the way first */
      fds[i] = fcntl(fds[i], F_DUPFD, 64);
    for (int i = 0; i < 4; i++)
      dup2(fds[i], FD_COMMAND + i);
    for (int i = 0; i < 4; i++)
      close(fds[i]);
    snprintf(number, sizeof number, "%d", p->number);
    snprintf(ring, sizeof ring, "%u", p->s->ring);
    setenv("LD_PRELOAD", options.library, 1);
    setenv("FASTLOCAL_RING", ring, 1);
    setenv("FASTLOCAL_TRAMP", "off", 1);    /* else the ends' own calls are the library's as well, and would fail */
    setenv("FASTLOCAL_PAIR_AFTER", "8", 1); /* not more where connections are short */
    execl("/proc/self/exe", "faults-warm", "--warm", number, which, NULL);
    _exit(127);
  }
  close(command[0]);
  close(report[1]);
  p->command[end] = command[1];
  p->report[end] = report[0];
}

static void ready(struct pair *p, int end) {
  struct pollfd f = {.fd = p->report[end], .events = POLLIN};
  char c;

  if (poll(&f, 1, HANG_MS) != 1 || read(p->report[end], &c, 1) != 1) {
    fprintf(stderr, "faults: a warm parent does not start\n");
    exit(2);
  }
}

static void start(struct pair *p, int memory) {
  static const uint32_t rings[] = {16 << 10, 16 << 10, 64 << 10, 256 << 10};
  int stopped[2];

  p->s->ring = options.plan ? (uint32_t)atoi(strrchr(options.plan, ':') + 1) : rings[below(&p->random, 4)];
  if (pipe2(stopped, O_CLOEXEC) < 0)
    give_up("pipe");
  p->stopped = stopped[0];
  for (int end = 0; end < 2; end++)
    start_one(p, end, memory, stopped[1]);
  close(stopped[1]);
  for (int end = 0; end < 2; end++)
    ready(p, end);
  if (!table->npoints) {
    fprintf(stderr, "faults: %s has no fault points (meson option fault_points)\n", options.library);
    exit(2);
  }
}

static void end_one(struct pair *p, int end, bool hard) {
  char path[64], line[1024] = "";

  if (hard) {
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", p->warm[end], p->warm[end]);
    FILE *f = fopen(path, "re");
    if (f && !fgets(line, sizeof line, f))
      line[0] = '\0';
    if (f)
      fclose(f);
    for (char *at = line, *next_one; *at && (next_one = at, strtol(at, &next_one, 10) > 0) && next_one != at;
         at = next_one)
      kill((pid_t)strtol(at, NULL, 10), SIGKILL);
    kill(p->warm[end], SIGKILL);
  }
  close(p->command[end]);
  close(p->report[end]);
  waitpid(p->warm[end], NULL, 0);
}

static void end_both(struct pair *p, bool hard) {
  for (int end = 0; end < 2; end++)
    end_one(p, end, hard);
  close(p->stopped);
}

/* ---- plans ---- */

static void print_plan(FILE *out, const struct shared *s) {
  const struct plan *p = &s->plan;

  fprintf(out, "%llu:%u:%d:%s:%u:%u:%u:%d:%u:%u", (unsigned long long)p->seed, p->kind, p->end, table->name[p->point],
          p->nth, p->any_after, p->pause_us, p->error, p->noise, s->ring);
}

static void parse_plan(struct shared *s, const char *text) {
  struct plan *p = &s->plan;
  char name[NAME_LEN + 1] = "";
  unsigned long long seed;

  if (sscanf(text, "%llu:%u:%d:%40[^:]:%u:%u:%u:%d:%u:%u", &seed, &p->kind, &p->end, name, &p->nth, &p->any_after,
             &p->pause_us, &p->error, &p->noise, &s->ring) != 10 ||
      p->kind >= KINDS) {
    fprintf(stderr, "faults: a plan looks like seed:kind:end:point:nth:any:pause:errno:noise:ring\n");
    exit(2);
  }
  p->seed = seed;
  for (p->point = 0; p->point < table->npoints && strcmp(table->name[p->point], name) != 0;)
    p->point++;
}

static enum kind choose_kind(uint64_t *r) {
  static const struct {
    enum kind kind;
    unsigned weight;
  } kinds[] = {{KIND_KILL, 44}, {KIND_CORRUPT, 24}, {KIND_STOP_KILL, 6}, {KIND_STOP, 6},
               {KIND_DELAY, 5}, {KIND_ERROR, 10},   {KIND_SIGNAL, 5}};
  unsigned at = (unsigned)below(r, 100), i = 0;

  while (at >= kinds[i].weight)
    at -= kinds[i++].weight;
  return kinds[i].kind;
}

/* Of a few points that are passed at all, the one that has had the least of this kind. */
static unsigned choose_point(enum kind kind, uint64_t *r, int32_t *error) {
  unsigned best = 0, n = table->npoints;
  uint64_t least = UINT64_MAX;

  for (int tries = 0, good = 0; tries < 2000 && good < 6; tries++) {
    unsigned i = (unsigned)below(r, n);
    int e = kind == KIND_ERROR ? inject_error(table->name[i], r) : 0;
    if (table->iterations > 50 && !table->hits[i])
      continue;
    if (kind == KIND_ERROR && !e)
      continue;
    good++;
    if (table->injected[kind][i] < least) {
      least = table->injected[kind][i];
      best = i;
      *error = e;
    }
  }
  return best;
}

static void choose_plan(struct pair *pair) {
  uint64_t *r = &pair->random;
  struct plan *p = &pair->s->plan;
  uint64_t iterations = table->iterations + 1;

  *p = (struct plan){.seed = next(r), .kind = choose_kind(r), .end = (int32_t)below(r, 2)};
  p->point = choose_point((enum kind)p->kind, r, &p->error);
  /* about as often as one end passes it */
  p->nth = (uint32_t)spread(r, table->hits[p->point] / 3 / iterations + 1);
  p->any_after = 50 + (uint32_t)spread(r, 4000);
  p->pause_us = (uint32_t)spread(r, below(r, 300) ? 16000 : 1500000);
  p->noise = below(r, 3) ? 0 : (uint32_t)spread(r, 2000);
}

/* ---- one iteration ---- */

/* A process that stopped itself goes on, or ends, after the plan's time. */
static void handle_stop(struct pair *p) {
  char path[64], stat[256], *state;
  int32_t pid;

  if (read(p->stopped, &pid, sizeof pid) != sizeof pid)
    return;
  usleep(p->s->plan.pause_us);
  if (p->s->plan.kind == KIND_STOP_KILL) {
    kill(pid, SIGKILL);
    return;
  }
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  for (;;) { /* until it has stopped, or gone */
    FILE *f = fopen(path, "re");
    if (!f)
      return;
    bool got = fgets(stat, sizeof stat, f) != NULL;
    fclose(f);
    if (!got || !(state = strrchr(stat, ')')) || state[2] == 'Z' || state[2] == 'X')
      return;
    if (state[2] == 'T')
      break;
    usleep(20);
  }
  kill(pid, SIGCONT);
}

/* Both warm parents report; false if they do not. */
static bool finish(struct pair *p) {
  int left = 2;
  bool done[2] = {false, false};
  double limit = now() + HANG_MS / 1e3;

  while (left) {
    struct pollfd f[3] = {
        {done[0] ? -1 : p->report[0], POLLIN, 0}, {done[1] ? -1 : p->report[1], POLLIN, 0}, {p->stopped, POLLIN, 0}};
    int ms = (int)((limit - now()) * 1e3);
    if (ms <= 0 || poll(f, 3, ms) <= 0)
      return false;
    if (f[2].revents & POLLIN)
      handle_stop(p);
    for (int e = 0; e < 2; e++) {
      char c;
      if (!(f[e].revents & (POLLIN | POLLHUP)))
        continue;
      if (read(p->report[e], &c, 1) != 1)
        return false;
      done[e] = true;
      left--;
    }
  }
  return true;
}

static void print_history(const char *who, const struct history *h) {
  printf("  %s:", who);
  for (uint32_t i = h->n > CALLS_KEPT ? h->n - CALLS_KEPT : 0; i < h->n; i++)
    printf(" %llu: call %u of %u = %lld,", (unsigned long long)h->last[i % CALLS_KEPT].at, h->last[i % CALLS_KEPT].call,
           h->last[i % CALLS_KEPT].asked, (long long)h->last[i % CALLS_KEPT].result);
  printf("\n");
}

static void show_flows(struct shared *s) {
  struct side side;

  for (int e = 0; e < 2; e++) {
    traffic_plan(s, e, &side);
    printf("  end %d waits with %s\n", e, mode_names[side.mode]);
  }
  for (int i = 0; i < CONNS; i++)
    for (int w = 0; w < 2; w++) {
      const struct flow *f = &s->flow[i][w];
      if (!f->total)
        continue;
      printf("  connection %d from end %d: of %llu sent %llu received %llu, writer %u reader %u\n", i, w,
             (unsigned long long)f->total, (unsigned long long)f->sent, (unsigned long long)f->received, f->writer,
             f->reader);
      print_history("  sends", &f->sends);
      print_history("  receives", &f->receives);
    }
}

/* What the processes of a hanging iteration are doing. */
static void show_hang(const struct pair *p) {
  char command[256];
  fflush(stdout);
  for (int e = 0; e < 2; e++) {
    snprintf(
        command, sizeof command,
        "for c in $(cat /proc/%d/task/*/children); do for d in $c $(cat /proc/$c/task/*/children); do echo \"  end "
        "%d process $d\"; timeout 20 gdb -q -batch -p $d -ex 'thread apply all bt' 2>/dev/null | grep -E "
        "'^(Thread|#)'; done; done",
        p->warm[e], e);
    if (system(command) != 0)
      printf("  (no backtrace)\n");
  }
}

/* A rendezvous that nobody has any more. */
static bool names_left(const struct shared *s) {
  FILE *f = fopen("/proc/net/unix", "re");
  char line[512], port[8];
  bool left = false;

  snprintf(port, sizeof port, "%04x", s->port);
  while (f && fgets(line, sizeof line, f)) {
    const char *at = strstr(line, "@fastlocal/2/");
    left |= at && strlen(at) > 85 && (strncmp(at + 45, port, 4) == 0 || strncmp(at + 82, port, 4) == 0);
  }
  if (f)
    fclose(f);
  return left;
}

static void tell_failure(struct pair *p) {
  printf("failure: %s\n  plan ", p->s->failure);
  print_plan(stdout, p->s);
  int32_t at = p->s->fired_point;
  printf("\n  %s of end %d, %u times, first at %s\n", kind_names[p->s->plan.kind], p->s->plan.end, p->s->fired,
         at >= 0 ? table->name[at] : "no point");
  show_flows(p->s);
  fflush(stdout);
  atomic_fetch_add(&table->failures, 1);
}

/* With the plan set. False: the warm parents are not to be used again. */
static bool iterate(struct pair *p) {
  struct shared *s = p->s;
  struct plan plan = s->plan;
  bool ok;

  memset(s, 0, offsetof(struct shared, ring));
  s->plan = plan;
  s->fired_point = -1;
  if (write(p->command[1], "", 1) != 1 || write(p->command[0], "", 1) != 1)
    give_up("a warm parent");
  ok = finish(p);
  if (!ok) {
    fail(s, "hangs for %d seconds", HANG_MS / 1000);
    tell_failure(p);
    show_hang(p);
    return false;
  }
  if (names_left(s))
    fail(s, "a rendezvous name is left");
  if (!judge(s))
    tell_failure(p);
  atomic_fetch_add(&table->iterations, 1);
  if (!s->fired)
    atomic_fetch_add(&table->unhit, 1);
  for (int i = 0; i < CONNS; i++)
    for (int w = 0; w < 2; w++)
      atomic_fetch_add(&table->bytes, s->flow[i][w].received);
  return true;
}

static uint64_t injected(enum kind kind) {
  uint64_t n = 0;

  for (unsigned i = 0; i < table->npoints; i++)
    n += table->injected[kind][i];
  return n;
}

/* The faults that end, stop or corrupt a process. */
static uint64_t hard_faults(void) {
  return injected(KIND_KILL) + injected(KIND_STOP) + injected(KIND_STOP_KILL) + injected(KIND_CORRUPT);
}

static void run_pair(struct pair *p, int memory) {
  double end = now() + options.seconds;
  int failures = 0;

  prctl(PR_SET_PDEATHSIG, SIGKILL);
  start(p, memory);
  for (uint64_t n = 1; now() < end && hard_faults() < options.faults; n++) {
    if (options.plan && n > options.repeat)
      break;
    if (options.plan) {
      parse_plan(p->s, options.plan);
    } else {
      choose_plan(p);
    }
    bool usable = iterate(p);
    failures += p->s->failed != 0;
    if (failures >= FAILURES_MAX)
      break;
    if (!usable || n % GENERATION == 0) {
      end_both(p, !usable);
      start(p, memory);
    }
  }
  end_both(p, failures >= FAILURES_MAX);
}

/* ---- the report ---- */

static void report(double seconds) {
  unsigned missed = 0;

  printf("%-36s %12s", "point", "passed");
  for (int k = 0; k < KINDS; k++)
    printf(" %9s", kind_names[k]);
  printf("\n");
  for (unsigned i = 0; i < table->npoints; i++) {
    if (!table->hits[i] && (strncmp(table->name[i], "before_", 7) == 0 || strncmp(table->name[i], "after_", 6) == 0))
      continue; /* a system call that some Linux or other never makes */
    bool first = true;
    for (unsigned j = 0; j < i && first; j++) /* a point in an inline function has several places */
      first = strcmp(table->name[j], table->name[i]) != 0;
    if (!first)
      continue;
    uint64_t hits = 0, n[KINDS] = {0};
    for (unsigned j = i; j < table->npoints; j++)
      if (strcmp(table->name[j], table->name[i]) == 0) {
        hits += table->hits[j];
        for (int k = 0; k < KINDS; k++)
          n[k] += table->injected[k][j];
      }
    missed += hits == 0;
    printf("%-36s %12llu", table->name[i], (unsigned long long)hits);
    for (int k = 0; k < KINDS; k++)
      printf(" %9llu", (unsigned long long)n[k]);
    printf("%s\n", hits ? "" : "  NOT REACHED");
  }
  printf("%-36s %12s", "all", "");
  for (int k = 0; k < KINDS; k++)
    printf(" %9llu", (unsigned long long)injected((enum kind)k));
  printf("\n%llu iterations in %.0f s (%llu without a fault), %.1f MB received, %llu kills, stops and corruptions, %u "
         "points not reached, %llu failures\n",
         (unsigned long long)table->iterations, seconds, (unsigned long long)table->unhit, (double)table->bytes / 1e6,
         (unsigned long long)hard_faults(), missed, (unsigned long long)table->failures);
}

static uint16_t free_port(void) {
  struct sockaddr_in6 a = {.sin6_family = AF_INET6};
  socklen_t len = sizeof a;
  int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

  if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || getsockname(fd, (struct sockaddr *)&a, &len) < 0)
    give_up("bind");
  close(fd);
  return ntohs(a.sin6_port);
}

static void run(void) {
  struct pair pairs[PAIRS];
  pid_t pid[PAIRS];
  size_t size = sizeof *table + PAIRS * sizeof(struct shared);
  int memory = memfd_create(SHARED_NAME, MFD_CLOEXEC);
  double begin = now();

  if (memory < 0 || ftruncate(memory, (off_t)size) < 0)
    give_up("memfd_create");
  table = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
  if (table == MAP_FAILED)
    give_up("mmap");
  for (int i = 0; i < options.pairs; i++) {
    struct shared *s = (struct shared *)(table + 1) + i;
    s->port = free_port();
    pairs[i] = (struct pair){.s = s, .number = i, .random = mix(options.seed * PAIRS + (uint64_t)i)};
    pid[i] = fork();
    if (pid[i] < 0)
      give_up("fork");
    if (pid[i] == 0) {
      run_pair(&pairs[i], memory);
      _exit(0);
    }
  }
  for (int i = 0; i < options.pairs; i++) {
    int status;
    if (waitpid(pid[i], &status, 0) != pid[i] || status != 0)
      atomic_fetch_add(&table->failures, 1);
  }
  report(now() - begin);
  exit(table->failures != 0);
}

static void warm(char **argv) {
  size_t size = sizeof *table + PAIRS * sizeof(struct shared);

  table = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, FD_SHARED, 0);
  if (table == MAP_FAILED)
    give_up("mmap");
  struct shared *s = (struct shared *)(table + 1) + atoi(argv[0]);
  warm_run(s, atoi(argv[1]));
}

int main(int argc, char **argv) {
  static const struct option names[] = {
      {"seconds", 1, 0, 's'}, {"faults", 1, 0, 'f'}, {"pairs", 1, 0, 'p'},  {"seed", 1, 0, 'r'},
      {"library", 1, 0, 'l'}, {"plan", 1, 0, 'P'},   {"repeat", 1, 0, 'n'}, {0}};
  int c;

  if (argc == 4 && strcmp(argv[1], "--warm") == 0)
    warm(argv + 2);
  options.library = FAULTS_LIBRARY;
  options.seed = (uint64_t)time(NULL);
  while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
    switch (c) {
    case 's': options.seconds = atof(optarg); break;
    case 'f': options.faults = strtoull(optarg, NULL, 10); break;
    case 'p': options.pairs = atoi(optarg) < 1 ? 1 : atoi(optarg) > PAIRS ? PAIRS : atoi(optarg); break;
    case 'r': options.seed = strtoull(optarg, NULL, 10); break;
    case 'l': options.library = optarg; break;
    case 'P':
      options.plan = strchr(optarg, ':') ? optarg : ":";
      options.pairs = 1;
      break;
    case 'n': options.repeat = strtoull(optarg, NULL, 10); break;
    default: return 2;
    }
  }
  printf("seed %llu\n", (unsigned long long)options.seed);
  fflush(stdout);
  run();
}
