#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# A JVM at each end: blocking sockets with a thread each (poll, then read), and NIO with a selector (epoll).

load lib

setup_file() {
  need java javac
  export CLASSES=$BATS_FILE_TMPDIR/classes
  timeout 60 javac -d "$CLASSES" "$FIXTURES/Echo.java"
}

HOST=127.0.0.1

jvm() { echo java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto -cp "$CLASSES" Echo; }

echo_transcript() { # SERVER_KIND CLIENT_KIND CLIENTS ROUNDS LARGEST
  PORT=$(free_port)
  # shellcheck disable=SC2046 # words
  serve java $(jvm) serve "$1" "$HOST" "$PORT"
  wait_listen "$PORT"
  # shellcheck disable=SC2046 # words
  client $(jvm) talk "$2" "$HOST" "$PORT" "$3" "$(scaled "$4")" "$5"
  stop java
  [[ ! -s $T/java.err ]] || fail "$(<"$T/java.err")"
}

@test "blocking sockets, 1 client" {
  mode both
  steady
  same_as_tcp echo_transcript blocking blocking 1 3000 10000
  assert_ring_share java 30
}

@test "blocking sockets, 20 clients" {
  mode both
  same_as_tcp echo_transcript blocking blocking 20 200 100000
  assert_paired java
}

@test "selectors, 1 client" {
  mode both
  same_as_tcp echo_transcript nio nio 1 3000 10000
  assert_paired java
}

@test "selectors, 50 clients, messages up to 1 MB" {
  mode both
  same_as_tcp echo_transcript nio nio 50 20 1000000
  assert_paired java
}

@test "a blocking client and a selecting server over ::1" {
  HOST=::1
  mode both
  same_as_tcp echo_transcript nio blocking 4 300 100000
  assert_paired java
}

@test "selectors, only the client has the library" {
  mode client
  same_as_tcp echo_transcript blocking nio 8 100 100000
  assert_unpaired
}

@test "blocking sockets, only the server has the library" {
  mode server
  same_as_tcp echo_transcript blocking blocking 8 100 100000
  assert_unpaired
}
