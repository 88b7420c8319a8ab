#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# What happens around a connection: death of an end, other users, stopped processes, children; and that nothing is left.

load lib

HOST=127.0.0.1

# PATTERN VICTIM: see kill_peer.py. The survivors, which end in an orderly way, tell that they were paired.
kill_at_random() {
  local rounds verdicts paired
  rounds=$(scaled 8)
  mode both
  settings_of client
  verdicts=$(plain "$PYTHON" "$FIXTURES/kill_peer.py" "$1" "$2" "$rounds" "${SETTINGS[@]}")
  echo "# survivors of $1 saw: $verdicts" >&3
  refute grep -l fastlocal /dev/shm/* 2>/dev/null
  refute ls /dev/shm/*fastlocal* 2>/dev/null
  [[ -n $LIBRARY ]] || return 0
  paired=$(lanes python3 | cut -d' ' -f 3)
  ((paired == rounds)) || fail "$paired of $rounds survivors were paired"
}

@test "the client is killed while it waits for an answer" { kill_at_random pingpong client; }
@test "the server is killed while it answers" { kill_at_random pingpong server; }
@test "the client is killed while it writes" { kill_at_random push client; }
@test "the server is killed while it reads" { kill_at_random push server; }
@test "the client is killed while it reads" { kill_at_random pull client; }
@test "the server is killed while it writes" { kill_at_random pull server; }
@test "the client of an idle connection is killed, the server is blocked in recv" { kill_at_random idle client; }
@test "the server of an idle connection is killed, the client is blocked in recv" { kill_at_random idle server; }
@test "the client of an idle connection is killed, the server is blocked in epoll_wait" { kill_at_random epoll client; }
@test "the server of an idle connection is killed, the client is blocked in epoll_wait" { kill_at_random epoll server; }

# Each end checks that the peer of the rendezvous is the owner of the TCP socket; that they are the same user is not asked.
@test "a client of another user pairs and works" {
  mode both
  steady
  start_echo
  as_user nobody
  chmod a+rwx "$T"
  talk 2 2000 >"$T/talk.out"
  as_self
  stop echo
  grep -Eqx '[0-9a-f]{32}' "$T/talk.out"
  assert_ring_share python3 30
}

@test "a server of another user pairs and works" {
  mode both
  steady
  as_user nobody
  chmod a+rwx "$T"
  start_echo
  as_self
  talk 2 2000 >"$T/talk.out"
  stop echo
  grep -Eqx '[0-9a-f]{32}' "$T/talk.out"
  assert_ring_share python3 30
}

@test "two ends of one user that is not root pair" {
  mode both
  steady
  as_user nobody
  chmod a+rwx "$T"
  start_echo
  talk 2 2000 >"$T/talk.out"
  stop echo
  assert_ring_share python3 30
}

@test "closed connections leave no segment, descriptor or name" {
  mode both
  steady
  start_echo
  talk 20 100 >"$T/talk.out"
  local pid
  pid=$(pid_of echo)
  no_segments() { [[ -z $(segments "$pid") ]]; }
  wait_for 3 no_segments || fail "$(segments "$pid")"
  [[ -z $(rendezvous "$PORT") ]] || fail "$(rendezvous "$PORT")"
  stop echo
  assert_ring_share python3 20
}

@test "a connection whose peer has no library leaves no name" {
  mode client
  start_echo
  # The search goes on for about three seconds, in the calls that the program makes: it has to make some.
  client_in_background hold "$PYTHON" "$FIXTURES/pair.py" hold "$HOST" "$PORT" 5 400 100 0.01
  wait_for 20 grep -q ready "$T/hold.out"
  [[ -z $(rendezvous "$PORT") ]] || fail "$(rendezvous "$PORT")"
  [[ -z $(segments "$(pid_of hold)") ]] || fail "$(segments "$(pid_of hold)")"
  stop hold
  stop echo
  assert_unpaired
}

@test "a stopped server that goes on has lost nothing" {
  mode both
  steady
  start_echo
  client_in_background talk "$PYTHON" "$FIXTURES/pair.py" talk "$HOST" "$PORT" 4 "$(scaled 400)" 30000
  asleep() { [[ $(ps -o state= -p "$(pid_of talk)") == S ]]; }
  for _ in {1..5}; do
    kill -STOP "$(pid_of echo)"
    wait_for 10 asleep
    kill -CONT "$(pid_of echo)"
  done
  finish talk
  grep -Eqx '[0-9a-f]{32}' "$T/talk.out"
  stop echo
  assert_ring_share python3 30
}

@test "a shell whose children use its connection in turn gets all answers" {
  mode both
  start_echo
  # shellcheck disable=SC2016 # for the other shell
  client bash -c 'set -e
    exec 5<>"/dev/tcp/$0/$1"
    for i in {1..300}; do
      echo "line $i" >&5
      read -r answer <&5
      [[ $answer == "line $i" ]]
      if ((i % 50 == 0)); then
        seq "$i" | cat >&5
        [[ $(head -c "$(seq "$i" | wc -c)" <&5 | md5sum) == "$(seq "$i" | md5sum)" ]]
      fi
    done' "$HOST" "$PORT"
  stop echo
}

@test "a server that forks for each connection gives each client its own bytes back" {
  mode both
  PORT=$(free_port)
  steady
  serve fork "$PYTHON" "$FIXTURES/fork_echo.py" "$HOST" "$PORT"
  wait_listen "$PORT"
  talk 10 200 >"$T/talk.out"
  talk 1 100 100000 >"$T/talk.out"
  stop fork
  assert_ring_share python3 20
}

@test "limits: as many descriptors as without the library can be opened by the client" {
  mode both
  start_echo
  count_descriptors() { client prlimit --nofile=40 "$PYTHON" "$FIXTURES/count_sockets.py" "$HOST" "$PORT"; }
  same_as_tcp count_descriptors
  stop echo
}
