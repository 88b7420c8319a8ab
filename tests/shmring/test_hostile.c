/* SPDX-License-Identifier: MIT */
/*
 * tests/shmring/test_hostile.c - a peer that writes rubbish. Whatever it writes, an end says BROKEN or gives a result
 * inside the ring, after a bounded number of steps. The segment lies between two pages that may not be touched.
 */
#include "segment.h"

#include "check.h"
#include <pthread.h>

#define SEEDS 20000

/* A value that a liar would choose: near what is true, near a limit, or anything. */
static uint64_t lie(uint64_t *s, uint64_t truth) {
  switch (rnd(s) % 7) {
  case 0: return truth;
  case 1: return truth + rnd(s) % 5 - 2;
  case 2: return truth + rnd(s) % (2 * RING);
  case 3: return UINT64_MAX - rnd(s) % 3;
  case 4: return 1ull << rnd(s) % 64;
  case 5: return RING + rnd(s) % 3 - 1;
  default: return rnd(s);
  }
}

/* Writes rubbish into some shared fields of both lanes. */
static void scribble(struct fl_segment *seg, uint64_t *s, uint64_t head, uint64_t tail) {
  for (int i = 0; i < 2; i++) {
    struct fl_lane *l = &seg->lane[i];
    uint64_t which = rnd(s) & rnd(s);

    if (which & 1)
      atomic_store_explicit(&l->word, lie(s, head) << FL_STATE_BITS | rnd(s) % 8, memory_order_relaxed);
    if (which & 2)
      atomic_store_explicit(&l->tail, lie(s, tail), memory_order_relaxed);
    if (which & 4)
      atomic_store_explicit(&l->extent_head, (uint32_t)lie(s, rnd(s) % 70), memory_order_relaxed);
    if (which & 8)
      atomic_store_explicit(&l->extent_tail, (uint32_t)lie(s, rnd(s) % 70), memory_order_relaxed);
    if (which & 32)
      atomic_store_explicit(&l->recall_from, lie(s, tail), memory_order_relaxed);
    if (which & 16)
      for (unsigned n = 0; n < FL_EXTENTS; n++) {
        atomic_store_explicit(&l->extents[n].pos, lie(s, rnd(s) % 2 ? tail : head), memory_order_relaxed);
        atomic_store_explicit(&l->extents[n].koff, lie(s, 0), memory_order_relaxed);
        atomic_store_explicit(&l->extents[n].off, lie(s, tail % RING), memory_order_relaxed);
      }
  }
}

static void expect_inside(const struct pair *p, int lane, const void *base, size_t len) {
  const unsigned char *page = p->base + fl_segment_page(fl_segment_bytes(RING));
  const unsigned char *ring = lane ? page + FL_WINDOW - RING : page + FL_PAGE - FL_WINDOW;
  const unsigned char *at = base;

  cr_assert(len == 0 || (at >= ring && len <= RING && at + len <= ring + RING));
}

/* One round of everything that end 0 can do. */
static void use(struct pair *p, uint64_t *s, uint64_t *krx) {
  static unsigned char bytes[2 * RING];
  struct fl_span in[2];
  struct iovec out[2];
  uint64_t need;
  size_t done, want = rnd(s) % (rnd(s) % 3 ? 300 : 2 * RING);

  fl_tx_reserve(&p->tx[0], want, rnd(s) % 4, out);
  for (int i = 0; i < 2; i++) {
    expect_inside(p, 0, out[i].iov_base, out[i].iov_len);
    if (out[i].iov_len)
      memset(out[i].iov_base, 1, out[i].iov_len);
  }
  push(&p->tx[0], bytes, want, rnd(s) % 4, &done);
  cr_assert(done <= want && done <= RING);
  cr_assert(fl_tx_unconsumed(&p->tx[0]) <= RING);
  fl_tx_space(&p->tx[0]);

  size_t n = fl_tx_asked(&p->tx[0]) ? fl_tx_owed(&p->tx[0], 0, false, in) : 0;
  cr_assert(n <= RING && n == (n ? in[0].len + in[1].len : 0));
  for (int i = 0; n && i < 2; i++) {
    expect_inside(p, 0, in[i].base, in[i].len);
    memcpy(bytes, in[i].base, in[i].len);
  }
  fl_tx_repaid(&p->tx[0], n);
  if (rnd(s) % 8 == 0)
    fl_rx_recall(&p->rx[0]);

  switch (fl_rx_peek(&p->rx[0], *krx, in, &need)) {
  case FL_RX_RING:
    cr_assert(in[0].len + in[1].len >= 1 && in[0].len + in[1].len <= RING);
    for (int i = 0; i < 2; i++) {
      expect_inside(p, 1, in[i].base, in[i].len);
      if (in[i].len)
        memcpy(bytes, in[i].base, in[i].len);
    }
    fl_rx_consume(&p->rx[0], 1 + rnd(s) % (in[0].len + in[1].len));
    break;
  case FL_RX_KERNEL:
    cr_assert(need >= 1);
    *krx += rnd(s) % 2 ? need : 1;
    break;
  case FL_RX_EMPTY:
    fl_rx_publish(&p->rx[0]);
    fl_rx_native(&p->rx[0], p->rx[0].tail);
    break;
  case FL_RX_BROKEN: break;
  }
  cr_assert(fl_rx_pending(&p->rx[0]) <= RING);
  if (rnd(s) % 3)
    fl_rx_watch(&p->rx[0]);
}

