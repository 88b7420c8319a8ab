/* SPDX-License-Identifier: MIT */
/* shmring/lane.c - see lane.h for the protocol; docs/model/lane.pml is its model. */
#include "lane.h"

#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "fault.h"

/* A sender that finds the ring empty where it would enter another window starts again. The first window is that in the
 * header page, the others are pages. */
#define WINDOW FL_PAGE
/* To start again costs a look at the tail and an extent. A ring that has done so that often is busy, and gets a page.
 */
#define TURNS 32u
/* The receiver changes the word from BELL to WATCHING, or back, at most about once while a publication is tried. */
#define PUBLISH_TRIES 8u

bool fl_ring_size_valid(uint64_t ring_size) {
  return ring_size >= FL_RING_MIN && ring_size <= FL_RING_MAX && (ring_size & (ring_size - 1)) == 0;
}

struct fl_segment *fl_segment_init(void *base, uint32_t ring_size) {
  struct fl_segment *seg = fl_segment_at(base, fl_segment_bytes(ring_size));

  seg->magic = FL_SEGMENT_MAGIC;
  seg->version = FL_SEGMENT_VERSION;
  seg->ring_size = ring_size;
  for (int i = 0; i < 2; i++) {
    atomic_store_explicit(&seg->lane[i].tx_cpu, -1, memory_order_relaxed);
    atomic_store_explicit(&seg->lane[i].rx_cpu, -1, memory_order_relaxed);
  }
  return seg;
}

uint32_t fl_segment_check(const void *base, size_t bytes) {
  uint64_t size = bytes < FL_PAGE ? 0 : fl_segment_page(bytes);

  if (!fl_ring_size_valid(size) || bytes != fl_segment_bytes((uint32_t)size))
    return 0;
  const struct fl_segment *seg = fl_segment_at((void *)base, bytes);
  return seg->magic == FL_SEGMENT_MAGIC && seg->version == FL_SEGMENT_VERSION && seg->ring_size == size ? (uint32_t)size
                                                                                                        : 0;
}

void fl_attach(struct fl_segment *seg, uint32_t ring_size, int end, struct fl_tx *tx, struct fl_rx *rx) {
  unsigned char *page = (unsigned char *)seg - FL_WINDOW;
  unsigned char *rings[2] = {page + FL_PAGE - FL_WINDOW, page + FL_WINDOW - ring_size};

  *tx = (struct fl_tx){
      .lane = &seg->lane[end],
      .ring = rings[end],
      .mask = ring_size - 1,
      .off = end ? ring_size - FL_WINDOW : 0,
      .origin = end ? ring_size - FL_WINDOW : 0,
      .start = end ? FL_PAGE : FL_WINDOW,
      .limit = ring_size,
      .edge = end ? ring_size : FL_WINDOW,
      .cpu = -1,
  };
  *rx = (struct fl_rx){
      .lane = &seg->lane[!end],
      .ring = rings[!end],
      .mask = ring_size - 1,
      .next_pos = UINT64_MAX,
      .cpu = -1,
  };
}

/* ---- sender ---- */

static enum fl_tx_result tx_broken(struct fl_tx *tx) {
  tx->broken = true;
  tx->run = 0;
  return FL_TX_BROKEN;
}

/* The word as the receiver left it: only the state may differ from what this side published. */
static enum fl_tx_result tx_look(struct fl_tx *tx) {
  if (tx->broken)
    return FL_TX_BROKEN;
  /* relaxed: only a first look; the publishing CAS decides */
  uint64_t word = atomic_load_explicit(&tx->lane->word, memory_order_relaxed);
  if (word >> FL_STATE_BITS != tx->head)
    return tx_broken(tx);
  if (tx->owed)
    return FL_TX_NATIVE;
  if (__builtin_expect((word & FL_STATE_MASK) == FL_WATCHING, 1))
    return FL_TX_OK;
  if ((word & FL_STATE_MASK) == FL_BELL)
    return tx->may_ring ? FL_TX_OK : FL_TX_BELL;
  return FL_TX_NATIVE;
}

/* Free bytes, having asked the receiver if fewer than `want` are known; SIZE_MAX if the receiver's tail is impossible.
 */
