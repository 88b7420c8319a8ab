/* SPDX-License-Identifier: MIT */
/* tests/conform/send.c - what the calls that send return, and what arrives. */
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>

#include "calls.h"
#include "groups.h"
#include "waits.h"

static const int flag_values[] = {0,
                                  MSG_DONTWAIT,
                                  MSG_NOSIGNAL,
                                  MSG_MORE,
                                  MSG_EOR,
                                  MSG_CONFIRM,
                                  MSG_DONTROUTE,
                                  MSG_ZEROCOPY,
                                  MSG_DONTWAIT | MSG_NOSIGNAL};
#define FLAG_NAMES "0", "DONTWAIT", "NOSIGNAL", "MORE", "EOR", "CONFIRM", "DONTROUTE", "ZEROCOPY", "DONTWAIT+NOSIGNAL"

enum mode { BLOCKING, NONBLOCKING, TIMED };
#define MODE_NAMES "blocking", "O_NONBLOCK", "SO_SNDTIMEO"

enum peer { OPEN, UNREAD, HALF_CLOSED, CLOSED, RESET, SHUT_OURSELVES };
#define PEER_NAMES "open", "open-unread", "half-closed", "closed", "reset", "shut-wr"

static const size_t sizes[] = {0, 1, 10, 4000, 20000};
#define SIZE_NAMES "0", "1", "10", "4000", "20000"

static volatile sig_atomic_t pipes;
static void on_pipe(int sig) { pipes++; }

static void count_pipes(void) {
  struct sigaction sa = {.sa_handler = on_pipe, .sa_flags = SA_RESTART};

  pipes = 0;
  sigaction(SIGPIPE, &sa, NULL);
}

static void note_pipes(void) {
  note("SIGPIPE %d", (int)pipes);
  pipes = 0;
}

