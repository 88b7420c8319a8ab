/* SPDX-License-Identifier: MIT */
/*
 * preload/pair.c - from a young connection to a paired one: when to look for the other end, whether the counts agree
 * with the kernel's, and what to do when it does not answer.
 *
 * A connection that carried few messages costs a counter. After FASTLOCAL_PAIR_AFTER messages, or as many times
 * FL_LEARN_MESSAGE_BYTES, each end takes the first step of the rendezvous. The end that has to wait looks again with
 * its next messages, then at intervals that double, and gives up after about a fifth of a second (the reader of a
 * stream may be megabytes behind); it begins anew a few times, ever later. All of that happens inside calls that the
 * application makes anyway.
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/ioctl.h>

#include "arena_alloc.h"
#include "bell.h"
#include "conn.h"
#include "learn.h"
#include "log.h"
#include "options.h"
#include "registry/sys.h"
#include "room.h"
#include "shmring/fault.h"
#include "stats.h"

#define QUICK_LOOKS 8u /* looks with every message */
#define LOOKS 20u      /* looks at one rendezvous before it is given up */
#define FIRST_WAIT_NS 50000u
#define STARTS 4u /* rendezvous of one connection */
#define RESTART_NS \
  100000000u /* the second one so long after the first was given up, the third four times as long, ... */
#define SILENT_NS 1000000000u
#define HOST_LOOKS 80u /* looks for an answer of fastlocald, the later ones HOST_WAIT_MAX_NS apart */
#define HOST_WAIT_MAX_NS 800000000u
#define LISTENERS_MAX 256 /* rendezvous open at once in this process */

static _Atomic int listeners;

static void settle(struct fl_conn *c, struct fl_local *l, enum fl_reason why) {
  fl_pair_abandon(c, l);
  atomic_store_explicit(&c->reason, (uint8_t)why, memory_order_relaxed);
  atomic_store_explicit(&c->phase, FL_SETTLED, memory_order_release);
  fl_log(FL_LOG_INFO, "connection %u stays on TCP: %s", fl_arena_index(c), fl_reason_text(why));
}

void fl_pair_dissolved(struct fl_conn *c) {
  bool tx = fl_lock(&c->tx_lock) == FL_LOCKED, rx = fl_lock(&c->rx_lock) == FL_LOCKED;

  if (fl_conn_paired(c))
    fl_rx_native_always(&c->rx);
  settle(c, fl_local_of(c), FL_WHY_DISSOLVED);
  if (rx)
    fl_unlock(&c->rx_lock);
  if (tx)
    fl_unlock(&c->tx_lock);
}

/*
 * The private descriptors of a rendezvous are marked in the table, so that the application can neither close them nor
 * see them mistaken for its own. The mark is taken off before the registry is called, which may close or replace them:
 * while a number is marked no other thread can have been given it.
 */
static void mark(struct fl_rdv *r) {
  fl_fds_set(r->fd, FL_TAG_PRIVATE);
  fl_fds_set(r->visitor, FL_TAG_PRIVATE);
}

/* A number that lost its mark was closed or taken by the application: it is not ours any more. */
static void unmark(struct fl_rdv *r) {
  int *fds[2] = {&r->fd, &r->visitor};

  for (int i = 0; i < 2; i++) {
    if (*fds[i] < 0)
      continue;
    if (fl_entry(*fds[i]) == FL_TAG_PRIVATE)
      fl_fds_set(*fds[i], 0);
    else
      *fds[i] = -1;
  }
}

static void rdv_closed(struct fl_local *l) {
  if (!l->rdv_open)
    return;
  l->rdv_open = false;
  atomic_fetch_sub_explicit(&listeners, 1, memory_order_relaxed);
}

void fl_pair_abandon(struct fl_conn *c, struct fl_local *l) {
  fl_host_end(c);
  if (!l->rdv_open)
    return;
  unmark(&l->rdv);
  fl_rdv_abandon(&l->rdv);
  rdv_closed(l);
}

/* ---- the counts ---- */

struct kernel_counts {
  uint64_t sent, received; /* by the application, over the life of the socket */
};

/*
 * What the kernel says has passed. All of what was sent is in one snapshot of TCP_INFO; what was received and not yet
 * read has to be asked for separately, before and after. False if it moved while we looked, or cannot say (Linux
 * before 4.19).
 */
