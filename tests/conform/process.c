/* SPDX-License-Identifier: MIT */
/* tests/conform/process.c - a connection and several processes, descriptors, threads. */
#include <aio.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "calls.h"
#include "groups.h"
#include "waits.h"

extern char **environ;

enum { P_WHAT, P_UNREAD, P_END };

static void reap(pid_t pid) {
  int status = -1;

  while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
    ;
  note("child %x", (unsigned)status);
}

/* A child reads what is there and sends on; then the parent goes on. */
static void forked_child_uses(void) {
  pid_t pid = fork();

  if (pid == 0) {
    char c[16];
    note_data("child reads", recv(run.fd, c, 4, MSG_DONTWAIT), c);
    note_ret("child sends", send(run.fd, "child", 5, 0));
    _exit(3);
  }
  reap(pid);
  note_ret("parent sends", send(run.fd, "parent", 6, 0));
  drain("parent reads");
}

static void forked_child_stays(void) {
  int hold[2];
  pid_t pid;

  if (pipe(hold))
    return;
  pid = fork();
  if (pid == 0) {
    char c;
    close(hold[1]);
    _exit(read(hold[0], &c, 1) == 0 ? 4 : 5);
  }
  close(hold[0]);
  drain("parent reads");
  note_ret("parent sends", send(run.fd, "parent", 6, 0));
  close(hold[1]);
  reap(pid);
  note_ret("parent sends", send(run.fd, "again", 5, 0));
}

static void parent_closes(void) {
  int back[2];
  pid_t pid;
  char text[400] = "";

  if (pipe(back))
    return;
  pid = fork();
  if (pid == 0) {
    drain("child reads");
    note_ret("child sends", send(run.fd, "child", 5, 0));
    _exit(0);
  }
  reap(pid);
  close(back[0]);
  close(back[1]);
  (void)text;
}

static void by_spawn(void) {
  char script[64];
  char *argv[] = {"sh", "-c", script, NULL};
  pid_t pid;

  snprintf(script, sizeof script, "echo spawned >&%d", run.fd);
  note_ret("posix_spawn", posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, environ));
  reap(pid);
  drain("read");
}

static void by_system(void) {
  char script[64];

  snprintf(script, sizeof script, "echo system >&%d", run.fd);
  note("system %x", (unsigned)system(script));
  drain("read");
}

static void by_popen(void) {
  char line[64] = "";
  FILE *f = popen("echo popen", "r");

  if (f && fgets(line, sizeof line, f))
    note("%s", line);
  note("pclose %x", (unsigned)(f ? pclose(f) : -1));
  drain("read");
  note_ret("send", send(run.fd, "after", 5, 0));
}

/* A program that inherits the connection, with unread bytes, with the library or without. */
static void by_exec(bool with) {
  pid_t pid = fork();

  if (pid == 0) {
    char script[128];
    snprintf(script, sizeof script, "head -c 10 <&%d | cat >&%d", run.fd, run.fd);
    if (!with)
      unsetenv("LD_PRELOAD");
    execl("/bin/sh", "sh", "-c", script, NULL);
    _exit(9);
  }
  reap(pid);
  drain("read");
}
static void by_exec_with(void) { by_exec(true); }
static void by_exec_without(void) { by_exec(false); }

static void by_vfork(void) {
  pid_t pid = vfork();

  if (pid == 0) {
    execl("/bin/true", "true", NULL);
    _exit(9);
  }
  reap(pid);
  drain("read");
  note_ret("send", send(run.fd, "after", 5, 0));
}

static void passed(void) {
  int pair[2];
  char control[CMSG_SPACE(sizeof(int))] = {0};
  struct iovec iov = {"x", 1};
  struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  struct cmsghdr *c = CMSG_FIRSTHDR(&m);

  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
    return;
  *c = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
  memcpy(CMSG_DATA(c), &run.fd, sizeof(int));
  note_ret("sendmsg", sendmsg(pair[0], &m, 0));
  close_fd();
  note_ret("recvmsg", recvmsg(pair[1], &m, 0));
  memcpy(&run.fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int));
  close(pair[0]);
  close(pair[1]);
  drain("read");
  note_ret("send", send(run.fd, "passed", 6, 0));
}

static void dups(void) {
  int a = dup(run.fd), b = dup2(run.fd, 200), c = dup3(run.fd, 201, O_CLOEXEC), d = fcntl(run.fd, F_DUPFD, 202),
      e = fcntl(run.fd, F_DUPFD_CLOEXEC, 210);

  note("%d %d %d %d", b, c, d, e);
  close(run.fd);
  note_ret("send by the first", send(a, "1", 1, 0));
  note_ret("send by the last", send(e, "5", 1, 0));
  run.fd = a;
  note_data("peek", recv(b, run.buf, 4, MSG_DONTWAIT | MSG_PEEK), run.buf);
  note_data("recv", recv(c, run.buf, 4, MSG_DONTWAIT), run.buf);
  note_ret("dup2 onto itself", dup2(d, d));
  close(b);
  close(c);
  close(d);
  close(e);
  drain("read");
}

