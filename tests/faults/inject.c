/* SPDX-License-Identifier: MIT */
/*
 * tests/faults/inject.c - called by the library at its fault points. It runs with the library's locks held, so it makes
 * only system calls of its own: registry/sys.h, compiled here without fault points.
 */
#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include "faults.h"
#include "registry/sys.h"
#include "shmring/lane.h"

typedef const char
    *const point_t; /* fl_fault_point of shmring/fault.h, which says nothing to a program without points */

void fl_fault_hit(point_t *at);
bool fl_fault_call(long nr, const long args[6], long *result);
void fl_fault_called(long nr, const long args[6], long result);
long syscall(long nr, ...);

const char *const kind_names[KINDS] = {"kill", "stop", "stop+kill", "corrupt", "delay", "error", "signal"};

static struct shared *shared;
static int me = -1;
static int32_t my_pid; /* of the end's first process */
static point_t *first;
static unsigned named; /* points of the library; those of system calls follow */
static __thread uint64_t random_state;

/* ---- the system calls, as points ---- */

static const struct call {
  long nr;
  const char *name;
  int errors[6];
} calls[] = {
    {__NR_socket, "socket", {EMFILE, ENFILE, ENOBUFS, ENOMEM, EACCES, EAFNOSUPPORT}},
    {__NR_bind, "bind", {ENOMEM, EACCES, EADDRINUSE}},
    {__NR_listen, "listen", {EADDRINUSE, ENOMEM}},
    {__NR_connect, "connect", {EAGAIN, ECONNREFUSED, EINTR, ENOMEM, EACCES}},
    {__NR_accept4, "accept4", {EAGAIN, EMFILE, ENFILE, ENOMEM, ECONNABORTED, EINTR}},
    {__NR_getsockopt, "getsockopt", {ENOMEM, ENOBUFS, ENOPROTOOPT}},
    {__NR_setsockopt, "setsockopt", {ENOMEM, EPERM}},
    {__NR_getsockname, "getsockname", {ENOBUFS}},
    {__NR_getpeername, "getpeername", {ENOBUFS, ENOTCONN}},
    {__NR_sendto, "sendto", {ENOMEM, ENOBUFS, EAGAIN, EINTR, EPERM, ECONNREFUSED}},
    {__NR_recvfrom, "recvfrom", {EAGAIN, EINTR, ENOMEM, ENOBUFS}},
    {__NR_sendmsg, "sendmsg", {EAGAIN, EPIPE, ECONNRESET, ENOMEM, ENOBUFS, ETOOMANYREFS}},
    {__NR_recvmsg, "recvmsg", {EAGAIN, EINTR, ENOMEM}},
    {__NR_memfd_create, "memfd_create", {EMFILE, ENFILE, ENOMEM, EPERM, ENOSYS, EINVAL}},
    {__NR_ftruncate, "ftruncate", {ENOMEM, EINTR, ENOSPC, EPERM}},
    {__NR_pwrite64, "pwrite64", {ENOMEM, ENOSPC, EINTR}}, /* of a segment's header page */
    {__NR_write, "write", {EAGAIN}},                      /* of a bell: an eventfd knows no other error */
    {__NR_mmap, "mmap", {ENOMEM, EAGAIN, EPERM, ENFILE}},
    {__NR_munmap, "munmap", {0}},
    {__NR_madvise, "madvise", {0}},
    {__NR_fcntl, "fcntl", {EMFILE, EPERM, EINVAL}},
    {__NR_ioctl, "ioctl", {ENOTTY, EFAULT}},
    {__NR_ppoll, "ppoll", {EINTR, ENOMEM}},
    {__NR_pselect6, "pselect6", {0}},
    {__NR_epoll_ctl, "epoll_ctl", {0}},
    {__NR_epoll_pwait, "epoll_pwait", {EINTR}},
    {__NR_futex, "futex", {EAGAIN, EINTR, ETIMEDOUT, ENOMEM}},
    {__NR_sched_yield, "sched_yield", {0}},
    {__NR_openat, "openat", {EMFILE, ENFILE, ENOMEM, EACCES, ENOENT}},
    {__NR_read, "read", {EINTR, EIO}},
    {__NR_lseek, "lseek", {0}},
    {__NR_kill, "kill", {EPERM}},
    {__NR_tkill, "tkill", {EPERM}},
    {__NR_waitid, "waitid", {ECHILD, EINTR}},
    {__NR_close, "close", {0}},
    {__NR_shutdown, "shutdown", {ENOTCONN}},
    {__NR_eventfd2, "eventfd2", {EMFILE, ENFILE, ENOMEM}},
    {__NR_getrandom, "getrandom", {EAGAIN, ENOSYS}},
    {__NR_prlimit64, "prlimit64", {0}},
    {__NR_getpid, "getpid", {0}},
    {__NR_gettid, "gettid", {0}},
    {-1, "other", {0}},
};
#define CALLS (sizeof calls / sizeof calls[0])

