#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# socat and netcat: pipelines through poll and select with blocking sockets, and half-closed connections.

load lib

setup_file() { need socat nc; }

HOST=127.0.0.1
TCP=TCP4

prepare() { # [SIZE]
  PORT=$(free_port)
  [[ $HOST == *:* ]] && TCP=TCP6 AT="[$HOST]" || AT=$HOST
  random_file "$T/file" "${1:-$(scaled 50)M}"
}

listener() { echo "$TCP-LISTEN:$PORT,bind=$AT,reuseaddr"; }

# Client sends, server receives.
socat_upload() {
  steady
  prepare
  serve socat socat -u "$(listener)" OPEN:got,creat
  wait_listen "$PORT"
  client socat -u OPEN:"$T/file" "$TCP:$AT:$PORT"
  finish socat
  same_file "$T/file" "$T/got"
  assert_ring_share socat 30
}

socat_download() {
  steady
  prepare
  serve socat socat -u OPEN:"$T/file" "$(listener)"
  wait_listen "$PORT"
  client socat -u "$TCP:$AT:$PORT" OPEN:got,creat
  finish socat
  same_file "$T/file" "$T/got"
  assert_ring_share socat 30
}

# The answer is there only after the client has ended its half and the server has read all of it. No share is demanded: the
# shell that socat starts inherits the connection, so two processes hold it, and it stays on TCP.
socat_half_close() {
  prepare
  serve socat socat -t 30 "$(listener)" SYSTEM:md5sum
  wait_listen "$PORT"
  assert_equal "$(client socat -t 30 - "$TCP:$AT:$PORT" <"$T/file" | cut -d' ' -f1)" "$(digest <"$T/file")"
  finish socat
  [[ $MODE == both ]] || assert_unpaired
}

# Both directions are full at the same time. (Not socat's own PIPE, which can fill and stop on any socket.)
socat_echo() {
  prepare
  serve socat socat -t 30 "$(listener)" EXEC:cat
  wait_listen "$PORT"
  client socat -t 30 - "$TCP:$AT:$PORT" <"$T/file" >"$T/got"
  finish socat
  same_file "$T/file" "$T/got"
  assert_paired socat
}

# It sends without waiting: what its reader, which writes a file, has no time for goes to TCP's buffer. How much that is depends
# on the machine.
netcat_upload() {
  prepare
  serve nc nc -l "$HOST" "$PORT"
  wait_listen "$PORT"
  client nc -N "$HOST" "$PORT" <"$T/file"
  finish nc
  same_file "$T/file" "$T/nc.out"
  assert_paired nc
}

netcat_download() {
  prepare
  # shellcheck disable=SC2016 # for the inner shell
  serve nc sh -c 'exec nc -N -l "$1" "$2" <file' sh "$HOST" "$PORT"
  wait_listen "$PORT"
  client nc -d "$HOST" "$PORT" >"$T/got"
  finish nc
  same_file "$T/file" "$T/got"
  assert_paired nc
}

@test "socat to socat, client to server" { mode both && socat_upload; }
@test "socat to socat, server to client" { mode both && socat_download; }
@test "socat to socat, the answer comes after a half close" { mode both && socat_half_close; }
@test "socat to socat, echo" { mode both && socat_echo; }
@test "socat over ::1" { HOST=::1 && mode both && socat_echo; }
@test "socat, client to server, only the client has the library" { mode client && socat_upload; }
@test "socat, client to server, only the server has the library" { mode server && socat_upload; }
@test "socat, half close, only the client has the library" { mode client && socat_half_close; }
@test "socat, half close, only the server has the library" { mode server && socat_half_close; }
@test "netcat to netcat, client to server" { mode both && netcat_upload; }
@test "netcat to netcat, server to client" { mode both && netcat_download; }
@test "netcat over ::1" { HOST=::1 && mode both && netcat_upload; }
@test "netcat, client to server, only the server has the library" { mode server && netcat_upload; }
@test "netcat, server to client, only the client has the library" { mode client && netcat_download; }

@test "a program that socat starts on the socket itself reads all of it" {
  mode both
  prepare
  serve socat socat "$(listener)" EXEC:md5sum,nofork
  wait_listen "$PORT"
  assert_equal "$(client socat -t 30 - "$TCP:$AT:$PORT" <"$T/file" | cut -d' ' -f1)" "$(digest <"$T/file")"
  finish socat
}

@test "a shell that socat starts on the socket itself reads line by line" {
  mode both
  prepare 1
  # shellcheck disable=SC2016 # for the other shell
  serve socat socat "$(listener)" 'SYSTEM:while read line; do echo "$line" $((line * 2)); done,nofork'
  wait_listen "$PORT"
  seq 2000 | client socat -t 30 - "$TCP:$AT:$PORT" >"$T/got"
  finish socat
  seq 2000 | awk '{ print $1, 2 * $1 }' | cmp - "$T/got"
}

@test "many socat clients of one forking server get back what they sent" {
  mode both
  prepare 200K
  serve socat socat -t 30 "$(listener),fork" EXEC:cat
  wait_listen "$PORT"
  local i
  for i in {1..10}; do
    client_in_background "client$i" socat -t 30 OPEN:"$T/file!!STDOUT" "$TCP:$AT:$PORT"
  done
  for i in {1..10}; do
    finish "client$i"
    same_file "$T/file" "$T/client$i.out"
  done
  stop socat
}

@test "a chain of four socat processes passes everything on" {
  mode both
  prepare
  local i port previous
  for i in 1 2 3 4; do
    port=$(free_port)
    if ((i == 1)); then
      serve relay1 socat -u "$TCP-LISTEN:$port,bind=$AT" OPEN:got,creat
    else
      serve "relay$i" socat -u "$TCP-LISTEN:$port,bind=$AT" "$TCP:$AT:$previous"
    fi
    wait_listen "$port"
    previous=$port
  done
  client socat -u OPEN:"$T/file" "$TCP:$AT:$previous"
  for i in 4 3 2 1; do finish "relay$i"; done
  same_file "$T/file" "$T/got"
  assert_paired socat
}

@test "socat under valgrind, which has nothing to say about the library's own calls" {
  need valgrind
  mode both
  prepare 300000
  serve socat socat "$(listener)" PIPE
  wait_listen "$PORT"
  client valgrind -q --error-exitcode=9 --log-file="$T/valgrind.txt" socat -t 10 - "$TCP:$AT:$PORT" <"$T/file" >"$T/got"
  finish socat
  same_file "$T/file" "$T/got"
  [[ ! -s $T/valgrind.txt ]] || fail "$(<"$T/valgrind.txt")"
}
