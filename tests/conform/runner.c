/* SPDX-License-Identifier: MIT */
/*
 * tests/conform/runner.c - runs the cases in all ways, and compares what was seen with plain TCP.
 *
 *   conform [OPTION]... LIBRARY     exit status 1 if anything differs
 *
 *   --all            all cases; without it, the part that continuous integration runs
 *   --twice          plain TCP a second time as well: a case that differs from itself is a defect of the case
 *   --only PATTERN   cases whose name matches the shell pattern; may be given several times
 *   --list           names the cases instead
 *   --trace          prints every trace of plain TCP, and what differs
 *   --table          prints the tables of docs/conformance.md instead
 *   --before FILE    preloads this one before LIBRARY (build/tests/trampoline/libraw_libc.so: all calls past the
 * symbols)
 *   --late           also cases of which it is known that they differ
 *   --slow MS        names cases that took so long
 *   --jobs N         pairs of ends that run at once (default: one per processor)
 */
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <getopt.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "conform.h"
#include "futex.h"

#define CASE_MS 5000   /* a case that takes longer hangs */
#define START_MS 10000 /* so long may the ends take to start */
#define PATTERNS 64
#define SHOWN 40 /* differences that are printed */
#define REASONS 16

static const char *const way_names[WAYS] = {"plain TCP", "library on the client", "library on the server",
                                            "library on both ends", "plain TCP once more"};

struct job {
  uint32_t number; /* among all cases */
  struct selected s;
  char *seen[WAYS][2]; /* traces */
  char *failed[WAYS];  /* it hung, died, or never came onto the ring */
  uint32_t ms[WAYS];
};

static struct job *jobs;
static size_t job_count;
static unsigned late_count;
static const char *library, *before;
static const char *patterns[PATTERNS];
static unsigned pattern_count;
static bool all, list, table, twice, traces, late;
static unsigned slow = UINT32_MAX;

static _Noreturn void die(const char *what) {
  fprintf(stderr, "conform: %s: %s\n", what, strerror(errno));
  exit(2);
}

/* ---- which cases ---- */

static bool chosen(const struct selected *s, const char *name) {
  bool hit = pattern_count == 0;

  for (unsigned i = 0; i < pattern_count && !hit; i++)
    hit = fnmatch(patterns[i], name, 0) == 0;
  return hit && (all || pattern_count || in_ci(s));
}

static void choose(void) {
  struct selected s = {0};
  unsigned group = 0;
  size_t room = 0;
  char name[256];

  for (uint32_t number = 0; next_case(&s, &group); number++) {
    case_name(&s, name, sizeof name);
    if (!chosen(&s, name))
      continue;
    if (!late && s.group->late && s.group->late(s.v)) {
      late_count++;
      continue;
    }
    if (job_count == room)
      jobs = realloc(jobs, (room = room ? room * 2 : 4096) * sizeof *jobs);
    if (!jobs)
      die("memory");
    jobs[job_count++] = (struct job){.number = number, .s = s};
  }
}

/* ---- a pair of ends ---- */

struct pair {
  enum way way;
  int memory; /* memfd */
  struct shared *shared;
  pid_t pid[2];
  uint32_t done; /* expected of shared->done */
};

static bool has_library(enum way way, enum end end) {
  return way == ON_BOTH || way == (end == CLIENT ? ON_CLIENT : ON_SERVER);
}

static void become_end(const struct pair *p, enum end end) {
  char path[64];

  snprintf(path, sizeof path, "/proc/%d/fd/%d", getppid(), p->memory);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  setpgid(0, end == CLIENT ? 0 : p->pid[CLIENT]);
  dup2(open("/dev/null", O_RDWR), 0);
  dup2(2, 1);
  closefrom(3);
  if (has_library(p->way, end)) {
    char both[2 * PATH_MAX + 2];
    snprintf(both, sizeof both, "%s%s%s", before ? before : "", before ? ":" : "", library);
    setenv("LD_PRELOAD", both, 1);
    /* Waits last for a known time, whatever they bring: which lane bytes take is then the case's to decide. */
    setenv("FASTLOCAL_SPIN_US", "300", 1);
    setenv("FASTLOCAL_PAIR_AFTER", "8", 1); /* not more where connections are short */
  }
  execl("/proc/self/exe", "conform", end == CLIENT ? "--end=client" : "--end=server", path, NULL);
  _exit(93);
}

