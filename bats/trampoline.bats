#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Calls that pass through no symbol: stdio, syscall(), a program's own instructions, Go. Each on plain TCP as well.

load lib

setup_file() {
  export PROGRAMS=$BATS_FILE_TMPDIR/programs
  [[ -x $REPOSITORY/build/tests/trampoline/calls ]] || skip "build/tests/trampoline is not built"
  cp -r "$REPOSITORY/build/tests/trampoline" "$PROGRAMS"
  chmod -R a+rX "$PROGRAMS"
  # the plans of this file's programs, made once
  export CACHE=$BATS_FILE_TMPDIR/cache
  mkdir -m 700 "$CACHE"
}

HOST=127.0.0.1

# MODE [SETTING...]
tramp() { options FASTLOCAL_SPIN_US=2000 "FASTLOCAL_TRAMP=$1" "XDG_CACHE_HOME=$CACHE" "${@:2}"; }

# KIND ROUNDS
run_calls() {
  PORT=$(free_port)
  serve calls "$PROGRAMS/calls" serve "$1" "$PORT"
  wait_listen "$PORT"
  client "$PROGRAMS/calls" talk "$1" "$PORT" "$(scaled "$2")"
  stop calls
}

# TRAMP KIND
on_the_ring() {
  mode both
  tramp "$1"
  run_calls "$2" 1000
  assert_ring_share calls 80
}

@test "stdio by lines" { on_the_ring libc stdio; }
@test "stdio by blocks" { on_the_ring libc block; }
@test "dprintf" { on_the_ring libc dprintf; }
@test "syscall(), also without trampolines" { on_the_ring off syscall; }
@test "syscall()" { on_the_ring auto syscall; }
@test "the program's own instructions" { on_the_ring auto inline; }
@test "those of an object loaded with dlopen" { on_the_ring all "plugin:$PROGRAMS/plugin.so"; }
@test "those of an object loaded with dlmopen" { on_the_ring all "namespace:$PROGRAMS/plugin.so"; }

# Objects that were patched, by the log, which is emptied.
patched() {
  sed -n 's/.* trampolines in \([^:]*\): .*/\1/p' "$T/log" | tr '\n' ' '
  : >"$T/log"
}

@test "auto patches the main program if it makes calls itself, and libc when there is a stream" {
  need_library
  mode both
  tramp auto "FASTLOCAL_LOG=info:$T/log"
  : >"$T/log"
  client true
  assert_equal "$(patched)" ""
  client "$PROGRAMS/calls" 2>/dev/null || true
  assert_equal "$(patched)" "calls "
  client "$PROGRAMS/inside" child-spawn
  assert_equal "$(patched)" "inside "
  client "$PROGRAMS/inside" signal-restarts-stdio
  assert_equal "$(patched)" "inside libc.so.6 ld-linux-x86-64.so.2 "
}

@test "stdio, in a process that has threads before its first stream" {
  mode both
  tramp auto "FASTLOCAL_LOG=info:$T/log"
  client "$PROGRAMS/inside" stream-beside-threads
  [[ -z $LIBRARY ]] || refute grep "trampolines in libc" "$T/log"
  assert_ring_share inside 50
}

@test "what is not patched stays on TCP" {
  mode both
  tramp libc
  run_calls inline 200 # not seen at all
  [[ ! -s $STATS || -z $LIBRARY ]] || assert_unpaired
}

@test "one end only" {
  mode client
  tramp auto
  run_calls stdio 200
  run_calls inline 200
  mode server
  run_calls stdio 200
  run_calls inline 200
}

@test "cancellation, signals, jumps and children inside of a call" {
  local name how ways=(auto)
  ((SCALE < 10)) || ways+=(all)
  [[ -x $PROGRAMS/inside ]] || skip "no C++ compiler"
  mode both
  for how in "${ways[@]}"; do
    tramp "$how"
    for name in $("$PROGRAMS/inside"); do
      client "$PROGRAMS/inside" "$name" || fail "$how, $name: status $?"
    done
  done
  assert_ring_share inside 50
}

