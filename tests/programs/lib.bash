# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# tests/programs/lib.bash - what the `run` of each program starts with. It has a network and a process namespace of its own,
# and works in $TMPDIR. What it prints is compared, line by line, with what it prints on plain TCP.

cd "$TMPDIR" || exit
ulimit -c 0
PATH=/usr/sbin:/usr/bin:/sbin:/bin # what Debian has, not what else is installed here
SERVERS=()
STATUS=0

# NAME CMD...: a server, in the background, with the library where the mode says so; it ends with the script. It must neither
# crash nor ignore SIGTERM. Its output goes to NAME.log.
serve() {
  local name=$1
  shift
  # shellcheck disable=SC2086 # words
  setsid env $WITH_SERVER "$@" >"$name.log" 2>&1 </dev/null & # in a group of its own, as some end with all of theirs
  SERVERS+=("$!:$name")
}

# CMD...: with the library where the mode says so. A status other than 0 is part of what is compared.
client() {
  local status=0
  # shellcheck disable=SC2086 # words
  timeout -k 5 "${LIMIT:-60}" env $WITH_CLIENT "$@" || status=$?
  ((status == 0)) || echo "$1: exit status $status"
  return "$status"
}

quietly() { client "$@" >"$TMPDIR/quietly.log" 2>&1 || tail -n 5 "$TMPDIR/quietly.log"; } # only its status is compared

# PORT...: until somebody listens there
await() {
  local port tries
  for port in "$@"; do
    for ((tries = 0; tries < 600; tries++)); do
      [[ -n $(ss -Hltn "sport = :$port") ]] && continue 2
      sleep 0.05
    done
    die "nobody listens on port $port"
  done
}

die() { # WHY
  echo "failed: $*"
  STATUS=1
  exit
}

show_logs() { tail -n 8 ./*.log | cut -c 1-300 | sed 's/^/    # /'; }

digest() { md5sum | cut -d' ' -f1; }

# PATH SIZE: always the same bytes
make_file() { openssl enc -aes-128-ctr -K 00 -iv 00 -in /dev/zero 2>/dev/null | head -c "$2" >"$1"; }

stop_servers() {
  local i server pid name status tries
  for ((i = ${#SERVERS[@]} - 1; i >= 0; i--)); do # first those that use others
    server=${SERVERS[i]}
    pid=${server%%:*} name=${server#*:} status=0
    kill -TERM "$pid" 2>/dev/null
    for ((tries = 0; tries < 400; tries++)); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.05
    done
    ((tries < 400)) || { echo "failed: $name does not end" && kill -KILL "$pid"; }
    wait "$pid" || status=$?
    case $status in
    129 | 13[0-6] | 139 | 15[0-9]) echo "failed: $name was killed by signal $((status - 128))" && STATUS=1 ;;
    esac
  done
  SERVERS=()
}

finish() {
  stop_servers
  # what servers say when something goes wrong inside of them
  ! grep -hE 'AddressSanitizer|ThreadSanitizer|[Ss]egmentation fault|double free|corrupted|core dumped|stack smashing' ./*.log || STATUS=1
  ((STATUS == 0)) || show_logs
  exit "$STATUS"
}
trap finish EXIT

# --- what many programs need ---

# PORT: nginx serves www/ there, with a file of a few bytes and one of 3 MB
web() {
  mkdir -p www && echo hello >www/small && make_file www/big 3000000
  cat >nginx.conf <<END
daemon off; pid nginx.pid; error_log stderr; user root; worker_processes 1;
events {}
http { access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fcgi; uwsgi_temp_path uwsgi;
  scgi_temp_path scgi; keepalive_requests 100000; client_max_body_size 100m;
  server { listen 127.0.0.1:$1; root $TMPDIR/www; ${2:-} } }
END
  serve nginx nginx -p "$TMPDIR" -c nginx.conf
  await "$1"
}

# URL [REQUESTS]: with and without keep-alive; what was transferred
load() {
  local how
  for how in "-k" ""; do
    # shellcheck disable=SC2086 # words
    client ab -q $how -n "${2:-2000}" -c 8 "$1" >ab.txt
    grep -E '^(Complete requests|Failed requests|Non-2xx|HTML transferred)' ab.txt | tr -s ' '
  done
}

# BASE: fetches www/ of `web` in several ways
fetch() {
  local base=$1 i pids=()
  client curl -sS "$base/small" "$base/small" "$base/small"
  client curl -sS "$base/nothing" -o /dev/null -w '%{http_code}\n'
  client curl -sS "$base/big" | digest
  client curl -sS -r 1000-1999999 "$base/big" | digest
  for i in 1 2 3 4; do client curl -sS "$base/big" -o "big.$i" & pids+=($!); done
  wait "${pids[@]}"
  cat big.? | digest
}

# A directory to serve, $FTP, that every user can get to
ftp_directory() {
  FTP=/tmp/ftp-home
  mkdir -p $FTP && mount -t tmpfs none $FTP && mkdir $FTP/pub $FTP/up && chmod 755 $FTP && chmod 777 $FTP/up $FTP/pub
  make_file $FTP/pub/big 5000000
  for i in $(seq 50); do make_file "$FTP/pub/$i" 3000; done
}

# At port 2121: listings, many files, large ones, both ways, passive and active
ftp_clients() {
  local open='set net:max-retries 2; open ftp://127.0.0.1:2121;'
  client lftp -c "$open cls pub | sort | head -5; mirror pub got; cat pub/big | md5sum"
  cat got/* | digest
  client curl -sS ftp://127.0.0.1:2121/pub/big | digest
  client curl -sS -T got/big ftp://127.0.0.1:2121/up/big && digest <"$FTP/up/big"
  client lftp -c "set ftp:passive-mode off; $open cat pub/big | md5sum"
}
