/* SPDX-License-Identifier: MIT */
/*
 * tests/process/alone.c - both ends of a connection are in this process, which does what libraries are not asked about:
 *
 *   alone lanes    sends by turns in ways that take the one lane and the other, and nothing is read meanwhile
 *   alone fsize    may write no files (RLIMIT_FSIZE)
 *   alone nofile   may open nothing more (RLIMIT_NOFILE), and waits
 *   alone memory   has little room for addresses (RLIMIT_AS), and uses most of it
 *   alone pieces   receives into more iovecs than go into one call of ours
 *   alone stdin    accepts a connection as descriptor 0, and reads it with stdio
 *   alone again    disconnects a socket that has two descriptors, and connects it again
 *   alone early    registers in an epoll set before it connects
 *   alone range    closes with close_range(CLOSE_RANGE_UNSHARE), and the number comes back as that of a file
 *   alone flags    a helper that is not followed sets O_NONBLOCK
 *   alone passed   passes a descriptor on with bytes unread, and goes on reading, with MSG_PEEK at first
 *   alone mail     gets descriptors that it did not ask for, from anybody
 */
#include <linux/close_range.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "common.h"

static int a, b; /* the two ends */

static void message(int from, int to, size_t n) {
  unsigned char out[64], in[64];

  fill(out, n, n);
  send_all(from, out, n);
  recv_all(to, in, n);
  if (memcmp(in, out, n) != 0)
    die("a message differs");
}

static void talk(int turns) {
  for (int i = 0; i < turns; i++) {
    message(a, b, 64);
    message(b, a, 64);
  }
}

static void begin(bool as_stdin) {
  struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof addr;
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

  a = socket(AF_INET, SOCK_STREAM, 0);
  if (bind(listener, (struct sockaddr *)&addr, len) < 0 || listen(listener, 1) < 0 ||
      getsockname(listener, (struct sockaddr *)&addr, &len) < 0 || connect(a, (struct sockaddr *)&addr, len) < 0)
    die("connection");
  if (as_stdin)
    close(0);
  b = accept(listener, NULL, NULL);
  close(listener);
}

