#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# A peer that writes rubbish into the memory that both ends share: neither end crashes, hangs, or reads what is not its own; the
# connection goes on over TCP or is reset.

load lib

HOST=127.0.0.1

# The process ended by itself: with success, or with Python's exception for a connection that broke.
ended_well() { # STATUS FILE
  (($1 == 0)) && return 0
  (($1 == 1)) && grep -qE 'ConnectionResetError|BrokenPipeError|AssertionError: the echo (ended early|differs)|TimeoutError|timed out' "$2"
}

scribbled() { # SEED
  local status=0
  start_echo
  client_in_background talk "$PYTHON" "$FIXTURES/pair.py" talk "$HOST" "$PORT" 2 3000 "$((1 + $1 * 997 % 5000))"
  wait_for 10 grep -q '/memfd:fastlocal (deleted)' "/proc/$(pid_of talk)/maps" || true
  plain "$PYTHON" "$FIXTURES/scribble.py" "$(pid_of talk || echo 0)" "$1" 40
  # what is left of the conversation may wait for ever, as with any peer that stops talking
  wait_for 3 gone "${PIDS[talk]}" || kill -TERM "$(pid_of talk)"
  wait "${PIDS[talk]}" || status=$?
  unset "PIDS[talk]"
  ((status == 143)) || ended_well "$status" "$T/talk.err" || fail "the client ended with status $status: $(tail -n 3 "$T/talk.err")"
  # the server has other connections to care for
  MODE=none talk 1 20 >/dev/null
  stop echo
}

@test "rubbish in the shared page: both ends survive, and the server goes on serving" {
  need_library
  ((EUID == 0)) || skip "needs root to write into another process"
  mode both
  options FASTLOCAL_SPIN_US=2000
  for seed in $(seq "$(scaled 8)"); do
    scribbled "$seed"
  done
}
