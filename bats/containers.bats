#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Containers of runc, with all namespaces of their own, that share nothing but the registry's directory.

load lib
load spaces
load containers

setup_file() { need jq runc; }

# FILTER: both containers are made with it
conversation() {
  bundle server a "$1"
  bundle client b "$1"
  container_server server "$PYTHON" "$FIXTURES/pair.py" serve 10.77.1.1 5000
  wait_for 15 listening_in a 5000 || fail "nobody listens"
  container_client client "$PYTHON" "$FIXTURES/pair.py" talk 10.77.1.1 5000 3 "$(scaled 150)" 1000 0.004
  stop_container server
}

prepare() {
  need_spaces
  need_registry
  mode both
  bridge
  registry
  options FASTLOCAL_REGISTRY=/run/fastlocal/registry.sock
}

assert_all_paired() {
  local connections paired _
  read -r _ connections paired _ < <(lanes python3)
  ((paired == connections && connections == 6)) || fail "$paired of $connections connections paired"
}

@test "two containers, each with its own namespaces, and no capabilities" {
  prepare
  conversation '.process.capabilities = {} | .process.noNewPrivileges = true' >"$T/out"
  assert_all_paired
  leave_spaces
}

@test "two containers of a user without rights" {
  prepare
  chmod a+rwx "$T"
  conversation '.process.user = {uid: 1000, gid: 1000} | .process.capabilities = {}' >"$T/out"
  assert_all_paired
  leave_spaces
}

@test "two containers in user namespaces of their own: the same user on the host" {
  prepare
  conversation '.linux.namespaces += [{type: "user"}] | .mounts |= map(select(.type != "sysfs"))
    | .linux.uidMappings = [{containerID: 0, hostID: 0, size: 65536}] | .linux.gidMappings = .linux.uidMappings' >"$T/out"
  assert_all_paired
  leave_spaces
}

@test "redis in one container, its benchmark in another" {
  need redis-server redis-benchmark redis-cli
  prepare
  bundle server a
  bundle client b
  container_server server redis-server --save '' --appendonly no --protected-mode no --port 6379
  wait_for 15 listening_in a 6379 || fail "redis does not listen"
  container_client client redis-benchmark -h 10.77.1.1 -t set,get -n "$(scaled 20000)" -c 20 --csv >"$T/bench.out" 2>&1
  assert_equal "$(grep -c '^"\(SET\|GET\)"' "$T/bench.out")" 2
  stop_container server
  assert_paired redis-server
  assert_paired redis-benchmark
  leave_spaces
}
