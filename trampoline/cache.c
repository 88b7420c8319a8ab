/* SPDX-License-Identifier: MIT */
#include "cache.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "registry/sys.h"

#define MAGIC 0x31706d6172746c66ull /* "fltramp1" */

struct head {
  uint64_t magic;
  uint32_t version, site_bytes;
  uint64_t text, text_bytes; /* the segment, as the file has it */
  uint32_t how, pairs, n, build_id_len;
  uint8_t build_id[FL_BUILD_ID_MAX];
};
#define VERSION 6u /* of the method as well: what an older one would have judged otherwise is made again */

static const char *environment(const char *name) {
  size_t n = strlen(name);

  for (char **e = environ; e && *e; e++)
    if (strncmp(*e, name, n) == 0 && (*e)[n] == '=')
      return *e + n + 1;
  return NULL;
}

const char *fl_cache_directory(char *buf, size_t size) {
  const char *dir = environment("XDG_CACHE_HOME"), *home = environment("HOME");
  int n;

  if (dir && dir[0] == '/')
    n = snprintf(buf, size, "%s/fastlocal", dir);
  else if (home && home[0] == '/' && home[1])
    n = snprintf(buf, size, "%s/.cache/fastlocal", home);
  else if (fl_syscall6(__NR_geteuid, 0, 0, 0, 0, 0, 0) == 0)
    n = snprintf(buf, size, "/var/cache/fastlocal");
  else
    return NULL;
  return n > 0 && (size_t)n < size ? buf : NULL;
}

static void describe(struct head *h, const struct fl_object *o, enum fl_cached how) {
  memset(h, 0, sizeof *h);
  h->magic = MAGIC;
  h->version = VERSION;
  h->site_bytes = sizeof(struct fl_site);
  h->text = o->text - o->bias;
  h->text_bytes = o->text_end - o->text;
  h->how = how;
  h->build_id_len = o->build_id_len;
  memcpy(h->build_id, o->build_id, o->build_id_len);
}

static bool name_of(char *buf, size_t size, const struct fl_object *o, enum fl_cached how) {
  static const char digits[] = "0123456789abcdef";

  if (!o->build_id_len || size < 2u * o->build_id_len + 3)
    return false;
  for (unsigned i = 0; i < o->build_id_len; i++) {
    *buf++ = digits[o->build_id[i] >> 4];
    *buf++ = digits[o->build_id[i] & 15];
  }
  *buf++ = "pcn"[how];
  *buf = '\0';
  return true;
}

/* A directory or file of this user's alone. */
static bool own(int fd, mode_t type, mode_t others) {
  struct stat st;

  return fl_syscall6(__NR_fstat, fd, (long)&st, 0, 0, 0, 0) == 0 && (st.st_mode & S_IFMT) == type &&
         st.st_uid == (uid_t)fl_syscall6(__NR_geteuid, 0, 0, 0, 0, 0, 0) && (st.st_mode & others) == 0;
}

static int open_directory(const char *path) {
  int fd = fl_sys_open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

  if (fd >= 0 && !own(fd, S_IFDIR, 077)) {
    fl_sys_close(fd);
    return -EPERM;
  }
  return fd;
}

bool fl_cache_read(const char *directory, const struct fl_object *o, struct fl_plan *p, enum fl_cached how) {
  char name[2 * FL_BUILD_ID_MAX + 4];
  struct head h, want;
  bool ok = false;
  int dir = name_of(name, sizeof name, o, how) ? open_directory(directory) : -1;

  if (dir < 0)
    return false;
  int fd = (int)fl_syscall6(__NR_openat, dir, (long)name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0, 0, 0);
  fl_sys_close(dir);
  if (fd < 0)
    return false;
  describe(&want, o, how);
  if (own(fd, S_IFREG, 022) && fl_sys_read(fd, &h, sizeof h) == (ssize_t)sizeof h) {
    want.n = h.n;
    want.pairs = h.pairs;
    ok = memcmp(&h, &want, sizeof h) == 0 && h.n <= p->room &&
         fl_sys_read(fd, p->sites, h.n * sizeof *p->sites) == (ssize_t)(h.n * sizeof *p->sites);
  }
  fl_sys_close(fd);
  p->n = ok ? h.n : 0;
  p->pairs = ok ? h.pairs : 0;
  return ok && fl_plan_fits(p, o);
}

void fl_cache_write(const char *directory, const struct fl_object *o, const struct fl_plan *p, enum fl_cached how) {
  char name[2 * FL_BUILD_ID_MAX + 4], temporary[2 * FL_BUILD_ID_MAX + 32], parent[512];
  struct head h;

  if (!name_of(name, sizeof name, o, how))
    return;
  int dir = open_directory(directory);
  if (dir == -ENOENT) {
    /* ~/.cache itself, where it is missing; nothing above it */
    const char *slash = strrchr(directory, '/');
    if (slash && slash > directory && (size_t)(slash - directory) < sizeof parent) {
      memcpy(parent, directory, (size_t)(slash - directory));
      parent[slash - directory] = '\0';
      fl_syscall6(__NR_mkdir, (long)parent, 0700, 0, 0, 0, 0);
    }
    fl_syscall6(__NR_mkdir, (long)directory, 0700, 0, 0, 0, 0);
    dir = open_directory(directory);
  }
  if (dir < 0)
    return;
  describe(&h, o, how);
  h.n = p->n;
  h.pairs = p->pairs;
  /* complete or not there: another process may read it at any time */
  snprintf(temporary, sizeof temporary, "%s.%d", name, fl_sys_getpid());
  int fd = (int)fl_syscall6(__NR_openat, dir, (long)temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                            0600, 0, 0);
  if (fd >= 0) {
    bool ok = fl_sys_file_fits(sizeof h + p->n * sizeof *p->sites) &&
              fl_sys_write(fd, &h, sizeof h) == (ssize_t)sizeof h &&
              fl_sys_write(fd, p->sites, p->n * sizeof *p->sites) == (ssize_t)(p->n * sizeof *p->sites);
    fl_sys_close(fd);
    if (!ok || fl_syscall6(__NR_renameat, dir, (long)temporary, dir, (long)name, 0, 0) != 0)
      fl_syscall6(__NR_unlinkat, dir, (long)temporary, 0, 0, 0, 0);
  }
  fl_sys_close(dir);
}
