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

@test "nginx in one container, its application server in another, and clients in a third" {
  need nginx ab
  prepare
  bundle app a
  bundle nginx b '.process.capabilities |= map_values(. + ["CAP_SETGID", "CAP_SETUID"])' # its workers change their user
  bundle client c
  container_server app "$PYTHON" "$FIXTURES/app.py" 10.77.1.1 5000
  wait_for 15 listening_in a 5000 || fail "the application server does not listen"
  mkdir -p "$T/nginx/www"
  sed -e "s|@LISTEN@|10.77.1.2:8080|; s|@SENDFILE@|on|; s|@WORKERS@|1|; s|@BACKEND@|10.77.1.1:5000|" \
    "$FIXTURES/nginx.conf.in" >"$T/nginx/nginx.conf"
  container_server nginx nginx -p "$T/nginx" -c nginx.conf -e error.log
  wait_for 15 listening_in b 8080 || fail "nginx does not listen"
  container_client client ab -q -k -n "$(scaled 4000)" -c 8 http://10.77.1.2:8080/proxy/1000 >"$T/ab.txt"
  grep -q '^Failed requests: *0$' "$T/ab.txt"
  refute grep -q '^Non-2xx' "$T/ab.txt"
  grep -q '^Document Length: *1000 ' "$T/ab.txt"
  stop_container nginx
  stop_container app
  [[ ! -s $T/nginx/error.log ]] || fail "$(<"$T/nginx/error.log")"
  assert_paired ab
  assert_paired nginx
  assert_paired python3
  leave_spaces
}

@test "PostgreSQL in one container, pgbench in another" {
  local dirs=(/usr/lib/postgresql/*/bin) filter
  [[ -x ${dirs[-1]}/initdb ]] || skip "PostgreSQL is not installed"
  prepare
  chmod a+rwx "$T"
  install -d -o postgres -g postgres -m 700 "$T/data"
  timeout 60 runuser -u postgres -- "${dirs[-1]}/initdb" -D "$T/data" --auth trust --no-sync -E UTF8 --no-locale >/dev/null
  filter=".process.user = {uid: $(id -u postgres), gid: $(id -g postgres)} | .process.capabilities = {}"
  echo 'host all all 10.77.1.0/24 trust' >>"$T/data/pg_hba.conf"
  bundle server a "$filter"
  bundle client b "$filter"
  container_server server "${dirs[-1]}/postgres" -D "$T/data" -c listen_addresses=10.77.1.1 -c fsync=off -c shared_buffers=32MB \
    -c unix_socket_directories="$T"
  wait_for 30 inside b "${dirs[-1]}/pg_isready" -q -h 10.77.1.1 || fail "PostgreSQL does not answer"
  container_client client "${dirs[-1]}/pgbench" -q -i -s 1 -h 10.77.1.1 postgres >"$T/init.out" 2>&1
  bundle bench c "$filter"
  container_client bench "${dirs[-1]}/pgbench" -n -h 10.77.1.1 -c 4 -j 2 -t "$(scaled 200)" postgres >"$T/bench.out" 2>&1
  grep -q "actually processed: $(($(scaled 200) * 4))/" "$T/bench.out" || fail "$(<"$T/bench.out")"
  grep -q 'failed transactions: 0 ' "$T/bench.out"
  runc --root "$T/runc" kill "$(runc --root "$T/runc" list -q | grep '^server-')" INT
  wait "${PIDS[server]}"
  unset 'PIDS[server]'
  assert_paired pgbench
  assert_paired postgres
  leave_spaces
}
