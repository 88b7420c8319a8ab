#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# The `fastlocal` command: `run` starts a program with the library, `stat` shows the connections of running programs.

load lib

setup_file() { need jq; }

HOST=127.0.0.1

run_tool() { plain "$TOOL" run "$@"; }

# STATUS CMD...: ends with this exit status
assert_status() {
  local status=0
  "${@:2}" >"$T/status.out" 2>"$T/status.err" || status=$?
  ((status == $1)) || fail "status $status instead of $1 from: ${*:2}"
}

start_echo() { # [OPTION...] of `fastlocal run`
  PORT=$(free_port)
  background nobody echo "$TOOL" run "$@" -- "$PYTHON" "$FIXTURES/pair.py" serve "$HOST" "$PORT"
  wait_listen "$PORT"
}

# NAME RUN_OPTION...: a client that holds two connections after 300 messages of 64 bytes on each
hold() {
  background nobody "$1" "$TOOL" run "${@:2}" -- "$PYTHON" "$FIXTURES/pair.py" hold "$HOST" "$PORT" 2 300 64
  wait_for 20 grep -q ready "$T/$1.out"
}

stat_json() { plain "$TOOL" stat --json "$@" 2>"$T/stat.err"; }

# PID FILTER: of the connections of that process
connections() { stat_json "$1" | jq -c "[.processes[].connections[]] | $2"; }

@test "run: the program's arguments, output and exit status pass through" {
  need_tool
  assert_equal "$(run_tool -- printf '%s|' a 'b c' --disable)" 'a|b c|--disable|'
  assert_equal "$(echo input | run_tool cat)" input
  assert_status 7 run_tool sh -c 'exit 7'
}

@test "run: the program has the library, and keeps what else was preloaded" {
  need_tool
  run_tool grep -q libfastlocal.so /proc/self/maps
  local libc=/lib/x86_64-linux-gnu/libutil.so.1
  [[ -e $libc ]] || skip "no $libc to preload"
  # shellcheck disable=SC2016 # for the inner shell
  assert_matches "$(plain env LD_PRELOAD=$libc "$TOOL" run sh -c 'echo $LD_PRELOAD')" "libfastlocal.so.$libc\$"
}

@test "run: options reach the program's environment" {
  need_tool
  # shellcheck disable=SC2016 # for the inner shell
  assert_equal "$(run_tool --ring=64K --ports='1-9,!5' --disable -- sh -c 'echo "$FASTLOCAL_RING $FASTLOCAL_PORTS $FASTLOCAL_DISABLE"')" \
    '64K 1-9,!5 1'
}

@test "run: bad options and programs that cannot be run have their own exit status and one line" {
  need_tool
  assert_status 2 run_tool --ring=tiny true
  grep -q 'FASTLOCAL_RING=tiny' "$T/status.err"
  assert_equal "$(wc -l <"$T/status.err")" 1
  assert_status 2 plain env FASTLOCAL_SPIN_US=soon "$TOOL" run true
  grep -q 'FASTLOCAL_SPIN_US=soon' "$T/status.err"
  assert_status 2 run_tool --no-such-option true
  assert_status 2 run_tool
  assert_status 2 run_tool --library="$T/nothing.so" true
  assert_status 127 run_tool "$T/nothing"
  : >"$T/file"
  assert_status 126 run_tool "$T/file"
}

@test "run: both ends pair" {
  need_tool
  start_echo --stats="$STATS" --spin-us=2000
  run_tool --stats="$STATS" --spin-us=2000 "$PYTHON" "$FIXTURES/pair.py" talk "$HOST" "$PORT" >"$T/talk.out"
  stop echo
  MODE=both assert_ring_share python3 30
}

