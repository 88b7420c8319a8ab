/* SPDX-License-Identifier: MIT */
/*
 * tests/process/senders.c - two threads send on one connection, with no order between them, and a third receives what
 * comes back. There is nothing wrong with that, and a tool that looks for races has nothing to say about it.
 */
#include <pthread.h>

#include "common.h"

#define MESSAGES 300

static int fd;

static void *sender(void *arg) {
  static const unsigned char zeros[MUCH];

  for (int i = 0; i < MESSAGES; i++)
    send_all(fd, zeros, sizeof zeros);
  return arg;
}

int main(void) {
  struct far f;
  pthread_t thread[2];
  unsigned char buf[MUCH];

  fd = echo_connection(&f, "echo");
  for (int i = 0; i < 2; i++)
    pthread_create(&thread[i], NULL, sender, NULL);
  awake = true;
  for (int i = 0; i < 2 * MESSAGES; i++)
    recv_all(fd, buf, sizeof buf);
  for (int i = 0; i < 2; i++)
    pthread_join(thread[i], NULL);
  close(fd);
  far_finish(&f);
  return 0;
}