static void set_nonblock(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

/* ---- lanes ---- */

static void lanes(void) {
  enum { TURNS = 200 };
  char out[2 * TURNS], in[2 * TURNS];

  talk(400);
  fill((unsigned char *)out, sizeof out, 1);
  for (int i = 0; i < TURNS; i++) /* a flag that the ring cannot honour, and that does nothing */
    if (send(a, out + 2 * i, 1, 0) != 1 || send(a, out + 2 * i + 1, 1, MSG_DONTROUTE) != 1)
      die("send");
  recv_all(b, in, sizeof in);
  say("all came, %s\n", memcmp(in, out, sizeof in) ? "in another order" : "in order");
}

/* ---- limits ---- */

static void fsize(void) {
  struct rlimit limit, none = {0, 0};

  getrlimit(RLIMIT_FSIZE, &limit);
  none.rlim_max = limit.rlim_max;
  if (setrlimit(RLIMIT_FSIZE, &none))
    die("setrlimit");
  talk(400);
  setrlimit(RLIMIT_FSIZE, &limit);
  say("went on\n");
}

static void *send_later(void *what) {
  struct timespec ts = {0, 20000000};

  for (int i = 0; i < 4; i++) {
    nanosleep(&ts, NULL);
    send_all(a, what, 64);
  }
  return NULL;
}

/* Waits that may sleep with more than the one descriptor, which is all that is allowed. */
static void nofile(void) {
  struct rlimit limit;
  unsigned char buf[64] = "";
  pthread_t thread;

  getrlimit(RLIMIT_NOFILE, &limit);
  for (int round = 0; round < 2; round++) {
    struct pollfd p = {.fd = b, .events = POLLIN};
    talk(400);
    if (pthread_create(&thread, NULL, send_later, buf))
      die("thread");
    for (int i = 0; i < 4; i++) {
      if (i % 2 == 0 && poll(&p, 1, -1) != 1)
        die("poll");
      recv_all(b, buf, sizeof buf);
    }
    pthread_join(thread, NULL);
    limit.rlim_cur = 1;
    if (setrlimit(RLIMIT_NOFILE, &limit))
      die("setrlimit");
  }
  say("went on\n");
}

static void memory(void) {
  char *p = malloc(100 << 20);

  talk(400);
  say("%s\n", p ? "there is memory" : "no memory");
}

/* ---- pieces ---- */

static void pieces(void) {
  enum { N = 200 };
  char out[N], in[N];
  struct iovec iov[N];

  for (int i = 0; i < N; i++)
    iov[i] = (struct iovec){in + i, 1};
  set_nonblock(b);
  awake = true;
  talk(400);
  for (int round = 0; round < 3; round++) { /* nobody waits for b in a way that is known: they come over TCP */
    fill((unsigned char *)out, N, (unsigned)round);
    send_all(a, out, N);
    for (int n = 0; ioctl(b, FIONREAD, &n) == 0 && n < N;)
      sched_yield();
    say("%zd bytes in pieces, ", readv(b, iov, N));
    say("%s\n", memcmp(in, out, N) ? "wrong" : "right");
  }
}

/* ---- stdin ---- */

static void with_stdio(void) {
  talk(400);
  send_all(a, "x", 1);
  alarm(10);
  say("stdin has %c\n", getchar());
}

/* ---- again ---- */

static void again(void) {
  struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct sockaddr none = {.sa_family = AF_UNSPEC};
  socklen_t len = sizeof addr;
  int listener = socket(AF_INET, SOCK_STREAM, 0), copy, old = b;
  char buf[64];

  talk(400);
  copy = dup(a);
  if (bind(listener, (struct sockaddr *)&addr, len) < 0 || listen(listener, 1) < 0 ||
      getsockname(listener, (struct sockaddr *)&addr, &len) < 0 || connect(a, &none, sizeof none) < 0 ||
      connect(a, (struct sockaddr *)&addr, len) < 0 || (b = accept(listener, NULL, NULL)) < 0)
    die("connection");
  send_all(copy, "by the copy", 11);
  recv_all(b, buf, 11);
  say("%.11s\n", buf);
  say("the other end of before gets %zd\n", recv(old, buf, sizeof buf, MSG_DONTWAIT));
  talk(400);
}

/* ---- early ---- */

static void *echo_slowly(void *nothing) {
  struct timespec ts = {0, 1000000};
  unsigned char buf[64];
  ssize_t n;

  while ((n = recv(b, buf, sizeof buf, 0)) > 0) {
    nanosleep(&ts, NULL); /* the other end sleeps */
    send_all(b, buf, (size_t)n);
  }
  return nothing;
}

static void early(void) {
  struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof addr;
  int listener = socket(AF_INET, SOCK_STREAM, 0), set = epoll_create1(0);
  struct epoll_event e = {.events = EPOLLIN};
  unsigned char buf[64] = "";
  pthread_t thread;

  a = socket(AF_INET, SOCK_STREAM, 0);
  if (epoll_ctl(set, EPOLL_CTL_ADD, a, &e) || bind(listener, (struct sockaddr *)&addr, len) < 0 ||
      listen(listener, 1) < 0 || getsockname(listener, (struct sockaddr *)&addr, &len) < 0 ||
      connect(a, (struct sockaddr *)&addr, len) < 0)
    die("connection");
  b = accept(listener, NULL, NULL);
  pthread_create(&thread, NULL, echo_slowly, NULL);
  alarm(20);
  for (int i = 0; i < 200; i++) {
    send_all(a, buf, sizeof buf);
    for (size_t got = 0; got < sizeof buf;) {
      if (epoll_wait(set, &e, 1, -1) != 1)
        die("epoll_wait");
      ssize_t n = recv(a, buf, sizeof buf - got, MSG_DONTWAIT);
      if (n <= 0)
        die("recv");
      got += (size_t)n;
    }
  }
  shutdown(a, SHUT_WR);
  pthread_join(thread, NULL);
  say("went on\n");
}

/* ---- range ---- */

static void range(void) {
  char buf[64] = "";
  int fd;

  talk(400);
  send_all(a, "a message that nobody reads", 27);
  if (syscall(SYS_close_range, b, b, CLOSE_RANGE_UNSHARE))
    die("close_range");
  while ((fd = open("/proc/self/comm", O_RDONLY)) < b)
    if (fd < 0)
      die("open");
  say("read %zd bytes of %s", read(b, buf, sizeof buf), buf);
}

/* ---- flags ---- */

static void flags(const char *self) {
  unsigned char buf[64] = "";
  char number[16];
  char *argv[] = {(char *)self, (char *)"helper", number, NULL}, *none[] = {NULL};
  pthread_t thread;
  pid_t pid;

  talk(400);
  pthread_create(&thread, NULL, send_later, buf); /* a receiver that sleeps, and has its way of being woken */
  for (int i = 0; i < 4; i++)
    recv_all(b, buf, sizeof buf);
  pthread_join(thread, NULL);
  snprintf(number, sizeof number, "%d", b);
  if (posix_spawn(&pid, "/proc/self/exe", NULL, NULL, argv, none))
    die("posix_spawn");
  reap(pid, "helper");
  awake = true;
  talk(5000);
  ssize_t n = recv(b, buf, sizeof buf, 0);
  say("received %zd, %s\n", n, strerror(errno));
}

/* ---- passed ---- */

static void *wait_for_input(void *fd) {
  struct pollfd p = {.fd = *(int *)fd, .events = POLLIN};

  poll(&p, 1, -1); /* the other end of what is passed: it sends what was unread once more, if it is asked to */
  return NULL;
}

static void passed(void) {
  unsigned char out[2000], in[sizeof out + 64];
  int pair[2];
  pthread_t thread;
  char room[CMSG_SPACE(sizeof(int))] = "", c = 0;
  struct iovec iov = {&c, 1};
  struct msghdr msg = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = CMSG_SPACE(sizeof(int))};

  talk(400);
  fill(out, sizeof out, 1);
  for (size_t i = 0; i < sizeof out; i += 100)
    send_all(a, out + i, 100);
  pthread_create(&thread, NULL, wait_for_input, &a);
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
    die("socketpair");
  *CMSG_FIRSTHDR(&msg) = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
  memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), &b, sizeof b);
  if (sendmsg(pair[0], &msg, 0) != 1)
    die("sendmsg");
  if (recv(b, in, 100, MSG_PEEK) != 100 || memcmp(in, out, 100) != 0)
    die("peek");
  recv_all(b, in, sizeof out);
  say("the bytes are %s\n", memcmp(in, out, sizeof out) ? "wrong" : "right");
  say("and %zd more\n", recv(b, in, sizeof in, MSG_DONTWAIT));
  send_all(b, out, 1);
  pthread_join(thread, NULL);
}

