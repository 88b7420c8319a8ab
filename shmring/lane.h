/* SPDX-License-Identifier: MIT */
/*
 * shmring/lane.h - one direction of a connection: a byte ring in memory that two processes share, and the word that
 * says whether the receiver is looking at it.
 *
 * The library knows no sockets. A connection has a second way for its bytes, the *kernel lane*; all that is known of it
 * here is a count: how many bytes went that way before a given byte of the ring ("koff").
 *
 * Layout of a segment (a sealed memfd of fl_segment_bytes()), whose rings have `size` bytes each:
 *
 *     FL_WINDOW                  the ring of direction 1, `size` bytes: its last FL_WINDOW lie in the header page
 *     size                       the header page: the end of that ring,
 *     size + FL_WINDOW             struct fl_segment: geometry, and the two directions' control blocks,
 *     size + 4096 - FL_WINDOW      and the beginning of
 *                                the ring of direction 0, `size` bytes
 *
 * So both rings have a window in the header page, where an empty ring begins: at offset 0 of ring 0, and at offset
 * size - FL_WINDOW of ring 1, whose offset 0 follows it as in any ring. A connection whose messages are small, and read
 * before the next is sent, touches that one page.
 *
 * Ring and extents. The ring carries a pure byte stream: position p of the stream (0, 1, 2, ...) lies at a physical
 * offset that an *extent* gives: "from position pos on, bytes lie at off, off + 1, ... (modulo size), and koff bytes of
 * the kernel lane come before them". A new extent is written only when koff changes, or when the sender, finding the
 * ring empty, starts again at its beginning so that request-response traffic stays within one page. There is no header
 * per message: streaming and small messages cost the same.
 *
 * Memory. The kernel allocates a page of a ring when it is first touched. The sender knows how far from the beginning
 * it has come (`used`), has a limit for that, which its caller may raise when it finds the ring full, and gives the
 * pages back when the ring is empty and has not been used for a while (fl_tx_shrink).
 *
 * Publication. The sender fills free space, writes the extent if one is needed, and then publishes everything with a
 * single compare-and-swap of the lane word from {head, WATCHING} to {head + n, WATCHING}. If the receiver went NATIVE
 * in between, the CAS fails, nothing was published, and the sender sends the same bytes over the kernel lane.
 *
 * Bells. A receiver that goes to sleep may choose BELL instead of NATIVE: the sender then publishes as well, takes the
 * word to WATCHING with the same CAS, and rings the receiver's bell once. What a bell is, and how the sender comes to
 * have it, is the caller's business; here it has a number. The receiver writes the number of the bell that it would
 * like to sleep with (`bell`), the sender the number of the one that it can ring (`bell_known`), and only if the two
 * agree may the state be BELL. A sender that changes bell_known takes it away first and then looks at the state, a
 * receiver sets BELL first and then looks at bell_known: one of them sees the other.
 *
 * Trust. Everything that the peer can write is copied out and checked before use. A sender that finds rubbish stops
 * using the ring (FL_TX_BROKEN), a receiver that finds rubbish reports FL_RX_BROKEN; neither ever reads or writes
 * outside the ring, nor loops for ever.
 *
 * Threads. A struct fl_tx is used by one thread at a time, and so is a struct fl_rx; the caller brings the lock. The
 * two sides need no lock between them. Functions marked [any thread] need no lock.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define FL_SEGMENT_MAGIC 0x31676e6972746c66ull /* "fltring1" */
#define FL_SEGMENT_VERSION 4u
#define FL_PAGE 4096u
#define FL_WINDOW 1152u /* bytes of each ring in the header page; whole cache lines, two by two */
#define FL_EXTENTS 16u  /* a power of two */
#define FL_RING_MIN (16u << 10)
#define FL_RING_MAX (64u << 20)

/* The receiver's state, in the three low bits of the lane word; the head (bytes ever published) is above it. */
enum fl_state {
  FL_NATIVE = 0,   /* the receiver can only be woken by the kernel lane; also the state of a fresh segment */
  FL_WATCHING = 1, /* some thread of the receiver looks at the ring before any of them sleeps */
  FL_BELL = 2,     /* the receiver sleeps in a call that also waits for its bell, which the sender has */
  FL_RECALL = 3,   /* as NATIVE, and nobody will come for what the ring holds: the sender is to send it once more, over
                      the kernel lane, before anything else (fl_rx_recall) */
  FL_RETURNED = 4, /* as NATIVE, and the sender has done so, or is at it: what the ring held is void */
};
#define FL_STATE_BITS 3
#define FL_STATE_MASK 7ull

