/* SPDX-License-Identifier: MIT */
/* preload/export.h - marks the functions that stand in for libc's. Everything else is hidden. */
#pragma once

#define FL_EXPORT __attribute__((visibility("default")))
