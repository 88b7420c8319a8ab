/* SPDX-License-Identifier: MIT */
/* tests/conform/workers.c - threads that send at once, loops that never block, a dispatcher and its workers. */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/time.h>

#include "calls.h"
#include "groups.h"
#include "waits.h"

/* ---- threads that send at once ---- */

enum { S_CALL, S_THREADS, S_SIZE, S_READER, S_EACH };
#define SENDERS_MAX 4
#define MESSAGES 40

static const size_t send_sizes[] = {2, 100, 3000};

struct sender {
  pthread_t thread;
  int call, number;
  size_t size;
  bool failed;
};

/* A message is its thread's letter, and then its own number again and again. */
static void *sends(void *arg) {
  struct sender *s = arg;
  char text[3000];

  for (int i = 0; i < MESSAGES && !s->failed; i++) {
    struct iovec iov[2] = {{text, 1}, {text + 1, s->size - 1}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
    struct mmsghdr mm = {.msg_hdr = m};
    long n = -1;
    memset(text, '0' + i, s->size);
    text[0] = (char)('a' + s->number);
    switch (s->call) {
    case WRITE: n = write(run.fd, text, s->size); break;
    case SEND: n = send(run.fd, text, s->size, 0); break;
    case SENDMSG: n = sendmsg(run.fd, &m, 0); break;
    case SENDMMSG: n = sendmmsg(run.fd, &mm, 1, 0) == 1 ? (long)mm.msg_len : -1; break;
    default: n = writev(run.fd, iov, 2); break;
    }
    s->failed = n != (long)s->size;
  }
  return NULL;
}

static const int sending_calls[] = {WRITE, SEND, SENDMSG, SENDMMSG, WRITEV};

/* Everything that came, whole messages, those of each thread in order. */
static void read_messages(int threads, size_t size, int reader, size_t each) {
  size_t total = (size_t)threads * MESSAGES * size, got = 0;
  int next[SENDERS_MAX] = {0}, torn = 0;
  struct waiting w;

  wait_open(&w, reader == 2 ? EPOLL_WAIT : POLL);
  wait_add(&w, run.fd, EPOLLIN);
  while (got < total) {
    uint32_t events[WAIT_FDS];
    if (reader && wait_for(&w, 2000000, NULL, events) != 1)
      break;
    long n = recv(run.fd, run.buf + got, each && each < total - got ? each : total - got, reader ? MSG_DONTWAIT : 0);
    if (n <= 0 && !(n < 0 && errno == EAGAIN))
      break;
    got += n > 0 ? (size_t)n : 0;
  }
  wait_close(&w);
  for (size_t at = 0; at + size <= got; at += size) {
    unsigned t = (unsigned)(run.buf[at] - 'a');
    bool good = t < (unsigned)threads && run.buf[at + 1] == '0' + next[t];
    for (size_t i = 1; i < size && good; i++)
      good = run.buf[at + i] == run.buf[at + 1];
    torn += !good;
    if (t < SENDERS_MAX)
      next[t]++;
  }
  note("%zu bytes, %d messages are not whole or not in order", got, torn);
}

static void senders(const int *v) {
  static const int counts[] = {2, 4};
  enum end me = v[S_CALL] % 2 ? SERVER : CLIENT;
  struct sender s[SENDERS_MAX] = {0};
  int threads = counts[v[S_THREADS]];

  connect_ends(AF_INET);
  onto_ring();
  ON(OTHER(me)) {
    release();
    read_messages(threads, send_sizes[v[S_SIZE]], v[S_READER], v[S_EACH] ? 70 : 0);
  }
  ON(me) {
    int failed = 0;
    for (int i = 0; i < threads; i++) {
      s[i] = (struct sender){.call = sending_calls[v[S_CALL]], .number = i, .size = send_sizes[v[S_SIZE]]};
      pthread_create(&s[i].thread, NULL, sends, &s[i]);
    }
    for (int i = 0; i < threads; i++) {
      pthread_join(s[i].thread, NULL);
      failed += s[i].failed;
    }
    note("%d failed", failed);
  }
  ON(OTHER(me)) drain("no more");
  talk();
}

const struct group senders_group = {
    .name = "senders",
    .what = "Threads that send at once: every message whole, those of one thread in order",
    .dims = {DIM("call", "write", "send", "sendmsg", "sendmmsg", "writev"), DIM("threads", "2", "4"),
             DIM("size", "2", "100", "3000"), DIM("reader", "recv", "poll", "epoll_wait"), DIM("reads", "all", "70")},
    .run = senders,
    .every = 8,
};

/* ---- a receiver that never blocks, and a signal handler that sends ---- */

enum { N_HOW, N_LANES, N_HANDLER };
enum { DONTWAIT, NON_BLOCK, BY_FIONREAD, BY_PEEK, BY_POLL_0, BY_EPOLL_0, BY_SELECT_0, BLOCKING, IN_POLL, IN_EPOLL };
#define NEVER_NAMES \
  "MSG_DONTWAIT", "O_NONBLOCK", "FIONREAD", "MSG_PEEK", "poll-0", "epoll_wait-0", "select-0", "recv", "poll", \
      "epoll_wait"
#define NEVER_BYTES 30000u

static void on_alarm(int sig) {
  int saved = errno;
  send(run.fd, "h", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
  errno = saved;
}

static void receive_all(int how) {
  struct waiting w;
  uint64_t begin = clock_ms(), got = 0, wrong = 0;
  char c[777], right[777];

  wait_open(&w, how == BY_EPOLL_0 || how == IN_EPOLL ? EPOLL_WAIT : how == BY_SELECT_0 ? SELECT : POLL);
  wait_add(&w, run.fd, EPOLLIN);
  no_blocking(run.fd, how == NON_BLOCK);
  while (got < NEVER_BYTES && clock_ms() - begin < 4000) {
    size_t want = NEVER_BYTES - got < sizeof c ? NEVER_BYTES - got : sizeof c;
    uint32_t events[WAIT_FDS];
    int there;
    if (how == BY_FIONREAD && (ioctl(run.fd, FIONREAD, &there) || there == 0))
      continue;
    if (how == BY_PEEK && recv(run.fd, c, want, MSG_PEEK | MSG_DONTWAIT) <= 0)
      continue;
    if (how >= BY_POLL_0 && how != BLOCKING && wait_for(&w, how >= IN_POLL ? 1000000 : 0, NULL, events) != 1)
      continue;
    long n = recv(run.fd, c, want, how == NON_BLOCK || how == BLOCKING ? 0 : MSG_DONTWAIT);
    if (n <= 0)
      continue; /* EAGAIN, or EINTR */
    fill(right, got, (size_t)n);
    wrong += memcmp(c, right, (size_t)n) != 0;
    got += (uint64_t)n;
  }
  wait_close(&w);
  no_blocking(run.fd, false);
  note("%llu bytes, %llu wrong", (unsigned long long)got, (unsigned long long)wrong);
}

static void never_blocks(const int *v) {
  enum end me = v[N_HOW] % 2 ? SERVER : CLIENT;
  struct itimerval often = {{0, 300}, {0, 300}}, stop = {0};

  connect_ends(AF_INET);
  onto_ring();
  ON(me) {
    struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = v[N_HANDLER] == 2 ? SA_RESTART : 0};
    sigaction(SIGALRM, &sa, NULL);
    if (v[N_HANDLER])
      setitimer(ITIMER_REAL, &often, NULL);
    release();
    receive_all(v[N_HOW]);
    setitimer(ITIMER_REAL, &stop, NULL);
    signal(SIGALRM, SIG_IGN);
  }
  ON(OTHER(me)) {
    for (unsigned sent = 0, i = 0; sent < NEVER_BYTES; i++) {
      size_t n = 1 + i * 37 % 500;
      if (n > NEVER_BYTES - sent)
        n = NEVER_BYTES - sent;
      v[N_LANES] == 0 || (v[N_LANES] == 2 && i % 5) ? put(n) : put_kernel(n);
      sent += (unsigned)n;
      if (i % 16 == 0)
        pause_us(30);
    }
  }
  ON(me) {} /* has got them, and its handler sends no more */
  ON(OTHER(me)) {
    long n, others = 0;
    while ((n = recv(run.fd, run.buf, BUF_BYTES, MSG_DONTWAIT)) > 0)
      for (long i = 0; i < n; i++)
        others += run.buf[i] != 'h';
    note("of the handler, %ld others", others);
  }
  talk();
}

const struct group never_blocks_group = {
    .name = "receive-loop",
    .what =
        "A loop that receives and never blocks, or waits in each way, while a signal handler sends on the connection",
    .dims = {DIM("how", NEVER_NAMES), DIM("lanes", "ring", "kernel", "both"),
             DIM("handler", "none", "sends", "SA_RESTART")},
    .run = never_blocks,
    .every = 3,
    .flags = ALONE,
};

/* ---- a dispatcher and its workers ---- */

enum { D_TRIGGER, D_WORKERS, D_READS, D_LANES };
enum { ONE_SHOT, EDGE, DELETE_AND_ADD, LEVEL_TURNS };
#define REQUESTS 30

static struct {
  sem_t work, done;
  int fd;
  size_t piece;
  _Atomic bool stop;
  struct waiting *w;
  int trigger;
} pool;

/* A request is ten bytes; its answer is the same. */
static void *worker(void *arg) {
  for (;;) {
    char c[10];
    size_t got = 0;
    while (sem_wait(&pool.work))
      ;
    if (pool.stop)
      return arg;
    while (got < sizeof c) {
      size_t want = sizeof c - got < pool.piece ? sizeof c - got : pool.piece;
      long n = recv(pool.fd, c + got, want, MSG_DONTWAIT);
      if (n <= 0 && errno != EAGAIN)
        return arg;
      got += n > 0 ? (size_t)n : 0;
      if (n < 0)
        pause_us(20);
    }
    if (send(pool.fd, c, sizeof c, 0) != sizeof c)
      return arg;
    struct epoll_event e = {.events = EPOLLIN};
    if (pool.trigger == ONE_SHOT)
      wait_change(pool.w, 0, EPOLLIN | EPOLLONESHOT);
    if (pool.trigger == DELETE_AND_ADD)
      epoll_ctl(pool.w->epfd, EPOLL_CTL_ADD, pool.fd, &e);
    sem_post(&pool.done);
  }
}

static void dispatch(int trigger) {
  int events = 0, bad = 0;

  for (int i = 0; i < REQUESTS; i++) {
    uint32_t got[WAIT_FDS];
    long n = wait_for(pool.w, 3000000, NULL, got);
    events += n == 1 && got[0] == EPOLLIN;
    bad += n != 1;
    if (n != 1)
      break;
    if (trigger == DELETE_AND_ADD)
      epoll_ctl(pool.w->epfd, EPOLL_CTL_DEL, pool.fd, NULL);
    sem_post(&pool.work);
    /* who may be told twice waits until the work is done; the others wait in epoll_wait meanwhile */
    if (trigger == EDGE || trigger == LEVEL_TURNS || trigger == DELETE_AND_ADD)
      while (sem_wait(&pool.done))
        ;
  }
  if (trigger == ONE_SHOT)
    for (int i = 0; i < events; i++)
      while (sem_wait(&pool.done))
        ;
  note("%d events, %d failed", events, bad);
}

static void dispatcher(const int *v) {
  static const uint32_t flags[] = {EPOLLONESHOT, EPOLLET, 0, 0};
  static const int counts[] = {1, 3};
  enum end me = v[D_LANES] % 2 ? SERVER : CLIENT;
  pthread_t threads[3];
  struct waiting w;

  connect_ends(AF_INET);
  onto_ring();
  ON(me) {
    wait_open(&w, EPOLL_WAIT);
    wait_add(&w, run.fd, EPOLLIN | flags[v[D_TRIGGER]]);
    sem_init(&pool.work, 0, 0);
    sem_init(&pool.done, 0, 0);
    pool.fd = run.fd;
    pool.piece = v[D_READS] ? 3 : 10;
    pool.stop = false;
    pool.w = &w;
    pool.trigger = v[D_TRIGGER];
    for (int i = 0; i < counts[v[D_WORKERS]]; i++)
      pthread_create(&threads[i], NULL, worker, NULL);
    release();
    dispatch(v[D_TRIGGER]);
    pool.stop = true;
    for (int i = 0; i < counts[v[D_WORKERS]]; i++)
      sem_post(&pool.work);
    for (int i = 0; i < counts[v[D_WORKERS]]; i++)
      pthread_join(threads[i], NULL);
    wait_close(&w);
  }
  ON(OTHER(me)) {
    int right = 0;
    for (int i = 0; i < REQUESTS; i++) {
      char text[10], back[10];
      fill(text, run.put, sizeof text);
      if (v[D_LANES] == 2) { /* one request by both lanes */
        put(4);
        put_kernel(6);
      } else {
        v[D_LANES] == 1 ? put_kernel(10) : put(10);
      }
      if (recv(run.fd, back, sizeof back, MSG_WAITALL) != (long)sizeof back)
        break;
      right += memcmp(text, back, sizeof text) == 0;
    }
    note("%d right", right);
  }
  talk();
}

const struct group dispatcher_group = {
    .name = "dispatcher",
    .what = "One thread waits in epoll_wait and gives the work to others, who receive and answer",
    .dims = {DIM("trigger", "EPOLLONESHOT", "EPOLLET", "DEL-and-ADD", "level"), DIM("workers", "1", "3"),
             DIM("reads", "all", "in-parts"), DIM("lanes", "ring", "kernel", "both")},
    .run = dispatcher,
    .skip = NULL,
    .every = 2,
};
