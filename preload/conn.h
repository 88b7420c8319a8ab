/* SPDX-License-Identifier: MIT */
/*
 * preload/conn.h - connections, the descriptor table, and the locks.
 *
 * A connection has two parts. `struct fl_conn` lies in memory that a fork family shares (a MAP_SHARED arena), because
 * the cursors, the byte counts and the question who holds the descriptor belong to the open file description and not to
 * a process. `struct fl_local` is what only this process knows: how many of its descriptors refer to it, where the
 * segment is mapped, which epoll sets hold it.
 *
 * The descriptor table is an array of tagged words indexed by descriptor and read without a lock. An entry may be stale
 * by the time that it is used, so whoever takes a connection's lock checks again that the descriptor still means it
 * (fl_tx_enter, fl_rx_enter); the memory itself is type-stable.
 *
 * Lock order: epoll set -> tx -> rx -> registration list; epoll sets by address. Never held across a call that can
 * block, or that is a cancellation point.
 */
#pragma once

#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "host.h"
#include "registry/embedded.h"
#include "shmring/lane.h"
#include "shmring/wait.h"

#define FL_LIKELY(x) __builtin_expect(!!(x), 1)
#define FL_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define FL_NOINLINE __attribute__((noinline))
#define FL_HIDDEN __attribute__((visibility("hidden"))) /* on a variable: it is reached without a look-up */
#define FL_TLS __thread __attribute__((tls_model("initial-exec")))
#define FL_HOLDERS 8
#define FL_CONNS 65536u
#define FL_CONN_CHUNK 32u

/* How far the search for the other end has come. */
enum fl_phase {
  FL_FRESH,   /* counting messages; nothing was tried */
  FL_SEEKING, /* a rendezvous is open, or will be tried again */
  FL_PAIRED,  /* the segment is mapped */
  FL_SETTLED, /* on TCP for good: reason says why */
};

/* Why a connection is on TCP, declared once: name, the words that a user reads. */
/* clang-format off */
#define FL_REASONS(X) \
  X(NONE, "") \
  X(YOUNG, "too few messages yet") \
  X(WAITING, "waiting for the other end") \
  X(NO_PEER, "the other end does not answer (no library there?)") \
  X(REMOTE, "the other end is not in this network namespace") \
  X(REFUSED, "the other end's identity or message is not right") \
  X(ERROR, "the system refused a resource") \
  X(PORTS, "excluded by FASTLOCAL_PORTS") \
  X(TRANSPORT, "FASTLOCAL_TRANSPORT does not allow shared memory") \
  X(COUNTS, "bytes passed outside of the library") \
  X(NOT_TCP, "not a TCP connection") \
  X(BUSY, "too many rendezvous at once") \
  X(SHARED, "held by more than one process") \
  X(STDIO, "used through stdio or dprintf") \
  X(OPTION, "a socket option needs the kernel") \
  X(OOB, "urgent data") \
  X(SHUT_RD, "shut down for reading") \
  X(SPLICE, "used with splice") \
  X(PASSED, "passed to another process or program") \
  X(AIO, "used by POSIX aio") \
  X(NESTED, "in a nested or polled epoll set") \
  X(RUBBISH, "the other end wrote rubbish into the shared page") \
  X(LOCK, "a signal handler jumped out of a call") \
  X(ELSEWHERE, "the host registry does not know the other end") \
  X(DENIED, "the host registry refuses") \
  X(SANDBOX, "the process forbade itself system calls") \
  X(DISSOLVED, "the socket was disconnected, and other descriptors have it too")
/* clang-format on */

enum fl_reason {
#define X(name, text) FL_WHY_##name,
  FL_REASONS(X)
#undef X
};

const char *fl_reason_text(unsigned reason);

/* Owner's thread id, 0 when free. A dead owner's lock can be taken over. */
typedef _Atomic int32_t fl_lock_t;

struct fl_count {
  _Atomic uint64_t bytes, messages; /* written by one thread at a time, read by anybody: relaxed */
};

#define FL_TIMED_RX 1u
#define FL_TIMED_TX 2u

/* NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding): the order is that of cache lines and of who writes what */
struct fl_conn {
  _Atomic uint32_t used; /* 0 free; else the generation, odd */
  _Atomic uint8_t phase; /* enum fl_phase */
  _Atomic uint8_t reason;
  _Atomic uint8_t pin;           /* enum fl_reason: on the kernel lane for ever, 0 if not */
  _Atomic uint8_t nonblock;      /* O_NONBLOCK as far as seen: a hint for whether to spin */
  _Atomic uint8_t nodelay, cork; /* TCP_NODELAY and TCP_CORK as the application sees them; valid once paired */
  _Atomic uint8_t reset;         /* the ring showed rubbish: reads fail with ECONNRESET */
  _Atomic uint8_t checked;       /* known to be TCP */
  _Atomic uint8_t shut_wr;
  _Atomic uint8_t oob_inline; /* SO_OOBINLINE */
  _Atomic uint8_t timed;      /* FL_TIMED_*: SO_RCVTIMEO, SO_SNDTIMEO were set */
  _Atomic uint8_t closed;  /* this family's last descriptor is gone; the slot waits for threads that are still inside */
  _Atomic int32_t fd_hint; /* some descriptor of it where it was opened: for people and `fastlocal stat` only */
  _Atomic int32_t holder[FL_HOLDERS]; /* pids of the processes that hold a descriptor, 0 free; -1 unknown holder */
  _Atomic int32_t nholders;
  _Atomic uint64_t looked_at; /* fl_now(): when dead holders were last looked for */
  struct fl_tuple tuple;      /* valid from FL_SEEKING on */
  uint32_t generation;

  /* sending: under tx_lock. Locks and counts of threads inside are balanced by those threads: they are not reset when
   * the slot gets its next connection, or a late one would unbalance them. */
  _Alignas(128) fl_lock_t tx_lock;
  _Atomic int32_t tx_busy;   /* threads inside a native send that may block */
  _Atomic uint64_t ktx;      /* bytes ever sent on the kernel lane, */
  _Atomic uint64_t ktx_gone; /* and so many of them when its buffer was last seen to be empty */
  struct fl_count tx_kernel, tx_ring;
  /* once paired */
  _Atomic uint64_t alive_at; /* fl_tick(): when the peer was last seen not to be dead; 0: it is to be asked. relaxed */
  _Atomic uint64_t sent_at;  /* fl_now() at the first send of that tick; relaxed */
  struct fl_tx tx;
  struct fl_wait_hist tx_hist;
  uint32_t full_skip, full_vain; /* tx.c: sleeping on a full ring */
  bool full_still;               /* tx.c: nothing was read since a spin for a full ring was in vain */

  /* receiving: under rx_lock */
  _Alignas(128) fl_lock_t rx_lock;
  _Atomic int32_t rx_sleepers; /* threads inside a native call that waits for, or receives from, this connection */
  _Atomic uint64_t krx;        /* bytes ever received on the kernel lane */
  _Atomic int32_t rx_error;    /* errno that the kernel told us, once, and the application has not seen; 0 none */
  struct fl_count rx_kernel, rx_ring;
  /* once paired */
  struct fl_rx rx;
  struct fl_wait_hist rx_hist;
};

struct fl_epoll;
struct fl_peer_bell; /* bell.c: a bell of another process */
struct fl_item;      /* epoll.c: one registration of a connection in one epoll set of this process */

/* This process's part of a connection: same index as in the arena. */
struct fl_local {
  _Alignas(64) _Atomic int32_t users; /* threads that may look at the segment without a lock: see fl_conn_enter; never
                                         reset */
  fl_lock_t reg_lock;                 /* never reset */

  /* From here to rdv: cleared for each connection (fl_conn_open). The first line is all that the most of them use. */
  _Atomic int32_t nfds;
  _Atomic bool polled; /* seen in poll, select or epoll: a nonblocking receiver comes back through a hooked wait */
  bool rdv_open;
  bool has_parked;
  bool asks_host;                       /* the peer is not in this network namespace: fastlocald is asked */
  _Atomic(struct fl_segment *) retired; /* unmapped by the last of them */
  struct fl_item *items;                /* under reg_lock */
  _Atomic(struct fl_segment *) seg;     /* the mapping; set and cleared under tx_lock and rx_lock */
  uint64_t next_look; /* fl_now() from which on the rendezvous is looked at again, 0 before the first step */
  uint64_t bytes;     /* seen while not paired */
  uint32_t ops;       /* and their messages */
  uint32_t after;     /* it looks for its peer after so many of them */
  bool accepted;      /* else connected, or nobody knows */
  uint16_t service;   /* the port of the end that accepted; valid once it looks for its peer */
  uint32_t starts, looks;
  bool bells;   /* bells may be given and taken */
  uint32_t who; /* of the other end, as fastlocald calls it (bell.h); 0: of the same user, in this network namespace */
  uint32_t bell_misses, bell_posts;
  struct fl_peer_bell *bell; /* the one that the other end knows we can ring; under tx_lock */
  size_t seg_bytes;
  _Atomic uint64_t room; /* bytes of the sending ring that count for this process: room.c */
  struct fl_host_state host;