static unsigned call_index(long nr) {
  unsigned i = 0;

  while (i < CALLS - 1 && calls[i].nr != nr)
    i++;
  return i;
}

int inject_error(const char *name, uint64_t *random) {
  if (strncmp(name, "before_", 7) != 0)
    return 0;
  for (unsigned i = 0; i < CALLS; i++)
    if (strcmp(calls[i].name, name + 7) == 0) {
      int n = 0;
      while (n < 6 && calls[i].errors[n])
        n++;
      return n ? calls[i].errors[below(random, (uint64_t)n)] : 0;
    }
  return 0;
}

static void set_name(unsigned i, const char *prefix, const char *name) {
  size_t n = strlen(prefix), m = strlen(name);

  memcpy(table->name[i], prefix, n);
  memcpy(table->name[i] + n, name, m < NAME_LEN - n ? m : NAME_LEN - n - 1);
}

void inject_names(void) {
  point_t *(*points)(point_t **) = (point_t * (*)(point_t **)) dlsym(RTLD_DEFAULT, "fl_fault_points");

  if (!points)
    return;
  point_t *end = points(&first);
  named = (unsigned)(end - first);
  if (named + 2 * CALLS > POINTS || atomic_load(&table->npoints))
    return;
  for (unsigned i = 0; i < named; i++)
    set_name(i, "", first[i]);
  for (unsigned i = 0; i < CALLS; i++) {
    set_name(named + 2 * i, "before_", calls[i].name);
    set_name(named + 2 * i + 1, "after_", calls[i].name);
  }
  atomic_store(&table->npoints, named + 2 * (unsigned)CALLS);
}

void inject_as(struct shared *s, int end) {
  shared = s;
  me = end;
  my_pid = fl_sys_getpid();
}

/* ---- what happens ---- */

static uint64_t random64(void) {
  if (!random_state)
    random_state = shared->plan.seed ^ mix((uint64_t)fl_sys_gettid());
  return next(&random_state);
}

static void sleep_us(uint64_t us) {
  long ts[2] = {(long)(us / 1000000), (long)(us % 1000000) * 1000};

  fl_syscall6(__NR_nanosleep, (long)ts, 0, 0, 0, 0, 0);
}

#define SEGMENT_NAME "/memfd:fastlocal (deleted)"
#define SEGMENTS 8

/* Where this process has mapped segments: from /proc/self/maps. Returns their number. */
static int segments(struct fl_segment *at[SEGMENTS]) {
  static char text[1 << 18];
  static _Atomic int busy;
  size_t n = 0;
  int count = 0, fd;

  if (atomic_exchange(&busy, 1))
    return 0;
  fd = fl_sys_open("/proc/self/maps", O_RDONLY);
  for (ssize_t got; fd >= 0 && n < sizeof text - 1 && (got = fl_sys_read(fd, text + n, sizeof text - 1 - n)) > 0;)
    n += (size_t)got;
  if (fd >= 0)
    fl_sys_close(fd);
  text[n] = '\0';
  for (char *line = text; *line && count < SEGMENTS;) {
    char *end = line;
    while (*end && *end != '\n')
      end++;
    size_t len = (size_t)(end - line), want = sizeof SEGMENT_NAME - 1;
    if (len > want && memcmp(end - want, SEGMENT_NAME, want) == 0) {
      uintptr_t address = 0;
      for (char *p = line; *p != '-'; p++)
        address = address * 16 + (uintptr_t)(*p <= '9' ? *p - '0' : *p - 'a' + 10);
      at[count++] = fl_segment_at((void *)address, fl_segment_bytes(shared->ring));
    }
    line = *end ? end + 1 : end;
  }
  atomic_store(&busy, 0);
  return count;
}

