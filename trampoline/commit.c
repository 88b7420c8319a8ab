/* SPDX-License-Identifier: MIT */
#include "commit.h"

#include <string.h>

#include "emit.h"
#include "registry/sys.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010u
#endif
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

#define PAGE 4096ul
#define REACH (1ul << 31)
#define MARGIN (1ul << 20)
#define LOWEST 0x10000ul

static uintptr_t page_of(uintptr_t at) { return at & ~(PAGE - 1); }
static uintptr_t page_up(uintptr_t at) { return (at + PAGE - 1) & ~(PAGE - 1); }

static int code_file(void) {
  int fd = fl_sys_memfd_create("fastlocal-code", MFD_CLOEXEC | MFD_EXEC);

  return fd == -EINVAL ? fl_sys_memfd_create("fastlocal-code", MFD_CLOEXEC) : fd; /* older than 6.3 */
}

static bool write_all(int fd, const void *from, size_t n, uint64_t at) {
  return fl_syscall6(__NR_pwrite64, fd, (long)from, (long)n, (long)at, 0, 0) == (long)n;
}

static long map_code(uintptr_t at, size_t n, int flags, int fd, uint64_t offset) {
  return fl_syscall6(__NR_mmap, (long)at, (long)n, PROT_READ | PROT_EXEC, MAP_PRIVATE | flags, fd, (long)offset);
}

/* ---- a gap in the address space ---- */

struct maps {
  int fd;
  char buf[4096];
  size_t n, at;
};

static int next_char(struct maps *m) {
  if (m->at == m->n) {
    ssize_t n = fl_sys_read(m->fd, m->buf, sizeof m->buf);
    if (n <= 0)
      return -1;
    m->n = (size_t)n;
    m->at = 0;
  }
  return (unsigned char)m->buf[m->at++];
}

static int hex(struct maps *m, uintptr_t *v) {
  int c;

  *v = 0;
  while ((c = next_char(m)) >= 0) {
    if (c >= '0' && c <= '9')
      *v = *v * 16 + (uintptr_t)(c - '0');
    else if (c >= 'a' && c <= 'f')
      *v = *v * 16 + (uintptr_t)(c - 'a' + 10);
    else
      break;
  }
  return c;
}

/*
 * The highest gap of n bytes below the object; else the lowest above it. Below: a heap grows upwards behind the main
 * program. Both ends of every distance stay within 2 GB.
 */
static uintptr_t gap(const struct fl_object *o, size_t n) {
  struct maps m = {.fd = fl_sys_open("/proc/self/maps", O_RDONLY | O_CLOEXEC)};
  uintptr_t low = o->high > REACH - MARGIN ? o->high - (REACH - MARGIN) : LOWEST, high = o->low + (REACH - MARGIN);
  uintptr_t before = low < LOWEST ? LOWEST : low, best = 0, start, end;

  if (m.fd < 0)
    return 0;
  for (;;) {
    bool last = hex(&m, &start) != '-' || hex(&m, &end) != ' ';
    if (last)
      start = end = UINTPTR_MAX;
    uintptr_t top = start < high ? start : high;
    if (top > before && top - before >= n + 2 * PAGE) {
      if (top <= o->low) {
        best = page_of(top - n) - PAGE;
      } else if (!best && before >= o->high) {
        best = page_up(before) + PAGE;
        break;
      }
    }
    if (last || start >= high || (best && start >= o->low))
      break;
    if (end > before)
      before = end;
    int c;
    while ((c = next_char(&m)) >= 0 && c != '\n') {
    }
  }
  fl_sys_close(m.fd);
  return best;
}

/* ---- changes ---- */

bool fl_commit_bytes(uintptr_t at, const uint8_t *bytes, size_t n) {
  uintptr_t page = page_of(at);
  int fd = code_file();

  if (fd < 0)
    return false;
  bool ok = at + n <= page + PAGE && write_all(fd, (const void *)page, PAGE, 0) && write_all(fd, bytes, n, at - page) &&
            map_code(page, PAGE, MAP_FIXED, fd, 0) == (long)page;
  fl_sys_close(fd);
  return ok;
}

uintptr_t fl_commit_near(const struct fl_object *o, const uint8_t *code, size_t n) {
  uintptr_t at = gap(o, PAGE);
  int fd = at ? code_file() : -1;

  if (fd < 0)
    return 0;
  bool ok = n <= PAGE && fl_sys_ftruncate(fd, PAGE) == 0 && write_all(fd, code, n, 0) &&
            map_code(at, PAGE, MAP_FIXED_NOREPLACE, fd, 0) == (long)at;
  fl_sys_close(fd);
  return ok ? at : 0;
}

/* The stubs that will stand at `area`, into `to`. Fills in where each is. */
static bool write_stubs(const struct fl_object *o, const struct fl_plan *p, uint8_t *to, uintptr_t area, size_t room,
                        uint32_t *stub) {
  size_t used = 0;

  for (uint32_t i = 0; i < p->n; i++) {
    if (p->sites[i].refusal != FL_SITE_OK)
      continue;
    used = (used + 15) & ~15ul;
    size_t n = used + FL_STUB_MAX <= room ? fl_emit_stub(to + used, area + used, o, &p->sites[i]) : 0;
    if (n == 0 || n > FL_STUB_MAX)
      return false;
    stub[i] = (uint32_t)used;
    used += n;
  }
  return true;
}

