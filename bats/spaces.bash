# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# bats/spaces.bash - network namespaces that stand for containers: each belongs to a process that sleeps in it, so nothing
# is left behind. `space NAME` makes one; from `in_space NAME` on, programs run there, until `in_space host` (or `outside`).
#
#   bridge    a, b and c, 10.77.1.1 to .3, on a bridge of `host`, 10.77.1.254
#   uplink    d, 10.77.2.1, on another leg of `host`, 10.77.2.254: "the outside"

declare -gA SPACES=()

need_spaces() {
  need ip nsenter unshare
  ((EUID == 0)) || skip "needs root for network namespaces"
  unshare -n true 2>/dev/null || skip "no network namespaces"
}
need_registry() {
  need_library
  [[ -n $REGISTRY ]] || skip "no fastlocald"
}

space() { # NAME
  (cd "$T" && exec unshare -n sleep 600) 3>&- </dev/null >/dev/null 2>&1 &
  SPACES[$1]=$!
  wait_for 10 own_network "${SPACES[$1]}"
  inside "$1" ip link set lo up
}
own_network() { [[ $(readlink "/proc/$1/ns/net") != $(readlink /proc/self/ns/net) && $(cat "/proc/$1/comm") == sleep ]]; }

inside() { nsenter "--net=/proc/${SPACES[$1]}/ns/net" "${@:2}"; } # NAME CMD...
# shellcheck disable=SC2034
in_space() { AS=(nsenter "--net=/proc/${SPACES[$1]}/ns/net"); }    # what `serve`, `client` and the like run from now on

# NAME INTERFACE ADDRESS HOST_INTERFACE: a veth from `host` to another space
cable() {
  inside host ip link add "$4" type veth peer name "$2" netns "${SPACES[$1]}"
  inside "$1" ip addr add "$3" dev "$2"
  inside "$1" ip link set "$2" up
  inside host ip link set "$4" up
}

bridge() {
  local name i=1
  space host
  inside host sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.route_localnet=1
  inside host ip link add br0 type bridge
  inside host ip addr add 10.77.1.254/24 dev br0
  inside host ip link set br0 up
  for name in a b c; do
    space "$name"
    cable "$name" eth0 "10.77.1.$i/24" "v$name"
    inside host ip link set "v$name" master br0
    inside "$name" ip route add default via 10.77.1.254
    i=$((i + 1))
  done
}

uplink() {
  space d
  cable d eth0 10.77.2.1/24 vd
  inside host ip addr add 10.77.2.254/24 dev vd
  inside d ip route add default via 10.77.2.254
}

free_spaces() {
  local name
  for name in "${!SPACES[@]}"; do
    kill -KILL "${SPACES[$name]}" 2>/dev/null || true
    wait "${SPACES[$name]}" 2>/dev/null || true
  done
  SPACES=()
}

# [OPTION...]: a daemon, whose socket all processes with the library use
registry() {
  mkdir -p "$T/run"
  as_self
  background nobody registry "$REGISTRY" --socket "$T/run/registry.sock" "$@"
  wait_for 10 test -S "$T/run/registry.sock" || fail "the registry does not start"
  options FASTLOCAL_REGISTRY="$T/run/registry.sock" "${OPTIONS[@]}"
}

# All that a test with spaces has to end.
leave_spaces() {
  as_self
  stop registry
  free_spaces
}

listening_in() { [[ -n $(inside "$1" ss -Hltn "sport = :$2") ]]; }

echo_in() { # SPACE ADDRESS PORT
  in_space "$1"
  serve "echo-$1" "$PYTHON" "$FIXTURES/pair.py" serve "$2" "$3"
  wait_for 15 listening_in "$1" "$3" || fail "nobody listens in $1"
}
talk_in() { # SPACE ADDRESS PORT [ARGUMENT...]
  in_space "$1"
  client "$PYTHON" "$FIXTURES/pair.py" talk "${@:2}"
}
