/* SPDX-License-Identifier: MIT */
/* tests/conform/options.c - socket options and descriptor flags, before and after the ends have found each other. */
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <unistd.h>

#include "calls.h"
#include "groups.h"
#include "waits.h"

/* ---- what is set is what is read, and the stream goes on ---- */

struct option {
  const char *name;
  int level, option, values[3];
};
#define NONE INT32_MIN

static const struct option options[] = {
    {"SO_RCVLOWAT", SOL_SOCKET, SO_RCVLOWAT, {1, 5, 100}},
    {"SO_SNDBUF", SOL_SOCKET, SO_SNDBUF, {4096, 65536, 1 << 20}},
    {"SO_RCVBUF", SOL_SOCKET, SO_RCVBUF, {4096, 65536, 1 << 20}},
    {"SO_KEEPALIVE", SOL_SOCKET, SO_KEEPALIVE, {0, 1, NONE}},
    {"SO_OOBINLINE", SOL_SOCKET, SO_OOBINLINE, {0, 1, NONE}},
    {"SO_TIMESTAMP", SOL_SOCKET, SO_TIMESTAMP, {0, 1, NONE}},
    {"SO_ZEROCOPY", SOL_SOCKET, SO_ZEROCOPY, {0, 1, NONE}},
    {"SO_PEEK_OFF", SOL_SOCKET, SO_PEEK_OFF, {-1, 0, 3}},
    {"SO_BUSY_POLL", SOL_SOCKET, SO_BUSY_POLL, {0, 20, NONE}},
    {"SO_PRIORITY", SOL_SOCKET, SO_PRIORITY, {0, 6, NONE}},
    {"SO_MARK", SOL_SOCKET, SO_MARK, {0, 7, NONE}},
    {"SO_INCOMING_CPU", SOL_SOCKET, SO_INCOMING_CPU, {0, NONE, NONE}},
    {"SO_REUSEADDR", SOL_SOCKET, SO_REUSEADDR, {0, 1, NONE}},
    {"SO_DEBUG", SOL_SOCKET, SO_DEBUG, {0, 1, NONE}},
    {"SO_ERROR", SOL_SOCKET, SO_ERROR, {0, NONE, NONE}},
    {"SO_TYPE", SOL_SOCKET, SO_TYPE, {0, NONE, NONE}},
    {"SO_DOMAIN", SOL_SOCKET, SO_DOMAIN, {0, NONE, NONE}},
    {"SO_PROTOCOL", SOL_SOCKET, SO_PROTOCOL, {0, NONE, NONE}},
    {"SO_ACCEPTCONN", SOL_SOCKET, SO_ACCEPTCONN, {0, NONE, NONE}},
    {"an unknown SO_", SOL_SOCKET, 999, {0, NONE, NONE}},
    {"TCP_NODELAY", IPPROTO_TCP, TCP_NODELAY, {0, 1, 17}},
    {"TCP_CORK", IPPROTO_TCP, TCP_CORK, {0, 1, 17}},
    {"TCP_QUICKACK", IPPROTO_TCP, TCP_QUICKACK, {0, 1, NONE}},
    {"TCP_USER_TIMEOUT", IPPROTO_TCP, TCP_USER_TIMEOUT, {0, 5000, -1}},
    {"TCP_KEEPIDLE", IPPROTO_TCP, TCP_KEEPIDLE, {100, 0, NONE}},
    {"TCP_KEEPINTVL", IPPROTO_TCP, TCP_KEEPINTVL, {10, 0, NONE}},
    {"TCP_KEEPCNT", IPPROTO_TCP, TCP_KEEPCNT, {4, 0, NONE}},
    {"TCP_DEFER_ACCEPT", IPPROTO_TCP, TCP_DEFER_ACCEPT, {0, 1, NONE}},
    {"TCP_LINGER2", IPPROTO_TCP, TCP_LINGER2, {-1, 20, NONE}},
    {"TCP_SYNCNT", IPPROTO_TCP, TCP_SYNCNT, {3, 0, NONE}},
    {"TCP_THIN_LINEAR_TIMEOUTS", IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, {0, 1, NONE}},
    {"TCP_NOTSENT_LOWAT", IPPROTO_TCP, TCP_NOTSENT_LOWAT, {16384, 0, NONE}},
    {"TCP_INQ", IPPROTO_TCP, 36, {0, 1, 2}},
    {"TCP_WINDOW_CLAMP", IPPROTO_TCP, TCP_WINDOW_CLAMP, {65536, NONE, NONE}},
    {"TCP_MAXSEG", IPPROTO_TCP, TCP_MAXSEG, {1000, 1, NONE}},
    {"TCP_REPAIR", IPPROTO_TCP, TCP_REPAIR, {0, NONE, NONE}},
    {"IP_TOS", IPPROTO_IP, IP_TOS, {0, 0x10, NONE}},
    {"IP_TTL", IPPROTO_IP, IP_TTL, {64, 3, 0}},
    {"IP_RECVERR", IPPROTO_IP, IP_RECVERR, {0, 1, NONE}},
    {"IP_PKTINFO", IPPROTO_IP, IP_PKTINFO, {0, 1, NONE}},
};
#define OPTION_COUNT (int)(sizeof options / sizeof options[0])
#define OPTION_NAMES \
  "SO_RCVLOWAT", "SO_SNDBUF", "SO_RCVBUF", "SO_KEEPALIVE", "SO_OOBINLINE", "SO_TIMESTAMP", "SO_ZEROCOPY", \
      "SO_PEEK_OFF", "SO_BUSY_POLL", "SO_PRIORITY", "SO_MARK", "SO_INCOMING_CPU", "SO_REUSEADDR", "SO_DEBUG", \
      "SO_ERROR", "SO_TYPE", "SO_DOMAIN", "SO_PROTOCOL", "SO_ACCEPTCONN", "unknown", "TCP_NODELAY", "TCP_CORK", \
      "TCP_QUICKACK", "TCP_USER_TIMEOUT", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_DEFER_ACCEPT", \
      "TCP_LINGER2", "TCP_SYNCNT", "TCP_THIN_LINEAR_TIMEOUTS", "TCP_NOTSENT_LOWAT", "TCP_INQ", "TCP_WINDOW_CLAMP", \
      "TCP_MAXSEG", "TCP_REPAIR", "IP_TOS", "IP_TTL", "IP_RECVERR", "IP_PKTINFO"

