#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Other libcs: older glibcs than the one that the library was built with, and musl.

load lib

setup_file() { need jq; }

# The highest version of a symbol that a file needs of glibc.
needed_glibc() { readelf -V "$1" | grep -oE 'Name: GLIBC_[0-9.]+' | cut -d_ -f2 | sort -V | tail -n 1; }

@test "the library loads with Debian 11's glibc (2.31) and later ones" {
  need_library
  need readelf
  # all that it needs is older; what is weak counts as well, for the loader asks for its version
  assert_equal "$(printf '%s\n' "$(needed_glibc "$LIBRARY")" 2.31 | sort -V | tail -n 1)" 2.31
  refute grep -qE 'GLIBC_(ABI|PRIVATE)' <(readelf -V "$LIBRARY")
  # what 2.34 made part of libc is to be found before that, too
  readelf -d "$LIBRARY" | grep -q 'NEEDED.*libdl.so.2'
  # the loader of this machine finds them all
  refute grep -q 'not found' <(ldd "$LIBRARY")
}

# The library for musl, and a program, in $MUSL; built once.
musl() {
  need_library
  need musl-gcc meson ninja
  MUSL=$BATS_FILE_TMPDIR/musl
  [[ -d $MUSL ]] && return
  local headers
  headers="-idirafter /usr/include -idirafter /usr/include/$(cc -print-multiarch)" # the kernel's, and uthash
  (cd "$REPOSITORY" && CC=musl-gcc meson setup "$MUSL" -Donly_library=true -Doptimization=1 --werror -Dc_args="$headers" &&
    ninja -C "$MUSL" preload/libfastlocal.so) >"$T/musl.log" 2>&1 || fail "$(tail -n 30 "$T/musl.log")"
  musl-gcc -O1 -o "$MUSL/pair" "$FIXTURES/pair.c"
}

# LIBRARY PROGRAM of the server, and of the client
across() {
  local theirs=$LIBRARY
  mode both
  options FASTLOCAL_PAIR_AFTER=1
  PORT=$(free_port)
  LIBRARY=$1 serve server "$2" serve "$PORT"
  wait_listen "$PORT"
  LIBRARY=$3
  assert_equal "$(client "$4" talk "$PORT" "$(scaled 300)" 500)" fine
  stop server
  LIBRARY=$theirs
  read -r _ connections paired ring _ < <(lanes pair)
  ((paired >= 4 && ring > 0)) || fail "$paired of $connections paired, $ring bytes on rings: $(cat "$STATS")"
}

@test "musl: two programs" {
  musl
  # it needs nothing of glibc
  refute grep -qE 'libc\.so\.6|libgcc_s|ld-linux' <(readelf -d "$MUSL/preload/libfastlocal.so")
  across "$MUSL/preload/libfastlocal.so" "$MUSL/pair" "$MUSL/preload/libfastlocal.so" "$MUSL/pair"
}

@test "musl: one program has musl, the other glibc" {
  musl
  cc -O1 -pthread -o "$T/pair" "$FIXTURES/pair.c"
  across "$LIBRARY" "$T/pair" "$MUSL/preload/libfastlocal.so" "$MUSL/pair"
  : >"$STATS"
  across "$MUSL/preload/libfastlocal.so" "$MUSL/pair" "$LIBRARY" "$T/pair"
}

@test "the entrypoint of examples/docker leaves a library out that is for another libc" {
  musl
  # shellcheck disable=SC2016 # for the inner shell
  plain env FASTLOCAL_LIBRARY="$MUSL/preload/libfastlocal.so" sh "$REPOSITORY/examples/docker/entrypoint.sh" sh -c 'echo "<$LD_PRELOAD>"' \
    >"$T/out" 2>"$T/err"
  assert_equal "$(cat "$T/out")" '<>'
  grep -q '^fastlocal is not used: ' "$T/err"
  # shellcheck disable=SC2016 # for the inner shell
  plain env FASTLOCAL_LIBRARY="$LIBRARY" sh "$REPOSITORY/examples/docker/entrypoint.sh" sh -c 'echo "<$LD_PRELOAD>"' >"$T/out" 2>"$T/err"
  assert_equal "$(cat "$T/out")" "<$LIBRARY>"
}
