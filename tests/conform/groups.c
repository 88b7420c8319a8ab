/* SPDX-License-Identifier: MIT */
/* tests/conform/groups.c - all groups of cases, and all exceptions. */
#include "groups.h"

const struct group *const groups[] = {
    &receive_group,      &receive_later_group, &receive_again_group, &send_group,        &full_group,
    &option_group,       &nonblock_group,      &effect_group,        &ending_group,      &ready_group,
    &ready_later_group,  &parts_group,         &early_group,         &nested_group,      &shared_set_group,
    &several_sets_group, &together_group,      &closed_under_group,  &senders_group,     &never_blocks_group,
    &dispatcher_group,   &killed_group,        &timing_group,        &interrupted_group, &masked_group,
    &canceled_group,     &urgent_group,        &address_group,       &descriptor_group,  &pointer_group,
    &arrays_group,       &zerocopy_group,      &change_group,        &process_group,
};
const unsigned group_count = sizeof groups / sizeof groups[0];

const struct exception exceptions[] = {
    {"buffer-size", "How much fits before a send would block",
     "Up to a ring (4 MB by default) is buffered in addition to the socket's own buffers. TCP promises no number "
     "here: the "
     "kernel's own depends on its version, memory and the moment."},
    {"epoll-lag", "What else epoll_wait reports beside bytes in a ring",
     "When rings have bytes, epoll_wait asks the kernel for everything else (other descriptors, EPOLLOUT, a reset) in "
     "each "
     "16th call, and when 20 us have gone by, or twice that if registrations were changed since. So it may report that "
     "a call or two later than the kernel alone would. "
     "The cases "
     "let 60 us go by before each call."},
    {"killed-unread", "When the reset of a process shows that was killed with bytes unread",
     "TCP answers for a killed process (SIGKILL, abort) that had not read everything with a reset. If what it had not "
     "read lies "
     "in a ring, the kernel sees nothing unread and says that the stream has ended; the library then reports "
     "ECONNRESET from the "
     "first receive, or at the second send. So poll may say POLLIN where it would have said POLLERR and POLLHUP as "
     "well. "
     "A process that exits in any other way resets as on TCP."},
    {"one-edge-more", "Edges of a set that is put into another one while bytes lie in its rings",
     "An edge-triggered registration may be reported once more than by the kernel alone. Programs see the same where "
     "the bytes came in two pieces."},
    {"beyond-the-table", "select with numbers that never were open",
     "The kernel says EBADF for a closed descriptor in a set, but passes over numbers for which a process's table has "
     "no "
     "room yet. The library's own descriptors, near 1000, let the table grow."},
    {"recvmmsg-later", "The error of a recvmmsg that got some messages",
     "Linux keeps the error that ended it, a bad address say, for the next call. The library forgets it."},
    {"tcp-info", "Counters of TCP_INFO",
     "They count what TCP carried: bytes that went through a ring are not among them."},
    {"the-kernels-own", "TCP_MAXSEG, TCP_QUICKACK, SO_INCOMING_CPU",
     "What the kernel says of segments, acknowledgements and processors changes from moment to moment on plain TCP as "
     "well."},
};
const unsigned exception_count = sizeof exceptions / sizeof exceptions[0];
