/* SPDX-License-Identifier: MIT */
/*
 * tests/process/stdio.c - stdio streams on a connection.
 *
 *   stdio read      lines that lie unread before fdopen, and more; poll between them; end of file
 *   stdio write     fprintf, fwrite, putc, with each kind of buffer; dprintf, short and long; fclose
 *   stdio both      a stream for each direction, a conversation; then the bare descriptor again
 *   stdio update    one stream "r+", as far as sockets allow
 *   stdio modes     what fdopen refuses, fileno, fseek, ftell, setvbuf
 *   stdio nonblock  nothing there: an error, and then the rest of the line
 *   stdio exit      buffered output, and exit
 *   stdio inout     the connection becomes standard input and output of this process
 */
#include <sys/ioctl.h>

#include "common.h"

static void unread(int fd, const char *text) {
  int n = 0, want = (int)strlen(text);
  char c;

  if (recv(fd, &c, 1, MSG_DONTWAIT) != -1) /* looks, and so watches */
    die("recv");
  send_all(fd, text, strlen(text));
  while (ioctl(fd, FIONREAD, &n) == 0 && n < want)
    sched_yield();
}

static void expect(int fd, const char *text) {
  char buf[100000];

  recv_all(fd, buf, strlen(text));
  say("came back: %s\n", memcmp(buf, text, strlen(text)) ? "something else" : "the same");
}

static void line(FILE *f) {
  char buf[64] = "";
  char *r = fgets(buf, sizeof buf, f);

  say("%s '%s' eof %d error %d\n", r ? "line" : "none", r ? buf : "", feof(f), ferror(f));
}

static void run_read(int fd) {
  struct pollfd p = {.fd = fd, .events = POLLIN};
  char many[5000];

  unread(fd, "one\ntwo\nthree\nfour");
  FILE *f = fdopen(fd, "r");
  say("poll %d\n", poll(&p, 1, 0));
  line(f);
  line(f);
  say("char %d %d\n", getc(f), ungetc('T', f));
  line(f);
  send_all(fd, "th\nfifth\n", 9);
  line(f);
  line(f);
  memset(many, 'm', sizeof many);
  send_all(fd, many, sizeof many);
  say("fread %zu\n", fread(many, 1, sizeof many, f));
  shutdown(fd, SHUT_WR);
  line(f);
  say("fclose %d\n", fclose(f));
}

static void run_write(int fd) {
  static char big[20001];
  FILE *f = fdopen(dup(fd), "w");

  memset(big, 'b', sizeof big - 1);
  say("%d\n", fprintf(f, "hello %d\n", 42));
  say("fflush %d\n", fflush(f));
  expect(fd, "hello 42\n");
  setvbuf(f, NULL, _IONBF, 0);
  fputs("unbuffered", f);
  expect(fd, "unbuffered");
  setvbuf(f, NULL, _IOLBF, 0);
  fputs("a line\nand", f);
  expect(fd, "a line\n");
  say("fclose %d\n", fclose(f));
  expect(fd, "and");
  say("dprintf %d\n", dprintf(fd, "%s-%d", "short", 7));
  expect(fd, "short-7");
  say("dprintf %d\n", dprintf(fd, "%s", big));
  expect(fd, big);
  say("dprintf %d\n", dprintf(fd, "%s", ""));
  f = fdopen(dup(fd), "a");
  say("fwrite %zu\n", fwrite(big, 1, 20000, f));
  fclose(f);
  expect(fd, big);
  pingpong(fd, 500, 1000, 3);
}

static void run_both(int fd) {
  FILE *in = fdopen(fd, "r"), *out = fdopen(dup(fd), "w");
  char buf[64];

  for (int i = 0; i < 3000; i++) {
    fprintf(out, "message %d\n", i);
    fflush(out);
    if (!fgets(buf, sizeof buf, in) || atoi(buf + 8) != i)
      die("message %d", i);
  }
  fclose(out);
  pingpong(fd, 500, 1000, 3);
  much(fd);
  say("fclose %d\n", fclose(in));
  say("close %d %s\n", close(fd), strerror(errno));
}

static void run_update(int fd) {
  FILE *f = fdopen(fd, "r+");

  fputs("first\n", f);
  fflush(f);
  line(f);
  fputs("second\n", f);
  say("fflush %d\n", fflush(f) == 0);
  line(f);
  fclose(f);
}

static void run_modes(int fd) {
  FILE *f = fdopen(fd, "x");
  say("%d %s\n", f == NULL, strerror(errno));
  f = fdopen(-1, "r");
  say("%d %s\n", f == NULL, strerror(errno));
  f = fdopen(fd, "re");
  say("fileno %d flags %x\n", fileno(f) == fd, fcntl(fd, F_GETFD));
  int r = fseek(f, 0, SEEK_SET);
  say("fseek %d %s\n", r, strerror(errno));
  errno = 0;
  r = (int)ftell(f);
  say("ftell %d %s\n", r, strerror(errno));
  r = fputs("x", f);
  say("fputs %d %s\n", r, strerror(errno));
  clearerr(f);
  unread(fd, "a\nb\n");
  say("setvbuf %d\n", setvbuf(f, NULL, _IONBF, 0));
  line(f);
  line(f);
  fclose(f);
}

static void run_nonblock(int fd) {
  FILE *f;

  unread(fd, "part");
  fcntl(fd, F_SETFL, O_NONBLOCK);
  f = fdopen(fd, "r");
  errno = 0;
  line(f);
  say("%s\n", strerror(errno));
  errno = 0;
  line(f);
  say("%s\n", strerror(errno));
  clearerr(f);
  send_all(fd, "whole\n", 6);
  wait_readable(fd);
  line(f);
  fclose(f);
}

static void run_inout(int fd) {
  int out = dup(1);
  char buf[64];

  unread(fd, "for stdin\nand more\n");
  dup2(fd, 0);
  dup2(fd, 1);
  bool ok = fgets(buf, sizeof buf, stdin) && !strcmp(buf, "for stdin\n") && fgets(buf, sizeof buf, stdin) &&
            !strcmp(buf, "and more\n");
  for (int i = 0; ok && i < 100; i++) {
    printf("message %d\n", i);
    fflush(stdout);
    ok = fgets(buf, sizeof buf, stdin) && atoi(buf + 8) == i;
  }
  dup2(out, 1);
  close(0);
  say("%s\n", ok ? "right" : "wrong");
  pingpong(fd, 500, 1000, 3);
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    void (*run)(int fd);
  } tests[] = {{"read", run_read},   {"write", run_write},       {"both", run_both},  {"update", run_update},
               {"modes", run_modes}, {"nonblock", run_nonblock}, {"inout", run_inout}};
  struct far far;

  alarm(10);
  if (argc == 2 && !strcmp(argv[1], "exit")) {
    int fd = echo_connection(&far, "echo");
    pid_t pid = fork();
    if (pid == 0) {
      fprintf(fdopen(fd, "w"), "buffered until the end");
      exit(3);
    }
    reap(pid, "process");
    expect(fd, "buffered until the end");
    close(fd);
    far_finish(&far);
    return 0;
  }
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
