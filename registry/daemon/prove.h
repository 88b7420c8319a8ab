/* SPDX-License-Identifier: MIT */
/*
 * registry/daemon/prove.h - which two sockets are the two ends of one connection.
 *
 * Addresses do not say: they are rewritten on the way (published ports, masquerading, service addresses, overlays), and
 * mean something else in every network namespace. The two initial sequence numbers do: each is chosen by the kernel
 * with a secret, 64 bits together, both ends have both, and nothing on the way that leaves it one connection changes
 * them. A proxy makes two connections, with four numbers. Somebody who knows both numbers of a connection could as well
 * inject bytes into it: who shares memory with him shares nothing that TCP protects.
 *
 * The numbers do not change over a connection's life: what was acknowledged last, minus the count of bytes that were
 * acknowledged, is the first number sent; and the same for the other direction. They are read by a BPF iterator over a
 * socket storage map, which has no effect on the socket. TCP_REPAIR, which reads them too (in 3 us instead of 9), has:
 * while it is on, sends fail with EINVAL and receives with EPERM, in all threads and processes that hold the socket,
 * SO_REUSEADDR is off afterwards, and a daemon that dies meanwhile leaves the socket unusable.
 *
 * Needs CAP_BPF and CAP_PERFMON (or CAP_SYS_ADMIN), and Linux 5.10 with CONFIG_DEBUG_INFO_BTF, as distributions have
 * it.
 */
#pragma once

#include <stdint.h>

struct proof {
  uint32_t sent_from;     /* see struct prove_record */
  uint32_t received_from; /* the peer's sent_from, or that plus one */
};

/* Loads the program. 0 or -errno, with the reason in err. Once. */
int prove_init(char *err, unsigned errsize);

/* Reads the numbers of a connected TCP socket. 0 or -errno. About 10 us. */
int prove_read(int fd, struct proof *out);

/*
 * Do two proofs belong to one connection? At the end that connected the SYN counts as acknowledged, and its sent_from
 * is one less than at the end that accepted.
 */
static inline int prove_match(const struct proof *a, const struct proof *b) {
  return a->received_from - b->sent_from <= 1 && b->received_from - a->sent_from <= 1;
}
