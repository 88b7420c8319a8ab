/* SPDX-License-Identifier: MIT */
#include "go.h"

#include <elf.h>
#include <string.h>

#include "registry/sys.h"

/*
 * The head of the table, as Go 1.18 and later write it (src/debug/gosym/pclntab.go, runtime/symtab.go). `text` is an
 * address in memory: a position-independent program has relocated it. Behind `functions` lie pairs of 32-bit numbers,
 * the first of which is a function's start from `text` on, in ascending order, and one more at the end.
 */
struct table {
  uint32_t magic;
  uint8_t zero[2], quantum, pointer;
  uint64_t nfunctions, nfiles, text, names, units, files, counters, functions;
};
enum { MAGIC_118 = 0xfffffff0, MAGIC_120 = 0xfffffff1 };

#define SECTIONS 256u
#define NAMES 16384u

static bool section_named(const char *names, size_t size, uint32_t at, const char *wanted) {
  return at < size && strnlen(names + at, size - at) < size - at && strcmp(names + at, wanted) == 0;
}

static bool pread_all(int fd, void *to, size_t n, uint64_t at) {
  return fl_syscall6(__NR_pread64, fd, (long)to, (long)n, (long)at, 0, 0) == (long)n;
}

static bool table_fits(const struct fl_object *o) {
  struct table t;

  if (o->go_size < sizeof t)
    return false;
  memcpy(&t, o->go, sizeof t);
  return (t.magic == MAGIC_118 || t.magic == MAGIC_120) && t.quantum == 1 && t.pointer == 8 && t.text >= o->text &&
         t.text < o->text_end && t.nfunctions > 0 && t.functions < o->go_size &&
         t.nfunctions < (o->go_size - t.functions) / 8;
}

enum fl_go fl_object_go(struct fl_object *o, const char *file) {
  ElfW(Ehdr) head;
  enum fl_go r = FL_GO_NO;
  int fd = fl_sys_open(file, O_RDONLY | O_CLOEXEC);

  if (fd < 0)
    return FL_GO_UNKNOWN;
  size_t bytes = SECTIONS * sizeof(ElfW(Shdr)) + NAMES;
  ElfW(Shdr) *sections = fl_sys_map_private(bytes);
  if (!sections || !pread_all(fd, &head, sizeof head, 0)) {
    r = FL_GO_UNKNOWN;
    goto out;
  }
  if (head.e_shoff == 0 || head.e_shnum == 0 || head.e_shnum > SECTIONS || head.e_shentsize != sizeof *sections ||
      head.e_shstrndx >= head.e_shnum || !pread_all(fd, sections, head.e_shnum * sizeof *sections, head.e_shoff))
    goto out; /* no sections, no Go table: its code is then not known, and stays as it is */
  char *names = (char *)(sections + SECTIONS);
  size_t size = sections[head.e_shstrndx].sh_size < NAMES ? sections[head.e_shstrndx].sh_size : NAMES;
  if (!pread_all(fd, names, size, sections[head.e_shstrndx].sh_offset))
    goto out;
  for (unsigned i = 0; i < head.e_shnum; i++) {
    const ElfW(Shdr) *s = &sections[i];
    if (section_named(names, size, s->sh_name, ".go.buildinfo") && r == FL_GO_NO)
      r = FL_GO_UNKNOWN;
    if (!section_named(names, size, s->sh_name, ".gopclntab") &&
        !section_named(names, size, s->sh_name, ".data.rel.ro.gopclntab"))
      continue;
    r = FL_GO_UNKNOWN;
    if (o->bias + s->sh_addr < o->low || s->sh_size > o->high - (o->bias + s->sh_addr))
      continue;
    o->go = (const uint8_t *)(o->bias + s->sh_addr);
    o->go_size = s->sh_size;
    if (table_fits(o))
      r = FL_GO_YES;
    else
      o->go = NULL;
  }
out:
  if (sections)
    fl_sys_munmap(sections, bytes);
  fl_sys_close(fd);
  return r;
}

bool fl_go_function(const struct fl_object *o, uintptr_t pc, struct fl_function *f) {
  struct table t;
  uint32_t start, end;

  memcpy(&t, o->go, sizeof t);
  const uint8_t *pairs = o->go + t.functions;
  if (pc < t.text)
    return false;
  uint64_t low = 0, high = t.nfunctions; /* the pair at `high` exists too */
  while (high - low > 1) {
    uint64_t middle = low + (high - low) / 2;
    memcpy(&start, pairs + 8 * middle, 4);
    if (t.text + start <= pc)
      low = middle;
    else
      high = middle;
  }
  memcpy(&start, pairs + 8 * low, 4);
  memcpy(&end, pairs + 8 * low + 8, 4);
  *f = (struct fl_function){t.text + start, t.text + end, false, true};
  return f->start <= pc && pc < f->end && f->end <= o->text_end;
}
