/* SPDX-License-Identifier: MIT */
/*
 * tools/inspect.h - reads the connections of another process out of its memory.
 *
 * The library keeps its connections in a shared mapping (preload/arena.h), which /proc/PID/maps shows by name. It is
 * read with process_vm_readv, or through /proc/PID/mem where that is not allowed; both need what ptrace needs: the same
 * user, or CAP_SYS_PTRACE. The process is never stopped, and nothing is written to it.
 *
 * Nothing that comes from there is believed: sizes and indices are checked, texts come from our own tables, and a state
 * that does not exist is reported as unknown.
 */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct inspect_address {
  struct in6_addr addr; /* IPv4: v4-mapped */
  uint16_t port;        /* host byte order; 0: not known */
};

struct inspect_count {
  uint64_t bytes, messages;
};

/* One direction. */
struct inspect_lane {
  const char *state; /* "watching", "bell", "native", "broken", "-" (no ring), "?" (not readable, or nonsense) */
  uint64_t queued;   /* bytes in the ring that the receiver has not published as taken */
  struct inspect_count ring, kernel;
};

struct inspect_conn {
  pid_t pid;
  int fd; /* a hint; -1: not known */
  struct inspect_address local, remote;
  const char *phase;  /* "young", "seeking", "paired", "tcp" or "?" */
  const char *why;    /* why bytes travel by TCP; "" if they need not */
  unsigned reason;    /* the same as enum fl_reason; a number that is not one: not known */
  bool usable;        /* paired, not pinned, one holder: the rings may be used */
  uint32_t ring_size; /* 0: not paired */
  struct inspect_lane tx, rx;
};

enum inspect_result {
  INSPECT_OK,      /* the library is there; it may have no connection */
  INSPECT_NONE,    /* the process does not use the library */
  INSPECT_FOREIGN, /* it uses another version of the library */
  INSPECT_DENIED,  /* not ours to read */
  INSPECT_GONE,    /* no such process (any more) */
};

/* The connections of which a process holds a descriptor. `conns` is the caller's to free, whatever was found. */
struct inspect_process {
  pid_t pid;
  char name[64]; /* /proc/PID/comm; printable ASCII */
  struct inspect_conn *conns;
  size_t count;
};

enum inspect_result inspect_process(pid_t pid, struct inspect_process *out);

/* What stands for a reason in `why`. */
const char *inspect_reason(unsigned reason);
