/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* registry/daemon/prove_record.h - what prove.bpf.c says about a socket. */
#pragma once

#include <linux/types.h>

struct prove_record {
  __u64 id;
  __u32 sent_from;     /* sequence number of the first byte sent, or of the SYN before it at the end that connected */
  __u32 received_from; /* sequence number of the first byte received */
};
