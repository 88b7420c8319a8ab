/* SPDX-License-Identifier: MIT */
/* tests/shmring/test_lane.c - one test per behaviour of shmring/lane.c, between honest ends. */
#include "segment.h"

#include "check.h"

static struct pair p;
static struct fl_tx *tx; /* of end 0 */
static struct fl_rx *rx; /* of end 1 */
static struct fl_span span[2];
static uint64_t need;
static size_t done;
static unsigned char data[2 * RING];

static void setup(void) {
  p = pair_new(RING);
  tx = &p.tx[0];
  rx = &p.rx[1];
  for (size_t i = 0; i < sizeof data; i++)
    data[i] = (unsigned char)(i * 7 + i / 251);
  fl_rx_watch(rx);
}

static void teardown(void) { pair_free(&p, RING); }

TestSuite(lane, .init = setup, .fini = teardown);

/* Reads n bytes of the ring lane and compares them. */
static void expect_bytes(const unsigned char *want, size_t n, uint64_t krx) {
  while (n) {
    cr_assert_eq(fl_rx_peek(rx, krx, span, &need), FL_RX_RING);
    size_t part = span[0].len < n ? span[0].len : n;
    cr_assert(part > 0);
    cr_assert(memcmp(span[0].base, want, part) == 0);
    fl_rx_consume(rx, part);
    want += part;
    n -= part;
  }
}

static void expect_empty(uint64_t krx) { cr_assert_eq(fl_rx_peek(rx, krx, span, &need), FL_RX_EMPTY); }

Test(lane, fresh_segment_is_native) {
  struct fl_tx *other = &p.tx[1];

  cr_assert_eq(fl_rx_state(&p.rx[0]), FL_NATIVE);
  cr_assert_eq(push(other, "x", 1, 0, &done), FL_TX_NATIVE);
  cr_assert_eq(done, 0);
  cr_assert_eq(fl_tx_space(other), FL_TX_NATIVE);
}

Test(lane, pushed_bytes_come_out_in_order) {
  cr_assert_eq(push(tx, "hello ", 6, 0, &done), FL_TX_OK);
  cr_assert_eq(push(tx, "world", 5, 0, &done), FL_TX_OK);
  cr_assert_eq(done, 5);
  expect_bytes((const unsigned char *)"hello world", 11, 0);
  expect_empty(0);
}

Test(lane, the_two_directions_do_not_meet) {
  fl_rx_watch(&p.rx[0]);
  cr_assert_eq(push(&p.tx[0], "a", 1, 0, &done), FL_TX_OK);
  cr_assert_eq(push(&p.tx[1], "b", 1, 0, &done), FL_TX_OK);
  cr_assert_eq(fl_rx_peek(&p.rx[0], 0, span, &need), FL_RX_RING);
  cr_assert_eq(*span[0].base, 'b');
  cr_assert_eq(fl_rx_peek(&p.rx[1], 0, span, &need), FL_RX_RING);
  cr_assert_eq(*span[0].base, 'a');
}

Test(lane, iovecs_are_gathered_from_skip_on) {
  struct iovec iov[] = {{"abc", 3}, {"", 0}, {"defg", 4}, {"hi", 2}};

  cr_assert_eq(fl_tx_push(tx, iov, 4, 4, 0, &done), FL_TX_OK);
  expect_bytes((const unsigned char *)"efgh", 4, 0);
  expect_empty(0);
}

Test(lane, bytes_wrap_around_the_end_of_the_ring) {
  const size_t n = RING - FL_WINDOW; /* begins behind the window of the header page, where so much does not fit */

  push(tx, data, n - 10, 0, &done);
  expect_bytes(data, n - 20, 0); /* ten stay, so that the ring may not start again */
  fl_rx_publish(rx);
  cr_assert_eq(push(tx, data + n - 10, 100, 0, &done), FL_TX_OK);
  cr_assert_eq(fl_rx_peek(rx, 0, span, &need), FL_RX_RING);
  expect_bytes(data + n - 20, 10, 0);
  cr_assert_eq(fl_rx_peek(rx, 0, span, &need), FL_RX_RING);
  cr_assert_eq(span[0].len, 10);
  cr_assert_eq(span[1].len, 90);
  cr_assert(memcmp(span[1].base, data + n, 90) == 0);
  expect_bytes(data + n - 10, 100, 0);
}

