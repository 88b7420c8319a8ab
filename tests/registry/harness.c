/* SPDX-License-Identifier: MIT */
/* tests/registry/harness.c - see harness.h. */
#include "harness.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

const char *const family_name[3] = {"v4", "v6", "v4-mapped"};

static void die(const char *what) {
  fprintf(stderr, "harness: %s: %s\n", what, strerror(errno));
  abort();
}

/* ---- TCP ---- */

void private_network(void) {
  struct ifreq up = {.ifr_name = "lo", .ifr_flags = IFF_UP};
  int fd;

  if (unshare(CLONE_NEWNET) < 0)
    cr_skip_test("needs a network namespace");
  fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (ioctl(fd, SIOCSIFFLAGS, &up) < 0)
    die("loopback");
  close(fd);
}

void need_root(void) {
  if (geteuid() != 0)
    cr_skip_test("needs root");
}

int tcp_listener(enum family f) {
  struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
  int fd = socket(f == V4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

  if (f == MAPPED)
    v6.sin6_addr = (struct in6_addr)IN6ADDR_ANY_INIT;
  if (bind(fd, f == V4 ? (void *)&v4 : (void *)&v6, f == V4 ? sizeof(v4) : sizeof(v6)) < 0 || listen(fd, 64) < 0)
    die("listen");
  return fd;
}

int tcp_connect(int listener, enum family f) {
  union {
    struct sockaddr sa;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
  } a;
  socklen_t len = sizeof(a);
  in_port_t port;
  int fd;

  if (getsockname(listener, &a.sa, &len) < 0)
    die("getsockname");
  if (f == MAPPED) {
    port = a.v6.sin6_port;
    a.v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = port, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    len = sizeof(a.v4);
  }
  fd = socket(a.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(fd, &a.sa, len) < 0)
    die("connect");
  return fd;
}

struct ends tcp_pair(enum family f) {
  struct ends e = {.listener = tcp_listener(f)};

  e.client = tcp_connect(e.listener, f);
  e.server = accept4(e.listener, NULL, NULL, SOCK_CLOEXEC);
  if (e.server < 0)
    die("accept");
  return e;
}

void close_ends(struct ends *e) {
  close(e->listener);
  close(e->client);
  close(e->server);
}

/* ---- the second process ---- */

struct command {
  enum op op;
  int value;
  char text[64];
};

struct state {
  int sock;
  struct fl_rdv rdv;
  struct fl_pairing pairing;
  struct fl_tx tx;
  struct fl_rx rx;
};

static int no_diag(void) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_socket, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_NETLINK, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog prog = {.len = sizeof(code) / sizeof(code[0]), .filter = code};

  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) < 0 ? -errno
                                                                                                             : 0;
}

/* Numbers below the limit that are free: as many as the test wants. */
static int limit_files(int more) {
  int n = more, fd = dup(0);
  struct rlimit rl;

  if (fd < 0)
    return -errno;
  close(fd);
  rl.rlim_cur = rl.rlim_max = (rlim_t)(fd + n);
  return setrlimit(RLIMIT_NOFILE, &rl) < 0 ? -errno : 0;
}

static void push(struct state *s, const char *text, struct reply *r) {
  struct iovec iov = {.iov_base = (void *)text, .iov_len = strlen(text)};
  size_t done = 0;

  r->rc = fl_tx_push(&s->tx, &iov, 0, iov.iov_len, 0, &done);
  r->value = (int)done;
}

static void peek(struct state *s, struct reply *r) {
  struct fl_span span[2];
  uint64_t need;

  r->rc = fl_rx_peek(&s->rx, 0, span, &need);
  if (r->rc != FL_RX_RING)
    return;
  r->value = (int)span[0].len;
  memcpy(r->text, span[0].base, span[0].len < sizeof(r->text) - 1 ? span[0].len : sizeof(r->text) - 1);
  fl_rx_consume(&s->rx, span[0].len);
}

