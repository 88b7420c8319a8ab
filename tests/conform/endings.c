/* SPDX-License-Identifier: MIT */
/* tests/conform/endings.c - how a connection ends, and what both ends see of it. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "calls.h"
#include "groups.h"
#include "waits.h"

enum how {
  SHUT_WRITING,
  SHUT_READING,
  SHUT_BOTH,
  CLOSE,
  LINGER_ZERO,
  LINGER_SECOND,
  DUP2_OVER,
  EXIT,
  _EXIT,
  RETURN,
  ABORT,
  KILLED,
  HOWS
};
#define HOW_NAMES \
  "SHUT_WR", "SHUT_RD", "SHUT_RDWR", "close", "linger-0", "linger-1s", "dup2-over-it", "exit", "_exit", "return", \
      "abort", "kill-9"

enum { E_HOW, E_UNREAD, E_SENT, E_PEER, E_WHEN };
enum { IN_RECV, IN_POLL, IN_EPOLL, IN_EPOLL_ET, BUSY_ELSEWHERE };
#define PEER_NAMES "in-recv", "in-poll", "in-epoll", "in-epoll-et", "elsewhere"

static bool ends_process(int how) { return how >= EXIT; }

static volatile sig_atomic_t pipes;
static void on_pipe(int sig) { pipes++; }

static void end_it(enum how how) {
  struct linger zero = {1, 0}, second = {1, 1};

  switch (how) {
  case SHUT_WRITING: note_ret("SHUT_WR", shutdown(run.fd, SHUT_WR)); return;
  case SHUT_READING: note_ret("SHUT_RD", shutdown(run.fd, SHUT_RD)); return;
  case SHUT_BOTH: note_ret("SHUT_RDWR", shutdown(run.fd, SHUT_RDWR)); return;
  case LINGER_ZERO: setsockopt(run.fd, SOL_SOCKET, SO_LINGER, &zero, sizeof zero); break;
  case LINGER_SECOND: setsockopt(run.fd, SOL_SOCKET, SO_LINGER, &second, sizeof second); break;
  case DUP2_OVER: note_ret("dup2", dup2(0, run.fd) >= 0); break;
  case EXIT: exit(7);
  case _EXIT: _exit(8);
  case ABORT: abort();
  case KILLED: kill(getpid(), SIGKILL); return;
  default: break;
  }
  close_fd();
}

/* What is left of the connection, step by step. */
static void aftermath(void) {
  struct waiting w;

  wait_open(&w, POLL);
  wait_add(&w, run.fd, POLLIN | POLLOUT | POLLPRI | POLLRDHUP);
  do_wait(&w, "poll", 0, NULL);
  drain("left");
  do_wait(&w, "poll", 0, NULL);
  for (int i = 0; i < 3; i++) {
    pipes = 0;
    note_ret("send", send(run.fd, "x", 1, 0));
    note("  SIGPIPE %d", (int)pipes);
    pause_us(3000); /* the answer to that; and a sender looks for the end of its peer so often */
    do_wait(&w, "poll", 0, NULL);
  }
  note_data("recv", recv(run.fd, run.buf, 10, MSG_DONTWAIT), run.buf);
  int error = -1;
  socklen_t len = sizeof error;
  getsockopt(run.fd, SOL_SOCKET, SO_ERROR, &error, &len);
  note("SO_ERROR %s", error_name(error));
  note_ret("SHUT_WR", shutdown(run.fd, SHUT_WR));
  note_ret("close", close(run.fd));
  run.fd = -1;
}

static void wait_for_it(int peer) {
  struct waiting w;
  uint32_t length = run.shared->trace[run.me].length;
  long n;

  switch (peer) {
  case IN_RECV:
    n = recv(run.fd, run.buf, 100, MSG_PEEK); /* how much of it in one piece is luck */
    note_ret("recv", n < 0 ? n : n > 0);
    return;
  case IN_POLL:
  case IN_EPOLL:
  case IN_EPOLL_ET:
    wait_open(&w, peer == IN_POLL ? POLL : EPOLL_WAIT);
    wait_add(&w, run.fd, POLLIN | POLLRDHUP | (peer == IN_EPOLL_ET ? 1u << 31 : 0));
    n = do_wait(&w, "woken", 3000000, NULL);
    run.shared->trace[run.me].length = length; /* bytes may be seen before the end */
    note_ret("woken", n);
    wait_close(&w);
    return;
  default: return;
  }
}

static void ending(const int *v) {
  enum end dying = (v[E_PEER] + v[E_UNREAD]) % 2 ? SERVER : CLIENT;
  enum how how = (enum how)v[E_HOW];

  signal(SIGPIPE, on_pipe);
  connect_ends(AF_INET);
  onto_ring();
  if (v[E_UNREAD]) {
    ON(OTHER(dying)) v[E_UNREAD] == 1 ? put(10) : put_kernel(10);
    ON(dying) await_bytes(10);
  }
  ON(OTHER(dying)) {
    if ((how == ABORT || how == KILLED) && v[E_UNREAD] == 1)
      except_from_now("killed-unread");
    release();
    wait_for_it(v[E_PEER]);
  }
  ON(dying) {
    if (v[E_WHEN])
      settle(OTHER(dying));
    else
      pause_us(100);
    if (v[E_SENT])
      v[E_SENT] == 1 ? put(6) : put_kernel(6);
    if (ends_process(how))
      release();
    end_it(how);
  }
  ON(OTHER(dying)) {
    if (how != SHUT_READING)
      await_end();
    if (ends_process(how))
      pause_us(2000);
    aftermath();
  }
}

static bool alone_skip(const int *v) {
  /* a peer that waits for nothing waits for ever */
  return (v[E_HOW] == SHUT_READING && v[E_PEER] != BUSY_ELSEWHERE && !v[E_SENT]) ||
         (v[E_PEER] == BUSY_ELSEWHERE && v[E_WHEN]);
}

const struct group ending_group = {
    .name = "ending",
    .what = "Every way to end a connection or its process, with bytes unread on either side, and all that the other "
            "end sees",
    .dims = {DIM("how", HOW_NAMES), DIM("unread", "nothing", "ring", "kernel"),
             DIM("sent", "nothing", "ring", "kernel"), DIM("peer", PEER_NAMES), DIM("when", "soon", "asleep")},
    .run = ending,
    .skip = alone_skip,
    .every = 2,
    .flags = ALONE,
};