enum { O_OPTION, O_VALUE, O_WHEN, O_LENGTH, O_END };
enum { YOUNG, PAIRED, PAIRED_BYTES };

static bool option_skip(const int *v) {
  const struct option *o = &options[v[O_OPTION]];

  /* each message of a corked connection would take a fifth of a second */
  if (o->level == IPPROTO_TCP && o->option == TCP_CORK && v[O_WHEN] == YOUNG && o->values[v[O_VALUE]])
    return true;
  return options[v[O_OPTION]].values[v[O_VALUE]] == NONE || (v[O_LENGTH] && v[O_VALUE] != 1);
}

static void get(const struct option *o, const char *what) {
  /* the whole, a part, more, and nothing */
  for (unsigned size = 0; size <= 8; size += 2) {
    unsigned char value[8];
    socklen_t len = size;
    memset(value, 0xee, sizeof value);
    long ret = getsockopt(run.fd, o->level, o->option, value, &len);
    if (o->option == SO_INCOMING_CPU ||
        (o->level == IPPROTO_TCP && (o->option == TCP_MAXSEG || o->option == TCP_QUICKACK)))
      note_free("the-kernels-own", "%s %ld: %d", what, ret, *(int *)value);
    else
      note("%s of %u: %ld %s, length %u, %02x %02x %02x %02x %02x", what, size, ret, ret < 0 ? error_name(errno) : "",
           len, value[0], value[1], value[2], value[3], value[4]);
  }
}

static void set(const struct option *o, int value, int length) {
  static const socklen_t lengths[] = {sizeof(int), 1, 0, 8};
  char room[8] = {0};

  memcpy(room, &value, sizeof value);
  note_ret("set", setsockopt(run.fd, o->level, o->option, room, lengths[length]));
}

