/* SPDX-License-Identifier: MIT */
/*
 * tests/process/handover.c - a connection goes to somebody else with bytes unread.
 *
 *   handover WAY with|without PEER
 *
 * WAY   exec     this process becomes the program that reads them
 *       child    a forked child does
 *       vfork    the same, with vfork and the connection as standard input
 *       spawn    posix_spawn, the connection (FD_CLOEXEC) as standard input
 *       pass     SCM_RIGHTS to another process; this one closes its copy
 *       keep     the same, and this one keeps it until the other has done
 *       kernel   exec, with bytes of the kernel lane behind those of the ring
 *       failed   exec that fails, then one that succeeds
 *       half     part of the bytes is read here, the rest by a child, then this process goes on
 * with|without  the program that reads them has the library or not
 * PEER  waits, polls, selects, epolls   for the answer
 *       later    is busy elsewhere for a while, sends more, and waits
 *       ends, closes, exits   sends no more, in one of these ways
 *       closes-later, exits-later, shuts-later   the same, a while later
 *
 *   handover go-on FD BYTES (0: until the end), handover receive FD BYTES: the new programs
 */
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <time.h>

#include "common.h"

#define UNREAD 20000
static const char *self;

/* ---- the peer ---- */

static void nap(int ms) {
  struct timespec ts = {ms / 1000, ms % 1000 * 1000000l};
  nanosleep(&ts, NULL);
}

static bool is(const char *a, const char *b) { return !strcmp(a, b); }

static void wait_in(int fd, const char *how) {
  if (is(how, "polls")) {
    wait_readable(fd);
  } else if (is(how, "selects")) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    if (select(fd + 1, &set, NULL, NULL, NULL) != 1)
      die("select");
  }
}

static void send_part(int fd, unsigned part) {
  unsigned char buf[UNREAD];

  fill(buf, sizeof buf, 100 + part);
  for (size_t done = 0; done < sizeof buf; done += 500)
    send_all(fd, buf + done, 500);
}

static uint64_t parts_hash(unsigned parts) {
  unsigned char buf[UNREAD];
  uint64_t h = 0xcbf29ce484222325u;

  for (unsigned i = 0; i < parts; i++) {
    fill(buf, sizeof buf, 100 + i);
    h = hash(h, buf, sizeof buf);
  }
  return h;
}

static void peer(int port, const char *way, const char *how) {
  struct sockaddr_in a = {
      .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), ep = -1;
  unsigned char buf[64];
  unsigned parts = 0;
  uint64_t answer;
  char c;

  if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a))
    die("connect");
  if (is(how, "epolls")) {
    struct epoll_event e = {.events = EPOLLIN};
    if ((ep = epoll_create1(EPOLL_CLOEXEC)) < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e))
      die("epoll");
  }
  for (int i = 0; i < 400; i++) {
    struct epoll_event e;
    if (ep >= 0)
      epoll_wait(ep, &e, 1, -1);
    recv_all(fd, buf, sizeof buf);
    send_all(fd, buf, sizeof buf);
  }
  recv_all(fd, &c, 1);
  send_part(fd, parts++);
  if (is(way, "kernel")) { /* told again, when the bytes cannot go over the ring */
    recv_all(fd, &c, 1);
    send_part(fd, parts++);
  }
  if (strstr(how, "later"))
    nap(300);
  if (is(how, "later"))
    send_part(fd, parts++);
  if (is(how, "ends") || is(how, "shuts-later"))
    shutdown(fd, SHUT_WR);
  if (is(how, "exits") || is(how, "exits-later"))
    _exit(0);
  if (is(how, "closes") || is(how, "closes-later")) {
    close(fd);
    nap(500);
    _exit(0);
  }
  if (ep >= 0) {
    struct epoll_event e;
    if (epoll_wait(ep, &e, 1, -1) != 1)
      die("epoll_wait");
  }
  wait_in(fd, how);
  if (is(how, "ends") || is(how, "shuts-later")) {
    while (recv(fd, buf, sizeof buf, 0) > 0)
      ;
    _exit(0);
  }
  recv_all(fd, &answer, sizeof answer);
  say("peer: the answer is %s\n", answer == parts_hash(parts) ? "right" : "wrong");
  if (is(way, "half") || is(way, "child") || is(way, "keep"))
    for (int i = 0; i < 100; i++) {
      recv_all(fd, buf, sizeof buf);
      send_all(fd, buf, sizeof buf);
    }
  else
    say("peer: then %zd\n", recv(fd, buf, sizeof buf, 0));
  close(fd);
  _exit(0);
}

/* ---- the new program ---- */

static void go_on(int fd, size_t bytes, size_t skipped) {
  uint64_t h = 0xcbf29ce484222325u;
  unsigned char buf[UNREAD];
  size_t got = skipped;

  if (skipped) {
    fill(buf, sizeof buf, 100);
    h = hash(h, buf, skipped);
  }
  while (!bytes || got < bytes) {
    ssize_t n = read(fd, buf, bytes && bytes - got < sizeof buf ? bytes - got : sizeof buf);
    if (n < 0)
      die("read after %zu", got);
    if (n == 0)
      break;
    h = hash(h, buf, (size_t)n);
    got += (size_t)n;
  }
  say("%zu bytes, hash %016llx\n", got, (unsigned long long)h);
  if (bytes)
    send_all(fd, &h, sizeof h);
  close(fd);
  while (wait(NULL) > 0) /* the peer, where this is what its parent became */
    ;
}

