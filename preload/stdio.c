/* SPDX-License-Identifier: MIT */
/*
 * preload/stdio.c - stdio on a connection. libc's streams read, write and close with calls that pass through no symbol,
 * so fdopen gives a stream whose functions are ours (fopencookie), and which has the descriptor's number. It is a
 * stream like any other but that it has no wide characters. Where trampolines bring libc's own calls to the hooks, it
 * is libc's.
 *
 * stdin, stdout and stderr are libc's whatever their descriptors are: a connection that is copied to one of these is
 * pinned to TCP (fd_hooks.c).
 */
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "conn.h"
#include "export.h"
#include "real.h"
#include "registry/sys.h"
#include "tramp.h"

#define LINE 1024

#ifdef __GLIBC__
int __vsnprintf_chk(char *, size_t, int, size_t, const char *, va_list);
#else
#define __vsnprintf_chk(text, room, flag, size, format, ap) vsnprintf(text, room, format, ap)
#endif

/* ---- streams ---- */

static ssize_t write_all(int fd, const char *buf, size_t n) {
  size_t done = 0;

  while (done < n) {
    ssize_t k = write(fd, buf + done, n - done);
    if (k < 0)
      break;
    done += (size_t)k;
  }
  return (ssize_t)done;
}

#ifdef __GLIBC__
static int fd_of(void *cookie) { return (int)(intptr_t)cookie; }

static ssize_t stream_read(void *cookie, char *buf, size_t n) { return read(fd_of(cookie), buf, n); }

static ssize_t stream_write(void *cookie, const char *buf, size_t n) { return write_all(fd_of(cookie), buf, n); }

static int stream_seek(void *cookie, off64_t *at, int whence) {
  (void)cookie, (void)at, (void)whence;
  errno = ESPIPE;
  return -1;
}

/* No cancellation point, as in libc. */
static int stream_close(void *cookie) {
  int saved = errno;

  fl_conn_forget(fd_of(cookie), true);
  errno = saved;
  int r = fl_sys_close(fd_of(cookie));
  if (r < 0) {
    errno = -r;
    return -1;
  }
  return 0;
}

/* Ours in place of libc's, which has checked the mode. */
static FILE *exchange(FILE *libcs, int fd, const char *mode) {
  static const cookie_io_functions_t functions = {stream_read, stream_write, stream_seek, stream_close};
  FILE *f = fopencookie((void *)(intptr_t)fd, mode, functions);

  if (!f)
    return NULL;
  f->_fileno = fd;
  libcs->_fileno = -1; /* nothing to close */
  int saved = errno;
  REAL(fclose)(libcs);
  errno = saved;
  return f;
}
#else
/* Nothing is known of what a FILE holds: the connection is pinned. */
static FILE *exchange(FILE *libcs, int fd, const char *mode) { return NULL; }
#endif

FL_EXPORT FILE *fdopen(int fd, const char *mode) {
  uintptr_t e = fl_entry(fd);
  FILE *f = REAL(fdopen)(fd, mode);

  if (FL_LIKELY(e == 0) || !f || !(fl_entry_conn(e) || (e & FL_TAG_MASK) == FL_TAG_STREAM) ||
      (fl_tramp_for_stdio() && !strchr(mode, 'c'))) /* 'c': libc reads with an instruction of its own */
    return f;
  FILE *ours = exchange(f, fd, mode);
  if (!ours && fl_entry_conn(e))
    fl_conn_pin(fl_entry_conn(e), FL_WHY_STDIO);
  return ours ? ours : f;
}

/* fclose closes the descriptor without passing through close(). */
FL_EXPORT int fclose(FILE *f) {
  int fd = f ? fileno(f) : -1;

  if (fd >= 0 && FL_UNLIKELY(fl_entry(fd) != 0)) {
    fflush(f);
    fl_conn_forget(fd, true);
  }
  return REAL(fclose)(f);
}

FL_EXPORT FILE *freopen(const char *restrict path, const char *restrict mode, FILE *restrict f) {
  int fd = f ? fileno(f) : -1;

  if (fd >= 0 && FL_UNLIKELY(fl_entry(fd) != 0)) {
    fflush(f);
    fl_conn_forget(fd, true);
  }
  return REAL(freopen)(path, mode, f);
}

/* ---- dprintf ---- */

static void free_text(char **text) { free(*text); }

/* flag: -1, or that of the fortified variant. */
static int print(int fd, int flag, const char *format, va_list ap) {
  char line[LINE], *text __attribute__((cleanup(free_text))) = NULL;
  va_list again;

  va_copy(again, ap);
  int n = flag < 0 ? vsnprintf(line, sizeof line, format, ap)
                   : __vsnprintf_chk(line, sizeof line, flag, sizeof line, format, ap);
  if (n >= (int)sizeof line) {
    text = malloc((size_t)n + 1);
    if (text)
      n = flag < 0 ? vsnprintf(text, (size_t)n + 1, format, again)
                   : __vsnprintf_chk(text, (size_t)n + 1, flag, (size_t)n + 1, format, again);
    else
      n = -1;
  }
  va_end(again);
  /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): free_text, which the analyzer does not see */
  return n > 0 && write_all(fd, text ? text : line, (size_t)n) < n ? -1 : n;
}

static bool ours(int fd) { return FL_UNLIKELY(fl_conn_of(fd) != NULL) && !fl_tramp_stdio; }

FL_EXPORT int vdprintf(int fd, const char *restrict format, va_list ap) {
  return ours(fd) ? print(fd, -1, format, ap) : REAL(vdprintf)(fd, format, ap);
}

FL_EXPORT int dprintf(int fd, const char *restrict format, ...) {
  va_list ap;

  va_start(ap, format);
  int r = vdprintf(fd, format, ap);
  va_end(ap);
  return r;
}

FL_EXPORT int __vdprintf_chk(int fd, int flag, const char *restrict format, va_list ap) {
  return ours(fd) ? print(fd, flag, format, ap) : REAL(__vdprintf_chk)(fd, flag, format, ap);
}

FL_EXPORT int __dprintf_chk(int fd, int flag, const char *restrict format, ...) {
  va_list ap;

  va_start(ap, format);
  int r = __vdprintf_chk(fd, flag, format, ap);
  va_end(ap);
  return r;
}