Test(lane, kernel_bytes_that_were_sent_first_are_asked_for_first) {
  push(tx, "a", 1, 0, &done);
  push(tx, "b", 1, 5, &done);
  cr_assert_eq(fl_rx_peek(rx, 0, span, &need), FL_RX_RING);
  cr_assert_eq(span[0].len + span[1].len, 1);
  fl_rx_consume(rx, 1);
  cr_assert_eq(fl_rx_peek(rx, 0, span, &need), FL_RX_KERNEL);
  cr_assert_eq(need, 5);
  cr_assert_eq(fl_rx_peek(rx, 3, span, &need), FL_RX_KERNEL);
  cr_assert_eq(need, 2);
  expect_bytes((const unsigned char *)"b", 1, 5);
}

Test(lane, a_full_ring_takes_a_prefix) {
  cr_assert_eq(push(tx, data, RING + 100, 0, &done), FL_TX_FULL);
  cr_assert_eq(done, RING);
  cr_assert_eq(push(tx, data, 1, 0, &done), FL_TX_FULL);
  cr_assert_eq(done, 0);
  cr_assert_eq(fl_tx_space(tx), FL_TX_FULL);
  expect_bytes(data, RING, 0);
  cr_assert_eq(push(tx, data, 1, 0, &done), FL_TX_OK);
}

Test(lane, the_tail_is_published_lazily) {
  push(tx, data, RING, 0, &done);
  expect_bytes(data, 1, 0);
  cr_assert_eq(fl_tx_space(tx), FL_TX_FULL);
  fl_rx_publish(rx);
  cr_assert_eq(fl_tx_space(tx), FL_TX_OK);
  cr_assert_eq(fl_tx_unconsumed(tx), RING - 1);
}

Test(lane, an_eighth_of_the_ring_is_published_at_once) {
  push(tx, data, RING, 0, &done);
  expect_bytes(data, RING / 8 - 1, 0);
  cr_assert_eq(fl_tx_unconsumed(tx), RING);
  expect_bytes(data + RING / 8 - 1, 1, 0);
  cr_assert_eq(fl_tx_unconsumed(tx), RING - RING / 8);
}

Test(lane, a_full_extent_table_refuses_a_new_koff_only) {
  uint64_t krx = 0;

  for (uint64_t k = 0; k < FL_EXTENTS; k++)
    cr_assert_eq(push(tx, data + k, 1, k, &done), FL_TX_OK);
  cr_assert_eq(push(tx, data, 1, FL_EXTENTS, &done), FL_TX_FULL);
  cr_assert_eq(done, 0);
  cr_assert_eq(push(tx, data + FL_EXTENTS, 1, FL_EXTENTS - 1, &done), FL_TX_OK);
  for (size_t i = 0; i < FL_EXTENTS; i++, krx++)
    expect_bytes(data + i, 1, krx);
  expect_bytes(data + FL_EXTENTS, 1, FL_EXTENTS - 1);
  fl_rx_publish(rx);
  cr_assert_eq(push(tx, data, 1, FL_EXTENTS, &done), FL_TX_OK);
  expect_bytes(data, 1, FL_EXTENTS);
}

Test(lane, a_failed_publication_leaves_nothing_behind) {
  struct iovec v[2];

  cr_assert_eq(fl_tx_reserve(tx, 3, 0, v), FL_TX_OK);
  memcpy(v[0].iov_base, "old", 3);
  fl_rx_native_always(rx);
  cr_assert_eq(fl_tx_publish(tx, 3), FL_TX_NATIVE);
  expect_empty(0);
  fl_rx_watch(rx);
  expect_empty(3);
  /* the three went over the kernel lane */
  cr_assert_eq(push(tx, "new!", 4, 3, &done), FL_TX_OK);
  expect_bytes((const unsigned char *)"new!", 4, 3);
}

Test(lane, the_extent_of_a_failed_publication_is_written_over) {
  struct iovec v[2];

  for (uint64_t k = 0; k < 3 * FL_EXTENTS; k++) {
    cr_assert_eq(fl_tx_reserve(tx, 1, k, v), FL_TX_OK);
    fl_rx_native_always(rx);
    cr_assert_eq(fl_tx_publish(tx, 1), FL_TX_NATIVE);
    fl_rx_watch(rx);
  }
  cr_assert_eq(tx->extent_head, 1);
  cr_assert_eq(push(tx, "z", 1, 500, &done), FL_TX_OK);
  expect_bytes((const unsigned char *)"z", 1, 500);
}