# Both go by the loader's list or by the mappings of the process, and by the tables of each object, as perf does.
@test "backtraces through a call are whole" {
  local how ways=(auto)
  ((SCALE < 10)) || ways+=(libc all)
  need_library
  mode both
  need gdb eu-stack
  for how in "${ways[@]}"; do
    tramp "$how"
    PORT=$(free_port)
    serve calls "$PROGRAMS/calls" serve stdio "$PORT"
    wait_listen "$PORT"
    exec {idle}<>"/dev/tcp/$HOST/$PORT"
    echo hello >&"$idle"
    read -r -t 10 line <&"$idle" # it has read and written, and reads again
    assert_equal "$line" hello
    wait_for 10 asleep "$(pid_of calls)"
    gdb -p "$(pid_of calls)" -nx -batch -ex bt >"$T/gdb.log" 2>&1 || true
    tr '\n' ' ' <"$T/gdb.log" | grep -q ' fl_tramp_enter .*read.* _IO_.*fgets.* main ' || fail "$how: $(cat "$T/gdb.log")"
    eu-stack -p "$(pid_of calls)" >"$T/eu-stack.log" 2>&1 || true
    tr '\n' ' ' <"$T/eu-stack.log" | grep -q ' fl_tramp_enter.* read.*fgets.* main' || fail "$how: $(cat "$T/eu-stack.log")"
    exec {idle}>&-
    stop calls
  done
}
asleep() { grep -q '^State:.S' "/proc/$1/status"; }

# --- where it has to do without -------------------------------------------------------------------------------------

@test "as nobody, without a home and without capabilities" {
  mode both
  tramp auto
  options FASTLOCAL_SPIN_US=2000 FASTLOCAL_TRAMP=auto HOME=/nonexistent
  as_user nobody
  chown nobody "$T"
  AS+=(--bounding-set=-all --no-new-privs)
  run_calls stdio 300
  assert_ring_share calls 60
}

@test "where memory that was written may not become executable" {
  need_library
  mode both
  # PR_SET_MDWE, which programs inherit
  AS=("$PYTHON" -c 'import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) and sys.exit("no MDWE"); os.execvp(sys.argv[1], sys.argv[1:])')
  plain true || skip "a kernel before 6.3"
  tramp auto
  run_calls stdio 300
  run_calls inline 300
  assert_ring_share calls 60
}

@test "without libcapstone, and without a plan" {
  mode both
  # a file that is no library stands in its place
  mkdir "$T/lib"
  echo none >"$T/lib/libcapstone.so.4"
  options FASTLOCAL_TRAMP=auto HOME=/nonexistent "LD_LIBRARY_PATH=$T/lib"
  run_calls inline 100
  [[ ! -s $STATS || -z $LIBRARY ]] || assert_unpaired
  run_calls syscall 100
}

@test "what is in the cache is enough without libcapstone" {
  mode both
  mkdir "$T/lib"
  echo none >"$T/lib/libcapstone.so.4"
  tramp auto
  run_calls inline 20
  : >"$STATS"
  tramp auto "LD_LIBRARY_PATH=$T/lib"
  run_calls inline 300
  assert_ring_share calls 60
}

@test "a cache that others may write is not used, and not written" {
  need_library
  mode both
  mkdir -m 755 "$T/cache" && mkdir -m 777 "$T/cache/fastlocal"
  options FASTLOCAL_SPIN_US=2000 FASTLOCAL_TRAMP=auto "XDG_CACHE_HOME=$T/cache"
  run_calls inline 300
  assert_ring_share calls 60
  [[ -z $(ls "$T/cache/fastlocal") ]] || fail "plans were written there"
}

@test "no mapping is writable and executable" {
  need_library
  mode both
  tramp all
  client "$PYTHON" -c 'import ctypes, sys; sys.exit(any(l.split()[1][1:3] == "wx" for l in open("/proc/self/maps")))'
}

# --- Go -------------------------------------------------------------------------------------------------------------

# build NAME OPTION...: one program, kept for the file
go_program() {
  local go=/usr/lib/go-1.19/bin/go
  [[ -x $go ]] || skip "golang-1.19 is not installed"
  GO=$BATS_FILE_TMPDIR/$1
  [[ -x $GO ]] || GOCACHE=$REPOSITORY/build/go-cache GO111MODULE=off GOFLAGS='' CGO_ENABLED=${CGO:-1} \
    "$go" build -o "$GO" "${@:2}" "$FIXTURES/go/echo.go" 2>&1
}

# Each way of linking compiles Go's library once: half a minute.
thorough() { ((SCALE >= 10)) || skip "with scripts/test --all"; }

run_go() {
  export GOGC=1
  PORT=$(free_port)
  serve go "$GO" serve "$PORT"
  wait_listen "$PORT"
  client "$GO" talk "$PORT" "$(scaled 200)" 4
  stop go
  PORT=$(free_port)
  serve go "$GO" http "$PORT"
  wait_listen "$PORT"
  client "$GO" get "$PORT" "$(scaled 100)" 8
  stop go
}

go_on_the_ring() { # NAME OPTION...
  go_program "$@"
  mode both
  tramp auto
  run_go
  assert_ring_share "$1" 20
}

@test "Go, linked internally" { go_on_the_ring internal -ldflags=-linkmode=internal; }
@test "Go, linked externally" { thorough && go_on_the_ring external -ldflags=-linkmode=external; }
@test "Go, position-independent" { thorough && go_on_the_ring pie -buildmode=pie; }
@test "Go, stripped" { thorough && go_on_the_ring stripped '-ldflags=-s -w'; }

