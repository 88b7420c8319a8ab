/* SPDX-License-Identifier: MIT */
/* tests/conform/trace.c - what an end has seen, as lines of text. */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

#include "conform.h"

#define LATE_MS 1000
#define EARLY_MS 6 /* timers count in ticks */

static void append(const char *prefix, const char *format, va_list args) {
  struct trace *t = &run.shared->trace[run.me];
  char line[1024];
  int n = snprintf(line, sizeof line, "%s", prefix), saved = errno;

  n += vsnprintf(line + n, sizeof line - (size_t)n - 1, format, args);
  if (n > (int)sizeof line - 2)
    n = (int)sizeof line - 2;
  line[n++] = '\n';
  /* relaxed: the runner reads when the end is through, or gone */
  uint32_t at = atomic_fetch_add_explicit(&t->length, (uint32_t)n, memory_order_relaxed);
  if (at + (uint32_t)n < TRACE_BYTES)
    memcpy(t->text + at, line, (size_t)n);
  errno = saved;
}

static const char *excepted; /* all that is noted falls under this exception */

void except_from_now(const char *exception) { excepted = exception; }

void note(const char *format, ...) {
  char prefix[64] = "";
  va_list args;

  if (excepted)
    snprintf(prefix, sizeof prefix, "~%s ", excepted);
  va_start(args, format);
  append(prefix, format, args);
  va_end(args);
}

/* A line that begins with '~' is not compared; the exception's name follows (runner.c). */
void note_free(const char *exception, const char *format, ...) {
  char prefix[64];
  va_list args;

  snprintf(prefix, sizeof prefix, "~%s ", exception);
  va_start(args, format);
  append(prefix, format, args);
  va_end(args);
}

const char *error_name(int error) {
  const char *name = strerrorname_np(error);
  return name ? name : "?";
}

long note_ret(const char *what, long ret) {
  if (ret < 0)
    note("%s %ld %s", what, ret, error_name(errno));
  else
    note("%s %ld", what, ret);
  return ret;
}

uint64_t hash_of(const void *data, size_t n) { /* FNV-1a */
  uint64_t h = 0xcbf29ce484222325u;

  for (size_t i = 0; i < n; i++)
    h = (h ^ ((const unsigned char *)data)[i]) * 0x100000001b3u;
  return h;
}

long note_data(const char *what, long ret, const void *data) {
  if (ret <= 0)
    return note_ret(what, ret);
  if (ret <= 40)
    note("%s %ld '%.*s'", what, ret, (int)ret, (const char *)data);
  else
    note("%s %ld #%016llx", what, ret, (unsigned long long)hash_of(data, (size_t)ret));
  return ret;
}

void note_time(const char *what, uint64_t begin, unsigned wanted) {
  uint64_t took = clock_ms() - begin;

  note("%s %s", what, took + EARLY_MS < wanted ? "early" : took > wanted + LATE_MS ? "late" : "in time");
}

struct bit {
  unsigned bit;
  const char *name;
};

static const char *bits_text(unsigned set, const struct bit *bits, char *to, size_t size) {
  size_t n = 0;

  to[0] = 0;
  for (; bits->name; bits++)
    if (set & bits->bit) {
      n += (size_t)snprintf(to + n, size - n, "%s%s", n ? "|" : "", bits->name);
      set &= ~bits->bit;
    }
  if (set || n == 0)
    snprintf(to + n, size - n, "%s%#x", n ? "|" : "", set);
  return to;
}

const char *poll_text(unsigned events) {
  static const struct bit bits[] = {
      {POLLIN, "IN"},     {POLLPRI, "PRI"},       {POLLOUT, "OUT"},       {POLLERR, "ERR"},       {POLLHUP, "HUP"},
      {POLLNVAL, "NVAL"}, {POLLRDNORM, "RDNORM"}, {POLLRDBAND, "RDBAND"}, {POLLWRNORM, "WRNORM"}, {POLLRDHUP, "RDHUP"},
      {0, NULL}};
  static __thread char text[128];

  return bits_text(events & 0xffff, bits, text, sizeof text);
}

const char *epoll_text(unsigned events) {
  static const struct bit bits[] = {{EPOLLIN, "IN"},         {EPOLLPRI, "PRI"},         {EPOLLOUT, "OUT"},
                                    {EPOLLERR, "ERR"},       {EPOLLHUP, "HUP"},         {EPOLLRDNORM, "RDNORM"},
                                    {EPOLLRDBAND, "RDBAND"}, {EPOLLWRNORM, "WRNORM"},   {EPOLLRDHUP, "RDHUP"},
                                    {EPOLLET, "ET"},         {EPOLLONESHOT, "ONESHOT"}, {0, NULL}};
  static __thread char text[128];

  return bits_text(events, bits, text, sizeof text);
}

const char *address_text(const struct sockaddr *a, socklen_t len) {
  struct sockaddr_storage mine = {0}, peer = {0};
  socklen_t mine_len = sizeof mine, peer_len = sizeof peer;

  if (len == 0)
    return "none";
  if (getpeername(run.fd, (struct sockaddr *)&peer, &peer_len) == 0 && peer_len == len && memcmp(&peer, a, len) == 0)
    return "the peer";
  if (getsockname(run.fd, (struct sockaddr *)&mine, &mine_len) == 0 && mine_len == len && memcmp(&mine, a, len) == 0)
    return "itself";
  return "something else";
}
