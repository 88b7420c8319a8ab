/* SPDX-License-Identifier: MIT */
/*
 * tools/probe.c - `fastlocal probe`: the two ends of a conversation on 127.0.0.1 that `fastlocal doctor` starts with
 * the library, to see whether they pair.
 *
 *     probe serve        says its port, serves one connection
 *     probe talk PORT    talks long enough for the ends to find each other, says "done", and holds on until its
 *                        standard input ends
 */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "commands.h"

#define TURNS 300
#define QUICK_TURNS 50 /* without a pause */
#define PAUSE_NS 1000000

static struct sockaddr_in loopback(in_port_t port) {
  return (struct sockaddr_in){
      .sin_family = AF_INET, .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}, .sin_port = htons(port)};
}

static int serve(void) {
  struct sockaddr_in at = loopback(0);
  socklen_t len = sizeof(at);
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fd;
  char bytes[64];
  ssize_t n;

  if (listener < 0 || bind(listener, (struct sockaddr *)&at, len) < 0 || listen(listener, 1) < 0 ||
      getsockname(listener, (struct sockaddr *)&at, &len) < 0)
    return EXIT_FAILURE;
  printf("%u\n", ntohs(at.sin_port));
  fflush(stdout);
  fd = accept(listener, NULL, NULL);
  while (fd >= 0 && (n = recv(fd, bytes, sizeof(bytes), 0)) > 0)
    if (send(fd, bytes, (size_t)n, MSG_NOSIGNAL) != n)
      break;
  return EXIT_SUCCESS;
}

static int talk(in_port_t port) {
  struct sockaddr_in to = loopback(port);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  char byte = 'x';

  if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
    return EXIT_FAILURE;
  for (int i = 0; i < TURNS; i++) {
    struct timespec pause = {.tv_nsec = i < QUICK_TURNS ? 0 : PAUSE_NS};
    if (send(fd, &byte, 1, MSG_NOSIGNAL) != 1 || recv(fd, &byte, 1, 0) != 1)
      return EXIT_FAILURE;
    if (pause.tv_nsec)
      nanosleep(&pause, NULL);
  }
  puts("done");
  fflush(stdout);
  while (read(STDIN_FILENO, &byte, 1) > 0)
    ;
  return EXIT_SUCCESS;
}

int cmd_probe(int argc, char **argv) {
  alarm(60); /* whatever happens, nothing stays behind */
  if (argc == 2 && strcmp(argv[1], "serve") == 0)
    return serve();
  if (argc == 3 && strcmp(argv[1], "talk") == 0)
    return talk((in_port_t)strtoul(argv[2], NULL, 10));
  return EXIT_USAGE;
}
