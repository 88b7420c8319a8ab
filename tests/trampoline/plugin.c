/* SPDX-License-Identifier: MIT */
/* tests/trampoline/plugin.c - a shared object that makes its own system calls; loaded with dlopen or dlmopen. */
#include "raw_calls.h"

long plugin_call(long nr, long a, long b, long c, long d, long e, long f);

long plugin_call(long nr, long a, long b, long c, long d, long e, long f) { return raw_call(nr, a, b, c, d, e, f); }
