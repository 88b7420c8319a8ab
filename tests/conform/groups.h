/* SPDX-License-Identifier: MIT */
/* tests/conform/groups.h - the groups of cases, each in the file that its name begins like. */
#pragma once

#include "conform.h"

extern const struct group receive_group, receive_later_group;
