#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Ends in different network namespaces, on a bridge and behind address translation: the host registry pairs each with its
# true peer, or not at all.

load lib
load spaces

setup_file() { need jq; }

# SERVER_SPACE CLIENT_SPACE ADDRESS PORT: what the client prints that connects there, and reaches port 5000 of the server.
# With pauses: on a busy machine the registry may be late, and a conversation without them be over by then.
conversation() {
  echo_in "$1" 0.0.0.0 5000
  talk_in "$2" "$3" "$4" 3 "$(scaled 150)" 1000 0.004
  stop "echo-$1"
}

prepare() {
  need_spaces
  need_registry
  mode both
  bridge
  registry
}

assert_all_paired() {
  local connections paired _
  read -r _ connections paired _ < <(lanes python3)
  ((paired == connections && connections == 6)) || fail "$paired of $connections connections paired"
}

translate() { inside host iptables -t nat "$@"; }

@test "two containers on a bridge" {
  prepare
  same_as_tcp conversation a b 10.77.1.1 5000
  assert_all_paired
  leave_spaces
}

@test "most bytes between two containers go through the rings" {
  prepare
  options "${OPTIONS[@]}" FASTLOCAL_SPIN_US=2000
  echo_in a 0.0.0.0 5000
  talk_in b 10.77.1.1 5000 3 "$(scaled 2000)" 1000 >"$T/talk.out"
  stop echo-a
  assert_ring_share python3 30
  leave_spaces
}

# With SPIN_US=0 everybody sleeps at once: whatever goes by the rings was rung for.
@test "receivers that sleep are rung from another container: blocking, poll, epoll; also another user's" {
  need redis-server redis-benchmark
  need_spaces
  need_registry
  mode both
  bridge
  echo 'rules = ( { action = "allow"; users = [ "root", "nobody" ]; } );' >"$T/policy"
  registry --policy "$T/policy"
  options "${OPTIONS[@]}" FASTLOCAL_SPIN_US=0
  echo_in a 0.0.0.0 5000
  talk_in b 10.77.1.1 5000 3 "$(scaled 1000)" 500 >"$T/talk.out"
  in_space c
  AS+=(setpriv --reuid=nobody --clear-groups)
  client "$PYTHON" "$FIXTURES/pair.py" talk 10.77.1.1 5000 3 "$(scaled 1000)" 500 >"$T/talk.out"
  stop echo-a
  assert_ring_share python3 80
  in_space a
  serve redis redis-server --save '' --appendonly no --protected-mode no --port 6379 --dir "$T"
  wait_for 15 listening_in a 6379 || fail "redis does not listen"
  for where in b c; do
    in_space "$where"
    client redis-benchmark -h 10.77.1.1 -t get -n "$(scaled 10000)" -c 20 --csv >"$T/bench.out"
  done
  stop redis
  assert_ring_share redis-server 60
  leave_spaces
}

@test "a published port, from outside" {
  prepare
  uplink
  translate -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 10.77.1.1:5000
  same_as_tcp conversation a d 10.77.2.254 8080
  assert_all_paired
  leave_spaces
}

@test "a published port, from outside, with nftables" {
  need nft
  prepare
  uplink
  inside host nft -f - <<'END'
table ip nat {
  chain prerouting { type nat hook prerouting priority -100; tcp dport 8080 dnat to 10.77.1.1:5000; }
  chain postrouting { type nat hook postrouting priority 100; ip saddr 10.77.2.0/24 masquerade; }
}
END
  same_as_tcp conversation a d 10.77.2.254 8080
  assert_all_paired
  leave_spaces
}

@test "a published port, from the host itself, by 127.0.0.1" {
  prepare
  translate -A OUTPUT -p tcp -d 127.0.0.1 --dport 8080 -j DNAT --to-destination 10.77.1.1:5000
  translate -A POSTROUTING -s 127.0.0.1 -o br0 -j MASQUERADE
  same_as_tcp conversation a host 127.0.0.1 8080
  assert_all_paired
  leave_spaces
}

@test "a published port, from another container and from the same one (hairpin)" {
  prepare
  inside host sysctl -qw net.bridge.bridge-nf-call-iptables=0 2>/dev/null || true
  inside host ip link set va type bridge_slave hairpin on
  translate -A PREROUTING -p tcp -d 10.77.1.254 --dport 8080 -j DNAT --to-destination 10.77.1.1:5000
  translate -A POSTROUTING -s 10.77.1.0/24 -d 10.77.1.0/24 -j MASQUERADE
  same_as_tcp conversation a b 10.77.1.254 8080
  assert_all_paired
  : >"$STATS"
  same_as_tcp conversation a a 10.77.1.254 8080
  assert_all_paired
  leave_spaces
}

@test "a container that reaches the outside through masquerade" {
  prepare
  uplink
  translate -A POSTROUTING -s 10.77.1.0/24 -o vd -j MASQUERADE --random-fully
  same_as_tcp conversation d b 10.77.2.1 5000
  assert_all_paired
  leave_spaces
}