struct fl_extent {
  _Atomic uint64_t pos;  /* first stream position that this extent describes */
  _Atomic uint64_t koff; /* bytes of the kernel lane that come before it */
  _Atomic uint64_t off;  /* physical offset of pos in the ring */
};

/* Flags that a sender leaves for its receiver before it says the same through the kernel lane. */
#define FL_FLAG_FIN 1u  /* the sender ended its direction in an orderly way (shutdown or close) */
#define FL_FLAG_LEFT 2u /* it became another program, which has what it had not read of the other direction's ring */

/* One direction. Who writes what: `word` both; the rest of its line, which a sender has when it publishes, and the
 * sender's line only the sender (but for `ordered`); the receiver's line only the receiver. */
struct fl_lane {
  _Alignas(128) _Atomic uint64_t word;
  /* Hints, for a receiver that asked for them (ordered): when the sender published last, and when it had last done
   * something that is seen elsewhere, in the kernel; a clock that all processes of the host share. */
  _Atomic uint64_t pushed_at, elsewhere_at;

  _Alignas(128) _Atomic uint32_t extent_head; /* extents ever written */
  _Atomic uint32_t flags;
  _Atomic int32_t tx_cpu;         /* CPU on which the sender last ran, -1 unknown */
  _Atomic uint32_t ordered;       /* hint, set by the receiver, once: publications are to be dated */
  _Atomic uint64_t kernel_sent;   /* bytes sent on the kernel lane by calls that have returned: what is in the ring, or
                                     will be, comes after at least these */
  _Atomic uint64_t kernel_intent; /* hint: the same, with those of the calls under way */
  _Atomic uint32_t waiting;       /* the sender sleeps until there is space; the receiver clears it when it wakes it */
  _Atomic uint64_t bell_known;    /* the bell that the sender can ring, 0 none */
  _Atomic uint64_t bell_asked;    /* the bell that the sender would like to be given, 0 none */

  _Alignas(128) _Atomic uint64_t tail; /* bytes ever consumed; published lazily */
  _Atomic uint32_t extent_tail;        /* extents no longer needed */
  _Atomic int32_t rx_cpu;              /* CPU on which the receiver last ran, -1 unknown */
  _Atomic uint64_t kernel_taken;       /* hint: bytes ever taken from the kernel lane */
  _Atomic uint64_t recall_from;        /* with RECALL: what the receiver wants back begins here, */
  _Atomic uint64_t recall_koff;        /* behind so many bytes of the kernel lane */
  _Atomic uint64_t bell;               /* the bell that the receiver would like to sleep with, 0 none */

  struct fl_extent extents[FL_EXTENTS];
};

struct fl_segment {
  uint64_t magic;
  uint32_t version;
  uint32_t ring_size; /* bytes of each of the two rings, a power of two */
  /* where each end takes bells, and the word that says that they come from the other end; 0: nowhere. The caller's. */
  struct fl_mailbox {
    _Atomic uint64_t name, key;
  } mailbox[2];
  struct fl_lane lane[2];
};

_Static_assert(sizeof(struct fl_segment) <= FL_PAGE - 2 * FL_WINDOW, "the header page has room for the control blocks");

/* The sender's side. Private to the sending process (or to the processes of one fork family). */
struct fl_tx {
  struct fl_lane *lane;
  unsigned char *ring;
  uint64_t mask; /* ring size - 1 */
  uint64_t head; /* bytes published */
  uint64_t tail_seen;
  uint64_t off;    /* physical offset of head */
  uint64_t koff;   /* koff of the extent in force */
  uint64_t origin; /* physical offset at which the ring begins */
  uint64_t start;  /* the first whole page is so many bytes from there */
  uint64_t used;   /* not farther from the origin than so many bytes it was written, since fl_tx_shrink */
  uint64_t limit;  /* and not farther than this it may be; the caller's, at least FL_WINDOW */
  uint64_t edge;   /* the window in which head lies ends here */
  uint32_t extent_head;
  uint32_t extent_tail_seen;
  uint32_t turns;    /* times that the ring started again at the origin, since fl_tx_shrink */
  uint64_t returned; /* the receiver will never read what lies before this position */
  uint64_t owed;     /* and of that, so many bytes before head are still to be sent over the kernel lane */
  uint64_t run;      /* so many bytes from off on are free, in one piece, and need nothing but the word (fast.h) */
  int32_t cpu;       /* last value stored in lane->tx_cpu */
  bool pending;      /* the newest extent describes position head, which is not published yet */
  bool broken;
  bool may_ring; /* the caller can ring the receiver's bell now */
  bool ring_due; /* bytes were published to a receiver in BELL: the caller rings */
};

