/* SPDX-License-Identifier: MIT */
/*
 * tests/process/hammer.c - children come and go while threads send and receive.
 *
 *   hammer SECONDS   in tenths
 *
 * Each of CONNECTIONS connections has a thread that sends and one that receives the echo; the streams are generated
 * from a counter, so that the receiver knows every byte. Meanwhile another thread forks, spawns, and runs commands.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "common.h"

#define CONNECTIONS 3

static _Atomic bool stop;

struct stream {
  int fd;
  pthread_t sender, receiver;
  _Atomic uint64_t sent;
  _Atomic bool closed;
};

static unsigned char byte_at(uint64_t i) { return (unsigned char)(i * 7 + (i >> 8) * 13 + (i >> 16)); }

static void *sender(void *arg) {
  struct stream *s = arg;
  static __thread unsigned char buf[20000];
  uint64_t pos = 0, x = (uint64_t)s->fd;

  while (!atomic_load(&stop)) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    size_t n = (x >> 40) % 8 ? 1 + (x >> 33) % 300 : 1 + (x >> 33) % sizeof buf;
    for (size_t i = 0; i < n; i++)
      buf[i] = byte_at(pos + i);
    send_all(s->fd, buf, n);
    pos += n;
  }
  atomic_store(&s->sent, pos);
  shutdown(s->fd, SHUT_WR);
  return NULL;
}

static void *receiver(void *arg) {
  struct stream *s = arg;
  static __thread unsigned char buf[30000];
  uint64_t pos = 0;

  for (;;) {
    ssize_t n = recv(s->fd, buf, sizeof buf, 0);
    if (n < 0)
      die("recv after %llu bytes", (unsigned long long)pos);
    if (n == 0)
      break;
    for (ssize_t i = 0; i < n; i++)
      if (buf[i] != byte_at(pos + (uint64_t)i))
        die("byte %llu is wrong", (unsigned long long)pos + (unsigned long long)i);
    pos += (uint64_t)n;
  }
  if (pos != atomic_load(&s->sent))
    die("%llu bytes came back of %llu", (unsigned long long)pos, (unsigned long long)atomic_load(&s->sent));
  return NULL;
}

static void trouble(struct stream *s, unsigned i) {
  char *argv[] = {(char *)"true", NULL};
  int status;
  pid_t pid;

  switch (i % 8) {
  case 0:
  case 1:
    if ((pid = fork()) == 0)
      _exit(0);
    break;
  case 2:
    if ((pid = fork()) == 0) {
      for (int k = 0; k < CONNECTIONS; k++)
        close(s[k].fd);
      exit(0);
    }
    break;
  case 3:
    if ((pid = fork()) == 0) {
      execlp("true", "true", NULL);
      _exit(1);
    }
    break;
  case 4:
    if ((pid = vfork()) == 0) {
      execlp("true", "true", NULL);
      _exit(1);
    }
    break;
  case 5:
    if (posix_spawnp(&pid, "true", NULL, NULL, argv, environ))
      die("spawn");
    break;
  case 6:
    if (system("true"))
      die("system");
    return;
  default:
    if ((pid = _Fork()) == 0)
      _exit(0);
    break;
  }
  if (pid < 0 || waitpid(pid, &status, 0) != pid)
    die("child %u", i);
  if (status)
    die("child %u: %x", i, (unsigned)status);
}

int main(int argc, char **argv) {
  static struct stream streams[CONNECTIONS];
  struct far far[CONNECTIONS];
  struct timespec pause = {0, 1000000};
  unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 100;

  for (int i = 0; i < CONNECTIONS; i++)
    streams[i].fd = echo_connection(&far[i], "sleeper");
  for (int i = 0; i < CONNECTIONS; i++) {
    pthread_create(&streams[i].receiver, NULL, receiver, &streams[i]);
    pthread_create(&streams[i].sender, NULL, sender, &streams[i]);
  }
  for (unsigned i = 0; i < rounds; i++) {
    trouble(streams, i);
    nanosleep(&pause, NULL);
  }
  atomic_store(&stop, true);
  for (int i = 0; i < CONNECTIONS; i++) {
    pthread_join(streams[i].sender, NULL);
    pthread_join(streams[i].receiver, NULL);
    close(streams[i].fd);
  }
  char buf[256];
  for (int i = 0; i < CONNECTIONS; i++) { /* how much it was depends on the time */
    ssize_t n = read(far[i].out, buf, sizeof buf - 1);
    buf[n > 0 ? n : 0] = 0;
    say("%s", strstr(buf, "then") ? strstr(buf, "then") : "?\n");
    waitpid(far[i].pid, NULL, 0);
  }
  return 0;
}