static uint64_t wrong_value(uint64_t old, uint32_t ring) {
  switch (random64() % 12) {
  case 0: return 0;
  case 1: return ~0ull;
  case 2: return old + 1;
  case 3: return old - 1;
  case 4: return old ^ 1ull << random64() % 64;
  case 5: return old ^ (1 + random64() % 3); /* the state of a lane word */
  case 6: return old + 4 * (uint64_t)ring;   /* a head one ring further */
  case 7: return old + ring;
  case 8: return old + random64() % 4096;
  case 9: return random64() % (2 * (uint64_t)ring);
  case 10: return 1ull << random64() % 64;
  default: return random64();
  }
}

static void put64(_Atomic uint64_t *at, uint32_t ring) { *at = wrong_value(*at, ring); }
static void put32(_Atomic uint32_t *at, uint32_t ring) { *at = (uint32_t)wrong_value(*at, ring); }

static void spoil(struct fl_segment *seg) {
  struct fl_lane *lane = &seg->lane[random64() % 2];
  struct fl_extent *e = &lane->extents[random64() % FL_EXTENTS];
  uint32_t ring = shared->ring;
  unsigned char *bytes = (unsigned char *)seg - FL_WINDOW; /* the header page */

  switch (random64() % 20) {
  case 0:
  case 1: put64(&lane->word, ring); break;
  case 2: put32(&lane->extent_head, ring); break;
  case 3: put32(&lane->flags, ring); break;
  case 4: put32((_Atomic uint32_t *)&lane->tx_cpu, ring); break;
  case 5: put64(&lane->kernel_sent, ring); break;
  case 6: put64(&lane->kernel_intent, ring); break;
  case 7: put32(&lane->waiting, ring); break;
  case 8:
  case 9: put64(&lane->tail, ring); break;
  case 10: put32(&lane->extent_tail, ring); break;
  case 11: put32((_Atomic uint32_t *)&lane->rx_cpu, ring); break;
  case 12: put64(&lane->kernel_taken, ring); break;
  case 13: put64(&e->pos, ring); break;
  case 14: put64(&e->koff, ring); break;
  case 15: put64(&e->off, ring); break;
  case 16: bytes[random64() % FL_PAGE] = (unsigned char)random64(); break;
  case 17: memset(bytes + random64() % FL_PAGE / 2, (int)random64(), random64() % FL_PAGE / 2); break;
  case 18: memset(bytes, (int)(random64() % 3) - 1, FL_PAGE); break;
  default:
    for (unsigned i = 0; i < FL_PAGE; i += 8)
      put64((_Atomic uint64_t *)(bytes + i), ring);
  }
}

/* The shared page cannot be trusted any more, so this end may not be able to go on: its time is limited. */
static bool corrupt(void) {
  struct fl_segment *at[SEGMENTS];
  int n = fl_sys_getpid() == my_pid ? segments(at) : 0;

  if (n == 0)
    return false;
  for (uint64_t times = 1 + random64() % 3; times > 0; times--)
    spoil(at[random64() % (uint64_t)n]);
  if (atomic_load(&shared->fired) == 0) {
    struct itimerval left = {.it_value = {.tv_usec = 1000 + (long)(random64() % 25000)}};
    fl_syscall6(__NR_setitimer, ITIMER_REAL, (long)&left, 0, 0, 0, 0);
  }
  return true;
}

static void count(enum kind kind, unsigned point) {
  atomic_fetch_add_explicit(&table->injected[kind][point], 1, memory_order_relaxed);
}

/* The driver lets us go on, or ends us. */
static void stop(void) {
  int32_t pid = fl_sys_getpid();

  if (fl_sys_write(FD_STOPPED, &pid, sizeof pid) == sizeof pid)
    fl_sys_kill(pid, SIGSTOP);
}