/* The receiver's side. */
struct fl_rx {
  struct fl_lane *lane;
  const unsigned char *ring;
  uint64_t mask;
  uint64_t tail;           /* bytes consumed */
  uint64_t tail_pub;       /* last value stored in lane->tail */
  uint64_t head_seen;      /* tail <= head_seen <= tail + size */
  uint64_t pos, koff, off; /* the extent in force, copied */
  uint64_t next_pos;       /* where the following extent begins, UINT64_MAX when not known */
  uint32_t extent;         /* extents taken so far; the one in force is number extent - 1 */
  int32_t cpu;             /* last value stored in lane->rx_cpu */
  bool recalled;           /* fl_rx_recall was called, and how it ended is not known yet */
  bool broken;
};

enum fl_tx_result {
  FL_TX_OK,     /* all bytes are published */
  FL_TX_FULL,   /* fewer were (perhaps none): no space, try later or use the kernel lane for the rest */
  FL_TX_NATIVE, /* fewer were: the receiver does not look at the ring, use the kernel lane for the rest */
  FL_TX_BELL,   /* fewer were: the receiver sleeps; again with may_ring, or use the kernel lane for the rest */
  FL_TX_BROKEN, /* fewer were: the peer wrote rubbish; the ring is not to be used again */
};

enum fl_rx_result {
  FL_RX_EMPTY,  /* nothing published that is not consumed */
  FL_RX_RING,   /* the next bytes of the stream are in the given spans */
  FL_RX_KERNEL, /* the next bytes of the stream are on the kernel lane: take at most `need` there first */
  FL_RX_BROKEN, /* the peer wrote rubbish */
};

struct fl_span {
  const unsigned char *base;
  size_t len;
};

/* Bytes of a segment whose rings have ring_size bytes each. */
static inline size_t fl_segment_bytes(uint32_t ring_size) { return FL_PAGE + 2 * (size_t)ring_size; }

/* Where the header page lies in a segment of so many bytes. */
static inline size_t fl_segment_page(size_t bytes) { return (bytes - FL_PAGE) / 2; }

/* The control blocks of a segment of `bytes` bytes that is mapped at `base`, and back. */
static inline struct fl_segment *fl_segment_at(void *base, size_t bytes) {
  return (struct fl_segment *)((char *)base + fl_segment_page(bytes) + FL_WINDOW);
}
static inline void *fl_segment_base(struct fl_segment *seg, size_t bytes) {
  return (char *)seg - FL_WINDOW - fl_segment_page(bytes);
}

/* Is ring_size a power of two between FL_RING_MIN and FL_RING_MAX? */
bool fl_ring_size_valid(uint64_t ring_size);

/*
 * Writes the header of a fresh, zeroed segment of fl_segment_bytes(ring_size) bytes, mapped at `base`, and returns
 * where it is. Both lanes are NATIVE.
 */
struct fl_segment *fl_segment_init(void *base, uint32_t ring_size);

/*
 * Checks a segment of `bytes` bytes that came from a peer and is mapped at `base`. Returns its ring size, or 0 if it is
 * not one that this version understands.
 */
uint32_t fl_segment_check(const void *base, size_t bytes);

/*
 * Attaches the two private sides of one end to a mapped segment: end 0 sends on lane 0 and receives on lane 1, end 1
 * the other way round. The segment stays the caller's. tx->limit is the whole ring.
 */
void fl_attach(struct fl_segment *seg, uint32_t ring_size, int end, struct fl_tx *tx, struct fl_rx *rx);

/*
 * Publishes up to `len` bytes of the iovecs, starting `skip` bytes into them, as what follows `koff` bytes of the
 * kernel lane. *done gets the number published (a prefix). Never blocks. With tx->may_ring a receiver in BELL is
 * published to as well; tx->ring_due is then set, and the caller rings before it lets go of its lock.
 */
