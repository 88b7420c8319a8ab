/* SPDX-License-Identifier: MIT */
/* tools/host.h - asks fastlocald which processes are connected to it. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct host_process {
  pid_t pid; /* 0: in a pid namespace that the daemon does not see */
  uid_t uid;
  uint64_t netns;          /* cookie of its network namespace */
  uint32_t waiting, pairs; /* connections whose other end has not asked; that are paired */
  uint32_t asked, refused; /* questions so far */
  char *cgroup;            /* "" if the daemon does not know it; freed by host_free */
};

/* All of them, from the daemon's socket for metrics. 0 or -errno (-EBADMSG: what answers there is no fastlocald). */
int host_list(const char *socket, struct host_process **out, size_t *count);
void host_free(struct host_process *list, size_t count);
