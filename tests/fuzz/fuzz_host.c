/* SPDX-License-Identifier: MIT */
/* tests/fuzz/fuzz_host.c - a process and a daemon that answers anything, with anything passed along. */
#include "kernel.h"
#include "registry/host.h"
#include "registry/sys.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct input in = {data, data + size};
  struct fl_tuple t = {.cookie = 1};

  kernel_begin(&in, &t, 2);
  int fd = fl_host_connect("/run/fastlocal/registry.sock", 48);
  MUST(kernel_open_fds() == (fd >= 0));
  for (int i = 0; fd >= 0 && i < 40 && more(&in); i++) {
    struct fl_host_message m = {.magic = FL_HOST_MAGIC,
                                .version = FL_HOST_VERSION,
                                .type = take8(&in) & 1 ? FL_HOST_PAIRED : FL_HOST_PAIRED + take8(&in) % 5,
                                .ring_size = FL_RING_MIN,
                                .id = 7,
                                .end = take8(&in) & 1};
    struct fl_pairing p;

    kernel_message(&m, sizeof m, m.type == FL_HOST_PAIRED);
    fl_host_send(fd, FL_HOST_ASK, 7, FL_RING_MIN, fd);
    int rc = fl_host_receive(fd, &m, &p, NULL);
    MUST(kernel_open_fds() == 1); /* what was passed is closed */
    MUST(kernel_mappings() == (p.seg != NULL));
    if (rc == 0 && m.type == FL_HOST_PAIRED) {
      MUST(p.seg && kernel_visitor_honest_memfd() && fl_ring_size_valid(p.ring_size) && p.ring_size == m.ring_size);
      MUST((p.end == 0 || p.end == 1) && p.bytes == fl_segment_bytes(p.ring_size));
      fl_pairing_drop(&p);
    } else {
      MUST(!p.seg);
    }
    if (rc < 0 && rc != -EAGAIN && m.type == 0)
      break; /* lost */
  }
  if (fd >= 0)
    fl_sys_close(fd);
  MUST(kernel_open_fds() == 0 && kernel_mappings() == 0);
  return 0;
}
