/* SPDX-License-Identifier: MIT */
/*
 * tests/process/forks.c - a connection and fork.
 *
 *   forks turns HOW        parent and child use the connection in turn; the child exits; the parent goes on
 *   forks child HOW        the parent closes its descriptor; the child goes on
 *   forks parent HOW       the child closes its descriptor and lives on; the parent goes on
 *   forks split HOW        the child receives what the parent sends; then the child exits and the parent goes on
 *   forks killed HOW       the child is killed while it uses the connection; the parent goes on
 *   forks daemon           daemon() with an open connection
 *   forks failed           forks that fail
 *   forks nested           a child of a child goes on
 *   forks per-connection   a server that forks for every connection
 *   forks prefork          a server whose children accept
 *
 * HOW: fork, _Fork, clone (the raw system call, which no handler sees), forkpty, newpid (into a new pid namespace)
 */
#include <pty.h>

#include "common.h"

static pid_t make(const char *how) {
  int master;
  pid_t pid = !strcmp(how, "fork")      ? fork()
              : !strcmp(how, "_Fork")   ? _Fork()
              : !strcmp(how, "clone")   ? (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)
              : !strcmp(how, "newpid")  ? (unshare(CLONE_NEWPID) ? -1 : fork())
              : !strcmp(how, "forkpty") ? forkpty(&master, NULL, NULL, NULL)
                                        : (die("fork how?"), -1);
  if (pid < 0)
    die("%s", how);
  return pid;
}

static void turns(int fd, const char *how) {
  struct turn t;

  turn_init(&t);
  pid_t pid = make(how);
  for (int i = 0; i < 10; i++) {
    if (pid == 0) {
      turn_wait(t.to_child);
      pingpong(fd, 100, 700, 100);
      turn_give(t.to_parent);
    } else {
      turn_give(t.to_child);
      turn_wait(t.to_parent);
      pingpong(fd, 100, 300, 200);
    }
  }
  if (pid == 0)
    _exit(7);
  reap(pid, "child");
  much(fd);
}

static void child_goes_on(int fd, const char *how) {
  struct turn t;

  turn_init(&t);
  pid_t pid = make(how);
  if (pid == 0) {
    pingpong(fd, 100, 500, 100);
    turn_give(t.to_parent);
    turn_wait(t.to_child);
    much(fd);
    exit(8);
  }
  turn_wait(t.to_parent);
  close(fd);
  turn_give(t.to_child);
  reap(pid, "child");
}

static void parent_goes_on(int fd, const char *how) {
  struct turn t;

  turn_init(&t);
  pid_t pid = make(how);
  if (pid == 0) {
    close(fd);
    turn_give(t.to_parent);
    turn_wait(t.to_child);
    exit(9);
  }
  turn_wait(t.to_parent);
  much(fd);
  turn_give(t.to_child);
  reap(pid, "child");
}

static void split(int fd, const char *how) {
  enum { TOTAL = 12 << 20 };
  unsigned char buf[32768];
  uint64_t h = 0;
  pid_t pid = make(how);

  if (pid == 0) {
    for (size_t left = TOTAL; left;) {
      ssize_t n = recv(fd, buf, left < sizeof buf ? left : sizeof buf, 0);
      if (n <= 0)
        die("recv");
      h = hash(h, buf, (size_t)n);
      left -= (size_t)n;
    }
    say("child: hash %016llx\n", (unsigned long long)h);
    _exit(0);
  }
  for (size_t sent = 0, n; sent < TOTAL; sent += n) {
    n = 1 + sent * 31 % sizeof buf;
    if (n > TOTAL - sent)
      n = TOTAL - sent;
    fill(buf, n, sent);
    send_all(fd, buf, n);
    h = hash(h, buf, n);
  }
  reap(pid, "child");
  say("parent: hash %016llx\n", (unsigned long long)h);
  pingpong(fd, 300, 3000, 3);
}

static void killed(int fd, const char *how) {
  struct turn t;

  turn_init(&t);
  pid_t pid = make(how);
  if (pid == 0) {
    pingpong(fd, 500, 500, 100);
    turn_give(t.to_parent);
    turn_wait(t.to_child); /* for ever */
    _exit(1);
  }
  turn_wait(t.to_parent);
  kill(pid, SIGKILL);
  reap(pid, "child");
  much(fd);
}

