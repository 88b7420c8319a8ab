/* SPDX-License-Identifier: MIT */
/* tests/shmring/test_memory.c - which parts of a segment are used, and when they are given back. */
#include "segment.h"

#include "check.h"

#define PAGES (2 * RING / FL_PAGE + 1)
#define AROUND 5 /* times as many bytes as a ring has */

static struct pair p;
static struct fl_span span[2];
static uint64_t need;
static size_t done;
static unsigned char data[2 * RING];

static void setup(void) {
  p = pair_new(RING);
  for (size_t i = 0; i < sizeof data; i++)
    data[i] = (unsigned char)(i * 7 + i / 251);
  for (int i = 0; i < 2; i++)
    fl_rx_watch(&p.rx[i]);
}

static void teardown(void) { pair_free(&p, RING); }

TestSuite(memory, .init = setup, .fini = teardown);

static unsigned pages(void) {
  unsigned char there[PAGES];
  unsigned n = 0;

  cr_assert_eq(mincore(p.base, PAGES * FL_PAGE, there), 0);
  for (unsigned i = 0; i < PAGES; i++)
    n += there[i] & 1;
  return n;
}

static void expect_bytes(struct fl_rx *rx, const unsigned char *want, size_t n, uint64_t krx) {
  while (n) {
    cr_assert_eq(fl_rx_peek(rx, krx, span, &need), FL_RX_RING);
    size_t part = span[0].len < n ? span[0].len : n;
    cr_assert(memcmp(span[0].base, want, part) == 0);
    fl_rx_consume(rx, part);
    want += part;
    n -= part;
  }
}

/* End `from` sends n bytes that the other reads at once. */
static void message(int from, size_t n) {
  cr_assert_eq(push(&p.tx[from], data + 3, n, 0, &done), FL_TX_OK);
  expect_bytes(&p.rx[!from], data + 3, n, 0);
}

/* ---- where an empty ring begins ---- */

Test(memory, small_messages_stay_in_the_header_page) {
  cr_assert_eq(pages(), 1);
  for (size_t i = 0; i < RING; i += 100)
    for (int end = 0; end < 2; end++)
      message(end, 1 + i % 127);
  cr_assert_eq(pages(), 1);
}

Test(memory, a_ring_that_is_busy_gets_a_page) {
  for (size_t i = 0; i < 10 * RING; i += 100)
    for (int end = 0; end < 2; end++)
      message(end, 1 + i % FL_WINDOW);
  cr_assert_eq(pages(), 3);
  for (int end = 0; end < 2; end++)
    fl_tx_shrink(&p.tx[end]);
  cr_assert_eq(pages(), 1);
  message(0, FL_WINDOW);
  message(1, FL_WINDOW);
  cr_assert_eq(pages(), 1);
}

Test(memory, a_message_that_fills_the_window_stays_there_and_one_that_does_not_leaves_it) {
  for (int end = 0; end < 2; end++)
    message(end, FL_WINDOW);
  cr_assert_eq(pages(), 1);
  for (int end = 0; end < 2; end++)
    message(end, FL_WINDOW + 1);
  cr_assert_eq(pages(), 3);
}

Test(memory, messages_of_a_page_use_one_page_each_way) {
  for (int i = 0; i < 100; i++)
    message(0, FL_PAGE);
  cr_assert_eq(pages(), 2);
}

Test(memory, a_ring_with_unread_bytes_does_not_start_again) {
  for (int end = 0; end < 2; end++) {
    push(&p.tx[end], data, 1000, 0, &done);
    expect_bytes(&p.rx[!end], data, 999, 0);
    fl_rx_publish(&p.rx[!end]);
    cr_assert_eq(push(&p.tx[end], data + 1000, 3200, 0, &done), FL_TX_OK);
    cr_assert_eq((p.tx[end].off - p.tx[end].origin) & p.tx[end].mask, 4200);
    expect_bytes(&p.rx[!end], data + 999, 3201, 0);
  }
}

Test(memory, a_start_at_the_beginning_whose_publication_failed_is_kept) {
  struct iovec v[2];

  for (int end = 0; end < 2; end++) {
    struct fl_tx *tx = &p.tx[end];
    struct fl_rx *rx = &p.rx[!end];
    push(tx, data, 1000, 0, &done);
    expect_bytes(rx, data, 1000, 0);
    fl_tx_reserve(tx, 200, 0, v);
    cr_assert_eq(tx->off, tx->origin);
    fl_rx_native_always(rx);
    cr_assert_eq(fl_tx_publish(tx, 200), FL_TX_NATIVE);
    fl_rx_watch(rx);
    cr_assert_eq(push(tx, data + 7, 300, 9, &done), FL_TX_OK);
    cr_assert_eq(fl_rx_peek(rx, 0, span, &need), FL_RX_KERNEL);
    cr_assert_eq(need, 9);
    expect_bytes(rx, data + 7, 300, 9);
  }
}

/* ---- the limit ---- */

