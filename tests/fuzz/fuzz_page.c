/* SPDX-License-Identifier: MIT */
/*
 * tests/fuzz/fuzz_page.c - the shared page as each side sees it, when the other side writes what it likes: a sequence
 * of calls of one end's sender and receiver, an honest peer's calls, and writes into the page in between. Neither may
 * touch anything outside of the ring (the address sanitizer watches), give out spans beyond it, or loop.
 */
#include "input.h"
#include "shmring/lane.h"

#define RING FL_RING_MIN
#define CHUNK 24576 /* more than a ring */

static unsigned char *map; /* of the segment */
static struct fl_segment *seg;
static unsigned char data_out[CHUNK];

struct end {
  struct fl_tx tx;
  struct fl_rx rx;
  struct iovec reserved[2];
  size_t room;  /* reserved bytes that may be published */
  size_t shown; /* bytes that the last peek gave out */
  uint64_t krx, ktx;
};

static void inside(const void *base, size_t len, const unsigned char *ring) {
  MUST(len <= RING);
  MUST(len == 0 || ((const unsigned char *)base >= ring && (const unsigned char *)base + len <= ring + RING));
}

static size_t length(struct input *in) {
  uint16_t v = take16(in);

  return v & 0x8000 ? v & 0x7fff : v & 63; /* small ones often */
}

static void push(struct end *e, struct input *in) {
  size_t n = length(in) % CHUNK, done = 0, skip = take8(in) % 3;
  size_t cut = n ? take16(in) % (n + 1) : 0;
  struct iovec iov[4] = {{data_out, skip}, {data_out, cut}, {data_out, 0}, {data_out + cut, n - cut}};

  e->ktx += take8(in) % 4 == 0 ? take8(in) : 0;
  enum fl_tx_result r = fl_tx_push(&e->tx, iov, skip, n, e->ktx, &done);
  MUST(done <= n);
  MUST(r != FL_TX_OK || done == n);
  e->room = 0;
}

static void reserve(struct end *e, struct input *in) {
  size_t want = length(in) % CHUNK;
  enum fl_tx_result r = fl_tx_reserve(&e->tx, want, e->ktx, e->reserved);

  e->room = e->reserved[0].iov_len + e->reserved[1].iov_len;
  MUST(e->room <= RING && e->room <= want);
  MUST(r != FL_TX_OK || e->room == want);
  for (int i = 0; i < 2; i++) {
    inside(e->reserved[i].iov_base, e->reserved[i].iov_len, e->tx.ring);
    if (e->reserved[i].iov_len)
      memset(e->reserved[i].iov_base, 'r', e->reserved[i].iov_len);
  }
}

static void peek(struct end *e, struct input *in) {
  struct fl_span span[2];
  uint64_t need = 0;
  unsigned char copy[RING];

  e->shown = 0;
  switch (fl_rx_peek(&e->rx, e->krx, span, &need)) {
  case FL_RX_RING:
    e->shown = span[0].len + span[1].len;
    MUST(e->shown > 0 && e->shown <= RING);
    for (int i = 0; i < 2; i++) {
      inside(span[i].base, span[i].len, e->rx.ring);
      memcpy(copy, span[i].base, span[i].len); /* the sanitizer looks */
    }
    break;
  case FL_RX_KERNEL:
    MUST(need > 0);
    if (take8(in) & 1)
      e->krx += need;
    break;
  case FL_RX_EMPTY: break;
  case FL_RX_BROKEN: MUST(e->rx.broken);
  }
}

static void consume(struct end *e, struct input *in) {
  size_t n = e->shown ? 1 + take16(in) % e->shown : 0;

  if (n)
    fl_rx_consume(&e->rx, n);
  e->shown = 0; /* what a peek showed is good for one consume */
}

static void call(struct end *e, struct input *in) {
  bool interrupted;

  switch (take8(in) % 22) {
  case 0:
  case 1:
  case 2: push(e, in); break;
  case 3: reserve(e, in); break;
  case 4:
    if (e->room)
      fl_tx_publish(&e->tx, 1 + take16(in) % e->room);
    e->room = 0;
    break;
  case 5: fl_tx_space(&e->tx); break;
  case 6: MUST(fl_tx_unconsumed(&e->tx) <= e->tx.head); break;
  case 7: fl_tx_sent(&e->tx, e->ktx); break;
  case 8: fl_tx_flag(&e->tx, FL_FLAG_FIN); break;
  case 9: fl_tx_sleep(&e->tx, 0, &interrupted); break;
  case 10:
  case 11:
  case 12:
    peek(e, in);
    consume(e, in);
    break;
  case 13: fl_rx_publish(&e->rx); break;
  case 14: MUST(fl_rx_pending(&e->rx) <= RING); break;
  case 15: {
    bool native = fl_rx_native(&e->rx, e->rx.tail);
    /* else its caller would look at an empty ring for ever */
    MUST(native || fl_rx_head(&e->rx) != e->rx.tail);
    break;
  }
  case 16: fl_rx_native_always(&e->rx); break;
  case 17:
  case 18: fl_rx_watch(&e->rx); break;
  case 19: fl_tx_shrink(&e->tx); break;
  case 20: e->tx.limit = take8(in) & 1 ? RING : FL_WINDOW + take8(in) % 3 * FL_PAGE; break;
  default:
    fl_tx_kernel_backlog(&e->tx, e->ktx);
    fl_rx_kernel_sent(&e->rx);
    fl_tx_at_cpu(&e->tx, take8(in));
    fl_rx_at_cpu(&e->rx, take8(in));
  }
}

/* Writes into the page: a value that is near to what is there, or any. */
static void spoil(struct input *in) {
  struct fl_lane *lane = &seg->lane[take8(in) & 1];
  struct fl_extent *extent = &lane->extents[take8(in) % FL_EXTENTS];
  _Atomic uint64_t *const wide[] = {&lane->word,         &lane->kernel_sent, &lane->kernel_intent, &lane->tail,
                                    &lane->kernel_taken, &extent->pos,       &extent->koff,        &extent->off};
  _Atomic uint32_t *const narrow[] = {&lane->extent_head, &lane->flags, &lane->waiting, &lane->extent_tail};
  uint8_t which = take8(in) % 16;

  if (which < 8) {
    _Atomic uint64_t *at = wide[which];
    uint8_t how = take8(in);
    *at = how & 1 ? take64(in) : *at + (uint64_t)((int64_t)(int8_t)take8(in) * (how & 2 ? 1 : how & 4 ? 4 : RING));
  } else if (which < 12) {
    *narrow[which - 8] = take8(in) & 1 ? take32(in) : *narrow[which - 8] + (uint32_t)(int8_t)take8(in);
  } else {
    (map + fl_segment_page(fl_segment_bytes(RING)))[take16(in) % FL_PAGE] = take8(in);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct input in = {data, data + size};
  struct end e[2] = {0};

  if (!map)
    map = aligned_alloc(FL_PAGE, fl_segment_bytes(RING));
  MUST(map);
  memset(map + fl_segment_page(fl_segment_bytes(RING)), 0, FL_PAGE);
  seg = fl_segment_init(map, RING);
  for (int i = 0; i < 2; i++)
    fl_attach(seg, RING, i, &e[i].tx, &e[i].rx);
  for (int i = 0; i < 2; i++)
    fl_rx_watch(&e[i].rx);
  while (more(&in)) {
    uint8_t what = take8(&in);
    if (what % 8 < 4)
      call(&e[0], &in);
    else if (what % 8 < 7)
      call(&e[1], &in);
    else
      spoil(&in);
  }
  return 0;
}
