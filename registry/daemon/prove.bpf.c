/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * registry/daemon/prove.bpf.c - reads the sequence numbers of the TCP sockets in the map `asked`, with no effect on
 * the sockets: see prove.h. Of the kernel's structures only the names of the fields below are used; libbpf finds their
 * places in the running kernel.
 */
#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "prove_record.h"

#define KERNEL __attribute__((preserve_access_index))
#define READ_ONCE(x) (*(volatile __typeof__(x) *)&(x))
#define TRIES 8

struct sock;
struct seq_file;
struct tcp_sock {
  __u32 snd_una, rcv_nxt;
  __u64 bytes_acked, bytes_received;
} KERNEL;
struct bpf_iter_meta {
  struct seq_file *seq;
} KERNEL;
struct bpf_iter__bpf_sk_storage_map {
  struct bpf_iter_meta *meta;
  struct sock *sk;
  void *value;
} KERNEL;

struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, __u64);
} asked SEC(".maps");

SEC("iter/bpf_sk_storage_map")
int read_sequences(struct bpf_iter__bpf_sk_storage_map *ctx) {
  struct sock *sk = ctx->sk;
  __u64 *id = ctx->value;

  if (!sk || !id)
    return 0;
  struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
  if (!tp)
    return 0;

  struct prove_record r = {.id = *id};
  /* The socket is not locked: an acknowledgement or data may be taken in on another CPU while we look, and its two
   * stores be seen apart. Then look again. */
  for (int i = 0; i < TRIES; i++) {
    __u32 una = READ_ONCE(tp->snd_una), next = READ_ONCE(tp->rcv_nxt);
    __u64 acked = READ_ONCE(tp->bytes_acked), received = READ_ONCE(tp->bytes_received);

    r.sent_from = una - (__u32)acked;
    r.received_from = next - (__u32)received;
    if (una == READ_ONCE(tp->snd_una) && next == READ_ONCE(tp->rcv_nxt) && acked == READ_ONCE(tp->bytes_acked) &&
        received == READ_ONCE(tp->bytes_received))
      break;
  }
  bpf_seq_write(ctx->meta->seq, &r, sizeof(r));
  return 0;
}

/* The helpers used are for programs under the GPL only. */
char _license[] SEC("license") = "Dual MIT/GPL";
