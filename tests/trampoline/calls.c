/* SPDX-License-Identifier: MIT */
/*
 * tests/trampoline/calls.c - an echo server and a client that use their sockets by calls that pass through no symbol.
 *
 *   calls serve KIND PORT          one connection after the other, until killed
 *   calls talk KIND PORT ROUNDS    lines of many lengths, each checked when it comes back
 *
 * KIND: stdio (fdopen, fgets, fprintf, fclose), block (fread, fwrite), dprintf (with fgets), syscall (the function),
 * inline (all calls, from socket to close, by the program's own instruction), plugin:FILE and namespace:FILE (the same
 * in a shared object that was loaded with dlopen, with dlmopen).
 */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <err.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "raw_calls.h"

#define LINE_MAX_ 20000

static long (*call)(long nr, long a, long b, long c, long d, long e, long f);

static long inline_call(long nr, long a, long b, long c, long d, long e, long f) {
  return raw_call(nr, a, b, c, d, e, f);
}
static long function_call(long nr, long a, long b, long c, long d, long e, long f) {
  long r = syscall(nr, a, b, c, d, e, f);
  return r < 0 ? -errno : r;
}

enum use { BY_LINE, BY_BLOCK, BY_DPRINTF, BY_CALL };

struct end {
  int fd;
  enum use use;
  FILE *in, *out;
};

static void open_end(struct end *e, int fd, enum use use) {
  *e = (struct end){.fd = fd, .use = use};
  if (use == BY_CALL)
    return;
  int copy = dup(fd);
  e->in = fdopen(fd, "r");
  e->out = fdopen(copy, "w");
  if (!e->in || !e->out)
    err(1, "fdopen");
}

static void close_end(struct end *e) {
  if (e->use == BY_CALL) {
    if (call(SYS_close, e->fd, 0, 0, 0, 0, 0) != 0)
      errx(1, "close");
    return;
  }
  if (fclose(e->out) != 0 || fclose(e->in) != 0)
    err(1, "fclose");
}

static void put_bytes(struct end *e, const char *p, size_t n) {
  switch (e->use) {
  case BY_LINE:
    if (fprintf(e->out, "%.*s", (int)n, p) != (int)n || fflush(e->out) != 0)
      err(1, "fprintf");
    return;
  case BY_BLOCK:
    if (fwrite(p, 1, n, e->out) != n || fflush(e->out) != 0)
      err(1, "fwrite");
    return;
  case BY_DPRINTF:
    if (dprintf(e->fd, "%.*s", (int)n, p) != (int)n)
      err(1, "dprintf");
    return;
  case BY_CALL: break;
  }
  while (n) {
    long sent = call(SYS_write, e->fd, (long)p, (long)n, 0, 0, 0);
    if (sent <= 0)
      errx(1, "write: %s", strerror((int)-sent));
    p += sent;
    n -= (size_t)sent;
  }
}

/* A line with its end; 0 at the end of the stream. `want` is known to the client only. */
static size_t get_line(struct end *e, char *buf, size_t size, size_t want) {
  if (e->use == BY_LINE || e->use == BY_DPRINTF)
    return fgets(buf, (int)size, e->in) ? strlen(buf) : 0;
  if (e->use == BY_BLOCK)
    return fread(buf, 1, want ? want : 1, e->in);
  size_t got = 0;
  do {
    struct pollfd p = {.fd = e->fd, .events = POLLIN};
    if (call(SYS_poll, (long)&p, 1, -1, 0, 0, 0) != 1)
      errx(1, "poll");
    long n = call(SYS_read, e->fd, (long)(buf + got), (long)(size - got), 0, 0, 0);
    if (n < 0)
      errx(1, "read: %s", strerror((int)-n));
    if (n == 0)
      return 0;
    got += (size_t)n;
  } while (buf[got - 1] != '\n');
  return got;
}

static int made(long fd, const char *what) {
  if (fd < 0)
    errx(1, "%s: %s", what, strerror((int)-fd));
  return (int)fd;
}

static void serve(enum use use, const struct sockaddr_in *at) {
  static char buf[LINE_MAX_ + 1];
  int one = 1, fd = made(call(SYS_socket, AF_INET, SOCK_STREAM, 0, 0, 0, 0), "socket");

  call(SYS_setsockopt, fd, SOL_SOCKET, SO_REUSEADDR, (long)&one, sizeof one, 0);
  made(call(SYS_bind, fd, (long)at, sizeof *at, 0, 0, 0), "bind");
  made(call(SYS_listen, fd, 16, 0, 0, 0, 0), "listen");
  for (;;) {
    struct end e;
    size_t n;
    int peer = made(call(SYS_accept4, fd, 0, 0, SOCK_CLOEXEC, 0, 0), "accept4");
    call(SYS_setsockopt, peer, IPPROTO_TCP, TCP_NODELAY, (long)&one, sizeof one, 0);
    open_end(&e, peer, use);
    while ((n = get_line(&e, buf, sizeof buf, 0)) > 0)
      put_bytes(&e, buf, n);
    close_end(&e);
  }
}

static void talk(enum use use, const struct sockaddr_in *at, int rounds) {
  static char sent[LINE_MAX_ + 1], got[LINE_MAX_ + 1];
  struct end e;
  int one = 1, fd = made(call(SYS_socket, AF_INET, SOCK_STREAM, 0, 0, 0, 0), "socket");
  unsigned seed = 1;

  made(call(SYS_connect, fd, (long)at, sizeof *at, 0, 0, 0), "connect");
  call(SYS_setsockopt, fd, IPPROTO_TCP, TCP_NODELAY, (long)&one, sizeof one, 0);
  open_end(&e, fd, use);
  for (int i = 0; i < rounds; i++) {
    size_t n = 1 + (size_t)rand_r(&seed) % (i % 16 ? 100 : LINE_MAX_ - 1);
    for (size_t k = 0; k + 1 < n; k++)
      sent[k] = (char)('a' + (k * 7 + (size_t)i) % 26);
    sent[n - 1] = '\n';
    sent[n] = '\0';
    put_bytes(&e, sent, n);
    size_t m = get_line(&e, got, sizeof got, n);
    if (m != n || memcmp(sent, got, n) != 0)
      errx(1, "round %d: sent %zu bytes, got %zu, not the same", i, n, m);
  }
  close_end(&e);
}

int main(int argc, char **argv) {
  if (argc < 4)
    errx(2, "usage: calls serve|talk KIND PORT [ROUNDS]");
  const char *kind = argv[2];
  const struct sockaddr_in at = {
      .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[3])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  enum use use = BY_CALL;

  call = function_call;
  if (strcmp(kind, "stdio") == 0) {
    use = BY_LINE;
  } else if (strcmp(kind, "block") == 0) {
    use = BY_BLOCK;
  } else if (strcmp(kind, "dprintf") == 0) {
    use = BY_DPRINTF;
  } else if (strcmp(kind, "inline") == 0) {
    call = inline_call;
  } else if (strcmp(kind, "syscall") != 0) {
    const char *file = strchr(kind, ':');
    if (!file)
      errx(2, "unknown kind %s", kind);
    void *plugin = kind[0] == 'n' ? dlmopen(LM_ID_NEWLM, file + 1, RTLD_NOW) : dlopen(file + 1, RTLD_NOW);
    if (!plugin || !(call = (__typeof__(call))dlsym(plugin, "plugin_call")))
      errx(1, "%s", dlerror());
  }
  signal(SIGPIPE, SIG_IGN);
  if (argv[1][0] == 's')
    serve(use, &at);
  talk(use, &at, argc > 4 ? atoi(argv[4]) : 2000);
  return 0;
}