@test "stat: shows each connection at both ends, with addresses, states and all bytes" {
  need_tool
  start_echo
  hold hold
  local server client ports
  server=$(pid_of echo) client=$(pid_of hold)
  ports=$(connections "$client" '[.[].local.port] | sort')
  assert_equal "$(connections "$server" '[.[].remote.port] | sort')" "$ports"
  assert_equal "$(connections "$server" '[.[] | .local.port, .local.address, .remote.address] | unique')" "[$PORT,\"$HOST\"]"
  assert_equal "$(connections "$client" '[.[].state]')" '["paired","paired"]'
  assert_equal "$(connections "$server" '[.[].state]')" '["paired","paired"]'
  assert_equal "$(connections "$client" '[.[].why] | unique')" '[""]'
  # Every byte is on one lane or the other, and both ends agree which.
  local lanes='[.[] | %s | .ring.bytes, .kernel.bytes, .ring.bytes + .kernel.bytes]'
  assert_equal "$(connections "$client" '[.[].tx, .[].rx | .ring.bytes + .kernel.bytes] | unique')" '[19200]'
  # shellcheck disable=SC2059 # a pattern
  assert_equal "$(connections "$server" "$(printf "sort_by(.remote.port) | $lanes" .rx)")" \
    "$(connections "$client" "$(printf "sort_by(.local.port) | $lanes" .tx)")"
  stop hold
  stop echo
}

@test "stat: the table has a line for each connection" {
  need_tool
  start_echo
  hold hold
  plain "$TOOL" stat "$(pid_of hold)" "$(pid_of echo)" >"$T/table"
  assert_equal "$(wc -l <"$T/table")" 5
  assert_equal "$(grep -c "^python3[^ ]*($(pid_of hold)) .* $HOST:$PORT .*paired" "$T/table")" 2
  assert_equal "$(grep -c "^python3[^ ]*($(pid_of echo)) .* $HOST:$PORT .*paired" "$T/table")" 2
  stop hold
  stop echo
}

@test "stat: tells why a connection is on TCP" {
  need_tool
  start_echo
  hold denied --ports="!$PORT"
  hold tcp --transport=tcp
  local reason
  for name in denied tcp; do
    assert_equal "$(connections "$(pid_of "$name")" '[.[].state] | unique')" '["tcp"]'
    reason=$(connections "$(pid_of "$name")" '[.[].why] | unique | join(",")')
    [[ $reason != '""' && -n $reason ]] || fail "no reason for $name"
    echo "# why ($name): $reason" >&3
  done
  stop denied
  stop tcp
  stop echo
}

@test "stat: forgets closed connections and ended processes" {
  need_tool
  start_echo
  hold hold
  local pid
  pid=$(pid_of hold)
  stop hold
  assert_status 1 plain "$TOOL" stat "$pid"
  forgotten() { [[ $(connections "$(pid_of echo)" length) == 0 ]]; }
  wait_for 3 forgotten
  stop echo
}

@test "stat: what is not there, or not with the library, is told on standard error" {
  need_tool
  local pid
  background nobody sleep sleep 60
  wait_for 5 pid_of sleep
  pid=$(pid_of sleep)
  assert_status 1 plain "$TOOL" stat "$pid"
  grep -q "$pid" "$T/status.err"
  assert_status 1 plain "$TOOL" stat 4194304
  assert_status 2 plain "$TOOL" stat no-pid
  assert_status 2 plain "$TOOL" stat --no-such-option
  stop sleep
}

@test "stat: another user's processes are not shown to a user who may not see them" {
  need_tool
  start_echo
  hold hold
  as_user nobody
  refute grep -q python3 <(plain "$TOOL" stat "$(pid_of hold)" 2>"$T/stat.err")
  grep -q . "$T/stat.err"
  as_self
  stop hold
  stop echo
}

@test "stat: reading does not disturb a connection under load" {
  need_tool
  start_echo
  background nobody talk "$TOOL" run -- "$PYTHON" "$FIXTURES/pair.py" talk "$HOST" "$PORT" 2 "$(scaled 2000)" 5000
  local looks=0
  while ! gone "${PIDS[talk]}"; do
    stat_json | jq -e .processes >/dev/null
    looks=$((looks + 1))
  done
  finish talk
  grep -Eqx '[0-9a-f]{32}' "$T/talk.out"
  ((looks > 1))
  stop echo
}