/* A copy of a page, changed. */
static bool write_page(const struct fl_object *o, const struct fl_plan *p, uint8_t *copy, uintptr_t page,
                       uintptr_t area, const uint32_t *stub) {
  uint8_t jump[FL_SITE_BYTES];

  memcpy(copy, (const void *)page, PAGE);
  for (uint32_t i = 0; i < p->n; i++) {
    const struct fl_site *s = &p->sites[i];
    uintptr_t at = o->text + s->at;
    if (s->refusal != FL_SITE_OK || at + s->len <= page || at >= page + PAGE)
      continue;
    if (!fl_emit_jump(jump, o, s, area + stub[i]))
      return false;
    for (unsigned k = 0; k < s->len; k++)
      if (at + k >= page && at + k < page + PAGE)
        copy[at + k - page] = jump[k];
  }
  return true;
}

/* A page changes if a site that is to be patched has a byte in it. Sites are in order. */
static uintptr_t next_page(const struct fl_object *o, const struct fl_plan *p, uintptr_t from) {
  for (uint32_t i = 0; i < p->n; i++) {
    const struct fl_site *s = &p->sites[i];
    uintptr_t first = page_of(o->text + s->at), last = page_of(o->text + s->at + s->len - 1);
    if (s->refusal != FL_SITE_OK || last < from)
      continue;
    return first < from ? from : first;
  }
  return 0;
}

/* What goes into the process, and where the stubs are to be. */
struct change {
  const struct fl_object *o;
  const struct fl_plan *p;
  uint32_t *stub; /* offset of each site's in the area */
  uintptr_t area;
  size_t room;
};

/* The pages that change, behind each other, over the old ones. */
static bool map_pages(const struct change *c, int fd, size_t all, uint32_t *patched) {
  long at = fl_syscall6(__NR_mmap, 0, (long)all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  uint8_t *file = (uint8_t *)at, *to = file + c->room;
  uintptr_t page;
  bool ok = true;

  if ((unsigned long)at > -4096ul)
    return false;
  for (page = 0; ok && (page = next_page(c->o, c->p, page)) != 0; page += PAGE, to += PAGE)
    ok = write_page(c->o, c->p, to, page, c->area, c->stub);
  fl_sys_munmap(file, all);

  uint64_t offset = c->room;
  for (page = 0; ok && (page = next_page(c->o, c->p, page)) != 0;) {
    uintptr_t first = page;
    size_t run = 0;
    do { /* neighbours in one mapping */
      run += PAGE;
      page += PAGE;
    } while (next_page(c->o, c->p, page) == page);
    ok = map_code(first, run, MAP_FIXED, fd, offset) == (long)first;
    *patched += ok;
    offset += run;
  }
  return ok;
}

/* As a debugger sets its breakpoints. Refused by some sandboxes, and to processes that may not be traced. */
static bool write_sites(const struct change *c, uint32_t *patched) {
  int fd = fl_sys_open("/proc/self/mem", O_RDWR | O_CLOEXEC);
  uint8_t jump[FL_SITE_BYTES];
  bool ok = fd >= 0;

  for (uint32_t i = 0; ok && i < c->p->n; i++) {
    const struct fl_site *s = &c->p->sites[i];
    if (s->refusal != FL_SITE_OK)
      continue;
    uintptr_t at = c->o->text + s->at;
    ok = fl_emit_jump(jump, c->o, s, c->area + c->stub[i]) && write_all(fd, jump, s->len, at);
    *patched += ok;
  }
  if (fd >= 0)
    fl_sys_close(fd);
  fl_emit_settle();
  return ok;
}

bool fl_commit(const struct fl_object *o, const struct fl_plan *p, bool running, uint32_t *patched) {
  struct change c = {.o = o, .p = p};
  uint32_t n = 0;

  *patched = 0;
  for (uint32_t i = 0; i < p->n; i++)
    n += p->sites[i].refusal == FL_SITE_OK;
  if (n == 0)
    return true;

  size_t bytes = page_up(p->n * sizeof(uint32_t)), all;
  c.room = all = page_up(n * (FL_STUB_MAX + 16ul));
  for (uintptr_t page = 0; (page = next_page(o, p, page)) != 0; page += PAGE)
    all += PAGE;
  c.stub = fl_sys_map_private(bytes);
  uint8_t *stubs = fl_sys_map_private(c.room);
  c.area = c.stub && stubs ? gap(o, c.room) : 0;
  int fd = c.area ? code_file() : -1;
  bool ok = fd >= 0 && fl_sys_ftruncate(fd, all) == 0 && write_stubs(o, p, stubs, c.area, c.room, c.stub) &&
            write_all(fd, stubs, c.room, 0);

  /* from here on the process changes */
  ok = ok && map_code(c.area, c.room, MAP_FIXED_NOREPLACE, fd, 0) == (long)c.area;
  if (ok && (running || !write_sites(&c, patched)))
    ok = *patched == 0 && map_pages(&c, fd, all, patched);
  if (fd >= 0)
    fl_sys_close(fd);
  if (stubs)
    fl_sys_munmap(stubs, c.room);
  if (c.stub)
    fl_sys_munmap(c.stub, bytes);
  if (ok)
    *patched = n;
  return ok;
}
