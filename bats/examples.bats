#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# What examples/ has is what systemd, Docker and Kubernetes take, and what the source needs.

load lib
load spaces

EXAMPLES=$BATS_TEST_DIRNAME/../examples

@test "the units are what systemd takes" {
  need systemd-analyze
  need_registry
  cp "$EXAMPLES"/systemd/fastlocald.* "$T"
  sed -i "s|/usr/local/sbin/fastlocald|$REGISTRY|" "$T/fastlocald.service"
  plain systemd-analyze verify "$T/fastlocald.service" "$T/fastlocald.socket" >"$T/out" 2>&1 || fail "$(cat "$T/out")"
  # what it says of other units of this machine does not matter
  refute grep -E 'fastlocald\.(service|socket)' "$T/out"
}

@test "the daemon takes its socket from systemd, and says when it is ready" {
  need systemd-socket-activate
  need_tool
  need_registry
  ((EUID == 0)) || skip "needs root"
  mkdir "$T/run"
  background nobody notified "$PYTHON" "$FIXTURES/notified.py" "$T/notify"
  wait_for 10 test -S "$T/notify"
  background nobody registry systemd-socket-activate --seqpacket --listen="$T/run/registry.sock" -E NOTIFY_SOCKET="$T/notify" \
    "$REGISTRY" --metrics="$T/run/metrics.sock"
  wait_for 10 test -S "$T/run/registry.sock"
  # the first who asks starts it
  plain env FASTLOCAL_REGISTRY="$T/run/registry.sock" "$TOOL" doctor >"$T/doctor.out" || fail "$(cat "$T/doctor.out")"
  grep -q '^ok  *registry .*pairs connections' "$T/doctor.out"
  grep -q 'READY=1' "$T/notified.out"
  kill -HUP "$(pid_of registry)"
  wait_for 10 grep -q 'RELOADING=1' "$T/notified.out" || fail "$(cat "$T/notified.out")"
  stop registry
  wait_for 10 grep -q 'STOPPING=1' "$T/notified.out"
  [[ -S $T/run/registry.sock ]] || fail "the socket is systemd's, and gone"
  stop notified
}

@test "the Compose file is what Docker takes" {
  need docker-compose
  plain docker-compose -f "$(cd "$EXAMPLES" && pwd)/docker/compose.yaml" config -q
}

@test "the manifests of Kubernetes are YAML, and name what they use" {
  plain "$PYTHON" -c 'import yaml' 2>/dev/null || skip "no python3-yaml"
  plain "$PYTHON" "$FIXTURES/manifests.py" "$(cd "$EXAMPLES" && pwd)"/kubernetes/*.yaml
}

@test "the image is built with all that the source needs" {
  local package
  # shellcheck disable=SC2013 # words
  for package in $(sed -n 's/^\(build\|daemon\)=(\(.*\))$/\2/p' "$REPOSITORY/scripts/deps"); do
    grep -qE "(^|[ \\])$package( |\$)" "$EXAMPLES/docker/Dockerfile" || fail "$package is missing in examples/docker/Dockerfile"
  done
}
