#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Python: http.server with its threads, urllib and http.client (blocking sockets, poll for timeouts), asyncio (epoll).

load lib

setup_file() { need curl; }

HOST=127.0.0.1
PROTOCOL=HTTP/1.1

start_http_server() {
  PORT=$(free_port)
  [[ $HOST == *:* ]] && AT="[$HOST]:$PORT" || AT=$HOST:$PORT
  mkdir -p "$T/www"
  local size
  for size in 1 100 10000 1000000; do yes | head -c "$size" >"$T/www/$size"; done
  serve python "$PYTHON" -m http.server "$PORT" --bind "$HOST" --directory "$T/www" --protocol "$PROTOCOL"
  wait_listen "$PORT"
}

fetch_transcript() { # urllib|keepalive ROUNDS
  start_http_server
  client "$PYTHON" "$FIXTURES/fetch.py" "$1" "$HOST" "$PORT" "$(scaled "$2")" 1 100 10000 1000000
  stop python INT
}

curl_transcript() {
  start_http_server
  random_file "$T/www/big" 20M
  client curl -sSf "http://$AT/big" "http://$AT/10000" "http://$AT/big" >"$T/got"
  cat "$T/www/big" "$T/www/10000" "$T/www/big" | cmp - "$T/got"
  client curl -sS "http://$AT/nothing" "http://$AT/" | digest
  stop python INT
}

echo_transcript() { # CLIENTS ROUNDS LARGEST
  PORT=$(free_port)
  serve python "$PYTHON" "$FIXTURES/asyncio_echo.py" serve "$HOST" "$PORT"
  wait_listen "$PORT"
  client "$PYTHON" "$FIXTURES/asyncio_echo.py" talk "$HOST" "$PORT" "$1" "$(scaled "$2")" "$3"
  stop python
}

@test "http.server and http.client on a kept connection" {
  mode both
  steady
  same_as_tcp fetch_transcript keepalive 6
  assert_ring_share python3 30
}

@test "http.server and urllib, a connection per request" {
  mode both
  PROTOCOL=HTTP/1.0
  same_as_tcp fetch_transcript urllib 5
}

@test "http.server and curl" {
  mode both
  steady
  same_as_tcp curl_transcript
  assert_ring_share curl 30
}

@test "http.server and http.client over ::1" {
  HOST=::1
  mode both
  same_as_tcp fetch_transcript keepalive 6
  assert_paired python3
}

@test "http.server and http.client, only the client has the library" {
  mode client
  same_as_tcp fetch_transcript keepalive 5
  assert_unpaired
}

@test "http.server and curl, only the server has the library" {
  mode server
  same_as_tcp curl_transcript
  assert_unpaired
}

@test "asyncio echo, 1 client" {
  mode both
  steady
  same_as_tcp echo_transcript 1 2000 10000
  assert_ring_share python3 30
}

@test "asyncio echo, 50 clients" {
  mode both
  same_as_tcp echo_transcript 50 100 10000
  assert_paired python3
}

@test "asyncio echo, messages up to 8 MB" {
  mode both
  same_as_tcp echo_transcript 3 30 8000000
  assert_paired python3
}

@test "asyncio echo over ::1" {
  HOST=::1
  mode both
  same_as_tcp echo_transcript 4 200 100000
  assert_paired python3
}

@test "asyncio echo, only the client has the library" {
  mode client
  same_as_tcp echo_transcript 8 200 100000
  assert_unpaired
}

@test "asyncio echo, only the server has the library" {
  mode server
  same_as_tcp echo_transcript 8 200 100000
  assert_unpaired
}
