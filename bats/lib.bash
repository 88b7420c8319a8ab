# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# bats/lib.bash - what all test files share: starting and stopping programs with and without the library, waiting for
# conditions, and reading the library's statistics. Each file begins with `load lib`.
#
# A test says which ends have the library with `mode`, starts servers with `serve` and runs clients with `client`. The
# body of a test does not depend on the mode, so one function serves all of them:
#
#   both    both ends: the bytes are expected on the rings
#   client  only what `client` runs  \ the peer has no library: nothing may pair
#   server  only what `serve` runs   /
#   none    plain TCP, also the effect of any mode when there is no library (FASTLOCAL_TEST_LIBRARY=none)

bats_require_minimum_version 1.7.0

: "${LIMIT:=60}" # seconds that any one program may run

declare -gA PIDS=() # name of a running server -> pid of its `timeout`
declare -ga AS=()   # prefix that runs programs as another user
declare -ga OPTIONS=() # FASTLOCAL_... settings of the programs that have the library
MODE=none

setup() {
  T=$BATS_TEST_TMPDIR
  STATS=$T/stats.json
  chmod a+rx "$T"
  : >"$STATS"
  chmod a+rw "$STATS"
}

# A test that passed must have stopped all that it started; after one that failed, show what there is and clear up.
teardown() {
  local pids file
  pids=$(leftovers)
  # shellcheck disable=SC2086 # a list
  [[ -z $pids ]] || kill -KILL $pids 2>/dev/null || true
  if [[ -n ${BATS_TEST_COMPLETED:-} ]]; then
    [[ -z $pids ]] || fail "processes left behind: $pids"
    return 0
  fi
  for file in "$T"/*.err "$T"/*.log "$STATS"; do
    [[ -s $file ]] || continue
    echo "--- ${file##*/}"
    tail -n 20 "$file" | cut -c 1-400
  done
}

fail() {
  printf '%s\n' "$*" >&2
  return 1
}

# Processes of this test: every one is started in the test's directory. (Environment and names will not do: servers
# overwrite them.)
leftovers() {
  find /proc -maxdepth 2 -path '/proc/[0-9]*/cwd' '(' -lname "$T" -o -lname "$T/*" ')' -printf '%h\n' 2>/dev/null |
    sed 's|/proc/||' || true
}

need() { # PROGRAM...: skips the test where one is missing
  local p
  for p in "$@"; do
    command -v "$p" >/dev/null || skip "$p is not installed"
  done
}

scaled() { echo $(($1 * SCALE)); }

# --- the library ---------------------------------------------------------------------------------------------------

mode() { MODE=$1; }
options() { OPTIONS=("$@"); } # NAME=VALUE...: instead of those given before

# Every wait spins its full time, whatever that brings. Which lane bytes take then says what the library can do, and not how
# the two ends happened to be scheduled: for tests that demand a share of the rings. How much to spin by itself is a matter
# of benchmarks; tests without this run with the presets, and demand only that rings are used.
steady() { options FASTLOCAL_SPIN_US=2000; }

has_library() { # client|server|nobody: does this end have it in the current mode?
  [[ -n $LIBRARY && $1 != nobody && ($MODE == both || $MODE == "$1") ]]
}

need_library() { [[ -n $LIBRARY ]] || skip "no library"; }
need_tool() { [[ -n $TOOL ]] || skip "no fastlocal command"; }

as_user() { # NAME: programs started from now on run as this user
  ((EUID == 0)) || skip "needs root to run as $1"
  AS=(setpriv --reuid="$1" --regid="$(id -g "$1")" --init-groups)
}
as_self() { AS=(); }

# client|server|nobody: sets SETTINGS to what this end's environment gets in the current mode, as words for `env`.
settings_of() {
  SETTINGS=()
  # shellcheck disable=SC2206 # words
  ! has_library "$1" || SETTINGS=("LD_PRELOAD=$LIBRARY" "FASTLOCAL_STATS=$STATS" $COMMON_OPTIONS "${OPTIONS[@]}")
}

# --- running programs ----------------------------------------------------------------------------------------------

# exec in place: `timeout` is the direct child, the program is its child. Signals that a background shell command would
# ignore get their defaults back. fd 3 is bats' own.
launch() { # END CMD...
  settings_of "$1"
  shift
  cd "$T" || return
  exec timeout -k 5 "$LIMIT" "${AS[@]}" env --default-signal=INT,QUIT "${SETTINGS[@]}" "$@" 3>&-
}

client() { (launch client "$@"); }
plain() { (launch nobody "$@"); } # without the library in every mode

# NAME CMD...: in the background, until `stop NAME`; its output goes to NAME.out and NAME.err.
serve() { background server "$@"; }
client_in_background() { background client "$@"; }

background() { # END NAME CMD...
  local end=$1 name=$2
  shift 2
  (launch "$end" "$@") >"$T/$name.out" 2>"$T/$name.err" </dev/null 3>&- &
  PIDS[$name]=$!
}

pid_of() { pgrep -P "${PIDS[$1]}"; } # NAME: of the program itself

gone() { ! kill -0 "$1" 2>/dev/null; }

# NAME: waits for the end of a background program and hands on its exit status.
finish() {
  local pid=${PIDS[$1]} status=0
  wait_for "$LIMIT" gone "$pid" || fail "$1 does not end"
  wait "$pid" || status=$?
  unset "PIDS[$1]"
  return "$status"
}

# NAME [SIGNAL]: asks a server to end, and fails if it crashes or does not.
stop() {
  local signal=${2:-TERM} status=0
  kill -s "$signal" "$(pid_of "$1")"
  finish "$1" || status=$?
  ((status == 0 || status == 128 + $(kill -l "$signal"))) || fail "$1 ended with status $status"
}

