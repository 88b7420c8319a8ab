#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# The options of preload/options.def, given in the environment: their effect, and what a bad value does.

load lib

HOST=127.0.0.1

# A whole exchange with the options that are set; both ends say nothing, and nothing is lost.
exchange() {
  start_echo
  talk >"$T/talk.out" 2>"$T/talk.err"
  stop echo
  grep -Eqx '[0-9a-f]{32}' "$T/talk.out"
}

silent() { [[ ! -s $T/talk.err && ! -s $T/echo.err ]] || fail "$(cat "$T/talk.err" "$T/echo.err")"; }

# With the library, some statistics are there unless it is off.
unpaired() { assert_equal "$(lanes "" | cut -d' ' -f 3,4)" "0 0"; }

@test "with no options, both ends pair and say nothing" {
  mode both
  exchange
  silent
  assert_paired python3
}

@test "FASTLOCAL_DISABLE=1 leaves everything to TCP" {
  mode both
  options FASTLOCAL_DISABLE=1
  exchange
  silent
  unpaired
}

@test "FASTLOCAL_TRANSPORT=tcp never pairs" {
  mode both
  options FASTLOCAL_TRANSPORT=tcp
  exchange
  silent
  unpaired
}

@test "FASTLOCAL_TRANSPORT=shm pairs" {
  mode both
  options FASTLOCAL_TRANSPORT=shm FASTLOCAL_SPIN_US=2000
  exchange
  silent
  assert_ring_share python3 30
}

# FASTLOCAL_PORTS with @ in place of the server's port.
exchange_with_ports() {
  PORT=$(free_port)
  options "FASTLOCAL_PORTS=${1//@/$PORT}"
  serve echo "$PYTHON" "$FIXTURES/pair.py" serve "$HOST" "$PORT"
  wait_listen "$PORT"
  talk >"$T/talk.out" 2>"$T/talk.err"
  stop echo
  silent
}

@test "FASTLOCAL_PORTS with the server's port allows it" { mode both && exchange_with_ports @ && assert_paired python3; }
@test "FASTLOCAL_PORTS with a range allows it" { mode both && exchange_with_ports 1,10000-30000 && assert_paired python3; }
@test "FASTLOCAL_PORTS with another port denies" { mode both && exchange_with_ports 7 && unpaired; }
@test "FASTLOCAL_PORTS with '!' denies" { mode both && exchange_with_ports '!@' && unpaired; }
@test "FASTLOCAL_PORTS: a denial wins over an allowed range" { mode both && exchange_with_ports '1-65535,!@' && unpaired; }
@test "FASTLOCAL_PORTS: a denial of another port leaves the rest" { mode both && exchange_with_ports '!7' && assert_paired python3; }

@test "the smallest and a large ring carry the same bytes" {
  mode both
  local size
  for size in 16K 4M; do
    options "FASTLOCAL_RING=$size" FASTLOCAL_SPIN_US=2000
    : >"$STATS"
    start_echo
    talk 2 20 300000 >"$T/talk.$size"
    stop echo
    assert_ring_share python3 20
  done
  same_file "$T/talk.16K" "$T/talk.4M"
}

@test "FASTLOCAL_SPIN_US=0 carries the same bytes" {
  mode both
  options FASTLOCAL_SPIN_US=0
  exchange
  silent
  assert_paired python3
}

@test "FASTLOCAL_SPIN_US=2000 keeps both ends on the rings" {
  mode both
  options FASTLOCAL_SPIN_US=2000
  exchange
  silent
  assert_ring_share python3 50
}

@test "a registry that does not exist, or cannot be read, changes nothing between two local processes" {
  mode both
  local path
  printf 'not a socket' >"$T/file"
  chmod 0 "$T/file"
  for path in "$T/nothing/registry.sock" "$T/file" "$T"; do
    options "FASTLOCAL_REGISTRY=$path"
    : >"$STATS"
    exchange
    silent
    assert_paired python3
  done
}