static void happen(unsigned point) {
  const struct plan *p = &shared->plan;
  int32_t none = -1;

  atomic_compare_exchange_strong(&shared->fired_point, &none, (int32_t)point);
  atomic_store(&shared->fired_pid, fl_sys_getpid());
  if (p->kind == KIND_CORRUPT && !corrupt())
    return; /* not paired yet: at the next point */
  atomic_fetch_add(&shared->fired, 1);
  count((enum kind)p->kind, point);
  switch ((enum kind)p->kind) {
  case KIND_KILL: fl_sys_kill(fl_sys_getpid(), SIGKILL); break;
  case KIND_STOP:
  case KIND_STOP_KILL: stop(); break;
  case KIND_DELAY: sleep_us(p->pause_us); break;
  case KIND_SIGNAL: fl_sys_tkill(fl_sys_gettid(), SIGUSR1); break;
  case KIND_CORRUPT:
  case KIND_ERROR:
  case KINDS: break;
  }
}

/* Faults that one process can survive come again and again, a deadly one once. */
static bool due(unsigned point) {
  const struct plan *p = &shared->plan;
  uint32_t fired = atomic_load_explicit(&shared->fired, memory_order_relaxed);

  if (fired && (p->kind == KIND_KILL || p->kind == KIND_STOP_KILL || fired >= 16))
    return false;
  if (fired) /* from then on at random */
    return p->kind == KIND_STOP ? fired < 3 && random64() % 512 == 0
                                : random64() % (p->kind == KIND_CORRUPT ? 8 : 64) == 0;
  uint64_t passed = atomic_load_explicit(&shared->passed[me], memory_order_relaxed);
  if (point == p->point)
    return atomic_fetch_add_explicit(&shared->seen, 1, memory_order_relaxed) + 1 >= p->nth;
  return p->kind != KIND_ERROR && passed >= p->any_after;
}

static void pass(unsigned point) {
  const struct plan *p = &shared->plan;

  atomic_fetch_add_explicit(&table->hits[point], 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&shared->passed[me], 1, memory_order_relaxed);
  if (p->noise && random64() % 65536 < p->noise) {
    count(KIND_DELAY, point);
    if (random64() % 4)
      fl_syscall6(__NR_sched_yield, 0, 0, 0, 0, 0, 0);
    else
      sleep_us(random64() % 200);
  }
  if (me == p->end && p->kind != KIND_ERROR && due(point))
    happen(point);
}

void fl_fault_hit(point_t *at) {
  if (me >= 0)
    pass((unsigned)(at - first));
}

/* May this very call fail? Not a receive from the application's own socket: it does so on plain TCP neither. */
static bool may_fail(long nr, const long args[6]) {
  if (nr == __NR_recvmsg)
    return ((const struct msghdr *)args[1])->msg_controllen != 0;
  if (nr == __NR_fcntl)
    return args[1] == F_DUPFD_CLOEXEC || args[1] == F_ADD_SEALS || args[1] == F_GET_SEALS;
  if (nr == __NR_setsockopt && args[1] == SOL_SOCKET && args[2] == SO_LINGER)
    return false; /* then the kernel would say FIN: nothing else can be done */
  return true;
}

bool fl_fault_call(long nr, const long args[6], long *result) {
  if (me < 0)
    return false;
  unsigned point = named + 2 * call_index(nr);
  const struct plan *p = &shared->plan;
  pass(point);
  if (p->kind != KIND_ERROR || me != p->end || point != p->point || !may_fail(nr, args) || !due(point))
    return false;
  happen(point);
  *result = -p->error;
  return true;
}

void fl_fault_called(long nr, const long args[6], long result) {
  (void)args;
  (void)result;
  if (me >= 0)
    pass(named + 2 * call_index(nr) + 1);
}

/* libc's, which shmring uses for futexes. */
long syscall(long nr, ...) {
  va_list list;
  long args[6], result;

  va_start(list, nr);
  for (int i = 0; i < 6; i++)
    args[i] = va_arg(list, long);
  va_end(list);
  if (!fl_fault_call(nr, args, &result)) {
    result = fl_syscall6(nr, args[0], args[1], args[2], args[3], args[4], args[5]);
    fl_fault_called(nr, args, result);
  }
  if (result < 0 && result > -4096) {
    errno = (int)-result;
    return -1;
  }
  return result;
}
