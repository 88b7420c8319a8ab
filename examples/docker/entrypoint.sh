#!/bin/sh
# SPDX-License-Identifier: MIT
# Entrypoint of a container: runs the given command with the library if it loads here, and as it is otherwise (another
# libc, another architecture, a file that is missing, a FASTLOCAL_ variable with a bad value).
library=${FASTLOCAL_LIBRARY:-/usr/local/lib/libfastlocal.so}

# The loader and the library complain on standard error; a program that needs neither network nor files says nothing.
if complaint=$(LD_PRELOAD=$library /bin/true 2>&1) && [ -z "$complaint" ]; then
  export LD_PRELOAD="$library${LD_PRELOAD:+:$LD_PRELOAD}"
else
  echo "fastlocal is not used: ${complaint:-$library does not load}" >&2
fi
exec "$@"