  struct fl_rdv rdv;        /* under tx_lock and rx_lock; means something if rdv_open says so */
  struct fl_pairing parked; /* a segment that waits for a moment in which the counts can be compared; if has_parked */
};

struct fl_arena; /* arena.c */

/* ---- the descriptor table ---- */

enum fl_tag {
  FL_TAG_CONN = 0,    /* a connection: pointer to struct fl_conn */
  FL_TAG_EPOLL = 1,   /* an epoll set: pointer to struct fl_epoll */
  FL_TAG_PRIVATE = 2, /* ours, not the application's */
  FL_TAG_STREAM = 3,  /* a TCP socket that is not connected, as socket() made it: saves asking the kernel later */
  FL_TAG_MASK = 3,
};
#define FL_STREAM_NONBLOCK ((uintptr_t)4) /* with FL_TAG_STREAM */
#define FL_STREAM_WAITED ((uintptr_t)8)   /* with it: may be in an epoll set (epoll_early.c) */
#define FL_STREAM_ODD ((uintptr_t)16)     /* with it: waited for in a way that was lost sight of; to stay on TCP */
#define FL_PRIVATE_HOST ((uintptr_t)4)    /* with FL_TAG_PRIVATE: the connection to fastlocald */

extern FL_HIDDEN _Atomic uintptr_t *fl_fds; /* NULL until initialised or when disabled */
extern FL_HIDDEN unsigned fl_fds_size;      /* 0 then */

static inline uintptr_t fl_entry(int fd) {
  if (FL_UNLIKELY((unsigned)fd >= fl_fds_size))
    return 0;
  /* acquire: pairs with the release in fl_fds_set; what the entry points to is initialised */
  return atomic_load_explicit(&fl_fds[fd], memory_order_acquire);
}

/*
 * This process did something that others learn of in the kernel, and not in a ring: it sent, connected, ended. What it
 * publishes from now on comes behind that, and a receiver that waits for many connections tells it so (epoll_wait.c).
 */
extern FL_HIDDEN _Atomic uint64_t fl_elsewhere_at;
static inline void fl_elsewhere(void) {
  /* relaxed: the order is that of the program; what another thread does at the same time has none */
  atomic_store_explicit(&fl_elsewhere_at, fl_now(), memory_order_relaxed);
}

/* Changes the marks of a stream that is not connected. False: fd is no such stream. */
bool fl_stream_change(int fd, uintptr_t off, uintptr_t on);
static inline bool fl_stream_mark(int fd, uintptr_t on) { return fl_stream_change(fd, 0, on); }

/* What an entry names, or NULL. Another thread may close the descriptor at any moment: who looks at the entry's tag
 * first uses the same entry then, and does not read it again. */
static inline struct fl_conn *fl_entry_conn(uintptr_t e) {
  return FL_LIKELY(e == 0) || (e & FL_TAG_MASK) != FL_TAG_CONN ? NULL : (struct fl_conn *)e;
}

/* The same, if it is paired. */
static inline struct fl_conn *fl_entry_paired(uintptr_t e);

static inline struct fl_epoll *fl_entry_epoll(uintptr_t e) {
  return (e & FL_TAG_MASK) != FL_TAG_EPOLL ? NULL : (struct fl_epoll *)(e & ~(uintptr_t)FL_TAG_MASK);
}

static inline struct fl_conn *fl_conn_of(int fd) { return fl_entry_conn(fl_entry(fd)); }

static inline struct fl_epoll *fl_epoll_of(int fd) { return fl_entry_epoll(fl_entry(fd)); }

/* Sets an entry and returns the former one. fd outside of the table: nothing is stored. */
uintptr_t fl_fds_set(int fd, uintptr_t entry);

/* ---- process ---- */

/* What this process knows of itself. `wiped` is in a page that the kernel gives to a child of fork as zeros, whoever
 * called fork or clone: NULL without the library, 0 in a child that has not noticed yet. */
struct fl_self {
  int32_t *wiped;
  int32_t pid; /* copy that survives: the parent's, until the child refreshes it */
};
extern FL_HIDDEN struct fl_self fl_self;
void fl_self_forked(void);