# --- the echo server and client of fixtures/pair.py, at $HOST ---------------------------------------------------------

start_echo() {
  PORT=$(free_port)
  serve echo "$PYTHON" "$FIXTURES/pair.py" serve "$HOST" "$PORT"
  wait_listen "$PORT"
}

talk() { client "$PYTHON" "$FIXTURES/pair.py" talk "$HOST" "$PORT" "$@"; }

# --- waiting -------------------------------------------------------------------------------------------------------

wait_for() { # SECONDS CMD...: until the command succeeds
  local deadline=$((${EPOCHREALTIME/./} + $1 * 1000000))
  shift
  until "$@"; do
    ((${EPOCHREALTIME/./} < deadline)) || return 1
    sleep 0.02
  done
}

listening() { [[ -n $(ss -Hltn "sport = :$1") ]]; }
wait_listen() { wait_for 15 listening "$1" || fail "nobody listens on port $1"; }

# A port that nothing uses, below the range that the kernel takes for outgoing connections.
free_port() {
  local port
  while :; do
    port=$((10000 + SRANDOM % 20000))
    [[ -n $(ss -Htan "sport = :$port or dport = :$port") ]] || break
  done
  echo "$port"
}

# What the library leaves in a process, beyond its table of connections: shared segments, and their descriptors.
segments() { # PID...
  local pid
  for pid in "$@"; do
    grep -h '/memfd:fastlocal (deleted)' "/proc/$pid/maps" || true
    find "/proc/$pid/fd" -lname '/memfd:fastlocal*' -printf 'descriptor %p -> %l\n'
  done
}

# Names of rendezvous in which this port takes part.
rendezvous() { # PORT
  local hex
  printf -v hex %04x "$1"
  grep -iE "@fastlocal/.*$hex(-|\$)" /proc/net/unix || true
}

# --- data ----------------------------------------------------------------------------------------------------------

random_file() { head -c "$2" /dev/urandom >"$1"; } # PATH SIZE
digest() { md5sum | cut -d' ' -f1; }              # of standard input
same_file() { cmp "$1" "$2" || fail "$1 and $2 differ"; }

# CMD...: must not succeed. (`!` alone does not fail a test.)
refute() { if "$@"; then fail "unexpectedly succeeded: $*"; fi; }
assert_equal() { [[ $1 == "$2" ]] || fail "got '$1' instead of '$2'"; }
assert_matches() { [[ $1 =~ $2 ]] || fail "'$1' does not match '$2'"; }

# CMD...: prints the same on plain TCP as in the current mode.
same_as_tcp() {
  local wanted=$MODE
  MODE=none
  "$@" >"$T/plain.txt"
  MODE=$wanted
  "$@" >"$T/library.txt"
  diff "$T/plain.txt" "$T/library.txt" || fail "the results differ"
}

# --- statistics ----------------------------------------------------------------------------------------------------

# PROGRAM: "processes connections paired ring-bytes all-bytes", summed over the processes of that program so far.
lanes() {
  jq -rs --arg program "$1" '
    def total(f): map(f) | add // 0;
    [.[] | select(.program | startswith($program))]
    | [length, total(.connections), total(.paired), total(.tx.ring.bytes + .rx.ring.bytes),
       total([.tx, .rx | .ring, .unix, .kernel | .bytes] | add)]
    | join(" ")' "$STATS"
}

# PROGRAM MIN_PERCENT: with the library on both ends, at least that much of the program's bytes went through rings (to be
# demanded of `steady` programs only); with it on one end, nothing paired. The program must have ended, and in an orderly
# way. On a machine that is too busy for the share to mean anything, SHARES=report prints it instead.
assert_ring_share() {
  local processes connections paired ring all
  [[ -n $LIBRARY && $MODE != none ]] || return 0
  [[ $MODE == both ]] || { assert_unpaired; return; }
  read -r processes connections paired ring all < <(lanes "$1")
  ((processes > 0)) || fail "$1 left no statistics"
  if [[ $SHARES == report ]]; then
    echo "# $1: $((all ? ring * 100 / all : 0)) % on the ring, $paired of $connections connections paired; $2 % wanted" >&3
    return 0
  fi
  ((ring * 100 >= all * $2 && all > 0)) ||
    fail "$1: $ring of $all bytes on the ring, $paired of $connections connections paired; $2 % wanted"
}

# PROGRAM: with the library on both ends, connections paired; with it on one end, none did. How much of the bytes went
# through rings is not asked: with the presets, waits follow what they bring, so on two CPUs for two ends and the driver of the
# test a reader may rightly be asleep nearly always, and what a sleeper gets, it gets from TCP.
assert_paired() {
  local processes connections paired ring all
  [[ -n $LIBRARY && $MODE != none ]] || return 0
  [[ $MODE == both ]] || { assert_unpaired; return; }
  read -r processes connections paired ring all < <(lanes "$1")
  ((processes > 0)) || fail "$1 left no statistics"
  [[ $SHARES != report ]] ||
    echo "# $1: $((all ? ring * 100 / all : 0)) % on the ring, $paired of $connections connections paired" >&3
  ((paired > 0)) || fail "$1: none of $connections connections paired"
}

# No process that has the library paired anything; at least one has told so.
assert_unpaired() {
  local processes connections paired ring all
  [[ -n $LIBRARY && $MODE != none ]] || return 0
  read -r processes connections paired ring all < <(lanes "")
  ((processes > 0)) || fail "no statistics at all"
  ((paired == 0 && ring == 0)) || fail "$paired of $connections connections paired, $ring bytes on rings"
}
