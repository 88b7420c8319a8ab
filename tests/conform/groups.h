/* SPDX-License-Identifier: MIT */
/* tests/conform/groups.h - the groups of cases, each in the file that its name begins like. */
#pragma once

#include "conform.h"

extern const struct group receive_group, receive_later_group, receive_again_group;
extern const struct group send_group, full_group;
extern const struct group option_group, nonblock_group, effect_group;
extern const struct group ending_group;
extern const struct group ready_group, ready_later_group;
extern const struct group change_group;
extern const struct group parts_group, early_group, nested_group, shared_set_group, several_sets_group;
extern const struct group together_group, closed_under_group, senders_group, never_blocks_group, dispatcher_group;
extern const struct group killed_group, timing_group;
extern const struct group urgent_group;
extern const struct group address_group, descriptor_group, pointer_group, arrays_group, zerocopy_group;
extern const struct group process_group;
extern const struct group interrupted_group, masked_group, canceled_group;
