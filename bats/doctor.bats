#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# `fastlocal doctor`: each thing that can be missing is taken away, and must be named.

load lib
load spaces
load containers

setup_file() { need jq; }

# COMMAND...: what the doctor says when it is run so, with $REGISTRY_AT as the registry's place, and perhaps $ARGUMENT. Exit
# status in $T/status.
doctor() {
  plain env FASTLOCAL_REGISTRY="${REGISTRY_AT:-$T/none.sock}" "$@" "$TOOL" doctor ${ARGUMENT:+"$ARGUMENT"} >"$T/doctor.out" 2>&1 &&
    echo 0 >"$T/status" || echo "$?" >"$T/status"
  cat "$T/doctor.out"
}
# VERDICT ABOUT PATTERN: the doctor said that
says() { grep -qE "^$1 +$2 +.*$3" "$T/doctor.out" || fail "not said: $1 $2 $3. Said: $(cat "$T/doctor.out")"; }
status_is() { assert_equal "$(cat "$T/status")" "$1"; }

@test "doctor: where nothing is missing" {
  need_tool
  need_registry
  ((EUID == 0)) || skip "needs root"
  registry
  REGISTRY_AT=$T/run/registry.sock doctor env
  says ok options 'nothing in the environment'
  says ok seccomp 'allowed'
  says ok identity 'one user'
  says ok memory ''
  says ok descriptors ''
  says ok library 'two processes on 127.0.0.1 pair'
  says ok registry 'pairs connections of this user'
  says ok peers 'processes here'
  status_is 0
  stop registry
}

@test "doctor: options that turn the library off" {
  need_tool
  doctor env FASTLOCAL_DISABLE=1
  says BAD options FASTLOCAL_DISABLE
  says BAD library 'does nothing'
  status_is 1
  doctor env FASTLOCAL_RING=7
  says BAD options RING
  doctor env FASTLOCAL_TRANSPORT=tcp
  says BAD options TRANSPORT
  doctor env FASTLOCAL_PORTS=1
  says warning options PORTS
  status_is 0
}

@test "doctor: the library is missing, does not load, or is of another version" {
  need_tool
  need cc
  ARGUMENT=--library="$T/none.so" doctor env
  says BAD library 'No such file'
  echo "no library" >"$T/bad.so"
  ARGUMENT=--library="$T/bad.so" doctor env
  says BAD library 'does not load here.*cannot be preloaded'
  cat >"$T/other.c" <<'END'
#define _GNU_SOURCE
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>
/* the arena of a library of another version */
__attribute__((constructor)) static void start(void) {
  int fd = memfd_create("fastlocal-arena", 0);
  struct { uint64_t magic; uint32_t version; } *arena;
  if (fd < 0 || ftruncate(fd, 1 << 20) < 0) return;
  arena = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  arena->magic = 0x31616e6572616c66;
  arena->version = 99;
  close(fd);
}
END
  cc -shared -fPIC -o "$T/other.so" "$T/other.c"
  ARGUMENT=--library="$T/other.so" doctor env
  says BAD library 'another version'
  status_is 1
  echo 'int nothing;' >"$T/nothing.c"
  cc -shared -fPIC -o "$T/nothing.so" "$T/nothing.c"
  ARGUMENT=--library="$T/nothing.so" doctor env
  says BAD library 'does nothing'
}

@test "doctor: what a user or a process may have" {
  need_tool
  ((EUID == 0)) || skip "needs root"
  unshare -U true 2>/dev/null || skip "no user namespaces"
  doctor unshare -U
  says BAD identity 'does not map this user'
  says BAD library 'stay on TCP'
  doctor prlimit --nofile=100
  says warning descriptors 'only 100'
  doctor prlimit --as=200000000
  says warning memory 'address space'
  # a memory cgroup of a container that is nearly full
  cat >"$T/cgroup.sh" <<'END'
mount -t tmpfs none /sys/fs/cgroup
echo "$1" >/sys/fs/cgroup/memory.max
echo 100000000 >/sys/fs/cgroup/memory.current
shift
exec "$@"
END
  doctor unshare -m sh "$T/cgroup.sh" 105000000
  says warning memory 'only 4 MB more'
  doctor unshare -m sh "$T/cgroup.sh" 1100000000
  says ok memory '953 MB more'
  doctor unshare -m sh "$T/cgroup.sh" max
  says ok memory 'no limit'
}

