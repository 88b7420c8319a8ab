#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# What the library costs a program that does not use it much. Times are reported; only what is far off fails.

load lib

HOST=127.0.0.1

@test "starting a program costs less than a millisecond more" {
  need_library
  mode both
  settings_of client
  local without with
  read -r without with < <(plain "$PYTHON" "$FIXTURES/startup_cost.py" "$(scaled 300)" /bin/true "${SETTINGS[@]}")
  echo "# starting /bin/true: $without us without, $with us with the library" >&3
  # A busy machine may be late; twice the promise is a defect.
  ((with - without < 2000)) || fail "$((with - without)) us more"
}

@test "an idle paired connection holds one page" {
  mode both
  local count=50 pid kilobytes
  PORT=$(free_port)
  serve echo "$PYTHON" "$FIXTURES/pair.py" serve "$HOST" "$PORT"
  wait_listen "$PORT"
  client_in_background hold "$PYTHON" "$FIXTURES/pair.py" hold "$HOST" "$PORT" "$count" 60 64
  wait_for 20 grep -q ready "$T/hold.out"
  if [[ -n $LIBRARY ]]; then
    for pid in "$(pid_of hold)" "$(pid_of echo)"; do
      assert_equal "$(segments "$pid" | wc -l)" "$count"
      kilobytes=$(rss_of_segments "$pid")
      echo "# idle: $((kilobytes * 1024 / count)) bytes for each of $count connections" >&3
      ((kilobytes == 4 * count)) || fail "$kilobytes KB for $count connections"
    done
  fi
  stop hold
  stop echo
  assert_paired python3
}

@test "what large messages needed is given back when the connections are idle" {
  mode both
  local count=20
  PORT=$(free_port)
  serve echo "$PYTHON" "$FIXTURES/pair.py" serve "$HOST" "$PORT"
  wait_listen "$PORT"
  client_in_background rest "$PYTHON" "$FIXTURES/pair.py" rest "$HOST" "$PORT" "$count" 20 100000
  wait_for 20 grep -q ready "$T/rest.out"
  [[ -z $LIBRARY ]] || wait_for 20 one_page_each "$(pid_of rest)" "$count"
  stop rest
  stop echo
  assert_paired python3
}

@test "with little memory for rings the bytes go over TCP" {
  mode both
  options FASTLOCAL_MEMORY=1
  PORT=$(free_port)
  serve echo "$PYTHON" "$FIXTURES/pair.py" serve "$HOST" "$PORT"
  wait_listen "$PORT"
  talk 20 20 200000 >"$T/talk.out"
  stop echo
  assert_paired python3
}

# PID COUNT: has each of its segments one page in memory?
one_page_each() { (($(rss_of_segments "$1") == 4 * $2)); }

# PID: kilobytes of its shared segments that are in memory
rss_of_segments() {
  awk '/^[0-9a-f]+-[0-9a-f]+ / { ours = /\/memfd:fastlocal \(deleted\)/ } ours && $1 == "Rss:" { sum += $2 }
    END { print sum + 0 }' "/proc/$1/smaps"
}
