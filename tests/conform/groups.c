/* SPDX-License-Identifier: MIT */
/* tests/conform/groups.c - all groups of cases, and all exceptions. */
#include "groups.h"

const struct group *const groups[] = {
    &receive_group,
    &receive_later_group,
};
const unsigned group_count = sizeof groups / sizeof groups[0];

const struct exception exceptions[] = {
    {"buffer-size", "How much fits before a send would block",
     "Up to a ring (256 KB by default) is buffered in addition to the socket's own buffers. TCP promises no number "
     "here: the "
     "kernel's own depends on its version, memory and the moment."},
};
const unsigned exception_count = sizeof exceptions / sizeof exceptions[0];