/* Finds a fork that no handler saw. */
static inline void fl_process_check(void) {
  if (FL_UNLIKELY(fl_self.wiped && *fl_self.wiped == 0))
    fl_self_forked();
}

/* This process, right after fork and clone as well. */
static inline int32_t fl_pid(void) {
  fl_process_check();
  return fl_self.pid;
}

/* This thread, cached for the process that it was asked in. */
struct fl_thread {
  int32_t tid, pid;
};
extern FL_HIDDEN FL_TLS struct fl_thread fl_thread;
int32_t fl_tid_ask(void);

static inline int32_t fl_tid(void) { return FL_LIKELY(fl_thread.pid == fl_self.pid) ? fl_thread.tid : fl_tid_ask(); }

/* The same without asking: 0 if it is not known, or if this process is a child that nobody has noticed yet. For a
 * process that follows connections. */
static inline int32_t fl_tid_known(void) { return FL_LIKELY(fl_thread.pid == *fl_self.wiped) ? fl_thread.tid : 0; }

bool fl_in_vfork_child(void); /* a child that shares our memory is running: change nothing. A system call */
bool fl_process_init(void);   /* table and arena; false: no memory, pass everything through */

/* ---- locks ---- */

/* FL_LOCKED; FL_REENTERED: this very thread holds it (a signal handler interrupted the holder, or jumped out), or its
 * holder has not come back for a second: go on without it, on the kernel lane, and do not unlock. */
enum fl_locked { FL_LOCKED, FL_REENTERED };
enum fl_locked fl_lock_slow(fl_lock_t *lock, int32_t tid);

static inline enum fl_locked fl_lock(fl_lock_t *lock) {
  int32_t tid = fl_tid(), expected = 0;
  /* acquire: pairs with the release in fl_unlock */
  if (FL_LIKELY(
          atomic_compare_exchange_strong_explicit(lock, &expected, tid, memory_order_acquire, memory_order_relaxed)))
    return FL_LOCKED;
  return fl_lock_slow(lock, tid);
}
/* Without waiting; `tid` is this thread's, or 0, which takes none. */
static inline bool fl_lock_try(fl_lock_t *lock, int32_t tid) {
  int32_t expected = 0;
  /* acquire: pairs with the release in fl_unlock */
  return FL_LIKELY(tid != 0) && FL_LIKELY(atomic_compare_exchange_strong_explicit(
                                    lock, &expected, tid, memory_order_acquire, memory_order_relaxed));
}
static inline void fl_unlock(fl_lock_t *lock) {
  /* release: pairs with the acquire in fl_lock */
  atomic_store_explicit(lock, 0, memory_order_release);
}

/* ---- connections (conn.c) ---- */

extern FL_HIDDEN struct fl_conn *fl_conns; /* the arena's, and the private parts, by the same index */
extern FL_HIDDEN struct fl_local *fl_locals;

static inline struct fl_local *fl_local_of(const struct fl_conn *c) { return &fl_locals[c - fl_conns]; }

/* Begins to follow fd, which a successful connect or accept just gave. Replaces what the table held. `nonblock` as
 * known. */
void fl_conn_open(int fd, bool nonblock, bool accepted);

/* Another descriptor for the same connection (dup), or the end of one (close). The kernel call is the caller's. */
void fl_conn_share(struct fl_conn *c, int fd);
void fl_conn_forget(int fd, bool closing);

/*
 * Around every use of a connection that is not under one of its locks: in between the slot is not used again, and a
 * mapping that fl_conn_mapped showed stays, though the connection may be closed. Cheap, and may be nested.
 * fl_conn_leave keeps errno.
 */
static inline void fl_conn_enter(struct fl_conn *c);
void fl_conn_leave(struct fl_conn *c);

/* For a thread that was inside: if the family has closed the connection, and nobody else is inside, its slot is free.
 */
void fl_conn_put(struct fl_conn *c);

/* The connection must stay on the kernel lane for ever; leftover ring bytes stay readable through the hooks. */
void fl_conn_pin(struct fl_conn *c, enum fl_reason why);

/* May this process use the rings of c now? (paired, not pinned, the only holder) */
static inline bool fl_conn_usable(const struct fl_conn *c) {
  return atomic_load_explicit(&c->phase, memory_order_acquire) == FL_PAIRED &&
         atomic_load_explicit(&c->pin, memory_order_relaxed) == 0 &&
         atomic_load_explicit(&c->nholders, memory_order_acquire) == 1;
}
static inline bool fl_conn_paired(const struct fl_conn *c) {
  /* acquire: pairs with the release in pair.c; the attached sides are visible */
  return atomic_load_explicit(&c->phase, memory_order_acquire) == FL_PAIRED;
}