static bool kernel_counts(int fd, struct kernel_counts *k) {
  /* offsets in linux/tcp.h's struct tcp_info, which reaches further than libc's */
  enum { RECEIVED = 128, NOTSENT = 144, SENT = 200, RETRANS = 208, END = 216 };
  unsigned char info[512];
  uint64_t received, sent, retrans;
  uint32_t notsent;
  int before = 0, after = 0;

  for (int i = 0; i < 4; i++) {
    socklen_t len = sizeof info;
    if (fl_sys_ioctl(fd, FIONREAD, &before) < 0 || fl_sys_getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &len) < 0 ||
        len < END || fl_sys_ioctl(fd, FIONREAD, &after) < 0)
      return false;
    if (before != after)
      continue;
    memcpy(&received, info + RECEIVED, 8);
    memcpy(&notsent, info + NOTSENT, 4);
    memcpy(&sent, info + SENT, 8);
    memcpy(&retrans, info + RETRANS, 8);
    k->sent = sent - retrans + notsent;
    k->received = received - (uint64_t)after;
    return info[0] == TCP_ESTABLISHED;
  }
  return false;
}

enum fl_agree fl_pair_counts(struct fl_conn *c, int fd) {
  struct kernel_counts k;

  if (atomic_load_explicit(&c->tx_busy, memory_order_seq_cst) ||
      atomic_load_explicit(&c->rx_sleepers, memory_order_seq_cst))
    return FL_UNSURE;
  uint64_t ktx = atomic_load_explicit(&c->ktx, memory_order_acquire),
           krx = atomic_load_explicit(&c->krx, memory_order_acquire);
  if (!kernel_counts(fd, &k))
    return FL_UNSURE;
  if (ktx != atomic_load_explicit(&c->ktx, memory_order_seq_cst) ||
      krx != atomic_load_explicit(&c->krx, memory_order_seq_cst) ||
      atomic_load_explicit(&c->tx_busy, memory_order_seq_cst) ||
      atomic_load_explicit(&c->rx_sleepers, memory_order_seq_cst))
    return FL_UNSURE;
  return k.sent == ktx && k.received == krx ? FL_AGREE : FL_DIFFER;
}

void fl_pair_jumped(struct fl_conn *c, int fd) {
  if (!fl_conn_paired(c)) /* looked at before it is */
    return;
  enum fl_agree agree = fl_conn_of(fd) == c ? fl_pair_counts(c, fd) : FL_UNSURE;
  if (agree != FL_AGREE)
    fl_conn_pin(c, agree == FL_DIFFER ? FL_WHY_COUNTS : FL_WHY_LOCK);
}

/* ---- steps ---- */

/* From now on small kernel-lane writes stand between ring writes: no Nagle, no cork. The application's values stay
 * visible to it (sockopt.c). */
static void virtual_options(struct fl_conn *c, int fd) {
  int nodelay = 0, cork = 0, one = 1, zero = 0;
  socklen_t len = sizeof nodelay;

  fl_sys_getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &nodelay, &len);
  len = sizeof cork;
  fl_sys_getsockopt(fd, IPPROTO_TCP, TCP_CORK, &cork, &len);
  atomic_store_explicit(&c->nodelay, nodelay != 0, memory_order_relaxed);
  atomic_store_explicit(&c->cork, cork != 0, memory_order_relaxed);
  if (cork)
    fl_sys_setsockopt(fd, IPPROTO_TCP, TCP_CORK, &zero, sizeof zero);
  if (!nodelay)
    fl_sys_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

