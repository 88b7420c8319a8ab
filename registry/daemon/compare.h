/* SPDX-License-Identifier: MIT */
/*
 * registry/daemon/compare.h - the makeshift where sequence numbers cannot be read (prove.h) and the policy allows it:
 * two sockets are taken for the two ends of one connection if
 *
 *   - their addresses and ports are exactly the reverse of each other, so nothing rewrites them on the way,
 *   - they belong to different network namespaces, by the kernel's cookies,
 *   - at one moment each has sent, in bytes and in segments with data, what the other has received, and that is not
 * nothing,
 *   - and each scales its window as the other believes.
 *
 * That is no proof. Two connections in namespaces that know nothing of each other, with the same addresses and ports,
 * whose traffic was the same to the byte up to that moment, and of each of which one end only has the library, are
 * taken for one. Whoever has such (the same addresses used again and again on one host) should not allow it.
 *
 * Both sockets have to be at hand at that moment, so the first is kept for COMPARE_HOLD_NS at most. If its process
 * closes it meanwhile, its peer learns of that so much later.
 */
#pragma once

#include <stdbool.h>

#include "prove.h"
#include "registry/embedded.h"

#define COMPARE_HOLD_NS 200000000u
#define COMPARE_AGAIN_MS 5 /* while bytes are under way the counts differ */

/* Two numbers that take the place of the proof in the tables: of sockets with reversed addresses they match. */
struct proof compare_proof(const struct fl_tuple *t);

/* Are a and b, whose tuples are given, such a pair now? */
bool compare_equal(int a, const struct fl_tuple *ta, int b, const struct fl_tuple *tb);