@test "Go without cgo stays on TCP" {
  thorough
  mode both
  tramp auto
  CGO=0 go_program static
  run_go
  [[ ! -s $STATS ]] || assert_unpaired
  CGO=0 go_program nocgo -buildmode=pie
  run_go
  [[ ! -s $STATS ]] || assert_unpaired
}

# --- coverage --------------------------------------------------------------------------------------------------------

# NAME CMD...: a server under scripts/audit; its report goes to NAME.report. It is stopped by its own program.
serve_audited() {
  serve "$1" "$PYTHON" "$REPOSITORY/scripts/audit" "$T/$1.report" "${@:2}"
  wait_listen "$PORT"
}
server_pid() { ss -Hltnp "sport = :$PORT" | grep -o 'pid=[0-9]*' | cut -d= -f2 | sort -n | head -n 1; }
stop_audited() { # NAME [SIGNAL]
  kill -s "${2:-TERM}" "$(server_pid)"
  finish "$1" || true
}
assert_covered() { # NAME
  grep -qE '^[1-9][0-9]* calls, 0 of them from elsewhere$' "$T/$1.report" || fail "$(tail -n 20 "$T/$1.report")"
}
audit() {
  need_library
  need strace "$@"
  export LIMIT=100
  mode both
  tramp audit
  PORT=$(free_port)
}

@test "no call of redis goes past" {
  audit redis-server
  serve_audited redis redis-server --port "$PORT" --save '' --bind "$HOST"
  client redis-benchmark -h "$HOST" -p "$PORT" -n 2000 -c 8 -q -t get,set
  stop_audited redis
  assert_covered redis
}

@test "no call of Python goes past" {
  audit
  serve_audited python "$PYTHON" "$FIXTURES/pair.py" serve "$HOST" "$PORT"
  talk
  stop_audited python
  assert_covered python
}

@test "no call of node goes past" {
  audit node
  echo "require('http').createServer((q,s)=>s.end('x')).listen($PORT,'$HOST');process.on('SIGTERM',()=>process.exit(0))" >"$T/n.js"
  serve_audited node node "$T/n.js"
  client curl -s "http://$HOST:$PORT/[1-50]" >/dev/null
  stop_audited node
  assert_covered node
}

@test "no call of a Go program goes past" {
  audit
  go_program internal -ldflags=-linkmode=internal
  serve_audited go "$GO" http "$PORT"
  client "$GO" get "$PORT" 50 4
  stop_audited go
  assert_covered go
}

@test "no call of nginx and its workers goes past" {
  audit nginx wrk
  mkdir -p "$T/nginx/www" && echo hello >"$T/nginx/www/small"
  sed -e "s|@LISTEN@|$HOST:$PORT|; s|@SENDFILE@|on|; s|@WORKERS@|2|; s|@BACKEND@|127.0.0.1:1|" \
    "$FIXTURES/nginx.conf.in" >"$T/nginx/nginx.conf"
  serve_audited nginx nginx -p "$T/nginx" -c nginx.conf -e error.log
  client wrk -c 4 -d 1 -t 1 "http://$HOST:$PORT/small" >/dev/null
  stop_audited nginx QUIT
  assert_covered nginx
}

@test "no call of PostgreSQL and its processes goes past" {
  local dirs=(/usr/lib/postgresql/*/bin)
  thorough
  audit "${dirs[-1]}/postgres"
  as_user postgres
  chown postgres "$T"
  client "${dirs[-1]}/initdb" -D "$T/data" --auth trust --no-sync >/dev/null
  serve_audited postgres "${dirs[-1]}/postgres" -D "$T/data" -h "$HOST" -p "$PORT" -k "$T" -c fsync=off
  wait_for 30 client "${dirs[-1]}/pg_isready" -q -h "$HOST" -p "$PORT"
  client "${dirs[-1]}/psql" -X -q -h "$HOST" -p "$PORT" -d postgres -c "CREATE TABLE t AS SELECT generate_series(1, 20000) i" \
    -c "COPY t TO STDOUT" -c "LISTEN a" -c "NOTIFY a" >/dev/null
  seq 20000 | client "${dirs[-1]}/psql" -X -q -h "$HOST" -p "$PORT" -d postgres -c "COPY t FROM STDIN"
  stop_audited postgres INT
  assert_covered postgres
}

@test "no call of a JVM goes past" {
  thorough
  audit java javac
  timeout 60 javac -d "$T" "$FIXTURES/Echo.java"
  serve_audited java java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "$T" Echo serve nio "$HOST" "$PORT"
  client java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "$T" Echo talk blocking "$HOST" "$PORT" 2 100 10000 >/dev/null
  stop_audited java
  assert_covered java
}
