/* SPDX-License-Identifier: MIT */
/* tools/sockets.c - see sockets.h. */
#include "sockets.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct entry {
  uint64_t inode;
  struct inspect_address local, remote;
};

/* One namespace's sockets, sorted by inode. */
static struct {
  dev_t dev;
  ino_t ino; /* of /proc/PID/ns/net; 0: nothing is loaded */
  struct entry *entries;
  size_t count, room;
} table;

/* "0100007F:1F90", or 32 digits for IPv6: 32-bit words as the machine stores them. */
static bool parse_address(const char *text, struct inspect_address *out) {
  const char *colon = strchr(text, ':');
  uint32_t words[4] = {0, 0, htonl(0xffff), 0};
  size_t n = colon ? (size_t)(colon - text) / 8 : 0;

  if (n != 1 && n != 4)
    return false;
  for (size_t i = 0; i < n; i++) {
    uint32_t *word = &words[n == 1 ? 3 : i];

    if (sscanf(text + i * 8, "%8" SCNx32, word) != 1)
      return false;
  }
  memcpy(&out->addr, words, sizeof(words));
  return sscanf(colon + 1, "%4" SCNx16, &out->port) == 1;
}

static void add_line(const char *line) {
  char local[64], remote[64];
  struct entry e;

  if (sscanf(line, " %*d: %63s %63s %*s %*s %*s %*s %*s %*s %" SCNu64, local, remote, &e.inode) != 3 || e.inode == 0)
    return;
  if (!parse_address(local, &e.local) || !parse_address(remote, &e.remote) || e.remote.port == 0)
    return; /* without a remote port it listens */
  if (table.count == table.room) {
    size_t more = table.room ? table.room * 2 : 64;
    struct entry *bigger = reallocarray(table.entries, more, sizeof(*bigger));

    if (!bigger)
      return;
    table.entries = bigger;
    table.room = more;
  }
  table.entries[table.count++] = e;
}

static int by_inode(const void *a, const void *b) {
  uint64_t x = ((const struct entry *)a)->inode, y = ((const struct entry *)b)->inode;

  return (x > y) - (x < y);
}

static void load(pid_t pid) {
  static const char *const names[] = {"tcp", "tcp6"};
  char path[64], *line = NULL;
  size_t size = 0;

  table.count = 0;
  for (int i = 0; i < 2; i++) {
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/net/%s", (int)pid, names[i]);
    f = fopen(path, "re");
    while (f && getline(&line, &size, f) >= 0)
      add_line(line);
    if (f)
      fclose(f);
  }
  free(line);
  if (table.count > 0)
    qsort(table.entries, table.count, sizeof(table.entries[0]), by_inode);
}

bool sockets_lookup(pid_t pid, int fd, struct inspect_address *local, struct inspect_address *remote) {
  char path[64], target[64];
  struct entry key = {0};
  const struct entry *found;
  struct stat ns;
  ssize_t n;

  snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, fd);
  n = readlink(path, target, sizeof(target) - 1);
  if (n <= 0)
    return false;
  target[n] = '\0';
  if (sscanf(target, "socket:[%" SCNu64 "]", &key.inode) != 1)
    return false;

  snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
  if (stat(path, &ns) != 0)
    return false;
  if (ns.st_ino != table.ino || ns.st_dev != table.dev) {
    load(pid);
    table.ino = ns.st_ino;
    table.dev = ns.st_dev;
  }
  if (table.count == 0)
    return false;
  found = bsearch(&key, table.entries, table.count, sizeof(key), by_inode);
  if (!found)
    return false;
  *local = found->local;
  *remote = found->remote;
  return true;
}