enum fl_tx_result fl_tx_push(struct fl_tx *tx, const struct iovec *iov, size_t skip, size_t len, uint64_t koff,
                             size_t *done);

/*
 * The same, for a caller that produces the bytes in place: fl_tx_reserve gives up to two writable spans of free space
 * (their sum is 0 if there is none or the receiver is NATIVE); fl_tx_publish publishes the first n bytes of them.
 */
enum fl_tx_result fl_tx_reserve(struct fl_tx *tx, size_t want, uint64_t koff, struct iovec span[2]);
enum fl_tx_result fl_tx_publish(struct fl_tx *tx, size_t n);

/*
 * Gives the memory of the ring back to the kernel, but for the window in the header page, if the receiver has read all
 * that was ever published. False: it has not, and nothing was done. A system call, which takes longer the more there
 * is.
 */
bool fl_tx_shrink(struct fl_tx *tx);

/* Is the ring used up to its limit? */
static inline bool fl_tx_limited(const struct fl_tx *tx) { return ((tx->off - tx->origin) & tx->mask) == tx->limit; }

/* Would a push of at least one byte succeed now? */
enum fl_tx_result fl_tx_space(struct fl_tx *tx);

/*
 * Sleeps until half of the ring is free, at most timeout_ns; also returns early for no reason. Returns true if the
 * receiver consumed anything meanwhile, on either lane, false if not, with *interrupted set if a signal ended the
 * sleep. A wake-up that is missed costs the rest of timeout_ns, so the caller bounds it. Needs no lock: only the lane
 * is looked at.
 */
bool fl_tx_sleep(const struct fl_tx *tx, uint64_t timeout_ns, bool *interrupted);

/* Bytes published and not yet known to be consumed, 0 if broken. A hint where the caller has no lock. */
uint64_t fl_tx_unconsumed(const struct fl_tx *tx);

/*
 * Does the receiver want back what it has not read, or is some of that still owed? Such bytes come before anything else
 * that is sent. Looked at before a native send, after fl_tx_intent (see fl_rx_recall), and before a
 * sleep, for nobody else can help the one who waits for them. [any thread]
 */
static inline bool fl_tx_asked(const struct fl_tx *tx) {
  /* seq_cst: behind fl_tx_intent; pairs with fl_rx_recall */
  return !tx->broken &&
         ((atomic_load_explicit(&tx->lane->word, memory_order_seq_cst) & FL_STATE_MASK) == FL_RECALL || tx->owed);
}

/*
 * The bytes owed, in up to two spans of the ring, or 0. They are the sender's again: it sends them over the kernel lane
 * and says with fl_tx_repaid how many it got rid of. `ktx` bytes went over the kernel lane so far, and `busy` says that
 * more are on their way: a receiver that asks for bytes which must come before some of these is refused.
 */
size_t fl_tx_owed(struct fl_tx *tx, uint64_t ktx, bool busy, struct fl_span span[2]);
static inline void fl_tx_repaid(struct fl_tx *tx, size_t n) { tx->owed -= n; }

/* Tells the receiver how much was sent on the kernel lane: as intended before a call, as done after it. And a flag.
 * [any thread] */
void fl_tx_intent(struct fl_tx *tx, uint64_t bytes);
void fl_tx_sent(struct fl_tx *tx, uint64_t bytes);
void fl_tx_flag(struct fl_tx *tx, uint32_t flag);

/*
 * The bell that the receiver would like to be rung with; the one that the sender said that it can ring (0 none, both).
 */
static inline uint64_t fl_tx_bell_wanted(const struct fl_tx *tx) {
  return atomic_load_explicit(&tx->lane->bell, memory_order_relaxed);
}
static inline uint64_t fl_tx_bell_known(const struct fl_tx *tx) {
  return atomic_load_explicit(&tx->lane->bell_known, memory_order_relaxed);
}

/* From now on this side can ring `bell` (0: none), and no longer the one before. False: not now, the receiver sleeps
 * with that one. */
bool fl_tx_bell_learn(struct fl_tx *tx, uint64_t bell);

/* Asks the receiver for `bell`. */
void fl_tx_bell_ask(struct fl_tx *tx, uint64_t bell);

/*
 * What comes next, krx bytes of the kernel lane having been consumed so far. For FL_RX_RING, span[0] and span[1] (the
 * latter perhaps empty) are readable until fl_rx_consume; for FL_RX_KERNEL, *need is at least 1.
 */