static void nested(int fd) {
  pid_t pid = fork();

  if (pid == 0) {
    pid_t inner = fork();
    if (inner == 0) {
      pingpong(fd, 300, 500, 100);
      _exit(1);
    }
    reap(inner, "grandchild");
    pingpong(fd, 300, 500, 200);
    exit(2);
  }
  reap(pid, "child");
  much(fd);
}

static void failed(int fd) {
  struct rlimit none = {0, 0};

  if (setresuid(65534, 65534, 65534) || setrlimit(RLIMIT_NPROC, &none))
    die("limits");
  for (int i = 0; i < 3; i++) {
    errno = 0;
    say("fork: %d %s\n", fork(), strerror(errno));
    errno = 0;
    say("_Fork: %d %s\n", _Fork(), strerror(errno));
    int master;
    errno = 0;
    say("forkpty: %d %s\n", forkpty(&master, NULL, NULL, NULL), strerror(errno));
    errno = 0;
    say("daemon: %d %s\n", daemon(1, 1), strerror(errno));
  }
  much(fd);
}

/* The process that the caller waits for sees only the end of it: the one that calls daemon() goes away at once. */
static void daemonise(void) {
  struct far far;
  int done[2];
  char c;

  if (pipe(done))
    die("pipe");
  pid_t pid = fork();
  if (pid == 0) {
    close(done[0]);
    int fd = echo_connection(&far, "echo");
    pingpong(fd, 100, 100, 1);
    say("daemon: %d\n", daemon(1, 1));
    much(fd);
    close(fd);
    far_finish(&far);
    exit(0); /* and closes the pipe */
  }
  close(done[1]);
  if (read(done[0], &c, 1) != 0)
    die("done");
  reap(pid, "caller of daemon");
}

/* ---- servers ---- */

static void serve(int fd) {
  static unsigned char buf[65536];
  ssize_t n;

  while ((n = recv_some(fd, buf, sizeof buf)) > 0) {
    awake = n >= MUCH / 2;
    send_all(fd, buf, (size_t)n);
  }
  close(fd);
}

static void per_connection(void) {
  enum { CLIENTS = 3, EACH = 5 };
  struct far far[CLIENTS];
  int port, listener = listen_any(&port), bad = 0;

  for (int i = 0; i < CLIENTS; i++)
    far[i] = far_start(port, "ping", "5");
  for (int i = 0; i < CLIENTS * EACH; i++) {
    int fd = accept_one(listener);
    pid_t pid = fork();
    if (pid < 0)
      die("fork");
    if (pid == 0) {
      close(listener);
      serve(fd);
      exit(0);
    }
    close(fd);
  }
  for (int i = 0; i < CLIENTS; i++)
    far_finish(&far[i]);
  for (int status; wait(&status) > 0;)
    bad += status != 0;
  say("bad children: %d\n", bad);
}

static void prefork(void) {
  enum { CLIENTS = 3, CHILDREN = 4 };
  struct far far[CLIENTS];
  pid_t child[CHILDREN];
  int port, listener = listen_any(&port);

  for (int i = 0; i < CHILDREN; i++)
    if ((child[i] = fork()) == 0)
      for (;;)
        serve(accept_one(listener));
  for (int i = 0; i < CLIENTS; i++)
    far[i] = far_start(port, "ping", "5");
  for (int i = 0; i < CLIENTS; i++)
    far_finish(&far[i]);
  for (int i = 0; i < CHILDREN; i++) {
    kill(child[i], SIGTERM);
    reap(child[i], "server");
  }
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "", *how = argc > 2 ? argv[2] : "fork";
  struct far far;

  if (!strcmp(what, "per-connection")) {
    per_connection();
    return 0;
  }
  if (!strcmp(what, "daemon")) {
    daemonise();
    return 0;
  }
  if (!strcmp(what, "prefork")) {
    prefork();
    return 0;
  }
  int fd = echo_connection(&far, strcmp(what, "split") ? "echo" : "sleeper");
  if (!strcmp(what, "turns"))
    turns(fd, how);
  else if (!strcmp(what, "child"))
    child_goes_on(fd, how);
  else if (!strcmp(what, "parent"))
    parent_goes_on(fd, how);
  else if (!strcmp(what, "split"))
    split(fd, how);
  else if (!strcmp(what, "killed"))
    killed(fd, how);
  else if (!strcmp(what, "nested"))
    nested(fd);
  else if (!strcmp(what, "failed"))
    failed(fd);
  else
    return 2;
  close(fd);
  far_finish(&far);
  return 0;
}