Test(lane, a_reservation_that_is_not_published_is_not_seen) {
  struct iovec v[2];

  push(tx, "a", 1, 0, &done);
  fl_tx_reserve(tx, 10, 4, v);
  expect_bytes((const unsigned char *)"a", 1, 0);
  expect_empty(0);
}

Test(lane, a_reservation_is_published_in_part) {
  struct iovec v[2];

  fl_tx_reserve(tx, 10, 0, v);
  memcpy(v[0].iov_base, "0123456789", 10);
  cr_assert_eq(fl_tx_publish(tx, 4), FL_TX_OK);
  push(tx, "xyz", 3, 0, &done);
  expect_bytes((const unsigned char *)"0123xyz", 7, 0);
  expect_empty(0);
}

Test(lane, native_fails_when_something_newer_was_published) {
  cr_assert(fl_rx_native(rx, 0));
  fl_rx_watch(rx);
  push(tx, "a", 1, 0, &done);
  cr_assert_not(fl_rx_native(rx, 0));
  cr_assert_eq(fl_rx_state(rx), FL_WATCHING);
  cr_assert(fl_rx_native(rx, 1)); /* a waiter to whom position 1 has been reported */
  cr_assert(fl_rx_native(rx, 1));
  cr_assert_not(fl_rx_native(rx, 0)); /* NATIVE, but not empty */
}

Test(lane, nothing_is_added_while_native) {
  cr_assert(fl_rx_native(rx, 0));
  cr_assert_eq(push(tx, "a", 1, 0, &done), FL_TX_NATIVE);
  cr_assert_eq(done, 0);
  expect_empty(0);
}

Test(lane, what_the_ring_holds_survives_a_forced_native) {
  push(tx, "keep", 4, 2, &done);
  fl_rx_native_always(rx);
  cr_assert_eq(fl_rx_pending(rx), 4);
  cr_assert_eq(fl_rx_peek(rx, 0, span, &need), FL_RX_KERNEL);
  expect_bytes((const unsigned char *)"keep", 4, 2);
  expect_empty(7);
}

Test(lane, hints_flags_and_cpus_reach_the_other_end) {
  cr_assert_eq(fl_rx_peer_cpu(rx), -1);
  fl_tx_at_cpu(tx, 3);
  fl_rx_at_cpu(rx, 4);
  fl_tx_intent(tx, 77);
  fl_tx_sent(tx, 70);
  fl_tx_flag(tx, FL_FLAG_FIN);
  cr_assert_eq(fl_rx_peer_cpu(rx), 3);
  cr_assert_eq(fl_tx_peer_cpu(tx), 4);
  cr_assert_eq(fl_rx_kernel_intent(rx), 77);
  cr_assert_eq(fl_rx_kernel_sent(rx), 70);
  cr_assert_eq(fl_rx_flags(rx), FL_FLAG_FIN);
}

Test(lane, only_powers_of_two_in_range_are_ring_sizes) {
  cr_assert(fl_ring_size_valid(FL_RING_MIN) && fl_ring_size_valid(FL_RING_MAX));
  cr_assert_not(fl_ring_size_valid(0));
  cr_assert_not(fl_ring_size_valid(FL_RING_MIN / 2));
  cr_assert_not(fl_ring_size_valid(FL_RING_MIN + 4096));
  cr_assert_not(fl_ring_size_valid(2ull * FL_RING_MAX));
}

Test(lane, a_segment_with_a_bad_header_is_refused) {
  size_t bytes = fl_segment_bytes(RING);

  cr_assert_eq(fl_segment_check(p.base, bytes), RING);
  cr_assert_eq(fl_segment_check(p.base, bytes - 1), 0);
  cr_assert_eq(fl_segment_check(p.base, bytes + 1), 0);
  p.seg->ring_size = 2 * RING;
  cr_assert_eq(fl_segment_check(p.base, bytes), 0);
  p.seg->ring_size = 0;
  cr_assert_eq(fl_segment_check(p.base, fl_segment_bytes(0)), 0);
  p.seg->ring_size = RING;
  p.seg->version++;
  cr_assert_eq(fl_segment_check(p.base, bytes), 0);
  p.seg->version--;
  p.seg->magic ^= 1;
  cr_assert_eq(fl_segment_check(p.base, bytes), 0);
}

Test(lane, a_segment_smaller_than_its_header_is_not_read) {
  /* the page after the segment may not be touched */
  const void *end = p.base + fl_segment_bytes(RING);

  cr_assert_eq(fl_segment_check(end, 0), 0);
}

/* ---- bytes that are asked back ---- */

