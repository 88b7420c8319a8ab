/* SPDX-License-Identifier: MIT */
/* tests/conform/stream.c - connections between the ends, and bytes of a pattern in which each one knows its place. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "conform.h"

#define ROUNDS 12      /* messages each way; enough for the ends to find each other */
#define ROUNDS_MAX 400 /* it takes a rendezvous that was missed a tenth of a second to be tried again */

static void die(const char *what) {
  note("%s failed: %s", what, error_name(errno));
  _exit(97);
}

int set_int(int fd, int level, int name, int value) { return setsockopt(fd, level, name, &value, sizeof value); }

void no_blocking(int fd, bool on) {
  int flags = fcntl(fd, F_GETFL);

  if (fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK))
    die("F_SETFL");
}

static socklen_t server_address(struct sockaddr_storage *a, int family) {
  *a = (struct sockaddr_storage){0};
  if (family == AF_INET6) {
    *(struct sockaddr_in6 *)a = (struct sockaddr_in6){
        .sin6_family = AF_INET6, .sin6_addr = in6addr_loopback, .sin6_port = htons((uint16_t)run.shared->port[1])};
    return sizeof(struct sockaddr_in6);
  }
  *(struct sockaddr_in *)a = (struct sockaddr_in){.sin_family = AF_INET,
                                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                                  .sin_port = htons((uint16_t)run.shared->port[0])};
  return sizeof(struct sockaddr_in);
}

void connect_ends_plainly(int family) {
  struct sockaddr_storage a;

  run.family = family;
  ON(CLIENT) {
    socklen_t len = server_address(&a, family);
    run.fd = socket(family, SOCK_STREAM, 0);
    if (run.fd < 0 || connect(run.fd, (struct sockaddr *)&a, len))
      die("connect");
  }
  ON(SERVER) {
    run.fd = accept(run.listener[family == AF_INET6], NULL, NULL);
    if (run.fd < 0)
      die("accept");
  }
}

void connect_ends(int family) {
  connect_ends_plainly(family);
  set_int(run.fd, IPPROTO_TCP, TCP_NODELAY, 1);
}

void close_fd(void) {
  if (run.fd >= 0)
    close(run.fd);
  run.fd = -1;
}

/* ---- onto the ring ---- */

static void send_one(void) {
  if (send(run.fd, "w", 1, MSG_NOSIGNAL) != 1)
    die("warming send");
}

/* Never asleep: the direction stays watched. */
static void recv_one(void) {
  char c;
  ssize_t n;

  for (int i = 0; (n = recv(run.fd, &c, 1, MSG_DONTWAIT)) < 0 && errno == EAGAIN && i < 1000000; i++)
    sched_yield();
  if (n != 1)
    die("warming recv");
}

/* A message each way; says in shared memory whether both went through rings. */
static void round_trip(void) {
  uint64_t sent = 0, received = 0;

  ON(CLIENT) {
    sent = ring_bytes(run.fd, true);
    received = ring_bytes(run.fd, false);
    send_one();
  }
  ON(SERVER) {
    sent = ring_bytes(run.fd, true);
    received = ring_bytes(run.fd, false);
    recv_one();
    send_one();
    run.shared->ringed[SERVER] = ring_bytes(run.fd, true) > sent && ring_bytes(run.fd, false) > received;
  }
  ON(CLIENT) {
    recv_one();
    run.shared->ringed[CLIENT] = ring_bytes(run.fd, true) > sent && ring_bytes(run.fd, false) > received;
  }
}

static bool ringed(void) { return run.shared->ringed[CLIENT] && run.shared->ringed[SERVER]; }

void warm(void) {
  for (int i = 0; i < ROUNDS; i++)
    round_trip();
}

void onto_ring(void) {
  warm();
  if (run.shared->way != ON_BOTH)
    return;
  for (int i = 0; i < ROUNDS_MAX && !ringed(); i++) {
    if (i > 20)
      pause_us(1000);
    round_trip();
  }
  if (!ringed())
    run.shared->missed = 1;
}

/* ---- bytes ---- */

void fill(void *to, uint64_t position, size_t n) {
  for (size_t i = 0; i < n; i++)
    ((char *)to)[i] = (char)('a' + (position + i) % 26);
}

static void put_by(size_t n, const struct sockaddr *to, socklen_t len) {
  fill(run.buf, run.put, n);
  for (size_t done = 0; done < n;) {
    ssize_t k = to ? sendto(run.fd, run.buf + done, n - done, MSG_NOSIGNAL, to, len)
                   : send(run.fd, run.buf + done, n - done, MSG_NOSIGNAL);
    if (k <= 0)
      die("put");
    done += (size_t)k;
  }
  run.put += n;
}

void put(size_t n) { put_by(n, NULL, 0); }

void put_kernel(size_t n) {
  struct sockaddr_storage a;
  socklen_t len = sizeof a;

  if (getpeername(run.fd, (struct sockaddr *)&a, &len))
    die("getpeername");
  put_by(n, (struct sockaddr *)&a, len);
}

void await_bytes(size_t n) {
  uint64_t begin = clock_ms();
  int there;

  while (ioctl(run.fd, FIONREAD, &there) == 0 && (size_t)there < n && clock_ms() - begin < 1000)
    pause_us(20);
}

void await_end(void) {
  struct pollfd p = {.fd = run.fd, .events = POLLRDHUP};
  struct timespec second = {1, 0};

  syscall(SYS_ppoll, &p, 1, &second, NULL, 0); /* the kernel's own answer in every way */
}

void drain(const char *what) {
  uint64_t total = 0, hash = 0;
  ssize_t n;

  if (run.fd < 0)
    return;
  for (;;) {
    n = recv(run.fd, run.buf, BUF_BYTES, MSG_DONTWAIT);
    if (n <= 0)
      break;
    for (ssize_t i = 0; i < n; i++)
      hash = (hash ^ (unsigned char)run.buf[i]) * 0x100000001b3u;
    total += (uint64_t)n;
  }
  int error = errno;
  note("%s: %llu bytes #%llx, then %s", what, (unsigned long long)total, (unsigned long long)hash,
       n == 0 ? "the end" : error_name(error));
}

static void exchange(enum end from) {
  char text[10];
  int sent = 0;

  ON(from) {
    fill(text, 0, sizeof text);
    sent = (int)note_ret("talk: send", send(run.fd, text, sizeof text, MSG_NOSIGNAL));
    run.shared->value[VALUES - 1] = sent;
  }
  ON(OTHER(from)) {
    if (run.shared->value[VALUES - 1] > 0)
      await_bytes(1);
    drain("talk");
  }
}

void talk(void) {
  exchange(CLIENT);
  exchange(SERVER);
}

void part(void) {
  ON(CLIENT) note_ret("part: shutdown", shutdown(run.fd, SHUT_WR));
  ON(SERVER) {
    await_end();
    drain("part");
    note_ret("part: close", close(run.fd));
    run.fd = -1;
  }
  ON(CLIENT) {
    await_end();
    drain("part");
    note_ret("part: close", close(run.fd));
    run.fd = -1;
  }
}