/* False: an end died, or both are not through in time. */
static bool both_done(struct pair *p, unsigned ms) {
  uint64_t begin = clock_ms();
  uint32_t done;

  p->done += 2;
  /* acquire: pairs with the release in end.c */
  while ((done = atomic_load_explicit(&p->shared->done, memory_order_acquire)) != p->done) {
    siginfo_t info = {0};
    if (clock_ms() - begin > ms)
      return false;
    for (int i = 0; i < 2; i++)
      if (waitid(P_PID, (id_t)p->pid[i], &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid)
        return false;
    futex_wait(&p->shared->done, done, 50);
  }
  return true;
}

static void start(struct pair *p) {
  p->memory = memfd_create("conform", 0);
  if (p->memory < 0 || ftruncate(p->memory, sizeof *p->shared))
    die("memfd");
  p->shared = mmap(NULL, sizeof *p->shared, PROT_READ | PROT_WRITE, MAP_SHARED, p->memory, 0);
  if (p->shared == MAP_FAILED)
    die("mmap");
  p->shared->way = p->way;
  p->done = 0;
  for (int i = 0; i < 2; i++) {
    p->pid[i] = fork();
    if (p->pid[i] < 0)
      die("fork");
    if (p->pid[i] == 0)
      become_end(p, (enum end)i);
    setpgid(p->pid[i], p->pid[CLIENT]);
  }
  if (!both_done(p, START_MS))
    die("the ends do not start");
}

/* Returns how the ends ended, for people; static per thread. */
static const char *finish(struct pair *p) {
  static __thread char text[128];
  size_t n = 0;

  text[0] = 0;
  for (int i = 0; i < 2; i++) {
    siginfo_t info = {0};
    if (waitid(P_PID, (id_t)p->pid[i], &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid)
      n += (size_t)snprintf(text + n, sizeof text - n, "%s%s %s %d", n ? ", " : "", i ? "server" : "client",
                            info.si_code == CLD_EXITED ? "exited with" : "was killed by signal", info.si_status);
  }
  kill(-p->pid[CLIENT], SIGKILL);
  for (int i = 0; i < 2; i++)
    waitpid(p->pid[i], NULL, 0);
  munmap(p->shared, sizeof *p->shared);
  close(p->memory);
  return n ? text : "it hangs";
}

static char *trace_of(const struct trace *t) {
  uint32_t n = t->length < TRACE_BYTES ? t->length : TRACE_BYTES - 1;
  char *text = malloc(n + 1);

  if (!text)
    die("memory");
  memcpy(text, t->text, n);
  text[n] = 0;
  return text;
}

static void run_job(struct pair *p, struct job *j) {
  struct shared *s = p->shared;
  const char *how = NULL;

  s->turn = 0;
  s->missed = 0;
  for (int i = 0; i < 2; i++) {
    s->gone[i] = s->ringed[i] = 0;
    s->trace[i].length = 0;
  }
  for (int i = 0; i < VALUES; i++)
    s->value[i] = 0;
  s->selected = j->number;
  /* release: pairs with the acquire in end.c */
  atomic_fetch_add_explicit(&s->go, 1, memory_order_release);
  futex_wake(&s->go);
  uint64_t begin = clock_ms();
  bool good = both_done(p, CASE_MS);
  j->ms[p->way] = (uint32_t)(clock_ms() - begin);
  for (int i = 0; i < 2; i++)
    j->seen[p->way][i] = trace_of(&s->trace[i]);
  if (!good)
    how = finish(p);
  else if (s->missed)
    how = "it did not come onto the ring";
  if (how)
    j->failed[p->way] = strdup(how);
  if (!good)
    start(p);
}

static void *run_way(void *arg) {
  struct pair p = {.way = *(enum way *)arg};

  start(&p);
  for (size_t i = 0; i < job_count; i++)
    run_job(&p, &jobs[i]);
  finish(&p);
  return NULL;
}

static void run_all(unsigned at_once) {
  /* the most work first: with the library on both ends cases take longest */
  static enum way order[WAYS] = {ON_BOTH, ON_CLIENT, ON_SERVER, PLAIN, PLAIN_AGAIN};
  pthread_t thread[WAYS];
  unsigned ways = twice ? WAYS : WAYS - 1;

  for (unsigned i = 0; i < ways; i += at_once) {
    for (unsigned k = i; k < ways && k < i + at_once; k++)
      if (pthread_create(&thread[k], NULL, run_way, &order[k]))
        die("thread");
    for (unsigned k = i; k < ways && k < i + at_once; k++)
      pthread_join(thread[k], NULL);
  }
}

/* ---- comparison ---- */

/* The next line, and the place behind it; lines that are not compared are passed over. False at the end. */
static bool next_line(const char **at, const char **line, size_t *n) {
  do {
    if (!**at)
      return false;
    *line = *at;
    *n = strcspn(*at, "\n");
    *at += *n + ((*at)[*n] != 0);
  } while (**line == '~');
  return true;
}

static bool same(const char *a, const char *b) {
  const char *la = NULL, *lb = NULL;
  size_t na = 0, nb = 0;

  for (;;) {
    bool more_a = next_line(&a, &la, &na), more_b = next_line(&b, &lb, &nb);
    if (!more_a || !more_b)
      return more_a == more_b;
    if (na != nb || memcmp(la, lb, na) != 0)
      return false;
  }
}

#define LINES 2048

static unsigned lines_of(const char *text, const char **line, size_t *n) {
  unsigned count = 0;

  while (count < LINES && next_line(&text, &line[count], &n[count]))
    count++;
  return count;
}

/* What both begin and end with is shown once, what lies between by end. */
static void show_difference(const char *a, const char *b) {
  static const char *la[LINES], *lb[LINES];
  static size_t na[LINES], nb[LINES];
  unsigned ca = lines_of(a, la, na), cb = lines_of(b, lb, nb), head = 0, tail = 0;

#define EQUAL(i, k) (na[i] == nb[k] && memcmp(la[i], lb[k], na[i]) == 0)
  while (head < ca && head < cb && EQUAL(head, head))
    head++;
  while (tail < ca - head && tail < cb - head && EQUAL(ca - 1 - tail, cb - 1 - tail))
    tail++;
  for (unsigned i = 0; i < head; i++)
    printf("      %.*s\n", (int)na[i], la[i]);
  for (unsigned i = head; i < ca - tail; i++)
    printf("    - %.*s\n", (int)na[i], la[i]);
  for (unsigned i = head; i < cb - tail; i++)
    printf("    + %.*s\n", (int)nb[i], lb[i]);
  for (unsigned i = ca - tail; i < ca; i++)
    printf("      %.*s\n", (int)na[i], la[i]);
#undef EQUAL
}

static void show_trace(const struct job *j, const char *name) {
  printf("%s\n", name);
  for (int e = 0; e < 2; e++)
    for (const char *at = j->seen[PLAIN][e]; at && *at; at += strcspn(at, "\n") + 1)
      printf("  %s %.*s\n", e ? "server" : "client", (int)strcspn(at, "\n"), at);
}

/* True if a case is the same in all ways. */
static bool judge(const struct job *j, unsigned *shown) {
  char name[256];
  bool good = true;

  case_name(&j->s, name, sizeof name);
  if (traces)
    show_trace(j, name);
  for (int w = 0; w < WAYS; w++)
    if (j->ms[w] >= slow)
      printf("%u ms: %s, %s\n", j->ms[w], name, way_names[w]);
  for (int w = 0; w < (twice ? WAYS : WAYS - 1); w++) {
    bool differs[2] = {false, false};
    for (int e = 0; e < 2; e++)
      differs[e] = !same(j->seen[PLAIN][e], j->seen[w][e]);
    if (!j->failed[w] && !differs[0] && !differs[1])
      continue;
    good = false;
    if (++*shown > SHOWN && !traces)
      continue;
    printf("not as plain TCP: %s\n  %s%s%s\n", name, way_names[w], j->failed[w] ? ": " : "",
           j->failed[w] ? j->failed[w] : "");
    for (int e = 0; e < 2; e++)
      if (differs[e] || j->failed[w]) {
        printf("   %s\n", e ? "server" : "client");
        show_difference(j->seen[PLAIN][e], j->seen[w][e]);
      }
  }
  return good;
}

struct result {
  unsigned cases, bad;
};

static void report(void) {
  unsigned shown = 0, bad = 0;
  struct result *results = calloc(group_count, sizeof *results);

  for (size_t i = 0; results && i < job_count; i++) {
    unsigned g = 0;
    while (groups[g] != jobs[i].s.group)
      g++;
    results[g].cases++;
    if (!judge(&jobs[i], &shown)) {
      results[g].bad++;
      bad++;
    }
  }
  for (unsigned g = 0; results && g < group_count; g++)
    if (results[g].cases)
      printf("%-20s %6u cases, %u differ\n", groups[g]->name, results[g].cases, results[g].bad);
  free(results);
  if (late_count)
    printf("%u more are known to differ (--late)\n", late_count);
  printf("%zu cases, %u differ\n", job_count, bad);
  exit(bad ? 1 : 0);
}

/* ---- */

static void print_list(void) {
  char name[256];

  for (size_t i = 0; i < job_count; i++) {
    case_name(&jobs[i].s, name, sizeof name);
    puts(name);
  }
}

/* Why cases are late, each reason once. */
static void print_late(void) {
  const char *reasons[REASONS];
  const struct group *of[REASONS];
  unsigned n = 0, counts[REASONS] = {0};
  struct selected s = {0};
  unsigned group = 0;

  while (next_case(&s, &group)) {
    const char *why = s.group->late ? s.group->late(s.v) : NULL;
    unsigned i = 0;
    while (why && i < n && strcmp(reasons[i], why) != 0)
      i++;
    if (!why || i == REASONS)
      continue;
    reasons[i] = why;
    of[i] = s.group;
    counts[i]++;
    n += i == n;
  }
  for (unsigned i = 0; i < n; i++)
    printf("- **%s**, %u cases: %s\n", of[i]->name, counts[i], reasons[i]);
}

static void print_table(void) {
  struct selected s = {0};
  unsigned group = 0, in = 0, count = 0, sum = 0, sum_in = 0;

  puts("| group | what is compared | cases | in CI |\n| --- | --- | ---: | ---: |");
  for (const struct group *g = groups[0]; g;) {
    bool more = next_case(&s, &group);
    if (!more || s.group != g) {
      printf("| %s | %s | %u | %u |\n", g->name, g->what, count, in);
      sum += count;
      sum_in += in;
      count = in = 0;
      g = more ? s.group : NULL;
    }
    if (more && !(s.group->late && s.group->late(s.v))) {
      count++;
      in += in_ci(&s);
    }
  }
  printf("| | **all** | **%u** | **%u** |\n\nNot compared, because no program can rely on it:\n\n", sum, sum_in);
  for (unsigned i = 0; i < exception_count; i++)
    printf("- **%s.** %s\n", exceptions[i].title, exceptions[i].why);
  puts("\nKnown to differ, and not counted above (`--late` runs these cases as well):\n");
  print_late();
}

int main(int argc, char **argv) {
  static const struct option options[] = {
      {"end", required_argument, NULL, 'e'},  {"all", no_argument, NULL, 'a'},
      {"twice", no_argument, NULL, '2'},      {"only", required_argument, NULL, 'o'},
      {"list", no_argument, NULL, 'l'},       {"trace", no_argument, NULL, 't'},
      {"table", no_argument, NULL, 'T'},      {"before", required_argument, NULL, 'b'},
      {"late", no_argument, NULL, 'L'},       {"jobs", required_argument, NULL, 'j'},
      {"slow", required_argument, NULL, 's'}, {NULL, 0, NULL, 0}};
  unsigned at_once = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
  int o;

  while ((o = getopt_long(argc, argv, "", options, NULL)) != -1)
    switch (o) {
    case 'e': return end_main(strcmp(optarg, "client") == 0 ? CLIENT : SERVER, argv[optind]);
    case 'a': all = true; break;
    case '2': twice = true; break;
    case 'o':
      if (pattern_count < PATTERNS)
        patterns[pattern_count++] = optarg;
      break;
    case 'l': list = true; break;
    case 't': traces = true; break;
    case 'T': table = true; break;
    case 'b': before = realpath(optarg, NULL); break;
    case 'L': late = true; break;
    case 's': slow = (unsigned)atoi(optarg); break;
    case 'j': at_once = (unsigned)atoi(optarg); break;
    default: return 2;
    }
  if (table) {
    print_table();
    return 0;
  }
  choose();
  if (list) {
    print_list();
    return 0;
  }
  if (optind + 1 != argc || at_once == 0) {
    fprintf(stderr, "usage: conform [OPTION]... LIBRARY\n");
    return 2;
  }
  library = realpath(argv[optind], NULL);
  if (!library)
    die(argv[optind]);
  unsetenv("LD_PRELOAD");
  signal(SIGPIPE, SIG_IGN);
  run_all(at_once);
  report();
}
