/* SPDX-License-Identifier: MIT */
/*
 * tests/process/far.c - the other end of the tests' connections.
 *
 *   far echo PORT               sends back what comes, until the end; tells how much it was and which end; reads
 * without sleeping once a large message (much) has come far sleeper PORT            the same, but always sleeps far
 * ping PORT CONNECTIONS   makes so many connections, one after the other, and wants its messages back
 */
#include "common.h"

static int connect_to(int port) {
  struct sockaddr_in a = {
      .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

  if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a))
    die("connect");
  return fd;
}

static void echo(int fd, bool sleeper) {
  static unsigned char buf[65536];
  uint64_t total = 0, h = 0xcbf29ce484222325u;
  ssize_t n;

  while ((n = recv_some(fd, buf, sizeof buf)) > 0) {
    awake = awake || (!sleeper && n >= MUCH / 2);
    total += (uint64_t)n;
    h = hash(h, buf, (size_t)n);
    for (ssize_t done = 0, k; done < n; done += k)
      if ((k = send(fd, buf + done, (size_t)(n - done), MSG_NOSIGNAL)) <= 0) {
        n = -1;
        break;
      }
    if (n < 0)
      break;
  }
  say("far: %llu bytes, hash %016llx, then %s\n", (unsigned long long)total, (unsigned long long)h,
      n == 0                                  ? "end of file"
      : errno == ECONNRESET || errno == EPIPE ? "reset"
                                              : strerror(errno));
  close(fd);
}

int main(int argc, char **argv) {
  if (argc == 3 && (!strcmp(argv[1], "echo") || !strcmp(argv[1], "sleeper"))) {
    echo(connect_to(atoi(argv[2])), !strcmp(argv[1], "sleeper"));
  } else if (argc == 4 && !strcmp(argv[1], "ping")) {
    for (int i = 0; i < atoi(argv[3]); i++) {
      int fd = connect_to(atoi(argv[2]));
      pingpong(fd, 200, 1000, (uint64_t)i);
      awake = true;
      pingpong(fd, 200, MUCH, (uint64_t)i);
      awake = false;
      close(fd);
    }
    say("far: done\n");
  } else {
    return 2;
  }
  return 0;
}
