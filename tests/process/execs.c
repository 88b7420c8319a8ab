/* SPDX-License-Identifier: MIT */
/*
 * tests/process/execs.c - a connection and exec.
 *
 *   execs arguments             every function of the family, and what the new program gets
 *   execs inherit with|without  this process becomes a program that goes on with the connection; with the library or
 * not execs lend with|without     a child becomes one; when it has ended, this process goes on execs failed exec that
 * fails, in all ways; then the connection goes on execs cloexec read|unread   exec closes the connection, with all
 * bytes read or not execs cloexec-child         a child's exec closes the child's descriptor; this process goes on
 * while the child lives execs vfork-idle            vfork and exec of a program that does not touch the connection
 *   execs vfork-output          vfork, the connection becomes standard output, exec
 *   execs vfork-close young|old a vfork child closes its descriptors, early or late in the life of the connection
 *
 *   execs go-on FD, end, show ARG...: the new programs
 */
#include "common.h"

static const char *self; /* of this program */

static char **with_x(const char *x) {
  static char *env[256];
  int n = 0;

  for (char **e = environ; *e && n < 250; e++)
    if (strncmp(*e, "X=", 2) != 0)
      env[n++] = *e;
  env[n++] = (char *)x;
  env[n] = NULL;
  return env;
}

static void arguments(void) {
  char *argv[] = {(char *)"execs", (char *)"show", (char *)"a", (char *)"", (char *)"b c", NULL};
  int fd = open(self, O_RDONLY | O_CLOEXEC);
  const char *slash = strrchr(self, '/');
  char dir[4096];

  snprintf(dir, sizeof dir, "%.*s", (int)(slash - self), self);
  setenv("PATH", dir, 1);
  setenv("X", "inherited", 1);
  for (int i = 0; i < 9; i++) {
    pid_t pid = fork();
    if (pid == 0) {
      switch (i) {
      case 0: execl(self, "execs", "show", "execl", "", "z", NULL); break;
      case 1: execlp("execs", "execs", "show", "execlp", "1", "2", "3", "4", "5", "6", "7", "8", NULL); break;
      case 2: execle(self, "execs", "show", "execle", NULL, with_x("X=given to execle")); break;
      case 3: execv(self, argv); break;
      case 4: execve(self, argv, with_x("X=given to execve")); break;
      case 5: execvp("execs", argv); break;
      case 6: execvpe("execs", argv, with_x("X=given to execvpe")); break;
      case 7: fexecve(fd, argv, with_x("X=given to fexecve")); break;
      case 8: execveat(fd, "", argv, with_x("X=given to execveat"), AT_EMPTY_PATH); break;
      }
      die("exec %d", i);
    }
    reap(pid, "exec");
  }
}

static void library(const char *how) {
  if (!strcmp(how, "without"))
    unsetenv("LD_PRELOAD");
}

static void become(int fd, int out) {
  char a[16], b[16];

  snprintf(a, sizeof a, "%d", fd);
  snprintf(b, sizeof b, "%d", out);
  execl(self, "execs", "go-on", a, b, NULL);
  die("exec");
}

static void lend(int fd, const char *how) {
  pid_t pid = fork();

  if (pid == 0) {
    library(how);
    become(fd, -1);
  }
  reap(pid, "child");
  pingpong(fd, 2000, 1000, 5);
}

static void failed_in_vfork(void) {
  pid_t pid = vfork();

  if (pid == 0) {
    execl("/nonexistent", "x", NULL);
    execlp("nonexistent-program", "x", NULL);
    _exit(5);
  }
  reap(pid, "vfork child");
}

static void failed(int fd) {
  char *argv[] = {(char *)"x", NULL};

  for (int cloexec = 0; cloexec < 2; cloexec++) {
    for (int unread = 0; unread < 2; unread++) {
      char byte = 'u';
      if (unread) {
        send_all(fd, &byte, 1);
        wait_readable(fd);
      }
      say("%d %s\n", execve("/nonexistent", argv, environ), strerror(errno));
      say("%d %s\n", execv("/etc/passwd", argv), strerror(errno));
      say("%d %s\n", execvp("nonexistent-program", argv), strerror(errno));
      say("%d %s\n", execl("/", "x", NULL), strerror(errno));
      say("%d %s\n", execlp("nonexistent-program", "x", "y", NULL), strerror(errno));
      say("%d %s\n", execle("/nonexistent", "x", "y", NULL, environ), strerror(errno));
      say("%d %s\n", fexecve(-1, argv, environ), strerror(errno));
      failed_in_vfork();
      struct linger l;
      socklen_t len = sizeof l;
      getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &len);
      say("linger %d %d\n", l.l_onoff, l.l_linger);
      if (unread)
        recv_all(fd, &byte, 1);
      pingpong(fd, 100, 100, 9);
    }
    set_cloexec(fd);
  }
  much(fd);
}