enum fl_rx_result fl_rx_peek(struct fl_rx *rx, uint64_t krx, struct fl_span span[2], uint64_t *need);

/* Makes all consumed space visible to the sender. To be called before spinning or sleeping. */
void fl_rx_publish(struct fl_rx *rx);

/* Takes n bytes, at most what the last fl_rx_peek showed. The tail is published lazily. */
static inline void fl_rx_consume(struct fl_rx *rx, size_t n) {
  rx->tail += n;
  /* in the midst of a batch the sender need not know at once; an empty ring it must know of, to tell a reader that died
   * with bytes unread from one that had read them all */
  if (rx->tail == rx->head_seen || rx->tail - rx->tail_pub >= (rx->mask + 1) / 8)
    fl_rx_publish(rx);
}

/* Bytes in the ring that are not consumed, whatever lies between them on the kernel lane. Refreshes the head. */
uint64_t fl_rx_pending(struct fl_rx *rx);

/* The head as published now, unchecked: to be compared with an earlier value only. [any thread] */
static inline uint64_t fl_rx_head(const struct fl_rx *rx) {
  /* acquire: pairs with the release of the sender's publishing CAS */
  return atomic_load_explicit(&rx->lane->word, memory_order_acquire) >> FL_STATE_BITS;
}

/* The receiver's own state. [any thread] */
static inline enum fl_state fl_rx_state(const struct fl_rx *rx) {
  return (enum fl_state)(atomic_load_explicit(&rx->lane->word, memory_order_relaxed) & FL_STATE_MASK);
}

/*
 * To NATIVE, provided that nothing was published beyond position `head` (the consumer's own tail for a sleeper that
 * waits for any byte; the last head reported for one that waits for new ones). Returns true if the state is NATIVE and
 * the head is that one: from here on nothing can be added to the ring until fl_rx_watch. [any thread]
 */
bool fl_rx_native(struct fl_rx *rx, uint64_t head);

/*
 * From WATCHING to BELL, under the same condition, and if the sender can ring `bell`. Returns true if the state is BELL
 * with that bell and that head: whatever is published from here on rings it. False: nothing is changed, or the state is
 * NATIVE; look again, or sleep with fl_rx_native. [any thread]
 */
bool fl_rx_bell(struct fl_rx *rx, uint64_t head, uint64_t bell);

/* Can the sender ring this one? [any thread] */
static inline bool fl_rx_bell_agreed(const struct fl_rx *rx, uint64_t bell) {
  return atomic_load_explicit(&rx->lane->bell_known, memory_order_relaxed) == bell;
}

/* Tells the sender which bell to get. True if it asks for exactly that one. [any thread] */
bool fl_rx_bell_offer(struct fl_rx *rx, uint64_t bell);

/* To NATIVE whatever the ring holds. What it holds stays readable, and comes before later kernel bytes. [any thread] */
void fl_rx_native_always(struct fl_rx *rx);

/*
 * Asks the sender to send what the ring holds once more, over the kernel lane: somebody will go on with the connection
 * who does not know of the ring (another program, a descriptor that was passed on). True: it was asked, or there was
 * nothing to ask for; from then on every byte is on the kernel lane, or will come there, in order. False: bytes of the
 * kernel lane that come after some of the ring's are there already, or on their way, and nothing was changed but that
 * the state is NATIVE.
 *
 * Nothing more is to be read from the ring until somebody wants to: fl_rx_peek then takes the request back, or finds
 * that the sender has answered it.
 */
bool fl_rx_recall(struct fl_rx *rx);

/* Asked, and not answered yet. [any thread] */
static inline bool fl_rx_recalling(const struct fl_rx *rx) {
  return (atomic_load_explicit(&rx->lane->word, memory_order_relaxed) & FL_STATE_MASK) == FL_RECALL;
}

/* Asked, and answered: all of it is, or will be, on the kernel lane. [any thread] */
static inline bool fl_rx_returned(const struct fl_rx *rx) {
  return (atomic_load_explicit(&rx->lane->word, memory_order_relaxed) & FL_STATE_MASK) == FL_RETURNED;
}

/* To WATCHING. The caller knows that no thread sleeps natively for this connection. */
void fl_rx_watch(struct fl_rx *rx);

