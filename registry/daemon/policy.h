/* SPDX-License-Identifier: MIT */
/*
 * registry/daemon/policy.h - who may pair with whom, and how much one client may use. From a file in libconfig's
 * syntax, which docs/registry.md describes.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct limits {     /* each for one user in one network namespace: a container, most often */
  uint32_t clients; /* processes */
  uint32_t waiting; /* questions without an answer */
  uint32_t pairs;   /* connections that are paired */
  uint64_t memory;  /* bytes of their rings */
  uint32_t rate;    /* messages in a second */
};

/* What the kernel says of a process. */
struct identity {
  uid_t uid;
  bool uid_known; /* the uid stands for one user */
  uint64_t netns; /* cookie of its network namespace */
  char *cgroup;   /* path, or NULL where it could not be read; owned by whoever owns this */
};

/* One end of a connection. Ports in host byte order. */
struct party {
  const struct identity *who;
  uint16_t local_port, remote_port;
};

struct policy;

/* The policy that holds without a file: processes of one user may pair. Never NULL. */
struct policy *policy_default(void);

/* Reads a file. NULL and a message with its name and line in err if it cannot be read or says anything wrong. */
struct policy *policy_load(const char *path, char *err, unsigned errsize);

void policy_free(struct policy *p);

const struct limits *policy_limits(const struct policy *p);

/* Where sequence numbers cannot be read: may addresses and counts be compared instead (compare.h)? */
bool policy_compares(const struct policy *p);

/* May these two share memory? */
bool policy_allows(const struct policy *p, const struct party *a, const struct party *b);
