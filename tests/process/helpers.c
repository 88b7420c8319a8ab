/* SPDX-License-Identifier: MIT */
/*
 * tests/process/helpers.c - a connection that helper programs inherit, started without fork handlers.
 *
 *   helpers spawn-idle      posix_spawn of a program that does not touch it
 *   helpers spawn-live      the same, while it lives and after its end
 *   helpers spawn-output    the connection (FD_CLOEXEC) becomes the program's standard output
 *   helpers spawn-missing   posix_spawn of a program that does not exist
 *   helpers system-idle     system()
 *   helpers system-output   a command writes to the connection
 *   helpers system-thread   the connection is used by another thread, and a new one is closed, while system() waits
 *   helpers popen-idle      popen(), before and after pclose
 */
#include <pthread.h>

#include "common.h"

static void expect(int fd, const char *line) {
  char buf[256] = {0};

  recv_all(fd, buf, strlen(line));
  say("came back: %s", buf);
}

static pid_t spawn(const posix_spawn_file_actions_t *actions, const char *program, const char *arg) {
  char *argv[] = {(char *)program, (char *)arg, NULL};
  pid_t pid = -1;
  int error = posix_spawnp(&pid, program, actions, NULL, argv, environ);

  if (error)
    say("posix_spawnp: %s, pid %d\n", strerror(error), pid);
  return pid;
}

static void spawn_idle(int fd) {
  for (int i = 0; i < 5; i++) {
    reap(spawn(NULL, "true", NULL), "helper");
    pingpong(fd, 10, 10, 3);
  }
  much(fd);
}

static void spawn_live(int fd) {
  pid_t pid = spawn(NULL, "sleep", "1000");

  pingpong(fd, 500, 1000, 3);
  kill(pid, SIGKILL);
  reap(pid, "helper");
  much(fd);
}

static void spawn_output(int fd) {
  posix_spawn_file_actions_t actions;

  set_cloexec(fd);
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, fd, 1);
  reap(spawn(&actions, "echo", "hello"), "helper");
  posix_spawn_file_actions_destroy(&actions);
  expect(fd, "hello\n");
  pingpong(fd, 2000, 1000, 3);
}

static void spawn_missing(int fd) {
  for (int i = 0; i < 5; i++)
    spawn(NULL, "nonexistent-program", NULL);
  much(fd);
}

static void system_idle(int fd) {
  for (int i = 0; i < 5; i++)
    say("system: %x\n", system("exit 3"));
  much(fd);
}

static void system_output(int fd) {
  char command[64];

  snprintf(command, sizeof command, "echo hello >&%d", fd);
  for (int i = 0; i < 3; i++) {
    say("system: %x\n", system(command));
    expect(fd, "hello\n");
    pingpong(fd, 700, 1000, (uint64_t)i);
  }
}

static pthread_barrier_t begun;

static void *waiting(void *arg) {
  pthread_barrier_wait(&begun);
  say("system: %x\n", system(arg));
  return NULL;
}

static void system_thread(int fd) {
  struct far far;
  pthread_t thread;
  int closing = echo_connection(&far, "echo"), hold[2];
  char command[64];

  if (pipe(hold)) /* the command lives until we end its input */
    die("pipe");
  set_cloexec(hold[1]);
  snprintf(command, sizeof command, "cat <&%d", hold[0]);
  pthread_barrier_init(&begun, NULL, 2);
  pthread_create(&thread, NULL, waiting, command);
  pthread_barrier_wait(&begun);
  pingpong(fd, 500, 1000, 4);
  pingpong(closing, 500, 1000, 4);
  shutdown(closing, SHUT_WR); /* the command may have a copy: a close alone need not end the connection */
  close(closing);
  far_finish(&far);
  close(hold[1]);
  pthread_join(thread, NULL);
  much(fd);
}

static void popen_idle(int fd) {
  char line[64];
  FILE *f = popen("cat", "w"), *g;

  pingpong(fd, 500, 1000, 4);
  fprintf(f, "to cat\n");
  say("pclose: %x\n", pclose(f));
  g = popen("echo from echo; exit 4", "r");
  if (!fgets(line, sizeof line, g))
    die("popen");
  say("%s", line);
  say("pclose: %x\n", pclose(g));
  much(fd);
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    void (*run)(int fd);
  } tests[] = {
      {"spawn-idle", spawn_idle},       {"spawn-live", spawn_live},   {"spawn-output", spawn_output},
      {"spawn-missing", spawn_missing}, {"system-idle", system_idle}, {"system-output", system_output},
      {"system-thread", system_thread}, {"popen-idle", popen_idle},
  };
  struct far far;

  for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
    if (argc != 2 || strcmp(argv[1], tests[i].name))
      continue;
    int fd = echo_connection(&far, "echo");
    tests[i].run(fd);
    close(fd);
    far_finish(&far);
    return 0;
  }
  return 2;
}
