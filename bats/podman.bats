#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# podman: real pods, by `podman kube play`. Containers of one pod share a network namespace; those of two find each other
# through the host registry. With TEST_DOCKER=1 only (scripts/test --all): it takes packages that are large.

load lib
load spaces
load containers

setup_file() {
  [[ -z ${TEST_DOCKER:-} ]] || need jq podman cc
}

podman_() {
  CONTAINERS_CONF=$T/containers.conf nsenter "--net=/proc/${SPACES[host]}/ns/net" podman --root "$T/store" --runroot "$T/runroot" \
    --tmpdir "$T/podman-tmp" "$@"
}

# A podman of our own, in a network namespace of its own: the "host" of these tests.
prepare() {
  [[ -n ${TEST_DOCKER:-} ]] || skip "TEST_DOCKER is not set"
  need_spaces
  need_registry
  mode both
  space host
  cat >"$T/containers.conf" <<END
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "$(command -v runc)"
infra_image = "localhost/base:1"
[network]
network_config_dir = "$T/cni"
END
  skeleton "$T/root"
  # what holds a pod's namespaces runs without /usr
  printf '#include <signal.h>\n#include <unistd.h>\nint main(void) { signal(SIGTERM, _exit); for (;;) pause(); }' >"$T/pause.c"
  cc -static -o "$T/root/pause" "$T/pause.c"
  tar -C "$T/root" -c . | podman_ import -q -c 'CMD=["/pause"]' - base:1 >/dev/null
  rm -rf "$T/root"
  registry
  options FASTLOCAL_REGISTRY=/run/fastlocal/registry.sock
}

finish_podman() {
  podman_ pod rm -f -a >/dev/null
  podman_ system reset -f >/dev/null 2>&1
  leave_spaces
}

# POD NAME... with the commands in the arrays of these names: the pod runs them, each in a container of its own
play() {
  local pod=$1 name
  settings_of client
  {
    printf '%s\n' "apiVersion: v1" "kind: Pod" "metadata: {name: $pod}" "spec:" "  restartPolicy: Never" "  containers:"
    for name in "${@:2}"; do
      local -n command=$name
      echo "    - $(jq -cn --arg name "$name" --arg suite "$BATS_SUITE_TMPDIR" --arg test "$T" --argjson command "$(words "${command[@]}")" \
        --argjson settings "$(words "${SETTINGS[@]}")" '
        {name: $name, image: "localhost/base:1", imagePullPolicy: "Never", command: $command,
         env: ($settings | map(capture("(?<name>[^=]*)=(?<value>.*)"))),
         volumeMounts: [{name: "usr", mountPath: "/usr", readOnly: true}, {name: "suite", mountPath: $suite, readOnly: true},
                        {name: "test", mountPath: $test}, {name: "run", mountPath: "/run/fastlocal", readOnly: true}]}')"
    done
    printf '%s\n' "  volumes:" "    - {name: usr, hostPath: {path: /usr}}" "    - {name: suite, hostPath: {path: $BATS_SUITE_TMPDIR}}" \
      "    - {name: test, hostPath: {path: $T}}" "    - {name: run, hostPath: {path: $T/run}}"
  } >"$T/$pod.yaml"
  podman_ kube play "$T/$pod.yaml" >"$T/$pod.out"
}

listens_in_container() { [[ -n $(nsenter -t "$(podman_ inspect -f '{{.State.Pid}}' "$1")" -n ss -Hltn 'sport = :5000') ]]; }

# CONTAINER: waits for its end, which has to be a good one
await() { assert_equal "$(podman_ wait "$1")" 0; }

assert_all_paired() {
  local connections paired _
  read -r _ connections paired _ < <(lanes python3)
  ((paired == connections && connections == 6)) || fail "$paired of $connections connections paired"
  : >"$STATS"
}

@test "podman: the containers of one pod, and those of two" {
  prepare
  # shellcheck disable=SC2034 # play has them by name
  local server=("$PYTHON" "$FIXTURES/pair.py" serve 0.0.0.0 5000)
  # $(...) would be Kubernetes' to expand
  local client=(/usr/bin/sh -c "until /usr/bin/ss -Hltn 'sport = :5000' | /usr/bin/grep -q .; do /usr/bin/sleep 0.02; done
    exec $PYTHON $FIXTURES/pair.py talk 127.0.0.1 5000 3 150 1000 0.004")
  play one server client
  await one-client
  podman_ stop -t 5 one-server >/dev/null
  assert_all_paired
  podman_ pod rm -f one >/dev/null

  play two server
  wait_for 15 listens_in_container two-server || fail "nobody listens"
  local address
  address=$(podman_ exec two-server /usr/bin/hostname -I)
  # shellcheck disable=SC2034
  client=("$PYTHON" "$FIXTURES/pair.py" talk "${address%% *}" 5000 3 150 1000 0.004)
  play three client
  await three-client
  podman_ stop -t 5 two-server >/dev/null
  assert_all_paired
  finish_podman
}
