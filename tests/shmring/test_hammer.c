/* SPDX-License-Identifier: MIT */
/*
 * tests/shmring/test_hammer.c - two real ends, a segment and a socketpair as the kernel lane; both directions at once,
 * random sizes, lanes and changes of state, by the rules of docs/model/lane.pml. Every byte is compared with what its
 * position says it must be. Half of the senders wait for all their bytes to be read before they close, so that a
 * sleeper that was forgotten stays asleep and the alarm ends the test.
 *
 * FL_HAMMER_SEEDS and FL_HAMMER_BYTES (per direction and seed) make it longer; FL_HAMMER_FIRST sets the first seed.
 */
#include "segment.h"

#include "check.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* Shared by the two ends, beside the segment. */
struct control {
  _Atomic uint64_t received[2]; /* per direction */
  _Atomic uint64_t ring_bytes, kernel_bytes;
};

struct end {
  struct fl_tx tx;
  struct fl_rx rx;
  struct control *ctl;
  int number, fd;
  uint64_t seed, total;

  pthread_mutex_t rx_lock; /* guards rx and what follows; never held over a native sleep */
  uint64_t krx;
  unsigned sleepers, pinned;
  bool over;
};

#define CHECK(e, what) \
  do { \
    if (!(what)) { \
      fprintf(stderr, "hammer: seed %lu end %d line %d: %s\n", (unsigned long)(e)->seed, (e)->number, __LINE__, \
              #what); \
      abort(); \
    } \
  } while (0)

static unsigned char byte_at(uint64_t seed, int direction, uint64_t pos) {
  uint64_t s = seed * 2 + (uint64_t)direction + (pos >> 3) * 0x100000001b3ull;

  return (unsigned char)(rnd(&s) >> (pos & 7) * 8);
}

static size_t random_size(uint64_t *s) {
  switch (rnd(s) % 8) {
  case 0: return 1;
  case 1: return 1 + rnd(s) % (3 * RING);
  case 2: return 1 + rnd(s) % 5000;
  default: return 1 + rnd(s) % 300;
  }
}

static void *sender(void *arg) {
  static _Thread_local unsigned char bytes[3 * RING];
  struct end *e = arg;
  uint64_t s = e->seed * 31 + (uint64_t)e->number, pos = 0, ktx = 0, ring = 0;

  while (pos < e->total) {
    size_t len = random_size(&s), done = 0, n;
    if (len > e->total - pos)
      len = e->total - pos;
    for (size_t i = 0; i < len; i++)
      bytes[i] = byte_at(e->seed, e->number, pos + i);
    pos += len;

    unsigned looks = rnd(&s) % 4; /* the short wait for space */
    while (rnd(&s) % 8 && done < len) {
      struct iovec iov[2] = {{bytes, len / 3}, {bytes + len / 3, len - len / 3}};
      enum fl_tx_result r = fl_tx_push(&e->tx, iov, done, len - done, ktx, &n);
      CHECK(e, r != FL_TX_BROKEN);
      done += n;
      ring += n;
      if (r == FL_TX_NATIVE || looks-- == 0)
        break;
      sched_yield();
    }
    while (done < len) {
      ssize_t k = send(e->fd, bytes + done, len - done, MSG_NOSIGNAL);
      CHECK(e, k > 0);
      done += (size_t)k;
      ktx += (uint64_t)k;
    }
    if (rnd(&s) % 16 == 0)
      sched_yield();
  }
  atomic_fetch_add(&e->ctl->ring_bytes, ring);
  atomic_fetch_add(&e->ctl->kernel_bytes, ktx);
  if (rnd(&s) % 2)
    while (atomic_load(&e->ctl->received[e->number]) != e->total)
      usleep(200);
  CHECK(e, shutdown(e->fd, SHUT_WR) == 0);
  return NULL;
}

/* With the lock. */
static void maybe_watch(struct end *e, uint64_t *s) {
  if (e->sleepers == 0 && e->pinned == 0 && rnd(s) % 8)
    fl_rx_watch(&e->rx);
}

static void verify(struct end *e, const unsigned char *bytes, size_t n, uint64_t *pos) {
  for (size_t i = 0; i < n; i++)
    CHECK(e, bytes[i] == byte_at(e->seed, !e->number, *pos + i));
  *pos += n;
  atomic_store(&e->ctl->received[!e->number], *pos);
}

static void receiver(struct end *e) {
  static _Thread_local unsigned char bytes[4 * RING];
  uint64_t s = e->seed * 37 + (uint64_t)e->number, pos = 0, need;
  unsigned spins = 0;
  struct fl_span span[2];

  for (;;) {
    size_t limit = 1 + rnd(&s) % (rnd(&s) % 2 ? 100 : sizeof bytes);
    ssize_t got;

    pthread_mutex_lock(&e->rx_lock);
    if (e->pinned)
      e->pinned--;
    else if (rnd(&s) % 64 == 0) {
      e->pinned = 1 + rnd(&s) % 6;
      fl_rx_native_always(&e->rx);
    }
    switch (fl_rx_peek(&e->rx, e->krx, span, &need)) {
    case FL_RX_BROKEN: CHECK(e, !"broken");
    case FL_RX_RING:
      spins = 200;
      for (int i = 0; i < 2 && limit; i++) {
        size_t n = span[i].len < limit ? span[i].len : limit;
        verify(e, span[i].base, n, &pos);
        fl_rx_consume(&e->rx, n);
        limit -= n;
      }
      if (rnd(&s) % 4 == 0)
        fl_rx_publish(&e->rx);
      pthread_mutex_unlock(&e->rx_lock);
      continue;

    case FL_RX_KERNEL: /* bounded; this is the only thread that takes bytes, so the claim of the model is always its own
                        */
      if (limit > need)
        limit = need;
      fl_rx_publish(&e->rx);
      got = recv(e->fd, bytes, limit, MSG_DONTWAIT);
      if (got < 0) {
        CHECK(e, errno == EAGAIN);
        pthread_mutex_unlock(&e->rx_lock);
        got = recv(e->fd, bytes, limit, 0);
        pthread_mutex_lock(&e->rx_lock);
      }
      CHECK(e, got > 0);
      e->krx += (uint64_t)got;
      pthread_mutex_unlock(&e->rx_lock);
      verify(e, bytes, (size_t)got, &pos);
      continue;

    case FL_RX_EMPTY: fl_rx_publish(&e->rx);
    }

    if (fl_rx_state(&e->rx) == FL_WATCHING && spins) { /* look again for a while */
      spins--;
      pthread_mutex_unlock(&e->rx_lock);
      sched_yield();
      continue;
    }
    spins = rnd(&s) % 100;
    if (!fl_rx_native(&e->rx, e->rx.tail)) {
      pthread_mutex_unlock(&e->rx_lock);
      continue;
    }
    if (rnd(&s) % 2) {
      got = recv(e->fd, bytes, limit, MSG_DONTWAIT);
      CHECK(e, got >= 0 || errno == EAGAIN);
    } else {
      e->sleepers++;
      pthread_mutex_unlock(&e->rx_lock);
      got = recv(e->fd, bytes, limit, 0);
      CHECK(e, got >= 0);
      pthread_mutex_lock(&e->rx_lock);
      e->sleepers--;
    }
    if (got > 0)
      e->krx += (uint64_t)got;
    e->over = got == 0;
    maybe_watch(e, &s);
    pthread_mutex_unlock(&e->rx_lock);
    if (got > 0)
      verify(e, bytes, (size_t)got, &pos);
    if (got == 0)
      break;
  }
  CHECK(e, pos == e->total);
}

/* Another thread, in poll on the same connection. */
static void *waiter(void *arg) {
  struct end *e = arg;
  uint64_t s = e->seed * 41 + (uint64_t)e->number, need;
  struct fl_span span[2];

  for (;;) {
    struct pollfd p = {.fd = e->fd, .events = POLLIN};

    pthread_mutex_lock(&e->rx_lock);
    if (e->over) {
      pthread_mutex_unlock(&e->rx_lock);
      return NULL;
    }
    enum fl_rx_result r = fl_rx_peek(&e->rx, e->krx, span, &need);
    if (r == FL_RX_EMPTY && rnd(&s) % 4 == 0 && fl_rx_native(&e->rx, e->rx.tail)) {
      fl_rx_publish(&e->rx);
      e->sleepers++;
      pthread_mutex_unlock(&e->rx_lock);
      CHECK(e, poll(&p, 1, -1) == 1);
      pthread_mutex_lock(&e->rx_lock);
      e->sleepers--;
      maybe_watch(e, &s);
      r = FL_RX_RING;
    }
    pthread_mutex_unlock(&e->rx_lock);
    if (r == FL_RX_KERNEL)
      poll(&p, 1, 1); /* bounded: the other thread may take what this one waits for */
    usleep(rnd(&s) % 300);
  }
}

static void *run_end(void *arg) {
  struct end *e = arg;
  pthread_t send_thread, wait_thread;

  pthread_mutex_init(&e->rx_lock, NULL);
  CHECK(e, pthread_create(&send_thread, NULL, sender, e) == 0);
  CHECK(e, pthread_create(&wait_thread, NULL, waiter, e) == 0);
  receiver(e);
  pthread_join(send_thread, NULL);
  pthread_join(wait_thread, NULL);
  return NULL;
}

static uint64_t setting(const char *name, uint64_t otherwise) {
  const char *value = getenv(name);

  return value ? strtoull(value, NULL, 0) : otherwise;
}

static void hammer(bool processes, uint64_t seeds, uint64_t total) {
  struct control *ctl = mmap(NULL, FL_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  uint64_t first = setting("FL_HAMMER_FIRST", 1);

  seeds = setting("FL_HAMMER_SEEDS", seeds);
  total = setting("FL_HAMMER_BYTES", total);
  for (uint64_t seed = first; seed < first + seeds; seed++) {
    struct pair p = pair_new(RING << seed % 3);
    struct end end[2];
    int sv[2], small = 4096 << seed % 4;

    alarm(60 + (unsigned)(total >> 20));
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
    atomic_store(&ctl->received[0], 0);
    atomic_store(&ctl->received[1], 0);
    for (int i = 0; i < 2; i++) {
      setsockopt(sv[i], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
      end[i] = (struct end){.ctl = ctl, .number = i, .fd = sv[i], .seed = seed, .total = total + seed * 7919 % 50000};
      fl_attach(p.seg, RING << seed % 3, i, &end[i].tx, &end[i].rx);
    }
    if (processes) {
      int status;
      pid_t child = fork();

      cr_assert(child >= 0);
      if (child == 0) {
        alarm(60 + (unsigned)(total >> 20));
        close(sv[0]);
        run_end(&end[1]);
        _exit(0);
      }
      close(sv[1]);
      run_end(&end[0]);
      cr_assert_eq(waitpid(child, &status, 0), child);
      cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "seed %lu", (unsigned long)seed);
      close(sv[0]);
    } else {
      pthread_t other;

      cr_assert_eq(pthread_create(&other, NULL, run_end, &end[1]), 0);
      run_end(&end[0]);
      pthread_join(other, NULL);
      close(sv[0]);
      close(sv[1]);
    }
    pair_free(&p, RING << seed % 3);
  }
  uint64_t ring = atomic_load(&ctl->ring_bytes), kernel = atomic_load(&ctl->kernel_bytes);
  fprintf(stderr, "hammer: %lu seeds, %lu bytes through the ring, %lu through the kernel\n", (unsigned long)seeds,
          (unsigned long)ring, (unsigned long)kernel);
  cr_assert(ring > (ring + kernel) / 20 && kernel > (ring + kernel) / 20); /* else this tests little */
}

#if defined(__SANITIZE_THREAD__)
#define SHARE 4 /* of the time */
#else
#define SHARE 1
/* ThreadSanitizer does not see across processes, nor like threads after fork. */
Test(hammer, two_processes_lose_and_reorder_nothing) { hammer(true, 40, 1 << 20); }
#endif

Test(hammer, two_ends_in_one_process_lose_and_reorder_nothing) { hammer(false, 20 / SHARE, 1 << 20); }