static void option(const int *v) {
  enum end me = v[O_END] ? SERVER : CLIENT;
  const struct option *o = &options[v[O_OPTION]];
  int value = o->values[v[O_VALUE]];

  connect_ends(AF_INET);
  if (v[O_WHEN] == YOUNG)
    ON(me) set(o, value, v[O_LENGTH]);
  if (v[O_WHEN] == YOUNG && o->option == SO_RCVLOWAT && o->level == SOL_SOCKET && value > 1)
    ON(me) set_int(run.fd, SOL_SOCKET, SO_RCVLOWAT, 1); /* or the messages that warm it would not arrive */
  if (v[O_WHEN] == YOUNG)
    warm();
  else
    onto_ring();
  if (v[O_WHEN] == PAIRED_BYTES) {
    ON(OTHER(me)) put(10);
    ON(me) await_bytes(10);
  }
  ON(me) {
    if (v[O_WHEN] != YOUNG)
      get(o, "before");
    if (v[O_WHEN] != YOUNG)
      set(o, value, v[O_LENGTH]);
    get(o, "after");
    note_data("recv", recv(run.fd, run.buf, 4, MSG_DONTWAIT | MSG_PEEK), run.buf);
    drain("there");
  }
  ON(OTHER(me)) put(300);
  ON(me) {
    await_bytes(300);
    /* whether a segment has a time stamp is luck */
    do_recv(o->option == SO_TIMESTAMP && o->level == SOL_SOCKET ? RECV : RECVMSG, run.fd, 100, MSG_DONTWAIT, ONE);
    drain("rest");
    put(200);
    get(o, "at last");
    set(o, o->values[0], 0);
  }
  ON(OTHER(me)) {
    await_bytes(200);
    drain("arrived");
  }
  talk();
}

static const char *option_late(const int *v) {
  const struct option *o = &options[v[O_OPTION]];

  return o->level == SOL_SOCKET && o->option == SO_PEEK_OFF && o->values[v[O_VALUE]] > 0 && v[O_WHEN] == PAIRED_BYTES
             ? "SO_PEEK_OFF is set while bytes lie unread in the ring: a peek shows these from their beginning."
             : NULL;
}

const struct group option_group = {
    .name = "option",
    .what = "Each socket option, set and read before and after pairing, with bytes waiting; and the stream afterwards",
    .dims = {DIM("option", OPTION_NAMES), DIM("value", "first", "second", "third"),
             DIM("when", "young", "paired", "paired-with-bytes"), DIM("length", "4", "1", "0", "8"),
             DIM("end", "client", "server")},
    .run = option,
    .skip = option_skip,
    .late = option_late,
    .every = 2,
};

/* ---- what they do ---- */

enum { N_ROUTE, N_WHEN, N_ACT };
enum route { BY_FCNTL, BY_FIONBIO, BY_DUP, BY_ACCEPT4, BY_SOCK_NONBLOCK, BY_CHILDREN };
#define ROUTE_NAMES "F_SETFL", "FIONBIO", "F_SETFL-on-a-dup", "accept4-or-socket"

static void set_nonblock(int route, bool on) {
  int value = on, copy;

  switch (route) {
  case BY_FIONBIO: note_ret("FIONBIO", ioctl(run.fd, FIONBIO, &value)); return;
  case BY_DUP:
    copy = dup(run.fd);
    no_blocking(copy, on);
    close(copy);
    return;
  default: no_blocking(run.fd, on); return;
  }
}

static void note_flags(void) { note("O_NONBLOCK %d", !!(fcntl(run.fd, F_GETFL) & O_NONBLOCK)); }

static void nonblock(const int *v) {
  enum end me = v[N_ACT] % 2 ? SERVER : CLIENT;

  connect_ends(AF_INET);
  if (v[N_WHEN] == YOUNG) {
    ON(me) set_nonblock(v[N_ROUTE], true);
    warm(); /* what waits in no way that the library has seen is not sent to over the ring */
  } else {
    onto_ring();
  }
  if (v[N_WHEN] == PAIRED_BYTES) {
    ON(OTHER(me)) put(10);
    ON(me) await_bytes(10);
  }
  ON(me) {
    if (v[N_WHEN] != YOUNG)
      set_nonblock(v[N_ROUTE], true);
    note_flags();
    do_recv(RECV, run.fd, 25, 0, ONE);
    do_recv(READ, run.fd, 25, 0, ONE);
    do_recv(RECV, run.fd, 25, MSG_WAITALL, ONE);
    set_nonblock(v[N_ROUTE], false);
    note_flags();
    release();
    do_recv(RECV, run.fd, 25, 0, ONE);
  }
  ON(OTHER(me)) {
    settle(me);
    put(10);
  }
  ON(me) set_nonblock((v[N_ROUTE] + 1) % 3, true);
  ON(OTHER(me)) put(10);
  ON(me) {
    await_bytes(10);
    do_recv(RECV, run.fd, 25, 0, ONE);
    do_recv(RECV, run.fd, 25, 0, ONE);
    set_nonblock(v[N_ROUTE], false);
  }
  talk();
}

