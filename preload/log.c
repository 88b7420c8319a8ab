/* SPDX-License-Identifier: MIT */
/*
 * preload/log.c - one line, one write. Raw system calls throughout: libc's open, write and close are interposed by this
 * very library, and are cancellation points.
 */
#include "log.h"

#include <errno.h>
#include <linux/limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "registry/sys.h"

#define LINE_MAX_LEN 1024
#define KERNEL_SIGSET_BYTES 8 /* 64 signals on every architecture that glibc's preloads run on, but for MIPS */

static int own_pid(void) { return (int)fl_syscall6(__NR_getpid, 0, 0, 0, 0, 0, 0); }

/* ---- writing without being noticed ---- */

/* write(), but a pipe that nobody reads any more, or a file as long as the process may have one (RLIMIT_FSIZE), must
 * not kill the application by a signal of ours. */
static long write_quietly(int fd, const void *data, size_t len) {
  const uint64_t sigpipe = UINT64_C(1) << (SIGPIPE - 1), sigxfsz = UINT64_C(1) << (SIGXFSZ - 1);
  const uint64_t both = sigpipe | sigxfsz;
  uint64_t old = 0, pending = 0, ours;
  struct timespec none = {0};
  long n;

  fl_syscall6(__NR_rt_sigprocmask, SIG_BLOCK, (long)&both, (long)&old, KERNEL_SIGSET_BYTES, 0, 0);
  fl_syscall6(__NR_rt_sigpending, (long)&pending, KERNEL_SIGSET_BYTES, 0, 0, 0, 0);
  n = fl_sys_write(fd, data, len);
  ours = (n == -EPIPE ? sigpipe : n == -EFBIG ? sigxfsz : 0) & ~pending;
  if (ours)
    fl_syscall6(__NR_rt_sigtimedwait, (long)&ours, 0, (long)&none, KERNEL_SIGSET_BYTES, 0, 0);
  fl_syscall6(__NR_rt_sigprocmask, SIG_SETMASK, (long)&old, 0, KERNEL_SIGSET_BYTES, 0, 0);
  return n;
}

int fl_log_append(const char *path, const void *data, size_t len) {
  /* O_NONBLOCK: a FIFO without a reader is an error, not a wait */
  int flags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK;
  int fd = (int)fl_syscall6(__NR_openat, AT_FDCWD, (long)path, flags, 0600, 0, 0);
  long n;

  if (fd < 0)
    return fd;
  n = write_quietly(fd, data, len);
  fl_sys_close(fd);
  return n < 0 ? (int)n : 0;
}

/* Daemons close descriptor 2 and may be given a connection there: a log line must never get into its stream. */
static bool is_internet_socket(int fd) {
  int domain = -1;
  socklen_t len = sizeof(domain);

  return fl_sys_getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && (domain == AF_INET || domain == AF_INET6);
}

/* ---- what a line consists of ---- */

/*
 * The name as the program was called, copied early: servers overwrite argv with their status. Not /proc/self/exe, which
 * knows no symbolic links (Debian's redis-server is one, to redis-check-rdb).
 */
static char program_name[64];

__attribute__((constructor)) static void remember_program(void) {
  if (program_name[0] == '\0' && program_invocation_short_name)
    snprintf(program_name, sizeof(program_name), "%s", program_invocation_short_name);
}

const char *fl_log_program(void) {
  remember_program(); /* in case that another library's constructor brought us here before our own */
  return program_name;
}

/* UTC, as 2026-01-31T12:34:56.789Z. Not gmtime_r, which takes a lock. */
static void format_time(char *out, size_t size) {
  struct timespec now = {0};
  uint64_t days, secs, era, doe, yoe, doy, mp;

  clock_gettime(CLOCK_REALTIME, &now);
  /*
   * Civil date from days: howardhinnant.github.io/date_algorithms.html, without what precedes 1970. Years begin on the
   * first of March, eras have 400 of them.
   */
  days = (uint64_t)now.tv_sec / 86400 + 719468;
  secs = (uint64_t)now.tv_sec % 86400;
  era = days / 146097;
  doe = days % 146097;
  yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
  doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
  mp = (5 * doy + 2) / 153;
  snprintf(out, size, "%04u-%02u-%02uT%02u:%02u:%02u.%03uZ", (unsigned)(yoe + era * 400 + (mp >= 10)),
           (unsigned)(mp < 10 ? mp + 3 : mp - 9), (unsigned)(doy - (153 * mp + 2) / 5 + 1), (unsigned)(secs / 3600),
           (unsigned)(secs / 60 % 60), (unsigned)(secs % 60), (unsigned)(now.tv_nsec / 1000000));
}

/* The file's name with %p replaced by the pid. False: it is too long. */
static bool expand_name(const char *pattern, char *out, size_t size) {
  size_t len = 0;

  while (*pattern != '\0') {
    int n;

    if (pattern[0] == '%' && pattern[1] == 'p') {
      n = snprintf(out + len, size - len, "%d", own_pid());
      pattern += 2;
    } else {
      n = snprintf(out + len, size - len, "%c", *pattern++);
    }
    if (n < 0 || (size_t)n >= size - len)
      return false;
    len += (size_t)n;
  }
  out[len] = '\0';
  return true;
}

__attribute__((format(printf, 2, 0))) static void write_line(const char *level, const char *format, va_list args) {
  char line[LINE_MAX_LEN], when[80], file[PATH_MAX];
  int n, m;
  size_t len, text;

  format_time(when, sizeof(when));
  n = snprintf(line, sizeof(line), "%s %s[%d] fastlocal %s: ", when, fl_log_program(), own_pid(), level);
  if (n < 0)
    return;
  text = (size_t)n;
  m = vsnprintf(line + text, sizeof(line) - text, format, args);
  len = text + (m < 0 ? 0 : (size_t)m);
  if (len > sizeof(line) - 2)
    len = sizeof(line) - 2; /* cut, but still a line */
  for (size_t i = 0; i < len; i++)
    if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
      line[i] = '?'; /* names come from outside; a line stays one */
  line[len++] = '\n';

  if (fl_options.log_file[0] != '\0') {
    if (expand_name(fl_options.log_file, file, sizeof(file)))
      fl_log_append(file, line, len);
  } else if (!is_internet_socket(STDERR_FILENO)) {
    write_quietly(STDERR_FILENO, line, len);
  }
}

void fl_log_write(int level, const char *format, ...) {
  static const char *const names[] = {"none", "error", "warn", "info", "debug"};
  int saved = errno;
  va_list args;

  va_start(args, format);
  write_line(level >= 0 && level <= FL_LOG_DEBUG ? names[level] : "?", format, args);
  va_end(args);
  errno = saved;
}

void fl_log_bad_value(const char *message) {
  static atomic_flag said = ATOMIC_FLAG_INIT;

  /* relaxed: nothing else hangs on it */
  if (!atomic_flag_test_and_set_explicit(&said, memory_order_relaxed))
    fl_log_write(FL_LOG_ERROR, "%s; this process uses TCP only", message);
}
