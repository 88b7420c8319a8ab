# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# Runs once before all files. Settles which library is under test, and copies it and the fixtures to a place that every
# user of the tests (postgres, nobody) can read, and that a rebuild during the run does not change.
#
#   FASTLOCAL_TEST_LIBRARY  path of libfastlocal.so; "none" for plain TCP; default: the one in build/, if it is there
#   FASTLOCAL_TEST_TOOL     path of the `fastlocal` command; default: the one in build/, if it is there
#   FASTLOCAL_TEST_SHARES   "report" prints the rings' share of the bytes instead of demanding it (default "assert")
#   FASTLOCAL_TEST_OPTIONS  NAME=VALUE..., for all programs that have the library, before those that a test sets itself
#   FASTLOCAL_TEST_SCALE    multiplies the amount of work of most tests (default 1)

setup_suite() {
  local root name
  root=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
  local library=${FASTLOCAL_TEST_LIBRARY:-$root/build/preload/libfastlocal.so}
  local tool=${FASTLOCAL_TEST_TOOL:-$root/build/tools/fastlocal}
  local registry=$root/build/registry/fastlocald
  export SCALE=${FASTLOCAL_TEST_SCALE:-1} SHARES=${FASTLOCAL_TEST_SHARES:-assert} REPOSITORY=$root
  export COMMON_OPTIONS=${FASTLOCAL_TEST_OPTIONS:-}

  # What the caller has in the environment is not to reach the programs under test.
  unset LD_PRELOAD
  for name in "${!FASTLOCAL_@}"; do unset "$name"; done
  unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY all_proxy ALL_PROXY
  export no_proxy='*' LC_ALL=C.UTF-8

  chmod a+x "$BATS_RUN_TMPDIR" "$BATS_SUITE_TMPDIR"
  export FIXTURES=$BATS_SUITE_TMPDIR/fixtures LIBRARY='' TOOL='' REGISTRY=''
  cp -r "$BATS_TEST_DIRNAME/fixtures" "$FIXTURES"
  chmod -R a+rX "$FIXTURES"

  # The tool and the library keep their places relative to each other, as in the build directory.
  if [[ $library != none && -e $library ]]; then
    LIBRARY=$BATS_SUITE_TMPDIR/build/preload/libfastlocal.so
    install -D -m 755 "$library" "$LIBRARY"
    if [[ -x $tool ]]; then
      TOOL=$BATS_SUITE_TMPDIR/build/tools/fastlocal
      install -D -m 755 "$tool" "$TOOL"
    fi
    if [[ -x $registry ]]; then
      REGISTRY=$BATS_SUITE_TMPDIR/build/registry/fastlocald
      install -D -m 755 "$registry" "$REGISTRY"
    fi
    echo "# library under test: $library" >&3
  elif [[ $library != none && -n ${FASTLOCAL_TEST_LIBRARY:-} ]]; then
    echo "no such library: $library" >&2
    return 1
  else
    echo "# no library: everything runs on plain TCP" >&3
  fi

  # A Python that is a program, not a shell wrapper such as pyenv's.
  PYTHON=/usr/bin/python3
  [[ -x $PYTHON ]] || PYTHON=$(command -v python3)
  export PYTHON
}