static size_t tx_free(struct fl_tx *tx, size_t want) {
  size_t size = tx->mask + 1;
  size_t room = size - (size_t)(tx->head - tx->tail_seen);

  if (room >= want)
    return room;
  /* acquire: pairs with the release in fl_rx_publish: the receiver has copied out what lies before the tail */
  uint64_t tail = atomic_load_explicit(&tx->lane->tail, memory_order_acquire);
  if (tail < tx->tail_seen || tail > tx->head)
    return SIZE_MAX;
  tx->tail_seen = tail;
  return size - (size_t)(tx->head - tail);
}

static bool tx_extent_slot_free(struct fl_tx *tx) {
  if (tx->pending || tx->extent_head - tx->extent_tail_seen < FL_EXTENTS)
    return true;
  /* acquire: pairs with the release in fl_rx_publish: the receiver has copied out the extents before it */
  uint32_t tail = atomic_load_explicit(&tx->lane->extent_tail, memory_order_acquire);
  if (tail - tx->extent_tail_seen > FL_EXTENTS) {
    tx_broken(tx);
    return false;
  }
  tx->extent_tail_seen = tail;
  return tx->extent_head - tail < FL_EXTENTS;
}

/* Describes position head. An extent that was written for the same position but never published is written over. */
static void tx_extent(struct fl_tx *tx, uint64_t koff) {
  tx->run = 0; /* the extent is to be published with what follows */
  if (!tx->pending) {
    tx->extent_head++;
    tx->pending = true;
  }
  struct fl_extent *e = &tx->lane->extents[(tx->extent_head - 1) % FL_EXTENTS];
  /* relaxed, all three: the store of extent_head releases them */
  atomic_store_explicit(&e->pos, tx->head, memory_order_relaxed);
  atomic_store_explicit(&e->koff, koff, memory_order_relaxed);
  atomic_store_explicit(&e->off, tx->off, memory_order_relaxed);
  FL_FAULT(tx_extent_filled);
  /*
   * release: pairs with rx_extents. The publishing CAS would be too late: the receiver may count this extent before
   * that, while it looks for the end of an earlier one, and must then find a position at or beyond its head, not an old
   * one.
   */
  atomic_store_explicit(&tx->lane->extent_head, tx->extent_head, memory_order_release);
  FL_FAULT(tx_extent_released);
  tx->koff = koff;
}

/* Full, though there is room: the caller waits until the tail moves on from what was seen (fl_tx_sleep), and so far it
 * need not have been looked at. */
static __attribute__((noinline)) enum fl_tx_result tx_no_extent(struct fl_tx *tx) {
  return tx_free(tx, SIZE_MAX) == SIZE_MAX ? tx_broken(tx) : FL_TX_FULL;
}

/* Where the window ends that has byte number `at` from the origin, or ends there. */
static uint64_t window_end(const struct fl_tx *tx, uint64_t at) {
  if (at <= FL_WINDOW)
    return FL_WINDOW;
  uint64_t end = tx->start + ((at - tx->start + WINDOW - 1) & ~(uint64_t)(WINDOW - 1));
  return end < tx->mask + 1 ? end : tx->mask + 1;
}

/*
 * Free bytes from *off on, where a window ends; SIZE_MAX if the receiver's tail is impossible. Only here the ring may
 * start again (if it is empty: *off is then where), and only here it comes to pages that it has not used yet.
 */
static __attribute__((noinline)) size_t tx_free_beyond(struct fl_tx *tx, size_t want, uint64_t *off) {
  size_t size = tx->mask + 1, room = tx_free(tx, size);

  if (room == SIZE_MAX)
    return room;
  if (room == size) {
    /* What has grown beyond the window in the header page leaves it alone. */
    bool small = tx->limit <= tx->start || (tx->used <= FL_WINDOW && want <= FL_WINDOW && ++tx->turns < TURNS);
    *off = (tx->origin + (small ? 0 : tx->start)) & tx->mask;
  }
  uint64_t at = (*off - tx->origin) & tx->mask;
  if (tx->limit < size && at + room > tx->limit)
    room = at < tx->limit ? (size_t)(tx->limit - at) : 0;
  uint64_t end = at + (want < room ? want : room), next = window_end(tx, end & tx->mask);
  uint64_t used = end > tx->mask ? size : next;
  if (used > tx->used)
    tx->used = used;
  tx->edge = ((*off + end - at) & tx->mask) + next - (end & tx->mask);
  return room;
}