Test(hostile, rubbish_in_every_field_stays_inside_the_ring) {
  struct pair p = pair_new(RING);
  unsigned broken = 0;

  for (uint64_t seed = 1; seed <= SEEDS; seed++) {
    uint64_t s = seed, krx = 0;

    memset(p.seg, 0, sizeof *p.seg);
    fl_segment_init(p.base, RING);
    fl_attach(p.seg, RING, 0, &p.tx[0], &p.rx[0]);
    for (unsigned round = 0; round < 12; round++) {
      scribble(p.seg, &s, rnd(&s) % 2 ? p.tx[0].head : p.rx[0].tail + rnd(&s) % 600,
               rnd(&s) % 2 ? p.tx[0].tail_seen : 0);
      use(&p, &s, &krx);
    }
    broken += p.tx[0].broken || p.rx[0].broken;
  }
  cr_assert(broken > SEEDS / 4 && broken < SEEDS, "%u of %u", broken, SEEDS); /* else this tests little */
}

struct scribbler {
  struct fl_segment *seg;
  _Atomic bool stop;
};

static void *scribble_all_the_time(void *arg) {
  struct scribbler *sc = arg;
  uint64_t s = 99;

  while (!atomic_load(&sc->stop))
    scribble(sc->seg, &s, rnd(&s) % 600, rnd(&s) % 600);
  return NULL;
}

Test(hostile, rubbish_written_during_the_calls_stays_inside_the_ring) {
  struct pair p = pair_new(RING);
  struct scribbler sc = {.seg = p.seg};
  pthread_t thread;

  cr_assert_eq(pthread_create(&thread, NULL, scribble_all_the_time, &sc), 0);
  for (uint64_t seed = 1; seed <= SEEDS; seed++) {
    uint64_t s = seed, krx = 0;

    fl_attach(p.seg, RING, 0, &p.tx[0], &p.rx[0]);
    for (unsigned round = 0; round < 6; round++)
      use(&p, &s, &krx);
  }
  atomic_store(&sc.stop, true);
  pthread_join(thread, NULL);
}

/* A receiver that finds nothing and cannot go to sleep would look again for ever. */
Test(hostile, a_state_that_does_not_exist_can_be_left) {
  for (uint64_t state = 2; state < 4; state++) {
    struct pair p = pair_new(RING);

    atomic_store(&p.seg->lane[0].word, state);
    cr_assert(fl_rx_native(&p.rx[1], 0));
    cr_assert_eq(fl_rx_state(&p.rx[1]), FL_NATIVE);
  }
}

Test(hostile, a_head_that_the_sender_did_not_publish_breaks_the_sender) {
  struct pair p = pair_new(RING);
  size_t done;

  atomic_store(&p.seg->lane[0].word, 5ull << FL_STATE_BITS | FL_WATCHING);
  cr_assert_eq(push(&p.tx[0], "a", 1, 0, &done), FL_TX_BROKEN);
  atomic_store(&p.seg->lane[0].word, FL_WATCHING);
  cr_assert_eq(push(&p.tx[0], "a", 1, 0, &done), FL_TX_BROKEN); /* and stays so */
}

Test(hostile, a_head_that_goes_back_breaks_the_receiver) {
  struct pair p = pair_new(RING);
  struct fl_span in[2];
  uint64_t need;
  size_t done;

  fl_rx_watch(&p.rx[1]);
  push(&p.tx[0], "abc", 3, 0, &done);
  cr_assert_eq(fl_rx_peek(&p.rx[1], 0, in, &need), FL_RX_RING);
  fl_rx_consume(&p.rx[1], 3);
  atomic_store(&p.seg->lane[0].word, 2ull << FL_STATE_BITS | FL_WATCHING);
  cr_assert_eq(fl_rx_peek(&p.rx[1], 0, in, &need), FL_RX_BROKEN);
}

Test(hostile, an_extent_tail_beyond_the_extents_breaks_the_sender) {
  struct pair p = pair_new(RING);
  size_t done;

  fl_rx_watch(&p.rx[1]);
  for (uint64_t k = 0; k < FL_EXTENTS; k++)
    push(&p.tx[0], "a", 1, k, &done);
  fl_rx_publish(&p.rx[1]);
  atomic_store(&p.seg->lane[0].extent_tail, FL_EXTENTS + 1);
  cr_assert_eq(push(&p.tx[0], "a", 1, FL_EXTENTS, &done), FL_TX_BROKEN);
}