static void closed_range(void) {
  int keep = dup2(run.fd, 0);

  note_ret("close_range", close_range(3, ~0U, 0));
  run.fd = keep;
  drain("read");
  note_ret("send", send(run.fd, "kept", 4, 0));
}

/* FD_CLOEXEC for all: the program that comes has none of them. */
static void closed_by_exec(void) {
  pid_t pid;

  note_ret("close_range", close_range(3, ~0U, CLOSE_RANGE_CLOEXEC));
  note("FD_CLOEXEC %d", fcntl(run.fd, F_GETFD));
  pid = fork();
  if (pid == 0) {
    char script[64];
    snprintf(script, sizeof script, "echo x >&%d", run.fd);
    close(2);
    execl("/bin/sh", "sh", "-c", script, NULL);
    _exit(9);
  }
  reap(pid);
  drain("read");
  note_ret("send", send(run.fd, "kept", 4, 0));
}

static void closed_range_unshare(void) {
  int keep = dup2(run.fd, 0);

  note_ret("close_range", close_range(3, ~0U, CLOSE_RANGE_UNSHARE));
  run.fd = keep;
  drain("read");
  note_ret("send", send(run.fd, "kept", 4, 0));
}

static void closed_loop(void) {
  run.fd = dup2(run.fd, 0);
  for (int fd = 3; fd < 1024; fd++)
    close(fd);
  drain("read");
  note_ret("send", send(run.fd, "kept", 4, 0));
}

static void by_stdio(void) {
  FILE *f = fdopen(dup(run.fd), "r+");
  char line[32] = "";

  setvbuf(f, NULL, _IOFBF, 4096);
  note("fread %zu", fread(line, 1, run.shared->value[0] ? 10 : 0, f));
  note("'%s'", line);
  fseek(f, 0, SEEK_CUR);
  note("fprintf %d", fprintf(f, "stdio %d\n", 7));
  note("fclose %d", fclose(f));
  note_ret("dprintf", dprintf(run.fd, "d%s", "printf"));
  drain("read");
}

static void beyond_setsize(void) {
  struct rlimit limit = {4096, 4096};
  struct waiting w;
  int high;

  setrlimit(RLIMIT_NOFILE, &limit);
  high = fcntl(run.fd, F_DUPFD, 2000);
  note("%d", high);
  close(run.fd);
  run.fd = high;
  for (int call = 0; call < WAIT_CALLS; call++) {
    if (by_select((enum wait_call)call))
      continue;
    wait_open(&w, (enum wait_call)call);
    wait_add(&w, high, 1);
    do_wait(&w, "wait", 0, NULL);
    wait_close(&w);
  }
  drain("read");
  note_ret("send", send(run.fd, "high", 4, 0));
}

static void no_more_files(void) {
  struct rlimit limit = {16, 4096};
  int last = -1, fd;

  setrlimit(RLIMIT_NOFILE, &limit);
  while ((fd = dup(0)) >= 0)
    last = fd;
  note("last %d, %s", last, error_name(errno));
  note_ret("socket", socket(AF_INET, SOCK_STREAM, 0));
  note_ret("epoll_create1", epoll_create1(0));
  drain("read");
  note_ret("send", send(run.fd, "full", 4, 0));
  for (fd = run.fd + 1; fd < 16; fd++)
    close(fd);
}

/* More holders than are written down one by one. */
static void forked_many(void) {
  enum { CHILDREN = 12 };
  pid_t pid[CHILDREN];
  int hold[2];

  if (pipe(hold))
    return;
  for (int i = 0; i < CHILDREN; i++)
    if ((pid[i] = fork()) == 0) {
      char c[8];
      close(hold[1]);
      while (read(hold[0], c, 1) < 0)
        ;
      _exit(i);
    }
  close(hold[0]);
  drain("parent reads");
  note_ret("parent sends", send(run.fd, "parent", 6, 0));
  close(hold[1]);
  for (int i = 0; i < CHILDREN; i++)
    reap(pid[i]);
  note_ret("parent sends", send(run.fd, "alone", 5, 0));
  /* each of many sends, one after the other */
  for (int i = 0; i < CHILDREN; i++) {
    pid[i] = fork();
    if (pid[i] == 0)
      _exit(send(run.fd, "child", 5, 0) != 5);
    reap(pid[i]);
  }
  note_ret("parent sends", send(run.fd, "last", 4, 0));
}