enum fl_tx_result fl_tx_reserve(struct fl_tx *tx, size_t want, uint64_t koff, struct iovec span[2]) {
  size_t size = tx->mask + 1;
  enum fl_tx_result r = tx_look(tx);

  span[0] = span[1] = (struct iovec){0};
  if (r != FL_TX_OK)
    return r;

  uint64_t off = tx->off;
  /* within a window, so that the tail is not fetched for every message of a stream */
  size_t room = __builtin_expect(off + want < tx->edge, 1) ? tx_free(tx, want) : tx_free_beyond(tx, want, &off);
  if (room == SIZE_MAX)
    return tx_broken(tx);
  if (room == 0)
    return FL_TX_FULL;

  if (off != tx->off || koff != tx->koff || tx->extent_head == 0 || tx->pending) {
    if (!tx_extent_slot_free(tx)) {
      tx->edge = 0; /* it was that of another offset */
      return tx->broken ? FL_TX_BROKEN : tx_no_extent(tx);
    }
    tx->off = off;
    tx_extent(tx, koff);
  }

  size_t n = want < room ? want : room;
  size_t first = size - (size_t)tx->off < n ? size - (size_t)tx->off : n;
  span[0] = (struct iovec){tx->ring + tx->off, first};
  span[1] = (struct iovec){tx->ring, n - first};
  return n < want ? FL_TX_FULL : FL_TX_OK;
}

/* How much the next pushes may do by themselves: within the window, as above, and without wrapping around. */
static void tx_run(struct fl_tx *tx) {
  uint64_t size = tx->mask + 1, room = size - (tx->head - tx->tail_seen), end = tx->edge < size ? tx->edge : size;

  tx->run = end <= tx->off + 1 ? 0 : end - tx->off - 1 < room ? end - tx->off - 1 : room;
}

enum fl_tx_result fl_tx_publish(struct fl_tx *tx, size_t n) {
  uint64_t expected = tx->head << FL_STATE_BITS | FL_WATCHING;
  uint64_t desired = (tx->head + n) << FL_STATE_BITS | FL_WATCHING;
  FL_FAULT(tx_publish);

  /*
   * release: the ring bytes and the extent, stored above, are seen by whoever acquires the new head (fl_rx_peek);
   * failure relaxed: nothing was published and nothing is read on the strength of it.
   */
  for (unsigned tries = 0; !atomic_compare_exchange_strong_explicit(&tx->lane->word, &expected, desired,
                                                                    memory_order_release, memory_order_relaxed);
       tries++) {
    if (expected >> FL_STATE_BITS != tx->head)
      return tx_broken(tx);
    enum fl_state state = (enum fl_state)(expected & FL_STATE_MASK);
    if ((state != FL_WATCHING && state != FL_BELL) || tries == PUBLISH_TRIES)
      return FL_TX_NATIVE;
    if (state == FL_BELL && !tx->may_ring)
      return FL_TX_BELL;
    /* before the CAS: where a signal handler jumps out behind it, the next send finds that a ring is due */
    tx->ring_due |= state == FL_BELL;
  }
  FL_FAULT(tx_published);
  tx->head += n;
  tx->off = (tx->off + n) & tx->mask;
  tx->pending = false;
  tx_run(tx);
  return FL_TX_OK;
}

enum fl_tx_result fl_tx_push(struct fl_tx *tx, const struct iovec *iov, size_t skip, size_t len, uint64_t koff,
                             size_t *done) {
  struct iovec span[2];
  size_t left, at = 0;

  *done = 0;
  enum fl_tx_result r = fl_tx_reserve(tx, len, koff, span);
  left = span[0].iov_len + span[1].iov_len;
  if (left == 0)
    return r;

  size_t n = left;
  while (left) {
    if (skip >= iov->iov_len) {
      skip -= iov->iov_len;
      iov++;
      continue;
    }
    size_t part = iov->iov_len - skip;
    struct iovec *to = at < span[0].iov_len ? &span[0] : &span[1];
    size_t to_off = to == &span[0] ? at : at - span[0].iov_len;
    if (part > to->iov_len - to_off)
      part = to->iov_len - to_off;
    memcpy((unsigned char *)to->iov_base + to_off, (const unsigned char *)iov->iov_base + skip, part);
    skip += part;
    at += part;
    left -= part;
  }
  FL_FAULT(tx_copied);
  enum fl_tx_result p = fl_tx_publish(tx, n);
  if (p != FL_TX_OK)
    return p;
  *done = n;
  return r;
}

