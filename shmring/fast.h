/* SPDX-License-Identifier: MIT */
/*
 * shmring/fast.h - the common case of sending and receiving, in line: one buffer, and nothing to find out first. Each
 * does what lane.c would do, or nothing, and then lane.c says why.
 */
#pragma once

#include <string.h>

#include "fault.h"
#include "lane.h"

/*
 * Publishes all n bytes of buf, as fl_tx_push does, if the receiver watches and the bytes fit into what is known to be
 * free of the window (`run`). False: nothing was published.
 */
static inline bool fl_tx_push_fast(struct fl_tx *tx, const void *buf, size_t n, uint64_t koff) {
  uint64_t expected = tx->head << FL_STATE_BITS | FL_WATCHING;
  unsigned char *to = tx->ring + tx->off;

  /* relaxed: only a first look; the publishing CAS decides */
  if (n > tx->run || koff != tx->koff || atomic_load_explicit(&tx->lane->word, memory_order_relaxed) != expected)
    return false;
  memcpy(to, buf, n);
  FL_FAULT(tx_copied);
  /* release, relaxed: as in fl_tx_publish. A word that has changed is looked at there. */
  if (!atomic_compare_exchange_strong_explicit(&tx->lane->word, &expected, expected + ((uint64_t)n << FL_STATE_BITS),
                                               memory_order_release, memory_order_relaxed))
    return false;
  FL_FAULT(tx_published);
  tx->head += n;
  tx->off = (tx->off + n) & tx->mask;
  tx->run -= n;
  return true;
}

/*
 * How many bytes come next and lie in one piece, at *from; 0 if there are none, or fl_rx_peek has to find out. As
 * there: readable until they are consumed.
 */
static inline size_t fl_rx_peek_fast(struct fl_rx *rx, uint64_t krx, const unsigned char **from) {
  if (__builtin_expect(rx->recalled | rx->broken, 0))
    return 0;
  if (rx->head_seen == rx->tail) {
    uint64_t head = fl_rx_head(rx);
    /* a new extent, an empty ring, or a head that cannot be: see fl_rx_peek; acquire: as in rx_extents */
    if (head - rx->tail - 1 > rx->mask ||
        atomic_load_explicit(&rx->lane->extent_head, memory_order_acquire) != rx->extent || rx->extent == 0)
      return 0;
    rx->head_seen = head;
    rx->next_pos = UINT64_MAX;
    FL_FAULT(rx_new_head);
  }
  uint64_t end = rx->next_pos < rx->head_seen ? rx->next_pos : rx->head_seen;
  if (rx->tail >= end || krx < rx->koff)
    return 0;
  size_t n = (size_t)(end - rx->tail), at = (size_t)((rx->off + (rx->tail - rx->pos)) & rx->mask);
  *from = rx->ring + at;
  return rx->mask + 1 - at < n ? (size_t)rx->mask + 1 - at : n;
}