static void by_aio(void) {
  char text[32] = "";
  struct aiocb in = {.aio_fildes = run.fd, .aio_buf = text, .aio_nbytes = 10};
  struct aiocb out = {.aio_fildes = run.fd, .aio_buf = (char *)"aio", .aio_nbytes = 3};
  struct aiocb *const list[] = {&out};

  out.aio_lio_opcode = LIO_WRITE;
  if (!run.shared->value[0])
    note_ret("send", send(run.fd, "before", 6, 0));
  if (run.shared->value[0]) { /* what aio is to read comes over TCP: the other end is asked for it when it waits */
    note_ret("aio_read", aio_read(&in));
    aio_suspend((const struct aiocb *const[]){&in}, 1, NULL);
    note("%s", error_name(aio_error(&in)));
    note_data("aio_return", aio_return(&in), text);
  }
  note_ret("aio_write", aio_write(&out));
  aio_suspend((const struct aiocb *const *)list, 1, NULL);
  note_ret("aio_return", aio_return(&out));
  note_ret("send", send(run.fd, "after", 5, 0));
  note_ret("lio_listio", lio_listio(LIO_WAIT, list, 1, NULL));
  note_ret("aio_return", aio_return(&out));
  drain("read");
}

static void *receiving(void *arg) {
  char c[16];

  thread_is_me();
  run.shared->value[1] = 1;
  note_data("thread", recv(run.fd, c, 10, 0), c);
  return arg;
}

/* One thread sleeps in recv, another looks with poll: nobody takes what is not his. */
static void two_threads(void) {
  pthread_t t;

  drain("read");
  pthread_create(&t, NULL, receiving, NULL);
  while (!run.shared->value[1])
    pause_us(50);
  settle(run.me);
  note_ret("send", send(run.fd, "thread", 6, 0));
  pthread_cancel(t);
  pthread_join(t, NULL);
  thread_is_me();
}

static void (*const deeds[])(void) = {
    forked_child_uses,    forked_child_stays, parent_closes,  by_spawn,      by_system,   by_popen,
    by_exec_with,         by_exec_without,    by_vfork,       passed,        dups,        closed_range,
    closed_loop,          by_stdio,           beyond_setsize, no_more_files, two_threads, closed_by_exec,
    closed_range_unshare, forked_many,        by_aio};
#define DEED_NAMES \
  "fork-child-uses", "fork-child-stays", "fork-child-only", "posix_spawn", "system", "popen", "exec", \
      "exec-without-library", "vfork", "SCM_RIGHTS", "dup", "close_range", "close-loop", "stdio", "beyond-FD_SETSIZE", \
      "RLIMIT_NOFILE", "threads", "CLOSE_RANGE_CLOEXEC", "CLOSE_RANGE_UNSHARE", "fork-12", "aio"

static void process(const int *v) {
  enum end me = v[P_END] ? SERVER : CLIENT;

  connect_ends(AF_INET);
  onto_ring();
  ON(OTHER(me)) {
    if (v[P_UNREAD])
      put(10);
    if (v[P_UNREAD] == 2)
      put_kernel(10);
    run.shared->value[0] = v[P_UNREAD];
    release(); /* what a new program is to read may have to come over TCP: the sender is asked for it */
    for (int i = 0; i < 4000 && run.shared->value[2] == 0; i++) {
      struct pollfd p = {.fd = run.fd, .events = POLLIN};
      poll(&p, 1, 1);
    }
  }
  ON(me) {
    await_bytes(10u * (unsigned)v[P_UNREAD]);
    deeds[v[P_WHAT]]();
    run.shared->value[2] = 1;
  }
  ON(OTHER(me)) {
    pause_us(300);
    drain("came");
  }
  talk();
  part();
}

/* A program that reads waits for something to read. */
static bool process_skip(const int *v) {
  return !v[P_UNREAD] && (deeds[v[P_WHAT]] == by_exec_with || deeds[v[P_WHAT]] == by_exec_without);
}

static const char *process_late(const int *v) {
  void (*deed)(void) = deeds[v[P_WHAT]];

  return v[P_UNREAD] == 2 && (deed == by_vfork || deed == by_aio || deed == passed || deed == by_exec_without ||
                              deed == by_exec_with)
             ? "a connection is handed over (exec, SCM_RIGHTS, aio) while bytes lie unread both in the ring and, sent "
               "after them, in the socket. The other end cannot send the ring's again in their place. A program that "
               "is executed gets them if it has the library; who has it not, and who gets the descriptor in a message, "
               "gets only the socket's. To have unread bytes in both, the sender must have filled the ring, or sent "
               "with control data, in the moments before."
             : NULL;
}

const struct group process_group = {
    .name = "process",
    .what = "fork, exec with and without the library, spawned helpers, SCM_RIGHTS, dup, daemons that close all, stdio, "
            "limits of descriptors",
    .dims = {DIM("what", DEED_NAMES), DIM("unread", "nothing", "ring", "both-lanes"), DIM("end", "client", "server")},
    .run = process,
    .skip = process_skip,
    .late = process_late,
    .flags = ALONE,
};