static size_t owed(uint64_t ktx, bool busy, unsigned char *to) {
  size_t n = fl_tx_owed(tx, ktx, busy, span);

  for (size_t i = 0, at = 0; at < n; at += span[i++].len)
    memcpy(to + at, span[i].base, span[i].len);
  return n;
}

Test(lane, the_sender_gets_back_what_was_not_read) {
  unsigned char back[RING];

  push(tx, data, 100, 0, &done);
  expect_bytes(data, 40, 0);
  cr_assert_not(fl_tx_asked(tx));
  cr_assert(fl_rx_recall(rx));
  cr_assert(fl_rx_recalling(rx));
  cr_assert(fl_tx_asked(tx));
  cr_assert_eq(owed(0, false, back), 60);
  cr_assert(memcmp(back, data + 40, 60) == 0);
  cr_assert_eq(fl_tx_unconsumed(tx), 0);
  fl_tx_repaid(tx, 10);
  cr_assert_eq(owed(10, false, back), 50);
  cr_assert(memcmp(back, data + 50, 50) == 0);
  fl_tx_repaid(tx, 50);
  cr_assert_not(fl_tx_asked(tx));
  expect_empty(0); /* they come over the kernel lane */
  fl_rx_watch(rx);
  cr_assert_eq(push(tx, "later", 5, 60, &done), FL_TX_OK);
  cr_assert_eq(fl_rx_peek(rx, 0, span, &need), FL_RX_KERNEL);
  cr_assert_eq(need, 60);
  expect_bytes((const unsigned char *)"later", 5, 60);
}

Test(lane, while_something_is_owed_nothing_is_published) {
  unsigned char back[RING];

  push(tx, data, 100, 0, &done);
  fl_rx_recall(rx);
  cr_assert_eq(owed(0, false, back), 100);
  expect_empty(0);
  fl_rx_watch(rx);
  cr_assert_eq(push(tx, "x", 1, 0, &done), FL_TX_NATIVE);
  fl_tx_repaid(tx, 100);
  cr_assert_eq(push(tx, "x", 1, 100, &done), FL_TX_OK);
}

Test(lane, bytes_asked_back_may_go_round_the_end_of_the_ring) {
  unsigned char back[RING];

  push(tx, data, RING - 100, 0, &done);
  expect_bytes(data, RING - 200, 0);
  push(tx, data, 300, 0, &done);
  cr_assert(fl_rx_recall(rx));
  cr_assert_eq(owed(0, false, back), 400);
  cr_assert(memcmp(back, data + RING - 200, 100) == 0);
  cr_assert(memcmp(back + 100, data, 300) == 0);
}

Test(lane, a_request_that_is_not_answered_is_taken_back_by_reading) {
  unsigned char back[RING];

  push(tx, data, 100, 0, &done);
  fl_rx_recall(rx);
  fl_rx_watch(rx); /* not with a request under way */
  cr_assert(fl_rx_recalling(rx));
  fl_rx_native_always(rx);
  cr_assert(fl_rx_recalling(rx));
  expect_bytes(data, 100, 0);
  cr_assert_eq(owed(0, false, back), 0);
  fl_rx_watch(rx);
  cr_assert_eq(push(tx, "x", 1, 0, &done), FL_TX_OK);
}

Test(lane, bytes_with_kernel_bytes_behind_them_cannot_be_asked_back) {
  unsigned char back[RING];

  push(tx, data, 100, 0, &done);
  fl_tx_intent(tx, 5);
  cr_assert_not(fl_rx_recall(rx));
  cr_assert_eq(fl_rx_state(rx), FL_NATIVE);
  cr_assert_eq(owed(5, false, back), 0);
  expect_bytes(data, 100, 0);
}

Test(lane, the_sender_refuses_what_must_come_before_bytes_that_it_sent) {
  unsigned char back[RING];

  for (int busy = 0; busy < 2; busy++) {
    push(tx, data, 100, 0, &done);
    cr_assert(fl_rx_recall(rx));
    cr_assert_eq(owed(busy ? 0 : 5, busy, back), 0);
    cr_assert_not(fl_tx_asked(tx));
    expect_bytes(data, 100, 0);
    fl_rx_watch(rx);
  }
}

Test(lane, nothing_is_asked_for_if_all_was_read) {
  cr_assert(fl_rx_recall(rx));
  cr_assert_eq(fl_rx_state(rx), FL_NATIVE);
  cr_assert_not(fl_tx_asked(tx));
}

