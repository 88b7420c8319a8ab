#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Node.js: libuv's epoll loop, read and writev, helper threads.

load lib

setup_file() { need node; }

HOST=127.0.0.1

http_transcript() { # SOCKETS REQUESTS LARGEST
  PORT=$(free_port)
  serve node node "$FIXTURES/node_http.js" serve "$HOST" "$PORT"
  wait_listen "$PORT"
  client node "$FIXTURES/node_http.js" talk "$HOST" "$PORT" "$1" "$(scaled "$2")" "$3"
  stop node
}

@test "node http, 1 kept connection" {
  mode both
  steady
  same_as_tcp http_transcript 1 1000 10000
  assert_ring_share node 30
}

@test "node http, 50 kept connections" {
  mode both
  same_as_tcp http_transcript 50 3000 10000
  assert_paired node
}

@test "node http, bodies up to 4 MB" {
  mode both
  same_as_tcp http_transcript 4 60 4000000
  assert_paired node
}

@test "node http over ::1" {
  HOST=::1
  mode both
  same_as_tcp http_transcript 4 500 50000
  assert_paired node
}

@test "node http, only the client has the library" {
  mode client
  same_as_tcp http_transcript 8 500 50000
  assert_unpaired
}

@test "node http, only the server has the library" {
  mode server
  same_as_tcp http_transcript 8 500 50000
  assert_unpaired
}
