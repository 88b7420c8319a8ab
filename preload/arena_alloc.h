/* SPDX-License-Identifier: MIT */
/* preload/arena_alloc.h - slots of the arena. A chunk of slots belongs to one process of the fork family, which alone
 * hands them out; any process may give one back. */
#pragma once

#include "arena.h"

bool fl_arena_alloc_init(struct fl_arena *a);
void fl_arena_alloc_forked_child(void); /* the chunks are the parent's */

/* A fresh connection that this process holds, or NULL. What only paired connections use is not cleared. [any thread] */
struct fl_conn *fl_arena_alloc(void);
void fl_arena_free(struct fl_conn *c);

/* Refreshes the pid in a child of fork. */
void fl_arena_forked_child(void);

/* Did some process of the family wait in an epoll set that it inherited? And: this one does. */
bool fl_arena_sets_shared(void);
void fl_arena_share_sets(void);

/* What the family knows of the service at this port; some ports share it. */
_Atomic uint8_t *fl_arena_learnt(uint16_t port);

struct fl_conn *fl_arena_conn(uint32_t i);
uint32_t fl_arena_index(const struct fl_conn *c);
uint32_t fl_arena_high(void); /* indices at or above it were never used */