Test(lane, a_refused_recall_does_not_hide_what_comes_between) {
  cr_assert_eq(push(tx, "abcd", 4, 0, &done), FL_TX_OK);
  expect_bytes((const unsigned char *)"ab", 2, 0);
  fl_tx_intent(tx, 5); /* five bytes over the kernel lane */
  fl_tx_sent(tx, 5);
  cr_assert_eq(push(tx, "ef", 2, 5, &done), FL_TX_OK);
  cr_assert_not(fl_rx_recall(rx));
  expect_bytes((const unsigned char *)"cd", 2, 0);
  cr_assert_eq(fl_rx_peek(rx, 0, span, &need), FL_RX_KERNEL);
  cr_assert_eq(need, 5);
  expect_bytes((const unsigned char *)"ef", 2, 5);
}

/* ---- bells ---- */

Test(lane, only_an_agreed_bell_can_be_slept_with) {
  cr_assert_not(fl_rx_bell(rx, 0, 7));
  cr_assert_eq(fl_rx_state(rx), FL_WATCHING);
  cr_assert_not(fl_rx_bell_offer(rx, 7));
  cr_assert_eq(fl_tx_bell_wanted(tx), 7);
  fl_tx_bell_ask(tx, 7);
  cr_assert(fl_rx_bell_offer(rx, 7));
  cr_assert(fl_tx_bell_learn(tx, 7));
  cr_assert_not(fl_rx_bell(rx, 0, 8));
  cr_assert(fl_rx_bell(rx, 0, 7));
  cr_assert_eq(fl_rx_state(rx), FL_BELL);
  cr_assert(fl_rx_bell(rx, 0, 7), "it rests there already");
}

Test(lane, a_sleeper_with_a_bell_is_rung_once) {
  cr_assert(fl_tx_bell_learn(tx, 7));
  cr_assert(fl_rx_bell(rx, 0, 7));
  cr_assert_eq(push(tx, "ab", 2, 0, &done), FL_TX_BELL);
  cr_assert_eq(done, 0);
  cr_assert_eq(fl_tx_space(tx), FL_TX_BELL);
  tx->may_ring = true;
  cr_assert_eq(push(tx, "ab", 2, 0, &done), FL_TX_OK);
  cr_assert(tx->ring_due);
  cr_assert_eq(fl_rx_state(rx), FL_WATCHING);
  tx->ring_due = false;
  cr_assert_eq(push(tx, "c", 1, 0, &done), FL_TX_OK);
  cr_assert_not(tx->ring_due);
  expect_bytes((const unsigned char *)"abc", 3, 0);
}

Test(lane, no_rest_beside_bytes_that_nobody_knows_of) {
  cr_assert(fl_tx_bell_learn(tx, 7));
  cr_assert_eq(push(tx, "a", 1, 0, &done), FL_TX_OK);
  cr_assert_not(fl_rx_bell(rx, 0, 7));
  cr_assert_eq(fl_rx_state(rx), FL_WATCHING);
  cr_assert(fl_rx_bell(rx, 1, 7), "reported, though not read");
  tx->may_ring = true;
  cr_assert_eq(push(tx, "b", 1, 0, &done), FL_TX_OK);
  cr_assert(tx->ring_due);
  expect_bytes((const unsigned char *)"ab", 2, 0);
}

Test(lane, a_bell_is_not_forgotten_while_somebody_sleeps_with_it) {
  cr_assert(fl_tx_bell_learn(tx, 7));
  cr_assert(fl_rx_bell(rx, 0, 7));
  cr_assert_not(fl_tx_bell_learn(tx, 8));
  cr_assert_eq(fl_tx_bell_known(tx), 7);
  cr_assert(fl_rx_native(rx, 0));
  cr_assert(fl_tx_bell_learn(tx, 8));
  fl_rx_watch(rx);
  cr_assert_not(fl_rx_bell(rx, 0, 7));
  cr_assert(fl_rx_bell(rx, 0, 8));
}

Test(lane, from_native_nobody_goes_to_the_bell) {
  cr_assert(fl_tx_bell_learn(tx, 7));
  cr_assert(fl_rx_native(rx, 0));
  cr_assert_not(fl_rx_bell(rx, 0, 7));
  cr_assert_eq(fl_rx_state(rx), FL_NATIVE);
  fl_rx_watch(rx);
  cr_assert(fl_rx_bell(rx, 0, 7));
  fl_rx_watch(rx);
  cr_assert_eq(fl_rx_state(rx), FL_WATCHING);
}