/* Tells the sender how much of the kernel lane was taken. [any thread] */
static inline void fl_rx_taken(struct fl_rx *rx, uint64_t krx) {
  atomic_store_explicit(&rx->lane->kernel_taken, krx, memory_order_relaxed);
}

/* Bytes of the kernel lane that the receiver has not taken, as far as it says. A hint. */
static inline uint64_t fl_tx_kernel_backlog(const struct fl_tx *tx, uint64_t ktx) {
  uint64_t taken = atomic_load_explicit(&tx->lane->kernel_taken, memory_order_relaxed);
  return taken < ktx ? ktx - taken : 0;
}

/* Peer's FL_FLAG_* bits, and what it says of the kernel lane. [any thread] */
static inline uint32_t fl_rx_flags(const struct fl_rx *rx) {
  /* acquire: pairs with fl_tx_flag; what the sender published before the flag is visible with it */
  return atomic_load_explicit(&rx->lane->flags, memory_order_acquire);
}
static inline uint64_t fl_rx_kernel_intent(const struct fl_rx *rx) {
  return atomic_load_explicit(&rx->lane->kernel_intent, memory_order_relaxed);
}
/* So many bytes of the kernel lane come before all that is published from now on. If the ring is found empty after this
 * look, they may be taken whatever the state is. A peer that lies misorders its own bytes. */
static inline uint64_t fl_rx_kernel_sent(const struct fl_rx *rx) {
  /* acquire: the look at the head stays behind this one, or a chunk published between the two would be overtaken */
  return atomic_load_explicit(&rx->lane->kernel_sent, memory_order_acquire);
}

/* Asks the sender to date what it publishes: this end waits for many connections at once. [any thread] */
static inline void fl_rx_order(struct fl_rx *rx) {
  if (!atomic_load_explicit(&rx->lane->ordered, memory_order_relaxed))
    atomic_store_explicit(&rx->lane->ordered, 1, memory_order_relaxed);
}

/* Does the receiver want to know when? Then fl_tx_date comes before a push. */
static inline bool fl_tx_ordered(const struct fl_tx *tx) {
  return __builtin_expect(atomic_load_explicit(&tx->lane->ordered, memory_order_relaxed), 0);
}
static inline void fl_tx_date(struct fl_tx *tx, uint64_t now, uint64_t elsewhere) {
  /* relaxed, both: the publishing CAS releases them; on a line that it takes anyway */
  atomic_store_explicit(&tx->lane->pushed_at, now, memory_order_relaxed);
  atomic_store_explicit(&tx->lane->elsewhere_at, elsewhere, memory_order_relaxed);
}

/* When the sender published last, and when it had last done before that what the kernel tells of: to find what came
 * first of two lanes, or of a lane and the kernel. Hints, to be asked when the ring was seen not to be empty. [any
 * thread] */
static inline uint64_t fl_rx_pushed_at(const struct fl_rx *rx) {
  /* relaxed, both: behind the acquire of the head, which pairs with the publishing CAS behind their stores */
  return atomic_load_explicit(&rx->lane->pushed_at, memory_order_relaxed);
}
static inline uint64_t fl_rx_elsewhere_at(const struct fl_rx *rx) {
  return atomic_load_explicit(&rx->lane->elsewhere_at, memory_order_relaxed);
}

/* CPU on which the other end last sent (for a receiver) or received (for a sender); -1 if not known. [any thread] */
static inline int fl_rx_peer_cpu(const struct fl_rx *rx) {
  return atomic_load_explicit(&rx->lane->tx_cpu, memory_order_relaxed);
}
static inline int fl_tx_peer_cpu(const struct fl_tx *tx) {
  return atomic_load_explicit(&tx->lane->rx_cpu, memory_order_relaxed);
}
/* Publishes the CPU on which this end runs; a store only when it changed. */
static inline void fl_tx_at_cpu(struct fl_tx *tx, int cpu) {
  if (tx->cpu != cpu) {
    tx->cpu = cpu;
    atomic_store_explicit(&tx->lane->tx_cpu, cpu, memory_order_relaxed);
  }
}
static inline void fl_rx_at_cpu(struct fl_rx *rx, int cpu) {
  if (rx->cpu != cpu) {
    rx->cpu = cpu;
    atomic_store_explicit(&rx->lane->rx_cpu, cpu, memory_order_relaxed);
  }
}