static inline struct fl_conn *fl_entry_paired(uintptr_t e) {
  struct fl_conn *c = fl_entry_conn(e);
  return FL_LIKELY(c != NULL) && FL_LIKELY(fl_conn_paired(c)) ? c : NULL;
}

/* On TCP for good: nothing is kept of it but the statistics. */
static inline bool fl_conn_settled(const struct fl_conn *c) {
  return atomic_load_explicit(&c->phase, memory_order_relaxed) == FL_SETTLED;
}

static inline void fl_conn_enter(struct fl_conn *c) {
  /* seq_cst: pairs with conn_last; either it sees this user, or fl_conn_mapped sees that the mapping goes */
  atomic_fetch_add_explicit(&fl_local_of(c)->users, 1, memory_order_seq_cst);
}

/* After fl_conn_enter, or with the set locked that holds an item of it: may the lanes be looked at? With one of the
 * connection's locks, and the descriptor checked, fl_conn_paired says the same. */
static inline bool fl_conn_mapped(const struct fl_conn *c) {
  return fl_conn_paired(c) && atomic_load_explicit(&fl_local_of(c)->seg, memory_order_seq_cst) != NULL;
}

/* Holders across a fork. */
void fl_conn_holder_add(struct fl_conn *c, int32_t pid);
void fl_conn_holder_drop(struct fl_conn *c, int32_t pid);
/* Drops holders that are dead, once it is clear that they left the counts right; true if only this process is left. A
 * few system calls per holder. */
bool fl_conn_holders_purge(struct fl_conn *c);
/* The same, at most once per millisecond. */
void fl_conn_holders_look(struct fl_conn *c);

/* Calls f for every connection of which this process holds a descriptor. */
void fl_conn_each(void (*f)(struct fl_conn *c, struct fl_local *l, void *arg), void *arg);

/* Puts the receiving direction to NATIVE, or lets it watch if nothing forbids it. rx_lock held for the latter. */
void fl_conn_native(struct fl_conn *c);
void fl_conn_watch(struct fl_conn *c);
/* To WATCHING, all conditions checked and all locks held; taken back if the connection stopped being usable meanwhile.
 */
void fl_conn_watch_now(struct fl_conn *c);

/* ---- pairing (pair.c) ---- */

/* Counts a message of n bytes on a connection that is not paired, and takes the next step towards pairing when it is
 * due. Called without locks. Never blocks; errno is left alone. */
void fl_pair_tick(struct fl_conn *c, int fd, size_t n);
/* Do the hooks and the kernel agree on what has passed? Unsure: a call is under way, or the counts moved meanwhile. */
enum fl_agree { FL_AGREE, FL_DIFFER, FL_UNSURE };
enum fl_agree fl_pair_counts(struct fl_conn *c, int fd);

/* The socket was disconnected (AF_UNSPEC), and other descriptors may have it: what it is connected to from now on stays
 * on TCP. */
void fl_pair_dissolved(struct fl_conn *c);

/* Looks which options fd has: those that were set before the table knew it, that a listener handed down, or that
 * another process set whom we do not see. What the ring cannot honour pins c. */
void fl_pair_options(struct fl_conn *c, int fd);

/* A signal handler jumped out of a native call on c, which may have moved bytes that nobody counted: if it has, or if
 * that cannot be seen, the connection stays on TCP. */
void fl_pair_jumped(struct fl_conn *c, int fd);

/* Both locks held: gives up a rendezvous. */
void fl_pair_abandon(struct fl_conn *c, struct fl_local *l);

/* ---- small helpers ---- */

static inline void fl_count_add(struct fl_count *k, uint64_t bytes) {
  atomic_store_explicit(&k->bytes, atomic_load_explicit(&k->bytes, memory_order_relaxed) + bytes, memory_order_relaxed);
  atomic_store_explicit(&k->messages, atomic_load_explicit(&k->messages, memory_order_relaxed) + 1,
                        memory_order_relaxed);
}

/* The result of a native call on a connection that is settled. It may be closed meanwhile and its slot another's: then
 * the statistics are wrong, and nothing else. */
static inline ssize_t fl_count_settled(struct fl_count *k, ssize_t n) {
  if (n > 0)
    fl_count_add(k, (uint64_t)n);
  return n;
}