@test "statistics that cannot be written do not disturb" {
  mode both
  start_echo
  options "FASTLOCAL_STATS=$T/nothing/stats.json"
  talk >"$T/talk.out" 2>"$T/talk.err"
  grep -Eqx '[0-9a-f]{32}' "$T/talk.out"
  [[ ! -s $T/talk.err ]]
  stop echo
}

# --- bad values ------------------------------------------------------------------------------------------------------

# "NAME TYPE" of every option of options.def
known_options() { sed -n 's/^FL_OPT(\([a-z_]*\), \([a-z]*\),.*/\U\1\E \2/p' "$REPOSITORY/preload/options.def"; }

# TYPE: values that nobody could mean.
bad_values() {
  case $1 in
  bool) printf '%s\n' maybe 2 ;;
  choice) printf '%s\n' pigeon 1 ;;
  count | messages) printf '%s\n' 0 -1 1000001 few ;;
  usec) printf '%s\n' -1 10001 soon 5ms 99999999999999999999 ;;
  size) printf '%s\n' 8K 100000 128M 0 large 99999999999999999999 ;;
  ports) printf '%s\n' http 70000 80- 90-80 80,,81 '!' ;;
  log) printf '%s\n' loud debug: ;;
  path) head -c 5000 /dev/zero | tr '\0' x; echo ;;
  esac
}

# NAME VALUE FILE: FILE has one line, and it names the option and (the beginning of) the value.
tells_once() {
  assert_equal "$(wc -l <"$3")" 1
  grep -qF "FASTLOCAL_$1=${2:0:20}" "$3" || fail "FASTLOCAL_$1=${2:0:20} gives: $(<"$3")"
}

@test "every option has a type for which this file knows bad values" {
  local name type
  known_options | grep -q .
  while read -r name type; do
    [[ -n $(bad_values "$type") ]] || fail "$name: unknown type $type"
  done < <(known_options)
}

@test "a bad value leaves the program on TCP, and one line tells which" {
  need_library
  mode both
  local name type value
  start_echo
  while read -r name type; do
    while read -r value; do
      options "FASTLOCAL_$name=$value"
      talk 1 20 >"$T/talk.out" 2>"$T/talk.err" </dev/null
      grep -Eqx '[0-9a-f]{32}' "$T/talk.out"
      tells_once "$name" "$value" "$T/talk.err"
    done < <(bad_values "$type")
  done < <(known_options)
  stop echo
  unpaired
}

@test "a bad value on the server leaves it on TCP, and one line tells which" {
  need_library
  mode both
  options FASTLOCAL_RING=tiny
  start_echo
  options
  talk >"$T/talk.out"
  stop echo
  tells_once RING tiny "$T/echo.err"
  unpaired
}

@test "a bad value is told in the log file when there is one" {
  need_library
  mode both
  start_echo
  options FASTLOCAL_SPIN_US=soon "FASTLOCAL_LOG=error:$T/fastlocal.log"
  talk >"$T/talk.out" 2>"$T/talk.err"
  [[ ! -s $T/talk.err ]] || fail "$(<"$T/talk.err")"
  tells_once SPIN_US soon "$T/fastlocal.log"
  stop echo
}

@test "a log file name may contain the process id" {
  need_library
  mode both
  start_echo
  options FASTLOCAL_SPIN_US=soon "FASTLOCAL_LOG=error:$T/fastlocal.%p.log"
  talk >"$T/talk.out"
  stop echo
  local files=("$T"/fastlocal.*.log)
  assert_matches "${files[*]}" '/fastlocal\.[0-9]+\.log$'
}

@test "the debug log goes where it is told, and the program still works" {
  need_library
  mode both
  options "FASTLOCAL_LOG=debug:$T/fastlocal.log"
  exchange
  silent
  [[ -s $T/fastlocal.log ]]
}
