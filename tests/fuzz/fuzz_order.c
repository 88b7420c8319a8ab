/* SPDX-License-Identifier: MIT */
/*
 * tests/fuzz/fuzz_order.c - two honest ends, and a queue that stands for the kernel lane: whatever the sizes are and
 * wherever the receiver goes NATIVE and comes back, the bytes come out in the order in which they went in. The ends
 * follow the rules of docs/design.md, "Sending" and "Receiving", one thread each.
 */
#include "input.h"
#include "shmring/lane.h"

#include <sys/mman.h>

#define RING FL_RING_MIN
#define KERNEL (1u << 20)
#define MOST 20000

static void *map; /* of the segment */
static unsigned char buffer[MOST];
static unsigned char *kernel; /* bytes of the kernel lane, never reused within one input */

struct pair {
  struct fl_tx tx;
  struct fl_rx rx, unused_rx;
  struct fl_tx unused_tx;
  uint64_t sent, received; /* of the stream */
  uint64_t ktx, krx;       /* of the kernel lane */
};

static unsigned char byte_at(uint64_t position) { return (unsigned char)(position * 131 + (position >> 8) * 7 + 1); }

static void make(uint64_t from, size_t n) {
  for (size_t i = 0; i < n; i++)
    buffer[i] = byte_at(from + i);
}

static void send_some(struct pair *p, struct input *in) {
  uint16_t v = take16(in);
  size_t n = v & 0x8000 ? 1 + (v & 0x7fff) % MOST : 1 + (v & 127), done = 0;
  uint8_t how = take8(in) % 64;
  bool native = how % 16 == 0;
  struct iovec iov = {buffer, n};

  if (how == 1)
    fl_tx_shrink(&p->tx);
  if (how < 4)
    p->tx.limit = how == 2 ? FL_WINDOW : how == 3 && p->tx.limit < RING ? p->tx.limit + FL_PAGE : RING;
  make(p->sent, n);
  if (!native) {
    MUST(fl_tx_push(&p->tx, &iov, 0, n, p->ktx, &done) != FL_TX_BROKEN);
    MUST(done <= n);
  }
  size_t rest = n - done;
  if (rest > KERNEL - p->ktx)
    rest = (size_t)(KERNEL - p->ktx);
  if (take8(in) & 1)
    rest /= 2; /* the kernel took a part */
  memcpy(kernel + p->ktx, buffer + done, rest);
  p->ktx += rest;
  fl_tx_intent(&p->tx, p->ktx);
  fl_tx_sent(&p->tx, p->ktx);
  p->sent += done + rest;
}

static void check(struct pair *p, const unsigned char *bytes, size_t n) {
  for (size_t i = 0; i < n; i++)
    MUST(bytes[i] == byte_at(p->received + i));
  p->received += n;
}

static void take_kernel(struct pair *p, uint64_t most) {
  uint64_t n = p->ktx - p->krx < most ? p->ktx - p->krx : most;

  check(p, kernel + p->krx, (size_t)n);
  p->krx += n;
  fl_rx_taken(&p->rx, p->krx);
}

static void receive_some(struct pair *p, struct input *in) {
  struct fl_span span[2];
  uint64_t need;
  uint8_t how = take8(in);

  switch (fl_rx_peek(&p->rx, p->krx, span, &need)) {
  case FL_RX_RING: {
    size_t all = span[0].len + span[1].len, n = how & 1 ? all : 1 + take16(in) % all;
    size_t first = n < span[0].len ? n : span[0].len;
    check(p, span[0].base, first);
    check(p, span[1].base, n - first);
    fl_rx_consume(&p->rx, n);
    break;
  }
  case FL_RX_KERNEL: {
    uint64_t before = p->krx;
    take_kernel(p, need);
    MUST(p->krx > before); /* they were sent before the ring bytes */
    break;
  }
  case FL_RX_EMPTY: {
    uint64_t sent = fl_rx_kernel_sent(&p->rx);
    if ((how & 2) && sent > p->krx && fl_rx_head(&p->rx) == p->rx.tail)
      take_kernel(p, sent - p->krx);
    else if ((how & 4) && fl_rx_native(&p->rx, p->rx.tail))
      take_kernel(p, UINT64_MAX);
    if (how & 8)
      fl_rx_watch(&p->rx);
    break;
  }
  case FL_RX_BROKEN: MUST(0);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct input in = {data, data + size};
  struct pair p = {0};

  if (!map)
    map = mmap(NULL, fl_segment_bytes(RING), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (!kernel)
    kernel = malloc(KERNEL);
  MUST(map != MAP_FAILED && kernel);
  memset((char *)map + fl_segment_page(fl_segment_bytes(RING)), 0, FL_PAGE);
  struct fl_segment *seg = fl_segment_init(map, RING);
  fl_attach(seg, RING, 0, &p.tx, &p.unused_rx);
  fl_attach(seg, RING, 1, &p.unused_tx, &p.rx);
  while (more(&in)) {
    uint8_t what = take8(&in) % 8;
    if (what < 3)
      send_some(&p, &in);
    else if (what < 6)
      receive_some(&p, &in);
    else if (what == 6)
      fl_rx_native_always(&p.rx);
    else
      fl_rx_watch(&p.rx);
  }
  fl_rx_native_always(&p.rx);
  struct input all = {0};
  while (p.received < p.sent) {
    uint64_t before = p.received;
    receive_some(&p, &all);
    if (p.received == before) {
      MUST(fl_rx_native(&p.rx, p.rx.tail));
      take_kernel(&p, UINT64_MAX);
      MUST(p.received > before);
    }
  }
  return 0;
}