static bool nonblock_skip(const int *v) { return v[N_WHEN] == YOUNG && v[N_ROUTE] == BY_ACCEPT4; }

const struct group nonblock_group = {
    .name = "nonblocking",
    .what = "O_NONBLOCK by every route, switched on and off on a connection in use",
    .dims = {DIM("route", "F_SETFL", "FIONBIO", "F_SETFL-on-a-dup"),
             DIM("when", "young", "paired", "paired-with-bytes"), DIM("end", "client", "server")},
    .run = nonblock,
    .skip = nonblock_skip,
};

enum { C_WHAT, C_WHEN, C_LANE };

/* SO_RCVLOWAT, SIOCOUTQ, O_ASYNC, TCP_INFO, TCP_CORK, SO_SNDTIMEO, ... each by what it does. */
static void lowat(enum end me) {
  struct waiting w;

  ON(me) {
    set_int(run.fd, SOL_SOCKET, SO_RCVLOWAT, 8);
    wait_open(&w, POLL);
    wait_add(&w, run.fd, 1);
  }
  ON(OTHER(me)) put(5);
  ON(me) {
    await_bytes(5);
    do_wait(&w, "5 of 8", 0, NULL);
    note_data("peek", recv(run.fd, run.buf, 20, MSG_DONTWAIT | MSG_PEEK), run.buf);
    release();
    note_data("recv", recv(run.fd, run.buf, 20, 0), run.buf);
  }
  ON(OTHER(me)) {
    settle(me);
    put(8); /* the kernel counts anew: 3 would not wake it */
  }
  ON(me) {} /* has returned */
  ON(OTHER(me)) put(8);
  ON(me) {
    await_bytes(8);
    do_wait(&w, "8 of 8", 0, NULL);
    set_int(run.fd, SOL_SOCKET, SO_RCVLOWAT, 1);
    drain("all");
  }
}

static void queues(enum end me) {
  ON(OTHER(me)) put(30);
  ON(me) {
    int n = -1;
    await_bytes(30);
    note_ret("FIONREAD", ioctl(run.fd, FIONREAD, &n));
    note("  %d", n);
    note_data("recv", recv(run.fd, run.buf, 12, 0), run.buf);
    note_ret("SIOCINQ", ioctl(run.fd, SIOCINQ, &n));
    note("  %d", n);
    note_ret("FIONREAD NULL", ioctl(run.fd, FIONREAD, NULL));
    note_ret("FIONREAD after that", ioctl(run.fd, FIONREAD, &n));
    note("  %d", n);
    note_data("recv", recv(run.fd, run.buf, 12, 0), run.buf);
  }
  ON(OTHER(me)) {
    int n = -1;
    for (int i = 0; i < 100 && n != 0; i++) { /* until the acknowledgement is there */
      ioctl(run.fd, SIOCOUTQ, &n);
      pause_us(1000);
    }
    note("SIOCOUTQ %d", n);
    note_ret("SIOCOUTQNSD", ioctl(run.fd, SIOCOUTQNSD, &n));
    note("  %d", n);
    note_ret("SIOCATMARK", ioctl(run.fd, SIOCATMARK, &n));
    note("  %d", n);
  }
  ON(me) drain("rest");
}

static volatile sig_atomic_t ios;
static void on_io(int sig) { ios = 1; }

static void async(enum end me) {
  ON(me) {
    ios = 0;
    signal(SIGIO, on_io);
    fcntl(run.fd, F_SETOWN, getpid());
    note_ret("O_ASYNC", fcntl(run.fd, F_SETFL, fcntl(run.fd, F_GETFL) | O_ASYNC));
    ios = 0;
  }
  for (int i = 0; i < 3; i++) {
    ON(OTHER(me)) put(10);
    ON(me) {
      for (int k = 0; k < 500 && !ios; k++)
        pause_us(1000);
      note("SIGIO %d", (int)ios);
      ios = 0;
      await_bytes(10);
      drain("bytes");
      pause_us(1000);
      ios = 0;
    }
  }
  ON(me) {
    note_ret("O_ASYNC", fcntl(run.fd, F_SETFL, fcntl(run.fd, F_GETFL) & ~O_ASYNC));
    signal(SIGIO, SIG_DFL);
  }
}