static void obey(struct state *s, const struct command *c, struct reply *r) {
  errno = 4242;
  switch (c->op) {
  case OP_TUPLE: r->rc = fl_tuple_of(s->sock, &r->tuple); break;
  case OP_START:
    r->rc = fl_tuple_of(s->sock, &r->tuple);
    r->rc = r->rc < 0 ? r->rc : (int)fl_rdv_start(&s->rdv, &r->tuple, RING, BASE_FD, &s->pairing);
    break;
  case OP_POLL: r->rc = (int)fl_rdv_poll(&s->rdv, &s->pairing); break;
  case OP_ABANDON: fl_rdv_abandon(&s->rdv); break;
  case OP_ATTACH:
    fl_attach(s->pairing.seg, s->pairing.ring_size, s->pairing.end, &s->tx, &s->rx);
    fl_rx_watch(&s->rx);
    break;
  case OP_PUSH: push(s, c->text, r); break;
  case OP_PEEK: peek(s, r); break;
  case OP_SETUID: r->rc = setuid((uid_t)c->value) < 0 ? -errno : 0; break;
  case OP_ACCEPT:
    r->value = s->sock;
    s->sock = accept4(r->value, NULL, NULL, SOCK_CLOEXEC);
    close(r->value);
    break;
  case OP_NETNS: r->rc = unshare(CLONE_NEWNET) < 0 ? -errno : 0; break;
  case OP_USERNS: r->rc = unshare(CLONE_NEWUSER) < 0 ? -errno : 0; break;
  case OP_NOFILE: r->rc = limit_files(c->value); break;
  case OP_NO_DIAG: r->rc = no_diag(); break;
  case OP_CLOSE: close(s->sock); break;
  case OP_FDS: r->value = count_fds(); break;
  }
  r->errno_kept = errno == 4242;
  r->error = s->rdv.error;
  r->fd = s->rdv.fd;
  r->end = s->pairing.end;
  r->ring_size = s->pairing.ring_size;
}

static void serve(int ctl, int sock) {
  struct state s = {.sock = sock, .rdv = {.fd = -1, .visitor = -1}};
  struct command c;

  while (read(ctl, &c, sizeof(c)) == sizeof(c)) {
    struct reply r = {0};

    obey(&s, &c, &r);
    if (write(ctl, &r, sizeof(r)) != sizeof(r))
      break;
  }
  _exit(0);
}

struct peer peer_spawn(int fd) {
  struct peer p;
  int sv[2];

  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0)
    die("socketpair");
  p.pid = fork();
  if (p.pid < 0)
    die("fork");
  if (p.pid == 0) {
    /* exactly two descriptors beyond the standard ones: the rest of the caller's must not stay open here */
    int ctl = fcntl(sv[1], F_DUPFD, 100), sock = fcntl(fd, F_DUPFD, 101);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(ctl, 3);
    dup2(sock, 4);
    close_range(5, ~0u, 0);
    serve(3, 4);
  }
  close(sv[1]);
  p.ctl = sv[0];
  return p;
}

struct reply ask(const struct peer *p, enum op op, int value, const char *text) {
  struct command c = {.op = op, .value = value};
  struct reply r = {0};

  strncpy(c.text, text, sizeof(c.text) - 1);
  if (write(p->ctl, &c, sizeof(c)) != sizeof(c) || read(p->ctl, &r, sizeof(r)) != sizeof(r))
    die("the second process is gone");
  return r;
}

void peer_kill(struct peer *p) {
  kill(p->pid, SIGKILL);
  waitpid(p->pid, NULL, 0);
  close(p->ctl);
}

/* ---- looking ---- */

int count_fds(void) {
  DIR *d = opendir("/proc/self/fd");
  int n = 0;

  while (readdir(d))
    n++;
  closedir(d);
  return n;
}

int count_names(const struct fl_tuple *t) {
  FILE *f = fopen("/proc/net/unix", "re");
  char line[512], name[108];
  int n = 0;

  fl_rdv_name(t, name);
  while (fgets(line, sizeof(line), f)) {
    char *at = strchr(line, '@');

    if (at && strncmp(at + 1, name, strlen(name)) == 0)
      n++;
  }
  fclose(f);
  return n;
}

struct place place_of(int listening_fd) {
  struct place p = {.len = sizeof(p.addr)};

  if (getsockname(listening_fd, (struct sockaddr *)&p.addr, &p.len) < 0)
    die("getsockname");
  return p;
}

enum fl_rdv_result poll_until(struct fl_rdv *r, struct fl_pairing *p, int times) {
  enum fl_rdv_result result = FL_RDV_WAIT;

  while (result == FL_RDV_WAIT && times-- > 0)
    result = fl_rdv_poll(r, p);
  return result;
}

int visit(const struct place *p) {
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

  if (connect(fd, (const struct sockaddr *)&p->addr, p->len) == 0)
    return fd;
  close(fd);
  return -errno;
}

int send_fds(int fd, const void *data, size_t len, const int *fds, int count) {
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(253 * sizeof(int))]; /* as many as a message can have */
  } control = {0};
  struct iovec iov = {.iov_base = (void *)data, .iov_len = len};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

  if (count > 0) {
    msg.msg_control = &control;
    msg.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
    control.align = (struct cmsghdr){
        .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN((size_t)count * sizeof(int))};
    memcpy(CMSG_DATA(&control.align), fds, (size_t)count * sizeof(int));
  }
  return sendmsg(fd, &msg, MSG_NOSIGNAL) < 0 ? -errno : 0;
}
