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

@test "an idle paired connection holds less than 16 KB" {
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
      ((kilobytes < 16 * count)) || fail "$kilobytes KB for $count connections"
    done
  fi
  stop hold
  stop echo
  assert_paired python3
}

# PID: kilobytes of its shared segments that are in memory
rss_of_segments() {
  awk '/^[0-9a-f]+-[0-9a-f]+ / { ours = /\/memfd:fastlocal \(deleted\)/ } ours && $1 == "Rss:" { sum += $2 }
    END { print sum + 0 }' "/proc/$1/smaps"
}