enum fl_tx_result fl_tx_space(struct fl_tx *tx) {
  enum fl_tx_result r = tx_look(tx);

  if (r != FL_TX_OK)
    return r;
  bool limited = fl_tx_limited(tx);
  size_t size = tx->mask + 1, room = tx_free(tx, limited ? size : 1);
  if (room == SIZE_MAX)
    return tx_broken(tx);
  return room && (!limited || room == size) ? FL_TX_OK : FL_TX_FULL;
}

bool fl_tx_shrink(struct fl_tx *tx) {
  size_t size = tx->mask + 1;

  if (tx->broken || tx->owed)
    return false;
  size_t room = tx_free(tx, size);
  if (room == SIZE_MAX)
    tx_broken(tx);
  if (room != size || !tx_extent_slot_free(tx))
    return false;
  if (tx->used <= FL_WINDOW)
    return true;
  /* what comes next begins at the origin, which the receiver learns from an extent */
  uintptr_t from = (uintptr_t)tx->ring + ((tx->origin + FL_WINDOW) & tx->mask);
  uintptr_t to = (from + tx->used - FL_WINDOW + FL_PAGE - 1) & ~(uintptr_t)(FL_PAGE - 1);
  tx->off = tx->origin;
  tx->edge = tx->origin + FL_WINDOW;
  tx->used = 0;
  tx->turns = 0;
  tx_extent(tx, tx->koff);
  /* Nobody reads these pages any more: the receiver has copied out what lies before its tail. If the kernel refuses,
   * they stay. */
  from &= ~(uintptr_t)(FL_PAGE - 1);
  int saved = errno;
  if (getpagesize() == (int)FL_PAGE)
    syscall(SYS_madvise, from, to - from, MADV_REMOVE);
  FL_FAULT(tx_shrunk);
  errno = saved;
  return true;
}

/* The half of the tail that changes with every byte, as a futex. */
static uint32_t *tail_futex(struct fl_lane *lane) {
  return (uint32_t *)&lane->tail + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__);
}

bool fl_tx_sleep(const struct fl_tx *tx, uint64_t timeout_ns, bool *interrupted) {
  struct fl_lane *lane = tx->lane;
  struct timespec ts = {(time_t)(timeout_ns / 1000000000u), (long)(timeout_ns % 1000000000u)};
  uint64_t taken = atomic_load_explicit(&lane->kernel_taken, memory_order_relaxed);
  int saved = errno;

  *interrupted = false;
  /* seq_cst: the flag is stored before the tail is looked at again; the kernel looks a last time before it sleeps. The
   * receiver's look at the flag has no fence behind its tail (fl_rx_publish), hence "missed" in the header. */
  atomic_store_explicit(&lane->waiting, 1, memory_order_seq_cst);
  FL_FAULT(tx_sleep_told);
  uint64_t tail = atomic_load_explicit(&lane->tail, memory_order_seq_cst);
  if (tx->head - tail > (tx->mask + 1) / 2)
    *interrupted =
        syscall(SYS_futex, tail_futex(lane), FUTEX_WAIT, (uint32_t)tail, &ts, NULL, 0) != 0 && errno == EINTR;
  FL_FAULT(tx_sleep_over);
  atomic_store_explicit(&lane->waiting, 0, memory_order_relaxed);
  errno = saved;
  return atomic_load_explicit(&lane->tail, memory_order_relaxed) != tx->tail_seen ||
         atomic_load_explicit(&lane->kernel_taken, memory_order_relaxed) != taken;
}

uint64_t fl_tx_unconsumed(const struct fl_tx *tx) {
  /* acquire: pairs with fl_rx_publish; for a value that is only compared with 0, so nothing is remembered */
  uint64_t tail = atomic_load_explicit(&tx->lane->tail, memory_order_acquire), head = tx->head;
  if (tail < tx->returned)
    tail = tx->returned;
  return tx->broken || tail > head ? 0 : head - tail;
}

