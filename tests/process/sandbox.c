/* SPDX-License-Identifier: MIT */
/*
 * tests/process/sandbox.c - a process that goes on with a connection after it has forbidden itself all system calls but
 * those that it makes: any other kills it.
 *
 *   sandbox prctl     the filter comes by prctl()
 *   sandbox syscall   by syscall(SYS_seccomp)
 *   sandbox strict    the kernel's own: read, write, exit
 *   sandbox ask       calls that only ask whether there are filters: the connection stays on the ring
 *   sandbox child     a forked child does all that, and ends: its parent is on the ring again
 *   sandbox ended     the other end closed, with bytes unread
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/prctl.h>

#include "common.h"

#define ALLOW(name) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static void forbid(const char *how) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      ALLOW(read),
      ALLOW(write),
      ALLOW(recvfrom),
      ALLOW(sendto),
      ALLOW(poll),
      ALLOW(epoll_wait),
      ALLOW(epoll_pwait),
      ALLOW(epoll_ctl),
      ALLOW(accept),
      ALLOW(close),
      ALLOW(exit_group),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
  };
  struct sock_fprog program = {sizeof code / sizeof code[0], code};

  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    die("no_new_privs");
  if (!strcmp(how, "strict")    ? prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT)
      : !strcmp(how, "syscall") ? syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)
                                : prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, (unsigned long)&program, 0, 0))
    die("seccomp");
}

/* `n` bytes of the echo's answer lie unread at our end. */
static void leave_unread(int fd, unsigned char *out, size_t n) {
  fill(out, n, 9);
  send_all(fd, out, n);
  wait_readable(fd);
}

static void more(int fd) {
  unsigned char out[2000], in[2000];

  for (unsigned i = 0; i < 300; i++) {
    fill(out, sizeof out, i);
    for (size_t done = 0; done < sizeof out;)
      done += (size_t)write(fd, out + done, sizeof out - done);
    for (size_t done = 0; done < sizeof in;) {
      ssize_t k = read(fd, in + done, sizeof in - done);
      if (k <= 0)
        die("read");
      done += (size_t)k;
    }
    if (memcmp(in, out, sizeof in) != 0)
      die("message %u differs", i);
  }
}

static int with_filter(int listener, const char *how, struct turn *turn) {
  int fd = accept_one(listener), set = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
  unsigned char out[10000], in[10000];

  epoll_ctl(set, EPOLL_CTL_ADD, fd, &e);
  for (int i = 0; i < 400; i++) { /* it comes to know the set's bell */
    fill(out, 64, 1);
    send_all(fd, out, 64);
    epoll_wait(set, &e, 1, -1);
    recv_all(fd, in, 64);
  }
  leave_unread(fd, out, sizeof out);
  forbid(how);
  if (!strcmp(how, "strict")) {
    for (size_t done = 0; done < sizeof in;)
      done += (size_t)read(fd, in + done, sizeof in - done);
    say("unread bytes: %s\n", memcmp(in, out, sizeof in) ? "differ" : "right");
    more(fd);
    syscall(SYS_exit, 0);
  }
  recv_all(fd, in, sizeof in);
  say("unread bytes: %s\n", memcmp(in, out, sizeof in) ? "differ" : "right");
  say("events: %d\n", epoll_wait(set, &e, 1, 0)); /* a bell is none */
  send_all(fd, out, 100);
  say("events: %d\n", epoll_wait(set, &e, 1, -1));
  recv_all(fd, in, 100);
  pingpong(fd, 300, 1000, 3);
  more(fd);
  turn_give(turn->to_parent);
  int second = accept(listener, NULL, NULL);
  pingpong(second, 300, 1000, 4);
  close(second);
  close(fd);
  return 0;
}

static void ask(int fd) {
  say("prctl: %d\n", prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, 0, 0, 0));
  say("seccomp: %ld\n", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, NULL));
  much(fd);
}

static void child(int fd) {
  warm(fd);
  pid_t pid = fork();
  if (pid == 0) {
    forbid("prctl");
    syscall(SYS_exit_group, 0);
  }
  reap(pid, "child");
  much(fd);
}

/* What came before the end is read from the ring, if it cannot come any other way. */
static void ended(void) {
  int port, listener = listen_any(&port), pipes[2];
  unsigned char out[10000], in[10000];
  pid_t pid = pipe(pipes) ? -1 : fork();

  if (pid == 0) {
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    close(listener);
    if (connect(fd, (struct sockaddr *)&a, sizeof a))
      die("connect");
    warm(fd);
    fill(out, sizeof out, 9);
    awake = true;
    recv_all(fd, in, 1); /* the other end is awake, so its ring is used */
    send_all(fd, out, sizeof out);
    close(fd);
    if (write(pipes[1], "", 1) != 1)
      die("pipe");
    _exit(0);
  }
  int fd = accept_one(listener);
  for (unsigned i = 0; i < 400; i++) {
    recv_all(fd, in, 64);
    send_all(fd, in, 64);
  }
  send_all(fd, in, 1);
  awake = true;
  while (recv(fd, in, 1, MSG_PEEK | MSG_DONTWAIT) < 1)
    ;
  if (read(pipes[0], in, 1) != 1)
    die("pipe");
  fill(out, sizeof out, 9);
  reap(pid, "far");
  forbid("prctl");
  recv_all(fd, in, sizeof in);
  say("unread bytes: %s\n", memcmp(in, out, sizeof in) ? "differ" : "right");
  say("end: %zd\n", read(fd, in, 1));
}

int main(int argc, char **argv) {
  struct far f;

  if (argc != 2)
    return 2;
  if (!strcmp(argv[1], "ended")) {
    ended();
    return 0;
  }
  if (!strcmp(argv[1], "ask") || !strcmp(argv[1], "child")) {
    int fd = echo_connection(&f, "echo");
    if (!strcmp(argv[1], "ask"))
      ask(fd);
    else
      child(fd);
    close(fd);
    far_finish(&f);
    return 0;
  }
  int port, listener = listen_any(&port);
  f = far_start(port, "echo", NULL);
  struct turn turn;
  turn_init(&turn);
  pid_t pid = fork();
  if (pid == 0)
    exit(with_filter(listener, argv[1], &turn));
  if (strcmp(argv[1], "strict") != 0) {
    turn_wait(turn.to_parent);
    struct far second = far_start(port, "echo", NULL);
    far_finish(&second);
  }
  far_finish(&f);
  reap(pid, "with a filter");
  return 0;
}
