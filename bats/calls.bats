#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Single calls in which other people's tests saw a difference.

load lib

calls() { client "$PYTHON" "$FIXTURES/calls.py" "$1"; }

# CASE: in every way to wait
same_calls() {
  mode both
  same_as_tcp calls "$1"
  steady
  same_as_tcp calls "$1"
  assert_ring_share python3 1
}

@test "a sender that does not wait comes to EAGAIN at once, the reader being away" { same_calls fill; }
@test "what one process sends on several connections comes in the same order" { same_calls order; }

@test "connections that end soon stop looking for their peer, one that stays does not" {
  need_library
  mode both
  calls short
  # Both ends of each are in this process: of the fifty a few to learn from, and then the one that stays.
  assert_matches "$(jq -r .paired "$STATS")" '^[4-9]$|^1[0-2]$'
}