@test "a service address with two servers behind it: each connection with the one that it reached" {
  prepare
  translate -A PREROUTING -p tcp -d 10.96.0.1 --dport 80 -m statistic --mode nth --every 2 --packet 0 -j DNAT --to-destination 10.77.1.1:5000
  translate -A PREROUTING -p tcp -d 10.96.0.1 --dport 80 -j DNAT --to-destination 10.77.1.3:5000
  echo_in a 0.0.0.0 5000
  echo_in c 0.0.0.0 5000
  talk_in b 10.96.0.1 80 6 "$(scaled 150)" 500 0.004 >"$T/talk.out"
  stop echo-a
  stop echo-c
  read -r _ connections paired _ < <(lanes python3)
  ((connections == 12 && paired == 12)) || fail "$paired of $connections connections paired"
  leave_spaces
}

@test "a proxy between the ends makes two connections, which are nobody's pair" {
  need socat
  prepare
  in_space host
  background nobody proxy socat TCP-LISTEN:8080,fork,reuseaddr TCP:10.77.1.1:5000
  wait_for 10 listening_in host 8080
  same_as_tcp conversation a b 10.77.1.254 8080
  assert_unpaired
  in_space host
  stop proxy
  leave_spaces
}

@test "a peer without the library" {
  prepare
  for mode in client server; do
    mode "$mode"
    conversation a b 10.77.1.1 5000 >/dev/null
    assert_unpaired
  done
  leave_spaces
}

@test "another user's process is not paired unless the policy says so" {
  need_spaces
  need_registry
  mode both
  bridge
  registry
  echo_in a 0.0.0.0 5000
  in_space b
  AS+=(setpriv --reuid=nobody --clear-groups)
  client "$PYTHON" "$FIXTURES/pair.py" talk 10.77.1.1 5000 3 150 1000 0.004 >"$T/talk.out"
  stop echo-a
  assert_unpaired
  as_self
  stop registry
  echo 'rules = ( { action = "allow"; users = [ "root", "nobody" ]; ports = "5000"; } );' >"$T/policy"
  : >"$STATS"
  registry --policy "$T/policy"
  echo_in a 0.0.0.0 5000
  in_space b
  AS+=(setpriv --reuid=nobody --clear-groups)
  client "$PYTHON" "$FIXTURES/pair.py" talk 10.77.1.1 5000 3 150 1000 0.004 >"$T/talk.out"
  stop echo-a
  assert_all_paired
  leave_spaces
}

@test "the registry is killed: connections go on, new ones stay on TCP, and pair again when it is back" {
  prepare
  echo_in a 0.0.0.0 5000
  in_space b
  client_in_background hold "$PYTHON" "$FIXTURES/pair.py" talk 10.77.1.1 5000 1 60 1000 0.05
  sleep 0.5
  as_self
  kill -KILL "$(pid_of registry)"
  finish registry || true
  talk_in b 10.77.1.1 5000 1 30 100 >/dev/null
  finish hold
  registry
  sleep 1.1 # the server's process looks for a registry once in a second
  talk_in b 10.77.1.1 5000 1 100 100 0.01 >/dev/null
  stop echo-a
  read -r _ connections paired _ < <(jq -rs '[.[] | select(.connections == 1) | .paired] | "clients 3 \(add)"' "$STATS")
  ((paired == 2)) || fail "$paired of 3 clients paired"
  leave_spaces
}

@test "a program that closes and overwrites descriptors, and forks: the library's connection to the registry is lost, not its data" {
  prepare
  echo_in a 0.0.0.0 5000
  in_space b
  assert_equal "$(client "$PYTHON" "$FIXTURES/closing.py" 10.77.1.1 5000)" fine
  stop echo-a
  assert_paired python3
  leave_spaces
}

# A daemon that may not read sequence numbers.
weak_registry() {
  local with=$REGISTRY
  REGISTRY=$T/weak
  printf '#!/bin/sh\nexec setpriv --bounding-set=-bpf,-perfmon,-sys_admin %s "$@"\n' "$with" >"$REGISTRY"
  chmod a+x "$REGISTRY"
  registry "$@"
  REGISTRY=$with
}

@test "a daemon that may not read sequence numbers refuses to start, and says so" {
  need_registry
  ((EUID == 0)) || skip "needs root"
  local status=0
  plain setpriv --bounding-set=-bpf,-perfmon,-sys_admin "$REGISTRY" --socket "$T/sock" 2>"$T/err" || status=$?
  assert_equal "$status" 1
  grep -q 'needs CAP_BPF and CAP_PERFMON' "$T/err"
  grep -q 'refusing to match connections by less' "$T/err"
}