void fl_pair_options(struct fl_conn *c, int fd) {
  static const struct {
    int level, name, from; /* pins if the value is at least `from` */
  } pins[] = {
      {SOL_SOCKET, SO_RCVLOWAT, 2},     {SOL_SOCKET, SO_TIMESTAMP, 1}, {SOL_SOCKET, SO_TIMESTAMPNS, 1},
      {SOL_SOCKET, SO_TIMESTAMPING, 1}, {SOL_SOCKET, SO_ZEROCOPY, 1},  {SOL_SOCKET, SO_PEEK_OFF, 0},
      {IPPROTO_TCP, TCP_INQ, 1},
  };
  char ulp[16] = "";
  socklen_t len;

  for (size_t i = 0; i < sizeof pins / sizeof pins[0]; i++) {
    int v = -1;
    len = sizeof v;
    if (fl_sys_getsockopt(fd, pins[i].level, pins[i].name, &v, &len) == 0 && v >= pins[i].from)
      fl_conn_pin(c, FL_WHY_OPTION);
  }
  int oob_inline = 0;
  len = sizeof oob_inline;
  if (fl_sys_getsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &oob_inline, &len) == 0)
    atomic_store_explicit(&c->oob_inline, oob_inline != 0, memory_order_relaxed);
  len = sizeof ulp;
  if (fl_sys_getsockopt(fd, IPPROTO_TCP, TCP_ULP, ulp, &len) == 0 && ulp[0])
    fl_conn_pin(c, FL_WHY_OPTION);
  int flags = fl_sys_fcntl(fd, F_GETFL, 0);
  if (flags >= 0) {
    atomic_store_explicit(&c->nonblock, !!(flags & O_NONBLOCK), memory_order_relaxed);
    if (flags & O_ASYNC)
      fl_conn_pin(c, FL_WHY_OPTION);
  }
  for (int i = 0; i < 2; i++) {
    struct timeval tv = {0};
    len = sizeof tv;
    if (fl_sys_getsockopt(fd, SOL_SOCKET, i ? SO_SNDTIMEO : SO_RCVTIMEO, &tv, &len) == 0 && (tv.tv_sec || tv.tv_usec))
      atomic_fetch_or_explicit(&c->timed, i ? FL_TIMED_TX : FL_TIMED_RX, memory_order_relaxed);
  }
}

static void install(struct fl_conn *c, struct fl_local *l, int fd, const struct fl_pairing *p) {
  FL_FAULT(pair_install);
  l->seg = p->seg;
  l->seg_bytes = p->bytes;
  /* what the slot's former connection left: see reset in arena_alloc.c */
  /* NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): c is not NULL; take_step compares it with what may be */
  memset(&c->alive_at, 0, offsetof(struct fl_conn, rx_lock) - offsetof(struct fl_conn, alive_at));
  memset(&c->rx, 0, sizeof *c - offsetof(struct fl_conn, rx));
  fl_attach(p->seg, p->ring_size, p->end, &c->tx, &c->rx);
  fl_room_begin(c);
  fl_room_mapped(1);
  fl_tx_intent(&c->tx, atomic_load_explicit(&c->ktx, memory_order_relaxed));
  fl_tx_sent(&c->tx, atomic_load_explicit(&c->ktx, memory_order_relaxed));
  fl_rx_taken(&c->rx, atomic_load_explicit(&c->krx, memory_order_relaxed));
  FL_FAULT(pair_attached);
  virtual_options(c, fd);
  fl_pair_options(c, fd);
  fl_bell_paired(c, l->asks_host ? l->host.who : 0,
                 !l->asks_host && l->rdv.peer_uid == (uid_t)fl_syscall6(__NR_geteuid, 0, 0, 0, 0, 0, 0));
  atomic_store_explicit(&c->reason, FL_WHY_NONE, memory_order_relaxed);
  FL_FAULT(pair_options);
  /* seq_cst: pairs with fl_conn_paired (both sides are attached), and with a receiver that begins to sleep (fl_recv) */
  atomic_store_explicit(&c->phase, FL_PAIRED, memory_order_seq_cst);
  FL_FAULT(pair_paired);
  fl_stats_conn_paired();
  fl_log(FL_LOG_INFO, "connection %u paired, end %d, rings of %u bytes", fl_arena_index(c), p->end, p->ring_size);
  fl_conn_watch(c);
}

/* The next step is due with the first message after so many nanoseconds. */
static void later(struct fl_local *l, uint64_t ns) { l->next_look = fl_now() + fl_ns_to_ticks(ns); }

/* High enough not to disturb the numbers that the application gets, low enough not to make the kernel grow its table.
 */
static int base_fd(int fd) { return fd < 40 ? 48 : ((fd + 128) & ~127) + 64; }

static void on_result(struct fl_conn *c, struct fl_local *l, int fd, enum fl_rdv_result r, struct fl_pairing *p);