static void corked(enum end me) {
  ON(me) {
    set_int(run.fd, IPPROTO_TCP, TCP_CORK, 1);
    put(10);
    put(10);
    set_int(run.fd, IPPROTO_TCP, TCP_CORK, 0);
  }
  ON(OTHER(me)) {
    await_bytes(20);
    drain("uncorked");
  }
  ON(me) {
    note_ret("MSG_MORE", send(run.fd, "abc", 3, MSG_MORE));
    note_ret("no MSG_MORE", send(run.fd, "def", 3, 0));
  }
  ON(OTHER(me)) {
    await_bytes(6);
    drain("all");
  }
  ON(me) note_ret("MSG_MORE", send(run.fd, "abc", 3, MSG_MORE));
  ON(OTHER(me)) { /* TCP sends it after a fifth of a second */
    await_bytes(3);
    drain("late");
  }
}

static void info(enum end me) {
  ON(me) {
    struct tcp_info i;
    socklen_t len = sizeof i;
    memset(&i, 0, sizeof i);
    note_ret("TCP_INFO", getsockopt(run.fd, IPPROTO_TCP, TCP_INFO, &i, &len));
    note("  length %u, state %u, retransmits %u", len, i.tcpi_state, i.tcpi_retransmits);
    note_free("tcp-info", "  %u segments out", i.tcpi_unacked);
    len = 4;
    note_ret("TCP_INFO of 4", getsockopt(run.fd, IPPROTO_TCP, TCP_INFO, &i, &len));
    note("  length %u", len);
    char name[32] = "";
    len = sizeof name;
    note_ret("TCP_CONGESTION", getsockopt(run.fd, IPPROTO_TCP, TCP_CONGESTION, name, &len));
    note("  %s", name);
    len = sizeof name;
    name[0] = 0;
    note_ret("TCP_ULP", getsockopt(run.fd, IPPROTO_TCP, TCP_ULP, name, &len));
    note("  length %u, '%s'", len, name);
    note_ret("TCP_ULP nonsense", setsockopt(run.fd, IPPROTO_TCP, TCP_ULP, "nonsense", 8));
  }
}

static void timeouts(enum end me) {
  ON(me) {
    struct timeval t = {0, 20000}, back = {9, 9};
    socklen_t len = sizeof back;
    setsockopt(run.fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    getsockopt(run.fd, SOL_SOCKET, SO_RCVTIMEO, &back, &len);
    note("SO_RCVTIMEO %ld.%06ld", back.tv_sec, back.tv_usec);
    for (int i = 0; i < 3; i++) {
      uint64_t begin = clock_ms();
      note_ret("recv", recv(run.fd, run.buf, 10, 0));
      note_time("  took", begin, 20);
    }
    t.tv_usec = 1000001;
    note_ret("a bad SO_RCVTIMEO", setsockopt(run.fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    t = (struct timeval){0};
    note_ret("no SO_RCVTIMEO", setsockopt(run.fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    t = (struct timeval){0, 50000};
    setsockopt(run.fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
    uint64_t begin = clock_ms();
    int64_t total = 0;
    long n;
    while ((n = send(run.fd, run.buf, 300000, 0)) > 0)
      total += n;
    note_ret("a full send", n);
    note_time("  took", begin, 50);
    run.shared->value[0] = total;
  }
  ON(OTHER(me)) {
    int64_t got = 0;
    while (got < run.shared->value[0]) {
      await_bytes(1);
      long n = recv(run.fd, run.buf, BUF_BYTES, MSG_DONTWAIT);
      if (n <= 0)
        break;
      got += n;
    }
    note("what was sent %s", got == run.shared->value[0] ? "came" : "did not all come");
    drain("and no more");
  }
  ON(me) {
    struct timeval t = {0};
    setsockopt(run.fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
  }
}

static void effect(const int *v) {
  static void (*const effects[])(enum end) = {lowat, queues, async, corked, info, timeouts};
  enum end me = v[C_LANE] ? SERVER : CLIENT;

  connect_ends(AF_INET);
  if (v[C_WHEN])
    onto_ring();
  effects[v[C_WHAT]](me);
  if (!v[C_WHEN]) {
    warm();
    effects[v[C_WHAT]](me);
  }
  talk();
  part();
}

const struct group effect_group = {
    .name = "option-effect",
    .what = "What SO_RCVLOWAT, FIONREAD, SIOCOUTQ, O_ASYNC, TCP_CORK, MSG_MORE, TCP_INFO, TCP_ULP and the timeouts do",
    .dims = {DIM("what", "lowat", "queues", "O_ASYNC", "cork", "info", "timeouts"), DIM("when", "young", "paired"),
             DIM("end", "client", "server")},
    .run = effect,
};
