/* SPDX-License-Identifier: MIT */
/*
 * preload/arena.h - the memory that holds a fork family's connections, as the library lays it out and the `fastlocal`
 * command reads it.
 *
 * One MAP_SHARED mapping of a memfd, whose descriptor is closed once it is mapped; it is found from outside by its name
 * in /proc/PID/maps. Children of a fork inherit it at the same address. conn.c owns it; nobody else writes to it.
 *
 *     0            struct fl_arena
 *     conn_offset  struct fl_conn [conn_count], FL_CONN_CHUNK of them at a time belonging to one process
 *
 * A program that was started with another version of the library may have another layout: the reader compares version
 * and conn_size before it believes anything else. Any change to struct fl_conn that keeps its size needs a new
 * FL_ARENA_VERSION.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "conn.h"

#define FL_ARENA_NAME "fastlocal-arena" /* of memfd_create; /proc/PID/maps shows "/memfd:fastlocal-arena (deleted)" */
#define FL_ARENA_MAGIC 0x31616e6572616c66ull /* "flarena1" */
#define FL_ARENA_VERSION 3u
#define FL_CONN_CHUNKS (FL_CONNS / FL_CONN_CHUNK)
#define FL_LEARNT 256u

struct fl_arena {
  uint64_t magic; /* written last by the one that makes the arena */
  uint32_t version;
  uint32_t conn_size;   /* sizeof(struct fl_conn) */
  uint64_t conn_offset; /* bytes from the start of the mapping */
  uint32_t conn_count;
  _Atomic uint32_t sets_shared;          /* some process waited in an epoll set that it inherited */
  _Atomic uint32_t used_high;            /* connections with an index at or above it were never used; only grows */
  _Atomic int32_t owner[FL_CONN_CHUNKS]; /* pid that allocates from this chunk, 0 nobody */
  _Atomic uint8_t learnt[FL_LEARNT];     /* by port: learn.c */
};

#define FL_ARENA_CONN_OFFSET (((uint64_t)sizeof(struct fl_arena) + 4095u) & ~(uint64_t)4095u)
#define FL_ARENA_BYTES (FL_ARENA_CONN_OFFSET + (uint64_t)FL_CONNS * sizeof(struct fl_conn))

_Static_assert(FL_CONNS % FL_CONN_CHUNK == 0, "whole chunks");
_Static_assert(_Alignof(struct fl_conn) <= 4096, "the connections are aligned by the page");