/* A step of the search beyond this network namespace: a question, or a look for its answer. */
static void on_host_result(struct fl_conn *c, struct fl_local *l, int fd, enum fl_host_result r, struct fl_pairing *p) {
  uint64_t wait = FIRST_WAIT_NS;

  switch (r) {
  case FL_HOST_ABSENT: settle(c, l, FL_WHY_REMOTE); return;
  case FL_HOST_DENIED: settle(c, l, FL_WHY_DENIED); return;
  case FL_HOST_FOUND: on_result(c, l, fd, FL_RDV_PAIRED, p); return;
  case FL_HOST_LATER:
    l->asks_host = false;
    if (l->starts >= STARTS)
      settle(c, l, FL_WHY_BUSY);
    else
      later(l, (uint64_t)RESTART_NS << 2 * (l->starts - 1));
    return;
  case FL_HOST_WAITING:
    atomic_store_explicit(&c->reason, FL_WHY_WAITING, memory_order_relaxed);
    if (++l->looks > HOST_LOOKS) {
      settle(c, l, FL_WHY_ELSEWHERE);
      return;
    }
    for (uint32_t i = QUICK_LOOKS; i < l->looks && wait < HOST_WAIT_MAX_NS; i++)
      wait *= 2;
    later(l, l->looks <= QUICK_LOOKS ? 0 : wait);
    return;
  }
}

static void on_result(struct fl_conn *c, struct fl_local *l, int fd, enum fl_rdv_result r, struct fl_pairing *p) {
  switch (r) {
  case FL_RDV_PAIRED:
    rdv_closed(l);
    /* The peer may be using its half already; a lane whose receiver stays NATIVE is the kernel's. */
    switch (fl_pair_counts(c, fd)) {
    case FL_AGREE: install(c, l, fd, p); return;
    case FL_UNSURE:
      FL_FAULT(pair_parked);
      l->parked = *p;
      l->has_parked = true;
      later(l, 0);
      return;
    case FL_DIFFER:
      fl_pairing_drop(p);
      settle(c, l, FL_WHY_COUNTS);
      return;
    }
    return;
  case FL_RDV_WAIT:
    if (!l->rdv_open) {
      l->rdv_open = true;
      atomic_fetch_add_explicit(&listeners, 1, memory_order_relaxed);
      l->looks = 0;
    }
    FL_FAULT(pair_wait);
    mark(&l->rdv);
    atomic_store_explicit(&c->reason, FL_WHY_WAITING, memory_order_relaxed);
    if (++l->looks > LOOKS) {
      fl_pair_abandon(c, l);
      if (l->starts >= STARTS)
        settle(c, l, FL_WHY_NO_PEER);
      else
        later(l, (uint64_t)RESTART_NS << 2 * (l->starts - 1));
      return;
    }
    later(l, l->looks <= QUICK_LOOKS ? 0 : (uint64_t)FIRST_WAIT_NS << (l->looks - QUICK_LOOKS - 1));
    return;
  case FL_RDV_RETRY:
    if (l->starts >= 4 * STARTS)
      settle(c, l, FL_WHY_NO_PEER);
    else
      later(l, (uint64_t)FIRST_WAIT_NS << (l->starts / 2));
    return;
  case FL_RDV_REMOTE:
    l->asks_host = true;
    l->looks = 0;
    on_host_result(c, l, fd, fl_host_ask(c, fd, base_fd(fd)), p);
    return;
  case FL_RDV_REFUSED: settle(c, l, FL_WHY_REFUSED); return;
  case FL_RDV_ERROR:
    fl_log(FL_LOG_WARN, "connection %u: rendezvous failed, errno %d", fl_arena_index(c), l->rdv.error);
    settle(c, l, FL_WHY_ERROR);
    return;
  }
}

/* A connection that fell silent while it was looking keeps its rendezvous until its next call. Others may need the
 * place. */
static void evict(struct fl_conn *c, struct fl_local *l, void *arg) {
  uint64_t now = *(uint64_t *)arg;
  int32_t none = 0, me = fl_tid();

  if (!l->rdv_open || (int64_t)(now - l->next_look) < (int64_t)fl_ns_to_ticks(SILENT_NS))
    return;
  /* acquire, both: pair with fl_unlock. Tried, not waited for: the caller holds the locks of another connection. */
  if (!atomic_compare_exchange_strong_explicit(&c->tx_lock, &none, me, memory_order_acquire, memory_order_relaxed))
    return;
  none = 0;
  if (atomic_compare_exchange_strong_explicit(&c->rx_lock, &none, me, memory_order_acquire, memory_order_relaxed)) {
    fl_pair_abandon(c, l);
    fl_unlock(&c->rx_lock);
  }
  fl_unlock(&c->tx_lock);
}

