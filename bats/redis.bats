#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Redis: one thread, epoll, non-blocking sockets, many small messages; redis-cli uses blocking sockets.

load lib

setup_file() { need redis-server redis-cli redis-benchmark; }

start_redis() { # [HOST] [SETTING...]
  HOST=${1:-127.0.0.1}
  PORT=$(free_port)
  serve redis-server redis-server --bind "$HOST" --port "$PORT" --save '' --appendonly no --dir "$T" \
    --enable-debug-command yes --loglevel warning "${@:2}"
  wait_listen "$PORT"
}

cli() { plain redis-cli -h "$HOST" -p "$PORT" "$@"; }
info() { cli INFO "$1" | tr -d '\r' | sed -n "s/^$2://p"; } # SECTION FIELD

# CLIENTS REQUESTS TEST OPTION...: the requests arrive, each is answered, and none with an error.
benchmark() {
  local clients=$1 requests share=$SHARE
  requests=$(scaled "$2")
  [[ $SHARE == 0 ]] || steady
  [[ -z ${SLEEPING-} ]] || export FASTLOCAL_SPIN_US=0
  start_redis "$HOST"
  client redis-benchmark -h "$HOST" -p "$PORT" -q -c "$clients" -n "$requests" -t "$3" "${@:4}" >"$T/benchmark.txt"
  grep -q 'requests per second' "$T/benchmark.txt"
  local calls
  calls=$(cli INFO commandstats | tr -d '\r' | sed -n "s/^cmdstat_${3%%,*}:calls=\([0-9]*\),.*/\1/p")
  ((calls >= requests)) || fail "$calls of $requests requests arrived"
  assert_equal "$(info stats total_error_replies)" 0
  stop redis-server
  assert_ring_share redis-server "$share"
  assert_ring_share redis-benchmark "$share"
}

HOST=127.0.0.1
SHARE=30 # percent; 0: with the presets

@test "redis-benchmark, 1 client" { mode both && benchmark 1 4000 set,get; }
@test "redis-benchmark, 8 clients" { mode both && benchmark 8 20000 set,get; }
@test "redis-benchmark, 50 clients" { mode both && benchmark 50 20000 set,get; }
@test "redis-benchmark, 500 clients" { mode both && benchmark 500 40000 get; }
@test "redis-benchmark, 50 clients, 16 requests in flight" { mode both && benchmark 50 160000 set,get -P 16; }
@test "redis-benchmark, values of 16 KB" { mode both && benchmark 8 10000 set,get -d 16384; }
# A nonblocking writer of more than a ring holds spills into TCP's buffer, where it may stay.
@test "redis-benchmark, values of 1 MB" { SHARE=5 && mode both && benchmark 4 200 set,get -d 1048576; }
@test "redis-benchmark, several threads" { mode both && benchmark 20 20000 set,get --threads 2; }
@test "redis-benchmark, 50 clients, with the presets" { mode both && SHARE=0 benchmark 50 20000 set,get && assert_paired redis-server; }
# Nobody spins: every wait is a sleep, from which a bell wakes.
@test "redis-benchmark, 50 clients, sleeping" { mode both && SLEEPING=1 SHARE=80 benchmark 50 40000 set,get; }
@test "redis-benchmark over ::1" { HOST=::1 && mode both && benchmark 8 10000 set,get; }
@test "redis-benchmark, only the client has the library" { mode client && benchmark 50 20000 set,get; }
@test "redis-benchmark, only the server has the library" { mode server && benchmark 50 20000 set,get -P 16; }
@test "redis-benchmark, a connection per request" { mode both && SHARE=0 benchmark 8 2000 set -k 0; }

# Prints all answers to thousands of commands on one redis-cli connection, and the server's digest of all its data.
values_transcript() {
  start_redis
  "$PYTHON" "$FIXTURES/redis_commands.py" text "$(scaled 2000)" | client redis-cli -h "$HOST" -p "$PORT" | digest
  cli DEBUG DIGEST
  stop redis-server
}

@test "redis-cli sets and gets the same values, text and binary" {
  mode both
  steady
  same_as_tcp values_transcript
  assert_ring_share redis-server 30
  assert_ring_share redis-cli 30
}

@test "redis-cli gets the same values with the library on the client only" {
  mode client
  same_as_tcp values_transcript
  assert_unpaired
}

@test "redis-cli gets the same values with the library on the server only" {
  mode server
  same_as_tcp values_transcript
  assert_unpaired
}

pipe_transcript() {
  start_redis
  "$PYTHON" "$FIXTURES/redis_commands.py" protocol "$(scaled 50000)" |
    client redis-cli -h "$HOST" -p "$PORT" --pipe --pipe-timeout 20 | grep -E '^errors:'
  cli DBSIZE
  cli DEBUG DIGEST
  stop redis-server
}

@test "redis-cli --pipe loads the same data" {
  mode both
  steady
  same_as_tcp pipe_transcript
  grep -q '^errors: 0, replies: ' "$T/library.txt"
  assert_ring_share redis-cli 30
}

@test "redis-cli --pipe loads the same data with the library on the server only" {
  mode server
  same_as_tcp pipe_transcript
  assert_unpaired
}

# One message each way, longer than what the search for the other end takes: no share is demanded.
@test "a value of 32 MB comes back unchanged" {
  mode both
  start_redis
  random_file "$T/value" 32M
  client redis-cli -h "$HOST" -p "$PORT" -x SET big <"$T/value"
  client redis-cli -h "$HOST" -p "$PORT" GET big | head -c 32M | cmp - "$T/value"
  stop redis-server
}

@test "a replica gets the same data from its master, both with the library" {
  mode both
  start_redis "$HOST" --repl-diskless-sync-delay 0
  local master=$PORT original
  "$PYTHON" "$FIXTURES/redis_commands.py" protocol "$(scaled 20000)" |
    client redis-cli -h "$HOST" -p "$master" --pipe >"$T/load.txt"
  original=$(cli DEBUG DIGEST)
  PORT=$(free_port)
  serve replica redis-server --bind "$HOST" --port "$PORT" --save '' --dir "$T" --enable-debug-command yes \
    --replicaof "$HOST" "$master" --loglevel warning
  wait_listen "$PORT"
  in_sync() { [[ $(cli DEBUG DIGEST) == "$original" ]]; }
  wait_for 20 in_sync
  # The stream of changes that follows the first copy.
  client redis-benchmark -h "$HOST" -p "$master" -q -c 4 -n "$(scaled 10000)" -r 1000 -t set >"$T/benchmark.txt"
  original=$(PORT=$master cli DEBUG DIGEST)
  wait_for 20 in_sync
  stop replica
  PORT=$master
  stop redis-server
}

@test "redis keeps serving its other clients while 100 connections come and go" {
  mode both
  start_redis
  client_in_background churn redis-benchmark -h "$HOST" -p "$PORT" -q -c 100 -k 0 -n "$(scaled 3000)" -t ping_mbulk
  client redis-benchmark -h "$HOST" -p "$PORT" -q -c 8 -n "$(scaled 10000)" -t set,get >"$T/benchmark.txt"
  grep -q 'GET: .* requests per second' "$T/benchmark.txt"
  finish churn
  assert_equal "$(info stats total_error_replies)" 0
  stop redis-server
}
