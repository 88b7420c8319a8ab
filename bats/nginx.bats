#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# nginx: edge-triggered epoll, accept4, writev, sendfile, a master with forked workers; as a web server and as a proxy.

load lib

setup_file() { need nginx wrk ab curl; }

HOST=127.0.0.1
SENDFILE=on
WORKERS=1
BACKEND=127.0.0.1:1
SHARE=30 # percent; 0: with the presets

start_nginx() { # [NAME]
  local name=${1:-nginx} dir=$T/${1:-nginx}
  PORT=$(free_port)
  [[ $HOST == *:* ]] && AT="[$HOST]:$PORT" || AT=$HOST:$PORT
  mkdir -p "$dir/www"
  sed -e "s|@LISTEN@|$AT|; s|@SENDFILE@|$SENDFILE|; s|@WORKERS@|$WORKERS|; s|@BACKEND@|$BACKEND|" \
    "$FIXTURES/nginx.conf.in" >"$dir/nginx.conf"
  WWW=$dir/www
  printf 'hello\n' >"$WWW/small"
  serve "$name" nginx -p "$dir" -c nginx.conf -e error.log
  wait_listen "$PORT"
}

stop_nginx() { # [NAME]: in an orderly way, and nothing to complain about
  stop "${1:-nginx}" QUIT
  [[ ! -s $T/${1:-nginx}/error.log ]] || fail "$(<"$T/${1:-nginx}/error.log")"
}

# OPTION...: no errors of any kind, and every answer was a good one.
run_wrk() {
  ((SHARE == 0)) || steady
  start_nginx
  client wrk -d "$(scaled 1)s" "$@" "http://$AT/small" >"$T/wrk.txt"
  grep -q '^Requests/sec: *[1-9]' "$T/wrk.txt"
  refute grep -E 'Socket errors|Non-2xx' "$T/wrk.txt"
  stop_nginx
  assert_ring_share nginx "$SHARE"
  assert_ring_share wrk "$SHARE"
}

@test "wrk, 1 connection" { mode both && run_wrk -t 1 -c 1; }
@test "wrk, 50 connections, 2 threads, 2 workers" { WORKERS=2 && mode both && run_wrk -t 2 -c 50; }
@test "wrk, 500 connections" { mode both && run_wrk -t 2 -c 500; }
@test "wrk, a connection per request" { SHARE=0 && mode both && run_wrk -t 1 -c 8 -H 'Connection: close'; }
@test "wrk over ::1" { HOST=::1 && mode both && run_wrk -t 1 -c 8; }
@test "wrk, only the client has the library" { mode client && run_wrk -t 2 -c 16; }
@test "wrk, only the server has the library" { mode server && run_wrk -t 2 -c 16; }

# REQUESTS FILE_SIZE OPTION...
run_ab() {
  local requests
  requests=$(scaled "$1")
  ((SHARE == 0)) || steady
  start_nginx
  random_file "$WWW/file" "$2"
  client ab -q -n "$requests" "${@:3}" "http://$AT/file" >"$T/ab.txt"
  grep -q "^Complete requests: *$requests\$" "$T/ab.txt"
  grep -q '^Failed requests: *0$' "$T/ab.txt"
  grep -q "^HTML transferred: *$(($(stat -c %s "$WWW/file") * requests)) bytes" "$T/ab.txt"
  refute grep 'Non-2xx' "$T/ab.txt"
  stop_nginx
  assert_ring_share nginx "$SHARE"
  assert_ring_share ab "$SHARE"
}

@test "ab, keep-alive" { mode both && run_ab 5000 3000 -c 8 -k; }
@test "ab, no keep-alive" { SHARE=0 && mode both && run_ab 1000 3000 -c 8; }
@test "ab, files of 1 MB, keep-alive, with sendfile" { SHARE=0 && mode both && run_ab 100 1M -c 4 -k && assert_paired nginx; }
@test "ab, files of 1 MB, keep-alive, without sendfile" { SENDFILE=off && SHARE=0 && mode both && run_ab 100 1M -c 4 -k && assert_paired nginx; }
@test "ab, keep-alive, with the presets" { SHARE=0 && mode both && run_ab 2000 3000 -c 8 -k && assert_paired nginx; }
@test "wrk, 50 connections, with the presets" { SHARE=0 && mode both && run_wrk -t 2 -c 50 && assert_paired nginx; }
@test "ab, only the client has the library" { mode client && run_ab 2000 3000 -c 8 -k; }
@test "ab, only the server has the library" { mode server && run_ab 2000 3000 -c 8 -k; }