Test(memory, a_ring_at_its_limit_is_full_until_it_is_empty) {
  for (int end = 0; end < 2; end++) {
    struct fl_tx *tx = &p.tx[end];
    struct fl_rx *rx = &p.rx[!end];
    tx->limit = FL_WINDOW;
    cr_assert_eq(push(tx, data, FL_WINDOW + 100, 0, &done), FL_TX_FULL);
    cr_assert_eq(done, FL_WINDOW);
    cr_assert_eq(fl_tx_space(tx), FL_TX_FULL);
    cr_assert_eq(push(tx, data, 1, 0, &done), FL_TX_FULL);
    expect_bytes(rx, data, FL_WINDOW - 1, 0);
    fl_rx_publish(rx);
    cr_assert_eq(fl_tx_space(tx), FL_TX_FULL);
    cr_assert_eq(push(tx, data, 1, 0, &done), FL_TX_FULL);
    expect_bytes(rx, data + FL_WINDOW - 1, 1, 0);
    cr_assert_eq(fl_tx_space(tx), FL_TX_OK);
    message(end, 100);
    cr_assert_eq(pages(), 1);
  }
}

Test(memory, a_limit_that_is_raised_lets_a_full_ring_go_on) {
  for (int end = 0; end < 2; end++) {
    struct fl_tx *tx = &p.tx[end];
    tx->limit = FL_WINDOW;
    push(tx, data, 2000, 0, &done);
    cr_assert_eq(done, FL_WINDOW);
    tx->limit += FL_PAGE;
    cr_assert_eq(fl_tx_space(tx), FL_TX_OK);
    cr_assert_eq(push(tx, data + FL_WINDOW, 2 * FL_PAGE, 0, &done), FL_TX_FULL);
    cr_assert_eq(done, FL_PAGE);
    tx->limit = RING;
    cr_assert_eq(push(tx, data + FL_WINDOW + FL_PAGE, RING, 0, &done), FL_TX_FULL);
    cr_assert_eq(done, RING - FL_WINDOW - FL_PAGE);
    expect_bytes(&p.rx[!end], data, RING, 0);
  }
}

/* ---- giving back ---- */

Test(memory, an_empty_ring_gives_back_all_but_the_header_page) {
  for (int end = 0; end < 2; end++) {
    struct fl_tx *tx = &p.tx[end];
    for (size_t size = FL_WINDOW + 1; size <= RING; size += 700) {
      message(end, size);
      cr_assert(pages() > 1);
      fl_tx_shrink(tx);
      cr_assert_eq(pages(), 1, "%zu", size);
      cr_assert_eq(tx->used, 0);
      message(end, 1000);
      cr_assert_eq(pages(), 1, "%zu", size);
    }
  }
}

Test(memory, so_does_one_that_was_gone_round_many_times) {
  for (int end = 0; end < 2; end++) {
    push(&p.tx[end], data, 1, 0, &done);
    for (size_t n = 0; n < AROUND * RING; n += 1000) {
      push(&p.tx[end], data + 1, 1000, 0, &done);
      expect_bytes(&p.rx[!end], n ? data + 1000 : data, 1, 0);
      expect_bytes(&p.rx[!end], data + 1, 999, 0);
      fl_rx_publish(&p.rx[!end]);
    }
    expect_bytes(&p.rx[!end], data + 1000, 1, 0);
    cr_assert_eq(p.tx[end].used, RING);
    fl_tx_shrink(&p.tx[end]);
    cr_assert_eq(pages(), 1);
    message(end, 100);
  }
}

Test(memory, what_is_not_read_is_not_given_back) {
  struct fl_tx *tx = &p.tx[0];

  push(tx, data, 5000, 0, &done);
  fl_tx_shrink(tx);
  expect_bytes(&p.rx[1], data, 4999, 0);
  fl_rx_publish(&p.rx[1]);
  fl_tx_shrink(tx);
  cr_assert(tx->used > FL_WINDOW);
  expect_bytes(&p.rx[1], data + 4999, 1, 0);
  fl_tx_shrink(tx);
  cr_assert_eq(pages(), 1);
}

/* The receiver has the bytes, but they are void and it does not know yet. */
Test(memory, what_is_on_its_way_back_is_not_given_back) {
  struct fl_tx *tx = &p.tx[0];

  push(tx, data, 5000, 0, &done);
  cr_assert(fl_rx_recall(&p.rx[1]));
  cr_assert_eq(fl_tx_owed(tx, 0, false, span), 5000);
  fl_tx_shrink(tx);
  cr_assert(memcmp(span[0].base, data, span[0].len) == 0);
  fl_tx_repaid(tx, 5000);
  fl_tx_shrink(tx);
  cr_assert(tx->used > FL_WINDOW);
}

Test(memory, after_it_kernel_bytes_still_come_first) {
  for (int end = 0; end < 2; end++) {
    struct fl_rx *rx = &p.rx[!end];
    message(end, 5000);
    fl_tx_shrink(&p.tx[end]);
    push(&p.tx[end], data, 10, 6, &done);
    cr_assert_eq(fl_rx_peek(rx, 0, span, &need), FL_RX_KERNEL);
    cr_assert_eq(need, 6);
    expect_bytes(rx, data, 10, 6);
  }
}
