#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# PostgreSQL: a process forked for each connection, a latch with epoll and signals, COPY in both directions.

load lib

# Needs a user that is not root.
setup_file() {
  ((EUID == 0)) || skip "needs root to run as postgres"
  local dirs=(/usr/lib/postgresql/*/bin)
  export PGBIN=${dirs[-1]} PGUSER=postgres PGDATABASE=postgres
  [[ -x $PGBIN/initdb ]] || skip "PostgreSQL is not installed"
  export DATA=$BATS_FILE_TMPDIR/data
  chmod a+x "$BATS_FILE_TMPDIR"
  install -d -o postgres -g postgres -m 700 "$DATA"
  cd "$DATA" || return
  timeout 60 runuser -u postgres -- "$PGBIN/initdb" -D "$DATA" --auth trust --no-sync -E UTF8 --no-locale >/dev/null
  cat >>"$DATA/postgresql.conf" <<-END
	fsync = off
	full_page_writes = off
	autovacuum = off
	wal_level = minimal
	max_wal_senders = 0
	shared_buffers = 64MB
	max_connections = 120
	END
}

HOST=127.0.0.1

# The data directory is copied, so that no test sees what another left.
start_postgres() {
  as_user postgres
  chown postgres "$T"
  PORT=$(free_port)
  rm -rf "$T/data"
  cp -a "$DATA" "$T/data"
  serve postgres "$PGBIN/postgres" -D "$T/data" -c listen_addresses="$HOST" -c port="$PORT" \
    -c unix_socket_directories="$T"
  wait_for 20 ready
}

ready() { plain "$PGBIN/pg_isready" -q -h "$HOST" -p "$PORT"; }
stop_postgres() { stop postgres INT; }
psql() { client "$PGBIN/psql" -X -q -A -t -v ON_ERROR_STOP=1 -h "$HOST" -p "$PORT" "$@"; }

# CLIENTS TRANSACTIONS OPTION...: every transaction is done, and the sums over the tables agree.
run_pgbench() {
  local wanted=$(($1 * $(scaled "$2")))
  start_postgres
  plain "$PGBIN/pgbench" -q -i -s 1 -h "$HOST" -p "$PORT" 2>"$T/init.txt"
  client "$PGBIN/pgbench" -n -h "$HOST" -p "$PORT" -c "$1" -j 2 -t "$(scaled "$2")" "${@:3}" >"$T/pgbench.txt"
  grep -q "actually processed: $wanted/$wanted\$" "$T/pgbench.txt"
  grep -q 'failed transactions: 0 ' "$T/pgbench.txt"
  assert_equal "$(psql -c 'SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches)
    AND coalesce((SELECT sum(delta) FROM pgbench_history), 0) = (SELECT sum(bbalance) FROM pgbench_branches)')" t
  stop_postgres
}

# Out and in again; rows, order and every byte agree.
copy_transcript() {
  start_postgres
  psql -c "CREATE TABLE big AS SELECT i, md5(i::text) AS m, repeat(chr(33 + i % 90), i % 200) AS r,
    decode(md5((i + 1)::text), 'hex') AS b FROM generate_series(1, $(scaled 100000)) i"
  psql -c "COPY big TO STDOUT" >"$T/big.txt"
  digest <"$T/big.txt"
  psql -c "CREATE TABLE again (LIKE big)"
  psql -c "COPY again FROM STDIN" <"$T/big.txt"
  psql -c "COPY again TO STDOUT (FORMAT binary)" | digest
  psql -c "SELECT count(*) FROM ((TABLE big EXCEPT TABLE again) UNION ALL (TABLE again EXCEPT TABLE big)) d"
  stop_postgres
}

# Answers and errors of a session: types, notices, failed statements, cursors, a cancelled statement, NOTIFY.
session_transcript() {
  start_postgres
  client "$PGBIN/createdb" -h "$HOST" -p "$PORT" other
  psql -d other -v ON_ERROR_STOP=0 -f "$FIXTURES/session.sql" 2>&1
  stop_postgres
}

@test "pgbench, 1 client" {
  mode both
  steady
  run_pgbench 1 500
  assert_paired postgres # its share has the loading of the tables in it, whose client has no library
  assert_ring_share pgbench 30
}

@test "pgbench, 8 clients, prepared statements" {
  mode both
  run_pgbench 8 150 -M prepared
  assert_paired postgres
  assert_paired pgbench
}

@test "pgbench, 50 clients, only reading" {
  mode both
  run_pgbench 50 100 -S -M extended
  assert_paired pgbench
}

@test "pgbench, a connection per transaction" {
  mode both
  run_pgbench 4 50 -C
}

@test "pgbench over ::1" {
  HOST=::1
  mode both
  run_pgbench 4 200
  assert_paired pgbench
}

@test "pgbench, only the client has the library" {
  mode client
  run_pgbench 8 100
  assert_unpaired
}

@test "pgbench, only the server has the library" {
  mode server
  run_pgbench 8 100
  assert_unpaired
}

@test "COPY out and in gives the same table" {
  mode both
  steady
  same_as_tcp copy_transcript
  assert_ring_share postgres 30
  assert_ring_share psql 30
}

@test "COPY out and in gives the same table, only the server has the library" {
  mode server
  same_as_tcp copy_transcript
  assert_unpaired
}

@test "psql sees the same answers, notices and errors" {
  mode both
  same_as_tcp session_transcript
}

@test "psql sees the same answers as another user" {
  mode both
  start_postgres
  as_user nobody
  psql -c "SELECT sum(i) FROM generate_series(1, 20000) i, generate_series(1, 2) j" >"$T/answer"
  psql -c "SELECT repeat('x', 1000) FROM generate_series(1, 5000)" | digest >>"$T/answer"
  assert_equal "$(sed -n 1p "$T/answer")" 400020000
  assert_equal "$(sed -n 2p "$T/answer")" "$(yes "$(printf 'x%.0s' {1..1000})" | head -n 5000 | digest)"
  stop_postgres
  assert_paired psql
}