# Long pieces of a file go through the kernel's sendfile, which does not copy; and nginx does not wait for a reader that is
# busy with writing a file, but fills TCP's buffer: only pairing is demanded.
run_big_file() {
  start_nginx
  random_file "$WWW/big" 100M
  client curl -sSf "http://$AT/big" -o "$T/big"
  same_file "$WWW/big" "$T/big"
  stop_nginx
  assert_paired nginx
}

@test "curl gets a file of 100 MB unchanged, with sendfile" { mode both && run_big_file; }
@test "curl gets a file of 100 MB unchanged, without sendfile" { SENDFILE=off && mode both && run_big_file; }
@test "curl gets a file of 100 MB unchanged over ::1" { HOST=::1 && mode both && run_big_file; }
@test "curl gets a file of 100 MB unchanged, only the client has the library" { mode client && run_big_file; }
@test "curl gets a file of 100 MB unchanged, only the server has the library" { mode server && run_big_file; }

# Many files over one connection, then ranges, heads and errors; headers too, except for what changes with the time.
curl_transcript() {
  start_nginx
  local i urls=()
  for i in {1..40}; do
    yes "line of file $i" | head -c $((i ** 3)) >"$WWW/$i"
    touch -d @1700000000 "$WWW/$i"
    urls+=("http://$AT/$i")
  done
  urls+=("http://$AT/nothing")
  {
    client curl -sS "$@" -D - "${urls[@]}"
    client curl -sS "$@" -D - -r 5-5000 "${urls[@]:30}"
    client curl -sS "$@" -I "${urls[@]}"
  } >"$T/answers"
  sed -i -e 's/^Date: .*/Date:/' "$T/answers"
  digest <"$T/answers"
  wc -c <"$T/answers"
  stop_nginx
}

@test "curl sees the same headers and bodies on a kept connection" {
  mode both
  steady
  same_as_tcp curl_transcript
  assert_ring_share curl 30
}

@test "curl sees the same headers and bodies with a connection per request" {
  mode both
  same_as_tcp curl_transcript -H 'Connection: close'
}

@test "curl sees the same headers and bodies, only the server has the library" {
  mode server
  same_as_tcp curl_transcript
  assert_unpaired
}

@test "a slow reader gets all of a file that nginx has long handed over" {
  mode both
  start_nginx
  random_file "$WWW/file" 4M
  client curl -sSf --limit-rate 4M "http://$AT/file" -o "$T/file"
  same_file "$WWW/file" "$T/file"
  stop_nginx
}

# GETs and uploads through a proxy: client - nginx - backend, each hop a connection of its own.
proxy_transcript() { # nginx|python
  local i
  if [[ $1 == nginx ]]; then
    start_nginx backend
    for i in 10 1000 100000 5000000; do head -c "$i" /dev/zero | tr '\0' x >"$WWW/$i"; done
  else
    PORT=$(free_port)
    serve backend "$PYTHON" "$FIXTURES/http_digest.py" "$HOST" "$PORT"
    wait_listen "$PORT"
  fi
  BACKEND=$HOST:$PORT start_nginx
  for i in 10 1000 100000 5000000; do
    client curl -sSf "http://$AT/proxy/$i" "http://$AT/proxy/10" "http://$AT/proxy/$i" | digest
  done
  if [[ $1 == python ]]; then
    [[ -e $T/upload ]] || random_file "$T/upload" 8M
    client curl -sSf -H 'Expect:' -X POST -T "$T/upload" "http://$AT/proxy/" -T "$T/upload" "http://$AT/proxy/"
    digest <"$T/upload"
  fi
  client wrk -t 1 -c 8 -d "$(scaled 1)s" "http://$AT/proxy/1000" >"$T/wrk.txt"
  refute grep -E 'Socket errors|Non-2xx' "$T/wrk.txt"
  stop_nginx
  if [[ $1 == nginx ]]; then stop_nginx backend; else stop backend; fi
}

@test "nginx as a proxy before nginx gives the same answers" {
  mode both
  same_as_tcp proxy_transcript nginx
  assert_paired nginx
}

@test "nginx as a proxy before a Python server gives the same answers" {
  mode both
  same_as_tcp proxy_transcript python
  assert_paired nginx
}

@test "nginx as a proxy gives the same answers, only curl and wrk have the library" {
  mode client
  same_as_tcp proxy_transcript nginx
  assert_unpaired
}

@test "nginx reloads its configuration under load without a failed request" {
  mode both
  start_nginx
  client_in_background load ab -q -c 4 -n "$(scaled 2000)" "http://$AT/small"
  local i
  for i in 1 2 3; do
    kill -HUP "$(pid_of nginx)"
    client curl -sSf "http://$AT/small" -o "$T/small"
    same_file "$WWW/small" "$T/small"
  done
  finish load
  grep -q '^Failed requests: *0$' "$T/load.out"
  stop_nginx
}
