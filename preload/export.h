/* SPDX-License-Identifier: MIT */
/* preload/export.h - marks the functions that stand in for libc's. Everything else is hidden. */
#pragma once

#define FL_EXPORT __attribute__((visibility("default")))

/* The second name that libc exports for a function of this file. */
#define FL_SECOND_NAME(name) \
  extern __typeof__(name) __##name __attribute__((alias(#name), visibility("default"), copy(name)))