size_t fl_tx_owed(struct fl_tx *tx, uint64_t ktx, bool busy, struct fl_span span[2]) {
  size_t size = tx->mask + 1;
  /* acquire: pairs with fl_rx_recall, which stored what it asks for before the word */
  uint64_t word = atomic_load_explicit(&tx->lane->word, memory_order_acquire);

  span[0] = span[1] = (struct fl_span){0};
  if (tx->broken)
    return 0;
  if (!tx->owed && (word & FL_STATE_MASK) == FL_RECALL) {
    if (word >> FL_STATE_BITS != tx->head) {
      tx_broken(tx);
      return 0;
    }
    bool can = !busy && atomic_load_explicit(&tx->lane->recall_koff, memory_order_relaxed) == ktx;
    FL_FAULT(tx_recall_seen);
    /*
     * acq_rel: one of the two gets the bytes, we or a receiver that takes its request back. If we do, nothing that it
     * does to the ring later is earlier than this.
     */
    if (atomic_compare_exchange_strong_explicit(&tx->lane->word, &word,
                                                tx->head << FL_STATE_BITS | (can ? FL_RETURNED : FL_NATIVE),
                                                memory_order_acq_rel, memory_order_relaxed) &&
        can) {
      /* behind that: the word looks the same when the receiver has taken its request back, read on, and asks again from
       * farther on. (Behind as many kernel bytes, or more; and more there are not.) */
      uint64_t from = atomic_load_explicit(&tx->lane->recall_from, memory_order_relaxed);
      if (tx->head - from > size) {
        tx_broken(tx);
        return 0;
      }
      tx->owed = tx->head - from;
      tx->returned = tx->head;
      tx->run = 0; /* until these are sent */
    }
  }
  if (!tx->owed)
    return 0;
  /* what is unread has not been moved: only an empty ring starts again at its beginning */
  size_t at = (size_t)(tx->off - tx->owed) & tx->mask, n = (size_t)tx->owed;
  size_t first = size - at < n ? size - at : n;
  span[0] = (struct fl_span){tx->ring + at, first};
  span[1] = (struct fl_span){tx->ring, n - first};
  return n;
}

bool fl_tx_bell_learn(struct fl_tx *tx, uint64_t bell) {
  uint64_t old = fl_tx_bell_known(tx);

  /* seq_cst, store and load: pair with those of fl_rx_bell; of the two at least one sees the other */
  atomic_store_explicit(&tx->lane->bell_known, 0, memory_order_seq_cst);
  FL_FAULT(tx_bell_learn);
  if ((atomic_load_explicit(&tx->lane->word, memory_order_seq_cst) & FL_STATE_MASK) == FL_BELL) {
    atomic_store_explicit(&tx->lane->bell_known, old, memory_order_relaxed);
    return false;
  }
  atomic_store_explicit(&tx->lane->bell_known, bell, memory_order_relaxed);
  return true;
}

void fl_tx_bell_ask(struct fl_tx *tx, uint64_t bell) {
  atomic_store_explicit(&tx->lane->bell_asked, bell, memory_order_relaxed);
}

void fl_tx_intent(struct fl_tx *tx, uint64_t bytes) {
  FL_FAULT(tx_intent);
  /* seq_cst: comes before the look at the word (fl_tx_asked); pairs with fl_rx_recall */
  atomic_store_explicit(&tx->lane->kernel_intent, bytes, memory_order_seq_cst);
}

void fl_tx_sent(struct fl_tx *tx, uint64_t bytes) {
  FL_FAULT(tx_sent);
  /* release: pairs with fl_rx_kernel_sent; what was published before these bytes were sent is seen with the count */
  atomic_store_explicit(&tx->lane->kernel_sent, bytes, memory_order_release);
}

void fl_tx_flag(struct fl_tx *tx, uint32_t flag) {
  FL_FAULT(tx_flag);
  /* release: pairs with fl_rx_flags; the sender's earlier ring bytes are visible with the flag */
  atomic_fetch_or_explicit(&tx->lane->flags, flag, memory_order_release);
  FL_FAULT(tx_flagged);
}

/* ---- receiver ---- */

static enum fl_rx_result rx_broken(struct fl_rx *rx) {
  rx->broken = true;
  return FL_RX_BROKEN;
}

/* Refreshes head_seen; false if the head is impossible. */
static bool rx_refresh(struct fl_rx *rx) {
  uint64_t head = fl_rx_head(rx);

  if (head < rx->head_seen || head - rx->tail > rx->mask + 1)
    return false;
  rx->head_seen = head;
  return true;
}

