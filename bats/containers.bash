# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# bats/containers.bash - runc containers in the namespaces of spaces.bash. Their root is a skeleton with this machine's
# programs mounted read-only; what they share with each other and with the host is the directory of the registry's socket.

# A root file system without programs: they come from the host's /usr.
skeleton() { # DIRECTORY
  mkdir -p "$1"/{proc,sys,dev,tmp,etc,usr,run/fastlocal,test}
  local dir
  for dir in bin sbin lib lib64; do ln -s "usr/$dir" "$1/$dir"; done
  cp /etc/passwd /etc/group /etc/nsswitch.conf /etc/ld.so.cache "$1/etc/"
  chmod 1777 "$1/tmp"
}

# NAME SPACE [JQ_FILTER]: a bundle whose container lives in that space's network. What it runs is given to run_container.
bundle() {
  local dir=$T/bundle-$1
  mkdir "$dir"
  skeleton "$dir/rootfs"
  (cd "$dir" && runc spec)
  jq --arg net "/proc/${SPACES[$2]}/ns/net" --arg run "$T/run" --arg suite "$BATS_SUITE_TMPDIR" --arg test "$T" '
    del(.process.rlimits) | .process.terminal = false | .root.readonly = true
    | (.linux.namespaces[] | select(.type == "network")).path = $net
    | .mounts += [
        {type: "bind", source: "/usr", destination: "/usr", options: ["rbind", "ro"]},
        {type: "bind", source: $suite, destination: $suite, options: ["rbind", "ro"]},
        {type: "bind", source: $test, destination: $test, options: ["rbind", "rw"]},
        {type: "bind", source: $run, destination: "/run/fastlocal", options: ["rbind", "ro"]}]
    | '"${3:-.}" "$dir/config.json" >"$dir/new.json"
  mv "$dir/new.json" "$dir/config.json"
}

# WORD...: as a JSON array
words() { if (($#)); then printf "%s\0" "$@" | jq -Rs "split(\"\\u0000\") | if last == \"\" then .[:-1] else . end"; else echo "[]"; fi; }

# END NAME CMD...: runs it in the foreground of this shell, with the library if that end has it
run_container() {
  local dir=$T/bundle-$2
  settings_of "$1"
  jq --argjson settings "$(words "${SETTINGS[@]}")" --argjson command "$(words "${@:3}")" '
    .process.env = ["PATH=/usr/bin:/bin:/usr/sbin", "LC_ALL=C.UTF-8"] + $settings | .process.args = $command' \
    "$dir/config.json" >"$dir/new.json"
  mv "$dir/new.json" "$dir/config.json"
  runc --root "$T/runc" run --bundle "$dir" "$2-$BASHPID"
}

container_client() { run_container client "$@"; } # NAME CMD...
container_server() {                              # NAME CMD...
  run_container server "$@" >"$T/$1.out" 2>"$T/$1.err" </dev/null 3>&- &
  PIDS[$1]=$!
}
# NAME: SIGTERM to the program
stop_container() {
  local status=0 pid=${PIDS[$1]}
  runc --root "$T/runc" kill "$(runc --root "$T/runc" list -q | grep "^$1-")" TERM
  wait_for 10 gone "$pid" || fail "$1 does not end"
  wait "$pid" || status=$?
  unset "PIDS[$1]"
  ((status == 0 || status == 143)) || fail "$1 ended with status $status"
}
