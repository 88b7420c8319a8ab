#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Docker, with its own seccomp profile, capabilities and 64 MB of /dev/shm: containers on its networks, through the host
# registry. With TEST_DOCKER=1 only (scripts/test --all): it takes packages that are large.

load lib
load spaces
load containers

# shellcheck disable=SC2034 # read by lib.bash
LIMIT=300 # dockerd runs as long as its test

setup_file() {
  [[ -z ${TEST_DOCKER:-} ]] || need jq dockerd docker iptables
}

# What a Docker that was killed leaves mounted.
teardown_file() { findmnt -rno TARGET | grep "^$BATS_RUN_TMPDIR/" | xargs -r umount || true; }

docker_() { command docker -H "unix://$T/docker.sock" "$@"; }

# A Docker of our own, in a network namespace of its own: the "host" of these tests.
prepare() { # [DOCKERD_OPTION...]
  [[ -n ${TEST_DOCKER:-} ]] || skip "TEST_DOCKER is not set"
  need_spaces
  need_registry
  mode both
  space host
  in_space host
  serve_plain dockerd dockerd --data-root "$T/data" --exec-root "$T/exec" -H "unix://$T/docker.sock" -p "$T/docker.pid" "$@"
  wait_for 30 docker_ info >/dev/null 2>&1 || fail "docker does not start"
  skeleton "$T/root"
  tar -C "$T/root" -c . | docker_ import - base:1 >/dev/null
  rm -rf "$T/root"
  docker_ network create own >/dev/null
  registry
  options FASTLOCAL_REGISTRY=/run/fastlocal/registry.sock
}
serve_plain() { background nobody "$@"; }

finish_docker() {
  docker_ ps -q | xargs -r docker -H "unix://$T/docker.sock" rm -f >/dev/null
  stop dockerd
  umount "$T/exec/netns/default" "$T/data" 2>/dev/null || true
  leave_spaces
}

# END NAME DOCKER_OPTION... -- CMD...
container() {
  local end=$1 name=$2 before=() setting
  shift 2
  while [[ $1 != -- ]]; do before+=("$1") && shift; done
  shift
  settings_of "$end"
  for setting in "${SETTINGS[@]}"; do before+=(-e "$setting"); done
  docker_ run --name "$name" -v /usr:/usr:ro -v "$BATS_SUITE_TMPDIR:$BATS_SUITE_TMPDIR:ro" -v "$T:$T" -v "$T/run:/run/fastlocal:ro" \
    "${before[@]}" base:1 "$@"
}

server_listens() { [[ -n $(nsenter -t "$(docker_ inspect -f '{{.State.Pid}}' server)" -n ss -Hltn 'sport = :5000') ]]; }

# SERVER_OPTIONS CLIENT_OPTIONS ADDRESS PORT: words in strings
conversation() {
  # shellcheck disable=SC2086 # words
  container server server -d $1 -- "$PYTHON" "$FIXTURES/pair.py" serve 0.0.0.0 5000 >/dev/null
  wait_for 15 server_listens || fail "nobody listens"
  # shellcheck disable=SC2086 # words
  container client client --rm $2 -- "$PYTHON" "$FIXTURES/pair.py" talk "$3" "$4" 3 150 1000 0.004
  docker_ stop server >/dev/null
  docker_ rm server >/dev/null
}

assert_all_paired() {
  local connections paired _
  read -r _ connections paired _ < <(lanes python3)
  ((paired == connections && connections == 6)) || fail "$paired of $connections connections paired"
  : >"$STATS"
}

@test "docker: every network, and every way to restrict a container" {
  prepare
  chmod a+rwx "$T"
  # a network of the user's, with names
  conversation "--network own" "--network own" server 5000 >"$T/out"
  assert_all_paired
  # by a published port, from the host's network
  conversation "-p 8080:5000" "--network host" 172.17.0.1 8080 >"$T/out"
  assert_all_paired
  # one network namespace for both: the embedded registry
  conversation "" "--network container:server" 127.0.0.1 5000 >"$T/out"
  assert_all_paired
  for restriction in --read-only --cap-drop=ALL --user=1000 --security-opt=no-new-privileges "--shm-size=64k" "--ipc=none"; do
    conversation "--network own $restriction" "--network own $restriction" server 5000 >"$T/out"
    assert_all_paired
  done
  finish_docker
}

@test "docker: docker-proxy makes two connections, which are nobody's pair" {
  prepare
  # from the same bridge it is docker-proxy that answers
  conversation "-p 8080:5000" "" 172.17.0.1 8080 >"$T/out"
  assert_unpaired
  finish_docker
}

@test "docker: without docker-proxy a published port is one connection from everywhere" {
  prepare --userland-proxy=false
  uplink
  conversation "-p 8080:5000" "" 172.17.0.1 8080 >"$T/out"
  assert_all_paired
  # from outside
  container server server -d -p 8080:5000 -- "$PYTHON" "$FIXTURES/pair.py" serve 0.0.0.0 5000 >/dev/null
  wait_for 15 server_listens || fail "nobody listens"
  options FASTLOCAL_REGISTRY="$T/run/registry.sock"
  talk_in d 10.77.2.254 8080 3 150 1000 0.004 >"$T/out"
  docker_ stop server >/dev/null
  assert_all_paired
  finish_docker
}

@test "docker: calls that pass through no symbol, with Docker's seccomp profile" {
  [[ -x $REPOSITORY/build/tests/trampoline/calls ]] || skip "build/tests/trampoline is not built"
  prepare
  chmod a+rwx "$T"
  cp "$REPOSITORY/build/tests/trampoline/calls" "$T/calls"
  options FASTLOCAL_SPIN_US=2000 FASTLOCAL_TRAMP=auto "FASTLOCAL_LOG=info:$T/log"
  : >"$T/log"
  chmod a+rw "$T/log"
  for kind in inline stdio; do
    for restriction in --user=1000 --cap-drop=ALL --security-opt=no-new-privileges; do
      container server server -d "$restriction" -- "$T/calls" serve "$kind" 5000 >/dev/null
      wait_for 15 server_listens || fail "nobody listens"
      container client client --rm "$restriction" --network container:server -- "$T/calls" talk "$kind" 5000 300
      docker_ rm -f server >/dev/null # it is the first process of its container, where no signal has an effect by itself
    done
  done
  [[ -z $LIBRARY ]] || grep -q "trampolines in calls: [1-9]" "$T/log" || fail "$(tail "$T/log")"
  [[ -z $LIBRARY ]] || grep -q "trampolines in libc.so.6: [1-9]" "$T/log" || fail "$(tail "$T/log")"
  assert_ring_share calls 60
  finish_docker
}