static void cloexec(int fd, const char *how, int out) {
  char buf[1000] = {0}, b[16];

  set_cloexec(fd);
  send_all(fd, buf, sizeof buf);
  wait_readable(fd);
  if (!strcmp(how, "read"))
    recv_all(fd, buf, sizeof buf);
  else
    recv_all(fd, buf, 10);
  snprintf(b, sizeof b, "%d", out);
  execl(self, "execs", "end", b, NULL);
  die("exec");
}

static void cloexec_child(int fd) {
  struct turn t;

  set_cloexec(fd);
  turn_init(&t);
  fcntl(t.to_parent[1], F_SETFD, FD_CLOEXEC); /* closed: the exec has happened */
  pid_t pid = fork();
  if (pid == 0) {
    close(t.to_child[1]);
    dup2(t.to_child[0], 0);
    execlp("cat", "cat", NULL); /* until we end its input */
    die("exec");
  }
  close(t.to_parent[1]);
  char c;
  if (read(t.to_parent[0], &c, 1) != 0)
    die("turn");
  much(fd);
  close(t.to_child[1]);
  reap(pid, "child");
}

static void vfork_true(void) {
  pid_t pid = vfork();

  if (pid == 0) {
    execlp("true", "true", NULL);
    _exit(1);
  }
  reap(pid, "child");
}

static void vfork_idle(int fd) {
  for (int i = 0; i < 5; i++) {
    vfork_true();
    pingpong(fd, 10, 10, 3);
  }
  much(fd);
}

static void vfork_output(int fd) {
  static const char line[] = "written by the new program\n";
  char buf[sizeof line] = {0};

  set_cloexec(fd);
  pid_t pid = vfork();
  if (pid == 0) {
    dup2(fd, 1);
    execlp("echo", "echo", "written by the new program", NULL);
    _exit(1);
  }
  reap(pid, "child");
  recv_all(fd, buf, sizeof line - 1);
  say("came back: %s", buf);
  pingpong(fd, 2000, 1000, 4);
}

static void vfork_close(int fd, const char *when) {
  if (!strcmp(when, "old"))
    much(fd);
  for (int i = 0; i < 5; i++) {
    pid_t pid = vfork();
    if (pid == 0) {
      for (int other = 3; other < 256; other++)
        close(other);
      execlp("true", "true", NULL);
      _exit(1);
    }
    reap(pid, "child");
    pingpong(fd, i, 100, 5);
  }
  much(fd);
}

int main(int argc, char **argv) {
  static char path[4096];
  const char *what = argc > 1 ? argv[1] : "", *how = argc > 2 ? argv[2] : "";
  struct far far;

  if (readlink("/proc/self/exe", path, sizeof path - 1) < 0)
    die("self");
  self = path;
  if (!strcmp(what, "show")) {
    for (int i = 0; i < argc; i++)
      say("%s'%s'", i ? " " : "", argv[i]);
    say(" X=%s\n", getenv("X"));
    return 0;
  }
  if (!strcmp(what, "arguments")) {
    arguments();
    return 0;
  }
  if (!strcmp(what, "go-on")) {
    int fd = atoi(how), out = atoi(argv[3]);
    pingpong(fd, 2000, 1000, 6);
    if (out < 0)
      return 6;
    close(fd);
    far = (struct far){.pid = -1, .out = out};
    far_finish(&far);
    return 0;
  }
  if (!strcmp(what, "end")) {
    far = (struct far){.pid = -1, .out = atoi(how)};
    far_finish(&far);
    return 0;
  }
  int fd = echo_connection(&far, "echo");
  if (!strcmp(what, "inherit")) {
    library(how);
    fcntl(far.out, F_SETFD, 0);
    become(fd, far.out);
  } else if (!strcmp(what, "lend")) {
    lend(fd, how);
  } else if (!strcmp(what, "failed")) {
    failed(fd);
  } else if (!strcmp(what, "cloexec")) {
    fcntl(far.out, F_SETFD, 0);
    cloexec(fd, how, far.out);
  } else if (!strcmp(what, "cloexec-child")) {
    cloexec_child(fd);
  } else if (!strcmp(what, "vfork-idle")) {
    vfork_idle(fd);
  } else if (!strcmp(what, "vfork-output")) {
    vfork_output(fd);
  } else if (!strcmp(what, "vfork-close")) {
    vfork_close(fd, how);
  } else {
    return 2;
  }
  close(fd);
  far_finish(&far);
  return 0;
}
