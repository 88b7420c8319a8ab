/* SPDX-License-Identifier: MIT */
/*
 * tests/faults/points.c - what once went wrong because two things happened in a certain order: a fault point makes that
 * order certain. Both ends are in this process, so that what the other end does can be done at the point.
 */
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef const char *const point_t; /* fl_fault_point of shmring/fault.h */

void fl_fault_hit(point_t *at);

static int a, b; /* the two ends */
static int paired;
static const char *armed; /* the point at which `action` happens once */
static void (*action)(void);
static int failures;

void fl_fault_hit(point_t *at) {
  paired += strcmp(*at, "pair_paired") == 0;
  if (!armed || strcmp(*at, armed) != 0)
    return;
  armed = NULL;
  action();
}

static void at_point(const char *name, void (*what)(void)) {
  armed = name;
  action = what;
}

static void expect(bool ok, const char *what) {
  if (!ok)
    printf("not so: %s\n", what);
  failures += !ok;
}
#define EXPECT(condition) expect((condition), #condition)

static void one_message(int from, int to) {
  char c = 'm';

  if (write(from, &c, 1) != 1 || read(to, &c, 1) != 1)
    perror("message");
}

/* Two ends that use their rings. */
static bool begin(void) {
  struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof addr;
  int listener = socket(AF_INET, SOCK_STREAM, 0);

  paired = 0;
  a = socket(AF_INET, SOCK_STREAM, 0);
  if (bind(listener, (struct sockaddr *)&addr, len) < 0 || listen(listener, 1) < 0 ||
      getsockname(listener, (struct sockaddr *)&addr, &len) < 0 || connect(a, (struct sockaddr *)&addr, len) < 0)
    return false;
  b = accept(listener, NULL, NULL);
  close(listener);
  for (int i = 0; i < 200 && paired < 2; i++) {
    one_message(a, b);
    one_message(b, a);
  }
  for (int i = 0; i < 4; i++) {
    one_message(a, b);
    one_message(b, a);
  }
  EXPECT(paired == 2);
  return paired == 2;
}

static void end(void) {
  close(a);
  close(b);
}

/* ---- bytes that come while a receive with MSG_PEEK looks at the ring are not taken by it ---- */

static void send_three(void) { EXPECT(write(b, "abc", 3) == 3); }

static void peek_takes_nothing(void) {
  char got[8] = "";

  at_point("recv_look", send_three);
  ssize_t seen = recv(a, got, sizeof got, MSG_PEEK | MSG_DONTWAIT);
  EXPECT(armed == NULL);
  EXPECT((seen == 3 && memcmp(got, "abc", 3) == 0) || (seen == -1 && errno == EAGAIN));
  memset(got, 0, sizeof got);
  EXPECT(recv(a, got, sizeof got, MSG_DONTWAIT) == 3 && memcmp(got, "abc", 3) == 0);
}

/* ---- the receiver takes its request for unread bytes back, reads on, and asks again, while the sender answers ---- */

static int channel[2];

static void pass_b(void) {
  char room[CMSG_SPACE(sizeof(int))] = "", c = 0;
  struct iovec iov = {&c, 1};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};

  *CMSG_FIRSTHDR(&msg) = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
  memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), &b, sizeof b);
  EXPECT(sendmsg(channel[0], &msg, 0) == 1);
}

static void read_on_and_pass(void) {
  char got[3];

  EXPECT(recv(b, got, 3, 0) == 3 && memcmp(got, "abc", 3) == 0);
  pass_b();
}

static void asked_back_twice(void) {
  char got[16] = "";

  if (socketpair(AF_UNIX, SOCK_STREAM, 0, channel))
    perror("socketpair");
  EXPECT(write(a, "abcdef", 6) == 6);
  pass_b();
  at_point("tx_recall_seen", read_on_and_pass);
  EXPECT(write(a, "g", 1) == 1);
  EXPECT(armed == NULL);
  size_t n = 0;
  for (ssize_t k; n < sizeof got && (k = recv(b, got + n, sizeof got - n, MSG_DONTWAIT)) > 0;)
    n += (size_t)k;
  EXPECT(n == 4 && memcmp(got, "defg", 4) == 0);
  close(channel[0]);
  close(channel[1]);
}

/* ---- the process is stopped while one thread holds a lock and another waits for it ---- */

static pthread_t other;

static void *receive_one(void *c) { return (void *)(intptr_t)recv(a, c, 1, MSG_DONTWAIT); }

static void stopped_for_long(void) {
  static char c;
  pid_t me = getpid(), waker = fork();

  if (waker == 0) {
    struct timespec ts = {1, 300000000};
    nanosleep(&ts, NULL);
    kill(me, SIGCONT);
    _exit(0);
  }
  pthread_create(&other, NULL, receive_one, &c);
  struct timespec ts = {0, 20000000};
  nanosleep(&ts, NULL); /* it waits by now, or does not: then nothing is shown */
  raise(SIGSTOP);
}

static void lock_outlasts_a_stop(void) {
  char got[1];
  void *n;

  EXPECT(write(b, "abc", 3) == 3);
  at_point("recv_copied", stopped_for_long);
  EXPECT(recv(a, got, 1, 0) == 1 && got[0] == 'a');
  pthread_join(other, &n);
  EXPECT((intptr_t)n == 1);
  wait(NULL);
}

int main(void) {
  static const struct {
    const char *name;
    void (*run)(void);
  } tests[] = {
      {"peek takes nothing", peek_takes_nothing},
      {"asked back twice", asked_back_twice},
      {"a lock outlasts a stop", lock_outlasts_a_stop},
  };

  for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
    int before = failures;
    if (begin())
      tests[i].run();
    end();
    armed = NULL;
    printf("%s: %s\n", failures == before ? "ok" : "not ok", tests[i].name);
  }
  return failures != 0;
}
