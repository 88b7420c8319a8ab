/* SPDX-License-Identifier: MIT */
/*
 * tests/fuzz/fuzz_daemon.c - fastlocald and its clients: any message in any order from several of them, sockets that
 * prove anything, limits, time, failing calls, clients that leave. The tables must be empty when all have left, and
 * nothing may stay open.
 *
 * clients.c and match.c are compiled for it with the functions of libc that they call replaced by those below.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "kernel.h"
#include "registry/daemon/daemon.h"
#include "registry/daemon/say.h"

struct daemon d;

static struct input *in;
static uint64_t clock_ns;
static int events; /* descriptors in the set */

/* ---- the rest of the daemon ---- */

void say(const char *priority, const char *format, ...) { (void)priority, (void)format; }
uint64_t now_ns(void) { return clock_ns; }

bool passed_timer(int fd) { return fd & 1; }

void close_passed(const int *fds, int count) {
  for (int i = 0; i < count; i++)
    kernel_close(fds[i]);
}

int prove_read(int fd, struct proof *out) {
  (void)fd;
  uint8_t v = take8(in);
  *out = (struct proof){v & 3, v >> 2 & 3}; /* few, so that they meet */
  return v & 0x80 ? -EPERM : 0;
}

/* Only with d.compares, which is false. */
struct proof compare_proof(const struct fl_tuple *t) {
  return (struct proof){0};
}
bool compare_equal(int a, const struct fl_tuple *ta, int b, const struct fl_tuple *tb) { return false; }
bool policy_compares(const struct policy *p) { return false; }

const struct limits *policy_limits(const struct policy *p) {
  static const struct limits small = {.clients = 3, .waiting = 4, .pairs = 3, .memory = 4u << 20, .rate = 64};
  (void)p;
  return &small;
}

bool policy_allows(const struct policy *p, const struct party *a, const struct party *b) {
  (void)p;
  MUST(a->who && b->who);
  return take8(in) < 200;
}

/* ---- libc ---- */

int fuzz_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags);
int fuzz_getsockopt(int fd, int level, int name, void *value, socklen_t *len);
int fuzz_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event);
int fuzz_close(int fd);
int fuzz_shutdown(int fd, int how);
FILE *fuzz_fopen(const char *path, const char *mode);

static int result(long rc) {
  if (rc >= 0)
    return (int)rc;
  errno = (int)-rc;
  return -1;
}

int fuzz_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags) {
  (void)fd, (void)addr, (void)len, (void)flags;
  long rc = take8(in) & 1 ? kernel_trouble() : -EAGAIN;
  return result(rc ? rc : kernel_fd());
}

int fuzz_getsockopt(int fd, int level, int name, void *value, socklen_t *len) {
  (void)fd;
  if (level != SOL_SOCKET) { /* TCP_INFO: the state comes first */
    memset(value, 0, *len);
    *(unsigned char *)value = take8(in) < 200 ? 1 : take8(in) % 12;
    return result(kernel_trouble());
  }
  if (name == SO_PEERCRED) {
    struct ucred cred = {.pid = take8(in), .uid = take8(in) & 1};
    memcpy(value, &cred, sizeof cred);
    return result(kernel_trouble());
  }
  memset(value, take8(in) & 1, *len);
  return result(name == 77 ? -ENOPROTOOPT : kernel_trouble()); /* SO_PEERPIDFD */
}

int fuzz_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event) {
  (void)epfd, (void)fd, (void)event;
  long rc = op == EPOLL_CTL_DEL ? 0 : kernel_trouble();
  if (rc == 0)
    events += op == EPOLL_CTL_ADD ? 1 : op == EPOLL_CTL_DEL ? -1 : 0;
  return result(rc);
}

int fuzz_close(int fd) { return kernel_close(fd); }
int fuzz_shutdown(int fd, int how) {
  (void)fd, (void)how;
  return 0;
}
FILE *fuzz_fopen(const char *path, const char *mode) {
  (void)path, (void)mode;
  return NULL;
}

/* ---- */

static struct client *some_client(void) {
  int n = take8(in);
  struct client *c = d.clients;

  for (; c && c->next && n > 0; n--)
    c = c->next;
  return c;
}

static void message(void) {
  struct fl_host_message m = {.magic = FL_HOST_MAGIC,
                              .version = FL_HOST_VERSION,
                              .type = take8(in) & 1 ? FL_HOST_ASK : 1 + take8(in) % 4,
                              .ring_size = FL_RING_MIN << take8(in) % 3,
                              .id = take8(in) % 4};

  kernel_message(&m, sizeof m, m.type == FL_HOST_ASK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct input input = {data, data + size};
  struct fl_tuple t = {.cookie = 1};

  in = &input;
  clock_ns = 1000000000;
  kernel_begin(in, &t, 2);
  d = (struct daemon){.epoll = 1, .listener = 2, .listening = true};
  while (more(in)) {
    uint8_t what = take8(in);
    struct client *c = some_client();
    message();
    switch (what % 8) {
    case 0:
    case 1: clients_accept(); break;
    case 2: clock_ns += (uint64_t)take8(in) << 24; break;
    case 3: clients_resume(clock_ns); break;
    case 4: match_expire(clock_ns); break;
    default:
      if (c)
        client_ready(c);
    }
    MUST(d.nwaiting <= 4 * 4 && clients_timeout() >= -1);
  }
  clients_close_all();
  MUST(!d.clients && !d.paused && !d.owners && d.nclients == 0 && d.nwaiting == 0 && d.npairs == 0);
  MUST(match_expire(clock_ns) == -1);
  MUST(kernel_open_fds() == 0 && kernel_mappings() == 0);
  return 0;
}