static void receive(int channel, size_t bytes) {
  char c, control[CMSG_SPACE(sizeof(int))];
  struct iovec iov = {&c, 1};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  int fd;

  if (recvmsg(channel, &msg, 0) != 1 || !CMSG_FIRSTHDR(&msg))
    die("recvmsg");
  memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof fd);
  go_on(fd, bytes, 0);
}

/* ---- ways ---- */

static const char *library_is;
static char bytes_arg[16], skipped_arg[16] = "0";

static void become(const char *what, int fd) {
  char number[16];

  snprintf(number, sizeof number, "%d", fd);
  if (is(library_is, "without"))
    unsetenv("LD_PRELOAD");
  execl(self, "handover", "new", what, number, bytes_arg, skipped_arg, NULL);
  die("exec");
}

static void as_input(int fd, const char *way) {
  char *argv[] = {(char *)"handover", (char *)"new", (char *)"go-on", (char *)"0", bytes_arg, (char *)"0", NULL};
  char *env[] = {NULL};
  char **envp = is(library_is, "without") ? env : environ;
  posix_spawn_file_actions_t actions;
  pid_t pid;

  set_cloexec(fd);
  if (is(way, "vfork")) {
    pid = vfork();
    if (pid == 0) {
      dup2(fd, 0);
      execve(self, argv, envp);
      _exit(1);
    }
  } else {
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fd, 0);
    if (posix_spawn(&pid, self, &actions, NULL, argv, envp))
      die("posix_spawn");
    posix_spawn_file_actions_destroy(&actions);
  }
  reap(pid, "program");
}

static void pass(int fd, int channel) {
  char c = 'f', control[CMSG_SPACE(sizeof(int))] = {0};
  struct iovec iov = {&c, 1};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  struct cmsghdr *m = CMSG_FIRSTHDR(&msg);

  m->cmsg_level = SOL_SOCKET;
  m->cmsg_type = SCM_RIGHTS;
  m->cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(m), &fd, sizeof fd);
  if (sendmsg(channel, &msg, 0) != 1)
    die("sendmsg");
}

/* So many bytes for us are there; nothing is read, and nobody sleeps. */
static void arrived(int fd, int bytes) {
  int n = 0;

  while (ioctl(fd, FIONREAD, &n) == 0 && n < bytes)
    sched_yield();
  if (n != bytes)
    die("%d of %d bytes are there", n, bytes);
}

static void after(int fd) { pingpong(fd, 100, 64, 9); }

int main(int argc, char **argv) {
  static char path[4096];
  int port, pair[2];
  char c = 'g';

  if (readlink("/proc/self/exe", path, sizeof path - 1) < 0)
    die("self");
  self = path;
  if (argc == 6 && is(argv[1], "new")) {
    if (is(argv[2], "go-on"))
      go_on(atoi(argv[3]), (size_t)atoi(argv[4]), (size_t)atoi(argv[5]));
    else
      receive(atoi(argv[3]), (size_t)atoi(argv[4]));
    return 0;
  }
  if (argc != 4)
    return 2;
  const char *way = argv[1], *how = argv[3];
  library_is = argv[2];
  alarm(5);
  bool open_end = is(how, "ends") || strstr(how, "closes") || strstr(how, "exits") || is(how, "shuts-later");
  unsigned parts = 1 + is(way, "kernel") + is(how, "later");
  snprintf(bytes_arg, sizeof bytes_arg, "%u", open_end ? 0 : parts * UNREAD);

  int listener = listen_any(&port);
  pid_t far = fork(), other = -1;
  if (far == 0) {
    close(listener);
    peer(port, way, how);
  }
  if (is(way, "pass") || is(way, "keep")) {
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
      die("socketpair");
    if ((other = fork()) == 0) {
      close(listener);
      close(pair[1]);
      become("receive", pair[0]);
    }
    close(pair[0]);
    set_cloexec(pair[1]);
  }
  int fd = accept_one(listener);
  close(listener);
  warm(fd);
  if (recv(fd, &c, 1, MSG_DONTWAIT) != -1) /* looks, and so watches */
    die("recv");
  send_all(fd, &c, 1);
  arrived(fd, UNREAD);
  if (is(how, "ends") || is(how, "closes") || is(how, "exits")) {
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};
    poll(&p, 1, -1);
  }
  nap(20); /* the peer sleeps */

  if (is(way, "exec")) {
    become("go-on", fd);
  } else if (is(way, "kernel")) {
    pid_t holder = fork();
    if (holder == 0) {
      pause();
      _exit(0);
    }
    send_all(fd, &c, 1);
    arrived(fd, 2 * UNREAD);
    kill(holder, SIGKILL);
    become("go-on", fd);
  } else if (is(way, "failed")) {
    for (int i = 0; i < 3; i++)
      execl("/nonexistent", "x", NULL);
    become("go-on", fd);
  } else if (is(way, "child") || is(way, "half")) {
    if (is(way, "half")) {
      unsigned char buf[7000];
      recv_all(fd, buf, sizeof buf);
      snprintf(skipped_arg, sizeof skipped_arg, "%zu", sizeof buf);
    }
    pid_t pid = fork();
    if (pid == 0)
      become("go-on", fd);
    reap(pid, "child");
    if (!open_end)
      after(fd);
  } else if (is(way, "vfork") || is(way, "spawn")) {
    as_input(fd, way);
  } else if (is(way, "pass") || is(way, "keep")) {
    pass(fd, pair[1]);
    if (is(way, "pass"))
      close(fd);
    reap(other, "other");
    if (is(way, "keep") && !open_end)
      after(fd);
  }
  close(fd);
  reap(far, "peer");
  return 0;
}
