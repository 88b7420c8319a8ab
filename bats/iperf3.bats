#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# iperf3: select, large writes in one direction, control and data connections, parallel streams, TCP_INFO.

load lib

setup_file() { need iperf3 jq; }

HOST=127.0.0.1
MEGABYTES=256
SHARE=5 # percent: iperf3 does not block, so what a full ring does not take spills into TCP's buffer, and may stay there

# OPTION...: all was sent, and arrived but for what iperf3 leaves in the socket buffers when it stops.
run_iperf3() {
  local port wanted
  wanted=$(scaled "$MEGABYTES")
  port=$(free_port)
  ((SHARE == 0)) || steady
  serve iperf3 iperf3 -s -1 -B "$HOST" -p "$port" -J
  wait_listen "$port"
  client iperf3 -c "$HOST" -p "$port" -J -n "${wanted}M" "$@" >"$T/client.json"
  finish iperf3
  jq -e --argjson wanted $((wanted << 20)) '(has("error") | not) and
    .end.sum_sent.bytes + (.end.sum_sent_bidir_reverse.bytes // 0) >= $wanted and
    .end.sum_received.bytes >= .end.sum_sent.bytes * 0.75' "$T/client.json" >/dev/null ||
    fail "$(jq -c '[.error, .end.sum_sent, .end.sum_received]' "$T/client.json")"
  if ((SHARE)); then assert_ring_share iperf3 "$SHARE"; else assert_paired iperf3; fi
}

@test "iperf3, client to server" { mode both && run_iperf3; }
@test "iperf3, server to client" { mode both && run_iperf3 -R; }
@test "iperf3, both directions at once" { mode both && run_iperf3 --bidir; }
@test "iperf3, 4 parallel streams" { mode both && run_iperf3 -P 4; }
@test "iperf3, 4 parallel streams, server to client" { mode both && run_iperf3 -P 4 -R; }
@test "iperf3, small blocks" { MEGABYTES=32 && mode both && run_iperf3 -l 1K; }
# Blocks of 128 KB, which the kernel sends without a copy.
@test "iperf3, sendfile" { SHARE=0 && mode both && run_iperf3 -Z; }
@test "iperf3, with the presets" { SHARE=0 && mode both && run_iperf3; }
@test "iperf3 over ::1" { HOST=::1 && mode both && run_iperf3; }
@test "iperf3, only the client has the library" { mode client && run_iperf3; }
@test "iperf3, only the client has the library, server to client" { mode client && run_iperf3 -R; }
@test "iperf3, only the server has the library" { mode server && run_iperf3 -P 2; }
