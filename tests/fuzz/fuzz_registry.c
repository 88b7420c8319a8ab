/* SPDX-License-Identifier: MIT */
/*
 * tests/fuzz/fuzz_registry.c - the rendezvous with a kernel and visitors that say anything: answers of sock_diag,
 * hello messages, descriptors, seals, sizes, and failures of every call. Nothing may be left open or mapped, whatever
 * the result, and only an honest visitor is paired with.
 */
#include <arpa/inet.h>

#include "kernel.h"
#include "registry/sys.h"

static struct fl_tuple a_tuple(bool v4) {
  struct fl_tuple t = {.local_port = htons(4001), .remote_port = htons(80), .cookie = 0x1234, .netns = 0x99};

  t.v4 = v4;
  if (v4) {
    t.local.s6_addr[10] = t.local.s6_addr[11] = t.remote.s6_addr[10] = t.remote.s6_addr[11] = 0xff;
    t.local.s6_addr[12] = t.remote.s6_addr[12] = 127;
    t.local.s6_addr[15] = 1;
    t.remote.s6_addr[15] = 2;
  } else {
    t.local.s6_addr[0] = t.remote.s6_addr[0] = 0xfd;
    t.remote.s6_addr[15] = 1;
  }
  return t;
}

static void drop(struct fl_pairing *p) {
  MUST(p->seg && fl_ring_size_valid(p->ring_size) && p->bytes == fl_segment_bytes(p->ring_size));
  MUST(p->end == 0 || p->end == 1);
  fl_pairing_drop(p);
}

static void rendezvous(struct input *in, const struct fl_tuple *t) {
  struct fl_rdv r;
  struct fl_pairing p;
  enum fl_rdv_result result = fl_rdv_start(&r, t, FL_RING_MIN, 48, &p);

  MUST(result != FL_RDV_PAIRED || p.end == 0);
  for (int polls = 0; result == FL_RDV_WAIT && polls < 60 && more(in); polls++) {
    MUST(kernel_mappings() == 0 && r.fd >= 0 && kernel_open_fds() == 1 + (r.visitor >= 0));
    result = fl_rdv_poll(&r, &p);
    if (result == FL_RDV_PAIRED)
      MUST(p.end == 1 && kernel_visitor_honest());
  }
  if (result == FL_RDV_WAIT) {
    fl_rdv_abandon(&r);
    MUST(kernel_open_fds() == 0);
  }
  MUST(r.fd == -1 && r.visitor == -1);
  if (result == FL_RDV_PAIRED)
    drop(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct input in = {data, data + size};
  uint8_t what = take8(&in);
  struct fl_tuple t = a_tuple(what & 1), read;
  uint64_t inode;
  uid_t uid;
  char name[108];

  kernel_begin(&in, &t, 0x5678);
  switch (what >> 1 & 3) {
  case 0: {
    int fd = kernel_fd();
    if (fl_tuple_of(fd, &read) == 0) {
      size_t n = fl_rdv_name(&read, name);
      MUST(n < 100 && strlen(name) == n);
    }
    fl_sys_close(fd);
    break;
  }
  case 1: fl_peer_lookup(&t, &uid, &inode); break;
  default: rendezvous(&in, &t);
  }
  MUST(kernel_open_fds() == 0);
  MUST(kernel_mappings() == 0);
  return 0;
}