static void set_mode(enum mode m) {
  struct timeval t = {0, 20000};

  if (m == NONBLOCKING)
    no_blocking(run.fd, true);
  if (m == TIMED)
    setsockopt(run.fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
}

static void note_error(void) {
  int error = -1;
  socklen_t len = sizeof error;

  note_ret("SO_ERROR", getsockopt(run.fd, SOL_SOCKET, SO_ERROR, &error, &len));
  note("  %s", error_name(error));
}

/* ---- one call, and one more ---- */

enum { S_CALL, S_FLAGS, S_MODE, S_PEER, S_SIZE, S_SHAPE, S_FAMILY };

static bool send_skip(const int *v) {
  enum send_call call = (enum send_call)v[S_CALL];

  if ((v[S_FLAGS] && !send_flags(call)) || (v[S_SHAPE] && (!send_vector(call) || v[S_SIZE] == 0)))
    return true;
  /* what is held back for more meets the closed peer when TCP's timer ends, or a full segment: that is luck */
  if (flag_values[v[S_FLAGS]] == MSG_MORE && v[S_PEER] == CLOSED)
    return true;
  return (v[S_FAMILY] && (v[S_FLAGS] > 1 || v[S_SHAPE])) || (v[S_SHAPE] > 1 && v[S_FLAGS]);
}

static void sending(const int *v) {
  enum end writer = (v[S_CALL] + v[S_PEER] + v[S_SIZE]) % 2 ? SERVER : CLIENT;
  enum peer peer = (enum peer)v[S_PEER];
  struct linger none = {.l_onoff = 1, .l_linger = 0};

  connect_ends(v[S_FAMILY] ? AF_INET6 : AF_INET);
  onto_ring();
  ON(OTHER(writer)) {
    if (peer == UNREAD)
      put(10);
    if (peer == HALF_CLOSED)
      shutdown(run.fd, SHUT_WR);
    if (peer == RESET)
      setsockopt(run.fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    if (peer == CLOSED || peer == RESET)
      close_fd();
  }
  ON(writer) {
    int total = 0;
    count_pipes();
    if (peer == UNREAD)
      await_bytes(10);
    if (peer == HALF_CLOSED || peer == CLOSED || peer == RESET) {
      await_end();
      pause_us(3000); /* a sender that never receives learns of it so late at most */
    }
    if (peer == SHUT_OURSELVES)
      shutdown(run.fd, SHUT_WR);
    set_mode((enum mode)v[S_MODE]);
    for (int i = 0; i < 3; i++) {
      long n =
          do_send((enum send_call)v[S_CALL], run.fd, sizes[v[S_SIZE]], flag_values[v[S_FLAGS]], (enum shape)v[S_SHAPE]);
      total += n > 0 ? (int)n : 0;
      note_pipes();
      if (peer == CLOSED)
        pause_us(200);
    }
    note_error();
    drain("came");
    run.shared->value[0] = total;
    signal(SIGPIPE, SIG_DFL);
  }
  if (peer != CLOSED && peer != RESET) {
    ON(OTHER(writer)) {
      await_bytes((size_t)run.shared->value[0]);
      if (peer == SHUT_OURSELVES)
        await_end();
      drain("arrived");
    }
    ON(writer) no_blocking(run.fd, false);
    if (peer == OPEN || peer == UNREAD)
      talk();
  }
}

const struct group send_group = {
    .name = "send",
    .what = "What each call that sends returns, with each flag, for each state of the peer; SIGPIPE; what arrives",
    .dims = {DIM("call", SEND_CALL_NAMES), DIM("flags", FLAG_NAMES), DIM("mode", MODE_NAMES), DIM("peer", PEER_NAMES),
             DIM("size", SIZE_NAMES), DIM("buffer", SHAPE_NAMES), DIM("family", "IPv4", "IPv6")},
    .run = sending,
    .skip = send_skip,
    .every = 8,
};

/* ---- a full stream ---- */

enum { F_CALL, F_MODE, F_SIZE, F_WAIT };

static const size_t full_sizes[] = {700, 30000, 400000};

/* splice counts in pages, and says EAGAIN where there is room for less. */
static bool full_skip(const int *v) { return v[F_CALL] == SPLICE || v[F_MODE] == BLOCKING; }

static uint64_t add_hash(uint64_t h, const char *p, size_t n) {
  for (size_t i = 0; i < n; i++)
    h = (h ^ (unsigned char)p[i]) * 0x100000001b3u;
  return h;
}

/* Reads `total` bytes; are they the pattern's? */
static void check_pattern(uint64_t total) {
  uint64_t hash = 0, wanted = 0, got = 0;

  while (got < total) {
    await_bytes(1);
    ssize_t n = recv(run.fd, run.buf, BUF_BYTES, MSG_DONTWAIT);
    if (n <= 0)
      break;
    hash = add_hash(hash, run.buf, (size_t)n);
    fill(run.buf, got, (size_t)n);
    wanted = add_hash(wanted, run.buf, (size_t)n);
    got += (uint64_t)n;
  }
  note("all: %s, %s", got == total ? "complete" : "incomplete", hash == wanted ? "right" : "wrong");
}

static void full(const int *v) {
  enum end writer = v[F_CALL] % 2 ? SERVER : CLIENT;
  struct waiting w;

  connect_ends(AF_INET);
  onto_ring();
  ON(writer) {
    int64_t total = 0, calls = 0;
    long n;
    set_int(run.fd, SOL_SOCKET, SO_SNDBUF, 100000); /* it would grow to megabytes */
    set_mode((enum mode)v[F_MODE]);
    do {
      struct trace *t = &run.shared->trace[run.me];
      uint32_t length = t->length; /* how many calls it takes is not compared */
      n = do_send((enum send_call)v[F_CALL], run.fd, full_sizes[v[F_SIZE]], 0, ONE);
      t->length = length;
      total += n > 0 ? n : 0;
      calls++;
    } while (n > 0 && total < (64 << 20));
    note_free("buffer-size", "%lld bytes in %lld calls", (long long)total, (long long)calls);
    note_ret("then", n);
    wait_open(&w, (enum wait_call)v[F_WAIT]);
    wait_add(&w, run.fd, POLLOUT);
    do_wait(&w, "full", 0, NULL);
    run.shared->value[0] = total;
  }
  ON(OTHER(writer)) check_pattern((uint64_t)run.shared->value[0]);
  ON(writer) {
    do_wait(&w, "drained", 1000000, NULL);
    wait_close(&w);
    no_blocking(run.fd, false);
  }
  talk();
}

const struct group full_group = {
    .name = "send-full",
    .what = "A sender that fills the stream: EAGAIN, no POLLOUT, and POLLOUT again when the peer has read; every byte",
    .dims = {DIM("call", SEND_CALL_NAMES), DIM("mode", MODE_NAMES), DIM("size", "700", "30000", "400000"),
             DIM("wait", WAIT_CALL_NAMES)},
    .run = full,
    .skip = full_skip,
    .every = 8,
};