/* Moves to the extent that describes the tail and finds where the following one begins; false if they make no sense. */
static bool rx_extents(struct fl_rx *rx) {
  /*
   * acquire: pairs with tx_extent. Every extent below the head is counted, which the acquire of the head ordered; there
   * may be one more, not published yet, and its position has to be the new one.
   */
  uint32_t written = atomic_load_explicit(&rx->lane->extent_head, memory_order_acquire);

  if (written - rx->extent > FL_EXTENTS)
    return false;
  rx->next_pos = UINT64_MAX;
  while (rx->extent != written) {
    const struct fl_extent *e = &rx->lane->extents[rx->extent % FL_EXTENTS];
    uint64_t pos = atomic_load_explicit(&e->pos, memory_order_relaxed);
    if (pos > rx->tail || pos >= rx->head_seen) {
      rx->next_pos = pos < rx->tail ? rx->tail : pos;
      break;
    }
    uint64_t koff = atomic_load_explicit(&e->koff, memory_order_relaxed);
    uint64_t off = atomic_load_explicit(&e->off, memory_order_relaxed);
    if (pos != rx->tail || koff < rx->koff || off > rx->mask)
      return false;
    rx->pos = pos;
    rx->koff = koff;
    rx->off = off;
    rx->extent++;
  }
  return rx->extent != 0;
}

/* What the ring held came, or will come, over the kernel lane. False if the extents make no sense. */
static bool rx_skip(struct fl_rx *rx) {
  /* acquire, as in rx_extents */
  uint32_t written = atomic_load_explicit(&rx->lane->extent_head, memory_order_acquire);

  if (!rx_refresh(rx) || written - rx->extent > FL_EXTENTS)
    return false;
  rx->tail = rx->head_seen;
  rx->next_pos = UINT64_MAX;
  while (rx->extent != written) {
    const struct fl_extent *e = &rx->lane->extents[rx->extent % FL_EXTENTS];
    uint64_t pos = atomic_load_explicit(&e->pos, memory_order_relaxed);
    uint64_t koff = atomic_load_explicit(&e->koff, memory_order_relaxed);
    uint64_t off = atomic_load_explicit(&e->off, memory_order_relaxed);
    if (pos >= rx->tail)
      break; /* written for what is not published yet */
    if (off > rx->mask || koff < rx->koff)
      return false;
    rx->pos = pos;
    rx->koff = koff;
    rx->off = off;
    rx->extent++;
  }
  fl_rx_publish(rx);
  return true;
}

/* Somebody wants to read again after fl_rx_recall: either the request is taken back, or the sender was faster. */
static bool rx_recalled(struct fl_rx *rx) {
  uint64_t word = atomic_load_explicit(&rx->lane->word, memory_order_relaxed);

  while ((word & FL_STATE_MASK) == FL_RECALL)
    /* acq_rel: pairs with fl_tx_owed; of the two one succeeds */
    if (atomic_compare_exchange_weak_explicit(&rx->lane->word, &word, word & ~FL_STATE_MASK, memory_order_acq_rel,
                                              memory_order_acquire))
      word &= ~FL_STATE_MASK;
  bool ok = true;
  if ((word & FL_STATE_MASK) == FL_RETURNED) { /* else ours again: taken back, or refused */
    ok = rx_skip(rx);
    /* acq_rel: the sender does not change a word in this state */
    atomic_fetch_and_explicit(&rx->lane->word, ~FL_STATE_MASK, memory_order_acq_rel);
  }
  rx->recalled = false; /* last: see fl_rx_native */
  return ok;
}

