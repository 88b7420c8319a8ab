/* SPDX-License-Identifier: MIT */
/* tests/conform/threads.c - threads that share a connection: who waits where, and who closes it. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <unistd.h>

#include "calls.h"
#include "groups.h"
#include "waits.h"

/* ---- a thread that blocks in a call ---- */

#define BLOCK_NAMES RECV_CALL_NAMES, "recv-WAITALL", "recv-PEEK", "recv-SO_RCVTIMEO", WAIT_CALL_NAMES, "epoll-ET"
enum { B_WAITALL = RECV_CALLS, B_PEEK, B_TIMED, B_WAIT, B_EDGE = B_WAIT + WAIT_CALLS };

struct blocked {
  pthread_t thread;
  int call, fd;
  long ret;
  int error;
  uint32_t events;
  char data[64];
  struct waiting w;
};

static bool waits(int call) { return call >= B_WAIT; }

static long receive_by(struct blocked *b) {
  struct iovec iov = {b->data, 10};
  struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
  struct mmsghdr mm = {.msg_hdr = m};
  long n;

  switch (b->call) {
  case READ: return read(b->fd, b->data, 10);
  case RECV:
  case B_TIMED: return recv(b->fd, b->data, 10, 0);
  case RECVFROM: return recvfrom(b->fd, b->data, 10, 0, NULL, NULL);
  case RECVMSG: return recvmsg(b->fd, &m, 0);
  case RECVMMSG: n = recvmmsg(b->fd, &mm, 1, 0, NULL); return n == 1 ? (long)mm.msg_len : n;
  case READV: return readv(b->fd, &iov, 1);
  case PREADV2: return preadv2(b->fd, &iov, 1, -1, 0);
  case B_WAITALL: return recv(b->fd, b->data, 10, MSG_WAITALL);
  default: return recv(b->fd, b->data, 10, MSG_PEEK);
  }
}

static void *blocks(void *arg) {
  struct blocked *b = arg;
  uint32_t got[WAIT_FDS];

  thread_is_me();
  b->ret = waits(b->call) ? wait_for(&b->w, 3000000, NULL, got) : receive_by(b);
  b->error = errno;
  b->events = waits(b->call) ? got[0] : 0;
  return NULL;
}

