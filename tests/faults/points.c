/* SPDX-License-Identifier: MIT */
/*
 * tests/faults/points.c - what once went wrong because two things happened in a certain order: a fault point makes that
 * order certain. Both ends are in this process, so that what the other end does can be done at the point.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
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

int main(void) {
  static const struct {
    const char *name;
    void (*run)(void);
  } tests[] = {{"peek takes nothing", peek_takes_nothing}};

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