@test "doctor: calls that a seccomp filter refuses" {
  need runc
  need_tool
  need_spaces
  mode nobody
  bridge
  mkdir -p "$T/run"
  refused() { # NAME FILTER: of seccomp rules
    bundle "$1" a ".linux.seccomp = {defaultAction: \"SCMP_ACT_ALLOW\", syscalls: [$2 + {action: \"SCMP_ACT_ERRNO\"}]}"
    container_client "$1" "$TOOL" doctor >"$T/doctor.out" 2>&1 || true
  }
  refused memfd '{names: ["memfd_create"]}'
  says BAD seccomp 'shared memory.*seccomp filter is active'
  says BAD library ''
  refused netlink '{names: ["socket"], args: [{index: 0, value: 16, op: "SCMP_CMP_EQ"}]}'
  says BAD seccomp 'sock_diag.*seccomp filter'
  refused unix '{names: ["socket"], args: [{index: 0, value: 1, op: "SCMP_CMP_EQ"}]}'
  says BAD seccomp 'AF_UNIX.*seccomp filter'
  refused eventfd '{names: ["eventfd", "eventfd2"]}'
  says warning seccomp 'eventfd.*over TCP'
  refused other '{names: ["reboot"]}'
  says ok seccomp 'a filter is active, but all'
  free_spaces
}

@test "doctor: the registry's socket is not mounted, stale, not permitted; the daemon is of another version, or hangs" {
  need_tool
  need_registry
  ((EUID == 0)) || skip "needs root"
  doctor env
  says warning registry 'is not here.*mount its directory'
  registry
  as_self
  kill -KILL "$(pid_of registry)"
  finish registry || true
  REGISTRY_AT=$T/run/registry.sock doctor env
  says BAD registry 'nobody listens'
  status_is 1
  registry
  chmod 700 "$T/run"
  REGISTRY_AT=$T/run/registry.sock doctor setpriv --reuid=nobody --clear-groups
  says BAD registry 'may not be reached by user 65534'
  kill -STOP "$(pid_of registry)"
  REGISTRY_AT=$T/run/registry.sock doctor env
  says BAD registry 'does not answer'
  kill -CONT "$(pid_of registry)"
  stop registry
  background nobody other "$PYTHON" "$FIXTURES/other_registry.py" "$T/other.sock"
  wait_for 10 test -S "$T/other.sock"
  REGISTRY_AT=$T/other.sock doctor env
  says BAD registry 'speaks version 7'
  stop other
}

@test "doctor: the policy or a limit of the registry" {
  need_tool
  need_registry
  ((EUID == 0)) || skip "needs root"
  echo 'rules = ( );' >"$T/policy"
  registry --policy "$T/policy"
  REGISTRY_AT=$T/run/registry.sock doctor env
  says warning registry 'policy does not allow'
  stop registry
  echo 'limits = { memory_mb = 1; };' >"$T/policy"
  registry --policy "$T/policy"
  REGISTRY_AT=$T/run/registry.sock doctor env FASTLOCAL_RING=1M
  says BAD registry 'share of connections or memory'
  stop registry
  echo 'limits = { clients = 1; };' >"$T/policy"
  registry --policy "$T/policy"
  REGISTRY_AT=$T/run/registry.sock doctor env
  says BAD registry 'hung up'
  stop registry
}

@test "doctor: why connections of a process are on TCP" {
  need_tool
  mode client
  HOST=127.0.0.1
  start_echo
  client_in_background hold "$PYTHON" "$FIXTURES/pair.py" hold "$HOST" "$PORT" 2 300 64
  wait_for 20 grep -q ready "$T/hold.out"
  ARGUMENT="$(pid_of hold)" doctor env
  says warning peers '2 on TCP: .*(the other end has no library|start it with the library)'
  ARGUMENT="$(pid_of echo)" doctor env
  says BAD process 'does not have the library'
  ARGUMENT=2147483 doctor env
  says BAD process 'does not exist'
  stop hold
  stop echo
}