/* Starts it, and waits until it sleeps, or only a moment. */
static void block(struct blocked *b, int call, bool asleep) {
  *b = (struct blocked){.call = call, .fd = run.fd, .w.epfd = -1};
  if (waits(call)) {
    wait_open(&b->w, call == B_EDGE ? EPOLL_WAIT : (enum wait_call)(call - B_WAIT));
    wait_add(&b->w, run.fd, EPOLLIN | (call == B_EDGE ? EPOLLET : 0));
  }
  if (call == B_TIMED) {
    struct timeval t = {3, 0};
    setsockopt(run.fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
  }
  atomic_store(&run.shared->tid[run.me], 0);
  pthread_create(&b->thread, NULL, blocks, b);
  while (atomic_load(&run.shared->tid[run.me]) == 0)
    pause_us(20);
  if (asleep)
    settle(run.me);
  else
    pause_us(50);
}

/* What it saw, when it is back. */
static void unblock(struct blocked *b, const char *what) {
  pthread_join(b->thread, NULL);
  errno = b->error;
  if (waits(b->call)) {
    note_ret(what, b->ret);
    note("  %s", epoll_text(b->events));
  } else {
    note_data(what, b->ret, b->data);
  }
  if (b->call == B_TIMED && run.fd >= 0) {
    struct timeval t = {0, 0};
    setsockopt(run.fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
  }
  wait_close(&b->w);
  thread_is_me();
}

/* ---- and what another thread does meanwhile ---- */

enum { W_CALL, W_OTHER, W_LANE, W_WHEN };
enum {
  RECV_NOTHING,
  RECV_FIRST,
  PEEK,
  POLL_0,
  POLL_A_WHILE,
  EPOLL_TOO,
  SELECT_TOO,
  RECV_TIMED,
  FIONREADS,
  SENDS,
  OTHERS
};
#define OTHER_NAMES \
  "receives-nothing", "blocks-in-recv", "peeks", "polls", "polls-a-while", "epoll_waits", "selects", "recv-times-out", \
      "FIONREAD", "sends"

static void other(int what) {
  struct waiting w;
  struct timeval t = {0, 12000};
  char c[16];
  int n = -1;

  switch (what) {
  case RECV_NOTHING: note_ret("recv", recv(run.fd, c, 10, MSG_DONTWAIT)); return;
  case PEEK: note_ret("peek", recv(run.fd, c, 10, MSG_DONTWAIT | MSG_PEEK)); return;
  case POLL_0:
  case POLL_A_WHILE:
  case EPOLL_TOO:
  case SELECT_TOO:
    wait_open(&w, what == EPOLL_TOO ? EPOLL_WAIT : what == SELECT_TOO ? SELECT : POLL);
    wait_add(&w, run.fd, EPOLLIN);
    do_wait(&w, "other", what == POLL_0 ? 0 : 3000, NULL);
    wait_close(&w);
    return;
  case RECV_TIMED:
    setsockopt(run.fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    note_ret("recv", recv(run.fd, c, 10, 0));
    return;
  case FIONREADS:
    note_ret("FIONREAD", ioctl(run.fd, FIONREAD, &n));
    note("  %d", n);
    return;
  case SENDS: put(5); return;
  default: return;
  }
}

static void come(int lane) { lane == 1 ? put_kernel(10) : put(10); }

static void together(const int *v) {
  enum end me = (v[W_CALL] + v[W_OTHER]) % 2 ? SERVER : CLIENT;
  struct blocked b;
  long first = 0;

  connect_ends(AF_INET);
  onto_ring();
  for (int round = 0; round < 3; round++) {
    ON(me) {
      block(&b, v[W_CALL], v[W_WHEN]);
      if (v[W_OTHER] != RECV_FIRST) {
        for (int i = 0; i < 3; i++)
          other(v[W_OTHER]);
      } else {
        char c[16];
        release();
        first = recv(run.fd, c, 10, 0); /* of two that receive each gets one of two messages; who which is luck */
      }
    }
    if (v[W_OTHER] == RECV_FIRST) {
      ON(OTHER(me)) {
        pause_us(v[W_WHEN] ? 2000 : 100);
        come(v[W_LANE]);
        pause_us(v[W_WHEN] ? 2000 : 100);
        come(v[W_LANE]);
      }
    } else {
      ON(OTHER(me)) come(v[W_LANE]);
    }
    ON(me) {
      if (v[W_OTHER] == RECV_FIRST) {
        note_ret("first", first);
        pthread_join(b.thread, NULL);
        note_ret("then", b.ret);
        wait_close(&b.w);
        thread_is_me();
        long rest = 0;
        if (waits(v[W_CALL]) || v[W_CALL] == B_PEEK) { /* whether it woke for the first or the second is luck */
          await_bytes(10);
          rest = recv(run.fd, run.buf, 30, MSG_DONTWAIT);
        }
        note_ret("rest", rest);
      } else {
        unblock(&b, "woken");
      }
      await_bytes(waits(v[W_CALL]) || v[W_CALL] == B_PEEK ? 10 : 0);
      struct timeval t = {0};
      setsockopt(run.fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
      drain("left");
    }
    ON(OTHER(me)) if (v[W_OTHER] == SENDS) {
      await_bytes(15);
      drain("sent");
    }
  }
  talk();
}

/* MSG_WAITALL and two messages of which another thread takes parts. */
static bool together_skip(const int *v) {
  return (v[W_OTHER] == RECV_FIRST && (v[W_CALL] == B_WAITALL || v[W_CALL] == B_TIMED || v[W_CALL] == B_PEEK)) ||
         (v[W_OTHER] == RECV_FIRST && waits(v[W_CALL])) ||
         (v[W_OTHER] == RECV_TIMED && (v[W_CALL] == B_TIMED || !v[W_WHEN])); /* is the call under way already? luck */
}

const struct group together_group = {
    .name = "who-waits-where",
    .what = "A thread that blocks in each call, and what another thread does with the same connection meanwhile",
    .dims = {DIM("blocks-in", BLOCK_NAMES), DIM("other", OTHER_NAMES), DIM("lane", "ring", "kernel"),
             DIM("when", "soon", "asleep")},
    .run = together,
    .skip = together_skip,
    .every = 6,
};

/* ---- closed under a thread that blocks ---- */

enum { C_CALL, C_HOW, C_THEN };
enum { BY_CLOSE, BY_DUP2, BY_CLOSE_RANGE, BY_SHUT_RD, BY_SHUT_WR, BY_SHUT_RDWR };
enum { PEER_SENDS, PEER_CLOSES, PEER_RESETS };

static void closed_under(const int *v) {
  enum end me = v[C_CALL] % 2 ? SERVER : CLIENT;
  struct blocked b;

  connect_ends(AF_INET);
  onto_ring();
  ON(me) {
    block(&b, v[C_CALL], true);
    if (by_epoll((enum wait_call)(v[C_CALL] - B_WAIT)) && waits(v[C_CALL]) && v[C_HOW] <= BY_CLOSE_RANGE)
      note("forgotten by the set");
    switch (v[C_HOW]) {
    case BY_CLOSE: note_ret("close", close(run.fd)); break;
    case BY_DUP2: note_ret("dup2", dup2(0, run.fd) >= 0); break;
    case BY_CLOSE_RANGE: note_ret("close_range", close_range((unsigned)run.fd, (unsigned)run.fd, 0)); break;
    case BY_SHUT_RD: note_ret("shutdown", shutdown(run.fd, SHUT_RD)); break;
    case BY_SHUT_WR: note_ret("shutdown", shutdown(run.fd, SHUT_WR)); break;
    default: note_ret("shutdown", shutdown(run.fd, SHUT_RDWR)); break;
    }
    if (v[C_HOW] != BY_SHUT_RD && v[C_HOW] != BY_SHUT_WR && v[C_HOW] != BY_SHUT_RDWR && v[C_HOW] != BY_DUP2)
      run.fd = -1;
    if (v[C_HOW] == BY_SHUT_RD || v[C_HOW] == BY_SHUT_RDWR)
      unblock(&b, "woken");
    note_ret("another socket", socket(AF_INET, SOCK_STREAM, 0) >= 0); /* its number may be the old one */
  }
  ON(OTHER(me)) {
    struct linger none = {.l_onoff = 1, .l_linger = 0};
    if (v[C_THEN] == PEER_SENDS)
      note_ret("send", send(run.fd, "0123456789", 10, MSG_NOSIGNAL));
    if (v[C_THEN] == PEER_RESETS)
      setsockopt(run.fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    if (v[C_THEN] != PEER_SENDS)
      close_fd();
  }
  ON(me) if (v[C_HOW] != BY_SHUT_RD && v[C_HOW] != BY_SHUT_RDWR) unblock(&b, "woken");
  ON(OTHER(me)) if (v[C_THEN] == PEER_SENDS) {
    pause_us(1000);
    if (v[C_HOW] != BY_SHUT_RD)
      await_end();
    drain("came");
  }
}

static bool closed_skip(const int *v) {
  bool epoll = waits(v[C_CALL]) && by_epoll((enum wait_call)(v[C_CALL] - B_WAIT));

  /* an epoll set forgets it, and would sleep until its timeout; nothing comes after SHUT_RD for one that waits */
  return (epoll && v[C_HOW] <= BY_CLOSE_RANGE) || (v[C_HOW] == BY_SHUT_WR && v[C_THEN] == PEER_RESETS) ||
         (v[C_CALL] == B_PEEK);
}

const struct group closed_under_group = {
    .name = "closed-under",
    .what = "One thread closes the connection, or shuts it down, while another blocks in each call",
    .dims = {DIM("blocks-in", BLOCK_NAMES),
             DIM("how", "close", "dup2-over-it", "close_range", "SHUT_RD", "SHUT_WR", "SHUT_RDWR"),
             DIM("peer", "sends", "closes", "resets")},
    .run = closed_under,
    .skip = closed_skip,
    .every = 2,
    .flags = ALONE,
};