/* Has a connection that has not begun to look for its peer carried enough for that? */
static inline bool worth_looking(const struct fl_local *l) { return fl_learn_enough(l->ops, l->bytes, l->after); }

static void step(struct fl_conn *c, struct fl_local *l, int fd) {
  struct fl_pairing p;

  if (atomic_load_explicit(&c->nholders, memory_order_acquire) != 1 && !fl_conn_holders_purge(c)) {
    later(l, RESTART_NS / 10);
    return;
  }
  if (l->has_parked) {
    l->has_parked = false;
    p = l->parked;
    if (atomic_load_explicit(&c->pin, memory_order_relaxed) || ++l->looks > 1024 * LOOKS) {
      fl_pairing_drop(&p);
      settle(c, l, FL_WHY_COUNTS);
      return;
    }
    on_result(c, l, fd, FL_RDV_PAIRED, &p);
    return;
  }
  if (atomic_load_explicit(&c->pin, memory_order_relaxed)) {
    settle(c, l, (enum fl_reason)c->pin);
    return;
  }
  if (l->asks_host) {
    on_host_result(c, l, fd, fl_host_look(c, &p), &p);
    return;
  }
  if (l->rdv_open) {
    unmark(&l->rdv);
    FL_FAULT(pair_poll);
    if (l->rdv.fd < 0) {
      settle(c, l, FL_WHY_NO_PEER);
      return;
    }
    on_result(c, l, fd, fl_rdv_poll(&l->rdv, &p), &p);
    return;
  }
  if (atomic_load_explicit(&c->phase, memory_order_relaxed) == FL_FRESH) {
    l->after = fl_learn_after(l, fd);
    if (!worth_looking(l))
      return;
    if (fl_options.transport == FL_TRANSPORT_TCP || fl_options.transport == FL_TRANSPORT_UNIX) {
      settle(c, l, FL_WHY_TRANSPORT);
      return;
    }
    int e = fl_tuple_of(fd, &c->tuple);
    if (e) {
      settle(c, l, e == -EPROTONOSUPPORT ? FL_WHY_NOT_TCP : FL_WHY_ERROR);
      return;
    }
    if (!fl_ports_allowed(&fl_options, ntohs(c->tuple.local_port), ntohs(c->tuple.remote_port))) {
      settle(c, l, FL_WHY_PORTS);
      return;
    }
    /* seq_cst: pairs with enter_young in plain.c; calls that still took it for young are seen by fl_pair_counts */
    atomic_store_explicit(&c->phase, FL_SEEKING, memory_order_seq_cst);
  }
  if (atomic_load_explicit(&listeners, memory_order_relaxed) >= LISTENERS_MAX) {
    uint64_t now = fl_now();
    fl_conn_each(evict, &now);
    if (++l->starts > 64 * STARTS) {
      settle(c, l, FL_WHY_BUSY);
      return;
    }
    later(l, RESTART_NS / 100);
    return;
  }
  if (!fl_room_for_mapping()) {
    settle(c, l, FL_WHY_ERROR);
    return;
  }
  FL_FAULT(pair_start);
  l->starts++;
  on_result(c, l, fd, fl_rdv_start(&l->rdv, &c->tuple, fl_options.ring, base_fd(fd), &p), &p);
}

/* Not inlined: fl_pair_tick, which mostly has nothing to do, then needs no frame. */
static FL_NOINLINE void take_step(struct fl_conn *c, struct fl_local *l, int fd) {
  int saved = errno;

  if (fl_lock(&c->tx_lock) == FL_LOCKED) {
    if (fl_lock(&c->rx_lock) == FL_LOCKED) {
      if (fl_conn_of(fd) == c && atomic_load_explicit(&c->phase, memory_order_relaxed) < FL_PAIRED)
        step(c, l, fd);
      fl_unlock(&c->rx_lock);
    }
    fl_unlock(&c->tx_lock);
  }
  errno = saved;
}

void fl_pair_tick(struct fl_conn *c, int fd, size_t n) {
  struct fl_local *l = fl_local_of(c);

  /* counters that two threads may race on: a lost message delays the next look by one */
  l->ops++;
  l->bytes += n;
  if (l->next_look ? (int64_t)(fl_now() - l->next_look) < 0 : !worth_looking(l))
    return;
  if (atomic_load_explicit(&c->phase, memory_order_acquire) < FL_PAIRED)
    take_step(c, l, fd);
}
