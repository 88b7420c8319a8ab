#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# memcached: libevent, several threads that hand connections to each other, sendmsg.

load lib

setup_file() { need memcached nc; }

HOST=127.0.0.1

start_memcached() {
  PORT=$(free_port)
  serve memcached memcached -l "$HOST" -p "$PORT" -U 0 -u root -t 2 -m 512 -I 8m
  wait_listen "$PORT"
}

# Values are checked by the client, and its choices are the same at every run.
checked_clients() { # CLIENTS OPERATIONS LARGEST
  start_memcached
  client "$PYTHON" "$FIXTURES/memcached_client.py" "$HOST" "$PORT" "$1" "$(scaled "$2")" "$3"
  stop memcached
}

# Command and answer over netcat, with binary-safe values; the server ends the connection.
netcat_transcript() {
  start_memcached
  {
    for i in {1..500}; do printf 'set key%d 0 0 %d\r\n%s\r\nget key%d\r\n' "$i" "${#i}" "$i" "$i"; done
    printf 'quit\r\n'
  } | client nc "$HOST" "$PORT" | digest
  stop memcached
}

@test "memcached, 1 client" {
  mode both
  steady
  checked_clients 1 2000 2000
  assert_ring_share memcached 30
}

@test "memcached, 50 clients" {
  mode both
  steady
  checked_clients 50 150 2000
  assert_ring_share memcached 30
}

@test "memcached, values up to 4 MB" {
  mode both
  checked_clients 4 100 4000000
  assert_paired memcached
}

@test "memcached over ::1" {
  HOST=::1
  mode both
  steady
  checked_clients 4 500 20000
  assert_ring_share memcached 30
}

@test "memcached, only the client has the library" {
  mode client
  checked_clients 8 200 100000
  assert_unpaired
}

@test "memcached, only the server has the library" {
  mode server
  checked_clients 8 200 100000
  assert_unpaired
}

@test "memcached gives netcat the same answers" {
  mode both
  same_as_tcp netcat_transcript
}