bool fl_rx_recall(struct fl_rx *rx) {
  if (rx->broken || (rx->recalled && !rx_recalled(rx)))
    return true;
  fl_rx_native_always(rx); /* nothing is added from here on */
  if (!rx_refresh(rx))
    return true; /* rubbish: whoever reads next will see */
  if (rx->tail == rx->head_seen)
    return true;
  if (!rx_extents(rx)) /* always: there may be new ones before the new head */
    return true;
  fl_rx_publish(rx);
  uint64_t asked = rx->head_seen << FL_STATE_BITS | FL_RECALL, word = rx->head_seen << FL_STATE_BITS;
  /* relaxed, both: released by the word */
  atomic_store_explicit(&rx->lane->recall_from, rx->tail, memory_order_relaxed);
  atomic_store_explicit(&rx->lane->recall_koff, rx->koff, memory_order_relaxed);
  rx->recalled = true; /* first: see fl_rx_native */
  /*
   * seq_cst, both: a sender tells its intent before it looks at the word and sends. So either it sees the request, and
   * answers it before it sends, or the intent is seen here, and the request is taken back.
   */
  if (!atomic_compare_exchange_strong_explicit(&rx->lane->word, &word, asked, memory_order_seq_cst,
                                               memory_order_relaxed)) {
    rx->recalled = false;
    return true; /* the peer lies: only we change a word that is NATIVE */
  }
  if (atomic_load_explicit(&rx->lane->kernel_intent, memory_order_seq_cst) == rx->koff)
    return true;
  /* acq_rel, as in rx_recalled. A sender that has answered meanwhile had sent nothing yet. */
  if (!atomic_compare_exchange_strong_explicit(&rx->lane->word, &asked, asked & ~FL_STATE_MASK, memory_order_acq_rel,
                                               memory_order_acquire) &&
      (asked & FL_STATE_MASK) == FL_RETURNED)
    return true;
  rx->recalled = false;
  return false;
}

enum fl_rx_result fl_rx_peek(struct fl_rx *rx, uint64_t krx, struct fl_span span[2], uint64_t *need) {
  if (__builtin_expect(rx->recalled, 0) && !rx_recalled(rx))
    return rx_broken(rx);
  if (rx->broken)
    return FL_RX_BROKEN;
  if (rx->head_seen == rx->tail) {
    if (!rx_refresh(rx))
      return rx_broken(rx);
    if (rx->head_seen == rx->tail)
      return FL_RX_EMPTY;
    FL_FAULT(rx_new_head);
    if (!rx_extents(rx))
      return rx_broken(rx);
  } else if (rx->tail >= rx->next_pos && !rx_extents(rx)) {
    return rx_broken(rx);
  }

  /* More kernel bytes consumed than these need: the others were sent at the same time as these, so any order is right.
   */
  if (krx < rx->koff) {
    *need = rx->koff - krx;
    return FL_RX_KERNEL;
  }
  uint64_t end = rx->next_pos < rx->head_seen ? rx->next_pos : rx->head_seen;
  size_t n = (size_t)(end - rx->tail);
  size_t at = (size_t)((rx->off + (rx->tail - rx->pos)) & rx->mask);
  size_t first = (size_t)rx->mask + 1 - at < n ? (size_t)rx->mask + 1 - at : n;
  span[0] = (struct fl_span){rx->ring + at, first};
  span[1] = (struct fl_span){rx->ring, n - first};
  return FL_RX_RING;
}

void fl_rx_publish(struct fl_rx *rx) {
  if (rx->tail == rx->tail_pub)
    return;
  rx->tail_pub = rx->tail;
  FL_FAULT(rx_publish);
  /* release, both: pair with tx_free and tx_extent_slot_free; the copies out of the ring come before the space is free
   */
  atomic_store_explicit(&rx->lane->extent_tail, rx->extent ? rx->extent - 1 : 0, memory_order_release);
  FL_FAULT(rx_extents_freed);
  atomic_store_explicit(&rx->lane->tail, rx->tail, memory_order_release);
  FL_FAULT(rx_published);
  /* relaxed: a hint (fl_tx_sleep); half of the ring at a time, or a sender would be woken for every message */
  if (__builtin_expect(atomic_load_explicit(&rx->lane->waiting, memory_order_relaxed), 0) &&
      rx->head_seen - rx->tail <= (rx->mask + 1) / 2) {
    int saved = errno;
    atomic_store_explicit(&rx->lane->waiting, 0, memory_order_relaxed);
    FL_FAULT(rx_wakes);
    syscall(SYS_futex, tail_futex(rx->lane), FUTEX_WAKE, 1, NULL, NULL, 0);
    errno = saved;
  }
}

uint64_t fl_rx_pending(struct fl_rx *rx) {
  if (rx->recalled && !rx_recalled(rx))
    rx->broken = true;
  if (rx->broken)
    return 0;
  uint64_t head = fl_rx_head(rx);
  if (head < rx->head_seen || head - rx->tail > rx->mask + 1) {
    rx->broken = true;
    return 0;
  }
  return head - rx->tail;
}

