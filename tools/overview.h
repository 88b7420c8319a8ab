/* SPDX-License-Identifier: MIT */
/*
 * tools/overview.h - one row for each process with the library, in all containers of the host: what it holds and has
 * moved, from its own memory where this user may read that, and what fastlocald knows of it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#define CONTAINER_MAX 40

struct overview_row {
  pid_t pid;
  char name[64];
  char container[CONTAINER_MAX]; /* see container_name */
  bool readable;                 /* the following three are known */
  size_t connections, paired;
  uint64_t ring_bytes, tcp_bytes; /* both directions, of the connections that it has now */
  bool registered;                /* fastlocald knows it, and the following three are known */
  uint32_t waiting, pairs, refused;
};

struct overview {
  struct overview_row *rows; /* by pid; those of pid 0, which cannot be seen from here, first */
  size_t count;
  int daemon; /* 0, or the -errno with which it could not be asked */
};

/* `socket`: the daemon's for metrics. False: no memory, or no /proc. */
bool overview_collect(const char *socket, struct overview *out);
void overview_free(struct overview *o);

/* Says on standard error if the daemon could not be asked. */
void overview_explain(const char *command, const char *socket, const struct overview *o);

/*
 * What people call a container, from the path of a cgroup: the first 12 of the 64 hexadecimal digits that Docker,
 * containerd, CRI-O and podman put there; of another path the last part; "-" for the root.
 */
void container_name(const char *cgroup, char out[CONTAINER_MAX]);

/* The same of a process of this host; "-" if it cannot be read. */
void container_of(pid_t pid, char out[CONTAINER_MAX]);