@test "where the policy allows it, addresses and counts are compared instead: not behind address translation" {
  need_spaces
  need_registry
  mode both
  bridge
  uplink
  translate -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 10.77.1.1:5000
  echo 'without_proof = "compare";' >"$T/policy"
  weak_registry --policy "$T/policy"
  grep -q 'which is no proof' "$T/registry.err"
  same_as_tcp conversation a b 10.77.1.1 5000
  assert_all_paired
  : >"$STATS"
  same_as_tcp conversation a d 10.77.2.254 8080
  assert_unpaired
  # no socket that was compared is kept
  as_self
  only_its_own() { (($(find "/proc/$(pid_of registry)/fd" -lname 'socket:*' | wc -l) == 1)); }
  wait_for 10 only_its_own || fail "the registry keeps sockets"
  # the policy forbids it later on
  echo 'without_proof = "refuse";' >"$T/policy"
  kill -HUP "$(pid_of registry)"
  wait_for 10 grep -q 'policy reloaded' "$T/registry.err"
  : >"$STATS"
  same_as_tcp conversation a b 10.77.1.1 5000
  assert_unpaired
  plain env FASTLOCAL_REGISTRY="$T/run/registry.sock" "$TOOL" doctor >"$T/doctor" || true
  grep -q '^BAD *registry .*needs CAP_BPF' "$T/doctor"
  leave_spaces
}

@test "comparing: the same addresses and ports in namespaces that have nothing to do with each other" {
  need_spaces
  need_registry
  mode both
  local n
  for n in 1 2; do
    space "p$n"
    space "q$n"
    inside "p$n" ip link add eth0 type veth peer name eth0 netns "${SPACES[q$n]}"
    inside "p$n" ip addr add 10.77.1.1/24 dev eth0
    inside "q$n" ip addr add 10.77.1.2/24 dev eth0
    inside "p$n" ip link set eth0 up
    inside "q$n" ip link set eth0 up
    inside "q$n" sysctl -qw net.ipv4.ip_local_port_range="40000 40000"
  done
  echo 'without_proof = "compare";' >"$T/policy"
  weak_registry --policy "$T/policy"
  # of each connection one end has the library, and these two ends look as if they belonged together
  mode server && echo_in p1 10.77.1.1 5000
  mode none && echo_in p2 10.77.1.1 5000
  in_space q1
  background nobody talk-1 "$PYTHON" "$FIXTURES/pair.py" talk 10.77.1.1 5000 1 300 100 0.004
  mode client
  talk_in q2 10.77.1.1 5000 1 300 1000 0.004 >"$T/talk.out"
  as_self
  finish talk-1
  stop echo-p1
  stop echo-p2
  assert_unpaired
  leave_spaces
}

@test "counters for Prometheus" {
  need curl
  need_spaces
  need_registry
  mode both
  bridge
  registry --metrics "$T/metrics.sock"
  conversation a b 10.77.1.1 5000 >/dev/null
  curl -sS --unix-socket "$T/metrics.sock" http://localhost/metrics >"$T/metrics"
  grep -qx 'fastlocald_pairs_total 3' "$T/metrics"
  grep -qx 'fastlocald_questions_total 6' "$T/metrics"
  grep -qx 'fastlocald_pairs 0' "$T/metrics"
  leave_spaces
}

@test "stat and top show the processes of all containers, and what the registry knows of them" {
  need_tool
  need_spaces
  need_registry
  mode both
  bridge
  registry --metrics "$T/metrics.sock"
  echo_in a 0.0.0.0 5000
  in_space b
  client_in_background hold "$PYTHON" "$FIXTURES/pair.py" hold 10.77.1.1 5000 3 "$(scaled 150)" 1000 0.004
  wait_for 30 grep -q ready "$T/hold.out" || fail "the client is not ready"
  as_self
  local server client
  server=$(pid_of echo-a) client=$(pid_of hold)
  plain "$TOOL" stat --host="$T/metrics.sock" --json >"$T/stat"
  for pid in "$server" "$client"; do
    jq -e --argjson pid "$pid" '.registry and (.processes[] | select(.pid == $pid) | .connections == 3 and .paired == 3
      and .registry == {waiting: 0, pairs: 3, refused: 0} and .ring_bytes + .tcp_bytes >= 900000)' "$T/stat" || fail "$(cat "$T/stat")"
  done
  # a user who may not read them sees what the registry says
  chmod 666 "$T/metrics.sock"
  plain setpriv --reuid=nobody --clear-groups "$TOOL" stat --host="$T/metrics.sock" >"$T/stat"
  grep -E "python3\($server\) .* - +- +- +- +3 +0 +0$" "$T/stat" || fail "$(cat "$T/stat")"
  plain "$TOOL" top --socket="$T/metrics.sock" --delay=0.1 --rounds=2 >"$T/top"
  assert_equal "$(grep -cE "python3\(($server|$client)\) .* 3 +3 +0 +0 +0 +0$" "$T/top")" 4
  stop hold
  stop echo-a
  plain "$TOOL" stat --host="$T/none" 2>&1 | grep -q 'fastlocald cannot be asked'
  leave_spaces
}

@test "without a registry nothing is asked, and nothing is lost" {
  need_spaces
  mode both
  bridge
  options FASTLOCAL_REGISTRY="$T/none/registry.sock"
  same_as_tcp conversation a b 10.77.1.1 5000
  assert_unpaired
  free_spaces
}