/* ---- mail ---- */

static void *sleep_in_recv(void *fd) {
  char c;

  recv_all(*(int *)fd, &c, 1);
  return NULL;
}

/* Copies of the pipe to where this process gets bells. Anybody could: the name is to be read in /proc/net/unix. */
static void send_junk(const int pipe[2]) {
  int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  union {
    struct cmsghdr h;
    char room[CMSG_SPACE(2 * sizeof(int))];
  } control;

  for (int fd = 0; fd < 4096; fd++) {
    struct sockaddr_un to = {0};
    socklen_t len = sizeof to;
    if (getsockname(fd, (struct sockaddr *)&to, &len) < 0 || to.sun_family != AF_UNIX ||
        strncmp(to.sun_path + 1, "fastlocal/bell/", 15) != 0)
      continue;
    for (int i = 0; i < 20; i++) {
      char note[24] = "flbell";
      struct iovec iov = {note, sizeof note};
      struct msghdr msg = {.msg_name = &to,
                           .msg_namelen = len,
                           .msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = &control,
                           .msg_controllen = sizeof control};
      control.h = (struct cmsghdr){CMSG_LEN(2 * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
      memcpy(CMSG_DATA(&control.h), pipe, 2 * sizeof(int));
      sendmsg(s, &msg, 0);
    }
  }
  close(s);
}

/* How many descriptors of this process are that pipe? */
static int copies(int fd) {
  struct stat want, s;
  int n = 0;

  fstat(fd, &want);
  for (int i = 0; i < 4096; i++)
    n += fstat(i, &s) == 0 && s.st_ino == want.st_ino && s.st_dev == want.st_dev;
  return n;
}

static void mail(void) {
  unsigned char buf[64] = "";
  int junk[2], a1, b1;
  pthread_t sleeper, sender;

  if (pipe(junk))
    die("pipe");
  talk(400);
  a1 = a;
  b1 = b;
  begin(false);
  talk(400);
  send_junk(junk);
  /* two that sleep at a time, so that more bells are asked for */
  pthread_create(&sleeper, NULL, sleep_in_recv, &b1);
  for (int round = 0; round < 5; round++) {
    struct timespec ts = {0, 10000000};
    nanosleep(&ts, NULL);
    pthread_create(&sender, NULL, send_later, buf);
    for (int i = 0; i < 4; i++)
      recv_all(b, buf, sizeof buf);
    pthread_join(sender, NULL);
  }
  send_all(a1, buf, 1);
  pthread_join(sleeper, NULL);
  say("%d descriptors of the pipe\n", copies(junk[0]));
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "";

  if (!strcmp(what, "helper")) {
    set_nonblock(atoi(argv[2]));
    return 0;
  }
  if (!strcmp(what, "early")) {
    early();
    return 0;
  }
  begin(!strcmp(what, "stdin"));
  if (!strcmp(what, "lanes"))
    lanes();
  else if (!strcmp(what, "fsize"))
    fsize();
  else if (!strcmp(what, "nofile"))
    nofile();
  else if (!strcmp(what, "memory"))
    memory();
  else if (!strcmp(what, "pieces"))
    pieces();
  else if (!strcmp(what, "stdin"))
    with_stdio();
  else if (!strcmp(what, "again"))
    again();
  else if (!strcmp(what, "range"))
    range();
  else if (!strcmp(what, "flags"))
    flags(argv[0]);
  else if (!strcmp(what, "passed"))
    passed();
  else if (!strcmp(what, "mail"))
    mail();
  else
    die("which?");
  return 0;
}
