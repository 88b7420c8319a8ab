/* SPDX-License-Identifier: MIT */
/*
 * tests/process/rearm.c - a registration that is taken out of an epoll set and put back between two waits, as programs
 * do that give a connection to a worker (ZooKeeper): the bytes that come then wake the next wait.
 */
#include <sys/epoll.h>

#include "common.h"

int main(void) {
  struct far f;
  int fd = echo_connection(&f, "sleeper"), set = epoll_create1(EPOLL_CLOEXEC), lost = 0;
  struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
  unsigned char out[64], in[64];

  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  epoll_ctl(set, EPOLL_CTL_ADD, fd, &e);
  for (unsigned i = 0; i < 300 && !lost; i++) {
    epoll_wait(set, &e, 1, 1); /* a sleep that nothing ends */
    epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL);
    epoll_wait(set, &e, 1, 1);
    e = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(set, EPOLL_CTL_ADD, fd, &e);
    fill(out, sizeof out, i);
    send_all(fd, out, sizeof out);
    lost += epoll_wait(set, &e, 1, 10000) != 1;
    if (!lost && (recv(fd, in, sizeof in, 0) != sizeof in || memcmp(in, out, sizeof in) != 0))
      die("message %u differs", i);
  }
  say("lost: %d\n", lost);
  close(fd);
  far_finish(&f);
  return 0;
}