bool fl_rx_native(struct fl_rx *rx, uint64_t head) {
  FL_FAULT(rx_native);
  uint64_t native = head << FL_STATE_BITS | FL_NATIVE;
  uint64_t expected = head << FL_STATE_BITS | FL_WATCHING;

  /*
   * acq_rel: a sender whose CAS fails on this sees NATIVE and uses the kernel lane; one whose CAS came first makes
   * this fail with its new head, whose bytes the acquire makes visible. This is the whole argument against lost
   * wake-ups.
   */
  if (atomic_compare_exchange_strong_explicit(&rx->lane->word, &expected, native, memory_order_acq_rel,
                                              memory_order_acquire))
    return true;
  if (rx->recalled && (expected & FL_STATE_MASK) >= FL_RECALL)
    return false; /* for fl_rx_peek to find out */
  if (expected >> FL_STATE_BITS == head && (expected & FL_STATE_MASK) != FL_NATIVE) {
    /*
     * BELL: the sender may be publishing at this moment, and the head that comes back says so. Or a state that only a
     * peer that lies can have left; failing here would make the caller look at an empty ring and try again, for ever.
     * acq_rel, as above.
     */
    expected = atomic_fetch_and_explicit(&rx->lane->word, ~FL_STATE_MASK, memory_order_acq_rel) & ~FL_STATE_MASK;
  }
  FL_FAULT(rx_native_not);
  return expected == native;
}

void fl_rx_native_always(struct fl_rx *rx) {
  FL_FAULT(rx_native_always);
  uint64_t word = atomic_load_explicit(&rx->lane->word, memory_order_relaxed);

  /* acq_rel, as in fl_rx_native; only the state bits change, so a publication that came first is kept. A request that
   * is under way is kept too. */
  while ((word & FL_STATE_MASK) == FL_WATCHING || (word & FL_STATE_MASK) == FL_BELL)
    if (atomic_compare_exchange_weak_explicit(&rx->lane->word, &word, word & ~FL_STATE_MASK, memory_order_acq_rel,
                                              memory_order_relaxed))
      return;
}

bool fl_rx_bell(struct fl_rx *rx, uint64_t head, uint64_t bell) {
  uint64_t rung = head << FL_STATE_BITS | FL_BELL;
  uint64_t expected = head << FL_STATE_BITS | FL_WATCHING;

  if (atomic_load_explicit(&rx->lane->bell_known, memory_order_relaxed) != bell)
    return false;
  /* seq_cst, the CAS and the load behind it: pair with those of fl_tx_bell_learn. As for the bytes: acq_rel, as in
   * fl_rx_native. */
  if (!atomic_compare_exchange_strong_explicit(&rx->lane->word, &expected, rung, memory_order_seq_cst,
                                               memory_order_acquire) &&
      expected != rung)
    return false;
  FL_FAULT(rx_bell);
  if (__builtin_expect(atomic_load_explicit(&rx->lane->bell_known, memory_order_seq_cst) == bell, 1))
    return true;
  fl_rx_native_always(rx); /* the sender is about to forget that bell */
  return false;
}

bool fl_rx_bell_offer(struct fl_rx *rx, uint64_t bell) {
  if (atomic_load_explicit(&rx->lane->bell, memory_order_relaxed) != bell)
    atomic_store_explicit(&rx->lane->bell, bell, memory_order_relaxed);
  return atomic_load_explicit(&rx->lane->bell_asked, memory_order_relaxed) == bell;
}

void fl_rx_watch(struct fl_rx *rx) {
  uint64_t word = atomic_load_explicit(&rx->lane->word, memory_order_relaxed);

  if (rx->recalled)
    return;
  if ((word & FL_STATE_MASK) != FL_WATCHING)
    FL_FAULT(rx_watch);
  /* release: pairs with the sender's CAS. From BELL the sender may change it as well, and to WATCHING. */
  while ((word & FL_STATE_MASK) != FL_WATCHING &&
         !atomic_compare_exchange_weak_explicit(&rx->lane->word, &word, (word & ~FL_STATE_MASK) | FL_WATCHING,
                                                memory_order_release, memory_order_relaxed))
    continue;
  FL_FAULT(rx_watching);
}
