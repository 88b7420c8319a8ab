/* SPDX-License-Identifier: MIT */
#include "object.h"

#include <elf.h>
#include <string.h>

#include "go.h"

/* DWARF's pointer encodings, as far as linkers on Linux use them for these tables (LSB core, 10.5). */
enum { PE_SDATA4 = 0x0b, PE_UDATA4 = 0x03, PE_PCREL = 0x10, PE_DATAREL = 0x30, PE_OMIT = 0xff };

#define NT_GO_BUILD_ID 4 /* cmd/link */

static void notes(struct fl_object *o, const uint8_t *at, size_t size, size_t align) {
  align = align == 8 ? 8 : 4;
  while (size >= sizeof(ElfW(Nhdr))) {
    const ElfW(Nhdr) *n = (const ElfW(Nhdr) *)at;
    size_t name = (n->n_namesz + 3u) & ~3ul, head = (sizeof *n + name + align - 1) & ~(align - 1);
    size_t all = (head + n->n_descsz + align - 1) & ~(align - 1);
    if (n->n_namesz > size || n->n_descsz > size || head + n->n_descsz > size)
      return;
    bool gnu = n->n_type == NT_GNU_BUILD_ID && n->n_namesz == 4 && memcmp(at + sizeof *n, "GNU", 4) == 0;
    bool go = n->n_type == NT_GO_BUILD_ID && n->n_namesz == 4 && memcmp(at + sizeof *n, "Go\0", 4) == 0;
    if ((gnu || go) && n->n_descsz <= FL_BUILD_ID_MAX) {
      memcpy(o->build_id, at + head, n->n_descsz);
      o->build_id_len = n->n_descsz;
      return;
    }
    if (all > size)
      return;
    at += all;
    size -= all;
  }
}

bool fl_object_of(struct fl_object *o, const struct dl_phdr_info *info) {
  bool readable = false;

  memset(o, 0, sizeof *o);
  o->bias = info->dlpi_addr;
  o->low = UINTPTR_MAX;
  strncpy(o->path, info->dlpi_name ? info->dlpi_name : "", sizeof o->path - 1);
  for (unsigned i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *p = &info->dlpi_phdr[i];
    uintptr_t at = o->bias + p->p_vaddr;
    switch (p->p_type) {
    case PT_LOAD:
      if (at < o->low)
        o->low = at;
      if (at + p->p_memsz > o->high)
        o->high = at + p->p_memsz;
      if ((p->p_flags & PF_X) && p->p_filesz > o->text_end - o->text) {
        o->text = at;
        o->text_end = at + p->p_filesz;
        readable = (p->p_flags & (PF_R | PF_W)) == PF_R;
      }
      break;
    case PT_GNU_EH_FRAME:
      o->unwind = (const uint8_t *)at;
      o->unwind_size = p->p_memsz;
      break;
    case PT_NOTE:
      if (!o->build_id_len)
        notes(o, (const uint8_t *)at, p->p_memsz, p->p_align);
      break;
    }
  }
  return readable;
}

static const ElfW(Dyn) * dynamic(const struct dl_phdr_info *info) {
  for (unsigned i = 0; i < info->dlpi_phnum; i++)
    if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
      return (const ElfW(Dyn) *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
  return NULL;
}

static bool has_string(const struct dl_phdr_info *info, ElfW(Sxword) tag, const char *text) {
  const ElfW(Dyn) *first = dynamic(info);
  const char *strings = NULL;

  for (const ElfW(Dyn) *d = first; d && d->d_tag != DT_NULL; d++)
    if (d->d_tag == DT_STRTAB) /* the loader has relocated it, except in the vdso */
      strings = (const char *)(d->d_un.d_ptr < info->dlpi_addr ? info->dlpi_addr + d->d_un.d_ptr : d->d_un.d_ptr);
  for (const ElfW(Dyn) *d = first; strings && d->d_tag != DT_NULL; d++)
    if (d->d_tag == tag && strcmp(strings + d->d_un.d_val, text) == 0)
      return true;
  return false;
}

bool fl_object_needs(const struct dl_phdr_info *info, const char *soname) {
  return has_string(info, DT_NEEDED, soname);
}
bool fl_object_named(const struct dl_phdr_info *info, const char *soname) {
  return has_string(info, DT_SONAME, soname);
}

/* ---- the unwind table ---- */

struct reader {
  const uint8_t *at, *end;
  bool bad;
};

static const uint8_t *take(struct reader *r, size_t n) {
  const uint8_t *at = r->at;

  if ((size_t)(r->end - r->at) < n) {
    r->bad = true;
    return NULL;
  }
  r->at += n;
  return at;
}
static uint8_t byte(struct reader *r) {
  const uint8_t *p = take(r, 1);
  return p ? *p : 0;
}
static int32_t word(struct reader *r) {
  int32_t v = 0;
  const uint8_t *p = take(r, 4);
  if (p)
    memcpy(&v, p, 4);
  return v;
}
static void skip_leb(struct reader *r) {
  while (!r->bad && byte(r) & 0x80) {
  }
}

static bool inside(const struct fl_object *o, const uint8_t *p) {
  return (uintptr_t)p >= o->low && (uintptr_t)p < o->high;
}

/* The length of an entry and its contents. False: the end of the section, or a form that only huge sections have. */
static bool entry_at(const struct fl_object *o, const uint8_t *at, struct reader *r) {
  *r = (struct reader){at, (const uint8_t *)o->high, false};
  if (!inside(o, at))
    return false;
  uint32_t len = (uint32_t)word(r);
  if (r->bad || len == 0 || len == UINT32_MAX || len > (size_t)(r->end - r->at))
    return false;
  r->end = r->at + len;
  return true;
}

/* Of a CIE: is it a signal frame's ('S'), and are the addresses of its FDEs encoded as everywhere? */
static bool cie_at(const struct fl_object *o, const uint8_t *at, bool *signal_frame) {
  struct reader r;

  if (!entry_at(o, at, &r) || word(&r) != 0)
    return false;
  byte(&r); /* version */
  const char *augmentation = (const char *)r.at;
  while (!r.bad && byte(&r)) {
  }
  if (r.bad || augmentation[0] != 'z')
    return false;
  skip_leb(&r); /* code alignment, data alignment, return register, length of what follows */
  skip_leb(&r);
  skip_leb(&r);
  skip_leb(&r);
  uint8_t encoding = PE_OMIT;
  for (const char *a = augmentation + 1; *a && !r.bad; a++) {
    if (*a == 'R') {
      encoding = byte(&r);
    } else if (*a == 'S') {
      *signal_frame = true;
    } else if (*a == 'L') {
      byte(&r);
    } else if (*a == 'P') {
      uint8_t how = byte(&r) & 0x0f;
      take(&r, how == PE_SDATA4 || how == PE_UDATA4 ? 4 : 8);
    } else {
      return false;
    }
  }
  return !r.bad && encoding == (PE_PCREL | PE_SDATA4);
}

static bool unwind_function(const struct fl_object *o, uintptr_t pc, struct fl_function *f) {
  struct reader r = {o->unwind, o->unwind + o->unwind_size, false};

  if (!o->unwind)
    return false;
  uint8_t version = byte(&r), frame = byte(&r), counted = byte(&r), table = byte(&r);
  if (r.bad || version != 1 || frame != (PE_PCREL | PE_SDATA4) || counted != PE_UDATA4 ||
      table != (PE_DATAREL | PE_SDATA4))
    return false;
  word(&r); /* where .eh_frame is */
  uint32_t n = (uint32_t)word(&r);
  if (r.bad || n == 0 || n > (size_t)(r.end - r.at) / 8)
    return false;

  /* the last entry that does not begin behind pc */
  const uint8_t *entries = r.at;
  uint32_t low = 0, high = n;
  int32_t pair[2];
  while (high - low > 1) {
    uint32_t middle = low + (high - low) / 2;
    memcpy(pair, entries + 8ul * middle, 8);
    if ((uintptr_t)(o->unwind + pair[0]) <= pc)
      low = middle;
    else
      high = middle;
  }
  memcpy(pair, entries + 8ul * low, 8);

  if (!entry_at(o, o->unwind + pair[1], &r))
    return false;
  const uint8_t *cie = r.at;
  int32_t back = word(&r);
  if (r.bad || back <= 0)
    return false;
  f->signal_frame = f->go = false;
  if (!cie_at(o, cie - back, &f->signal_frame))
    return false;
  const uint8_t *base = r.at;
  f->start = (uintptr_t)(base + word(&r));
  f->end = f->start + (uint32_t)word(&r);
  return !r.bad && f->start <= pc && pc < f->end && f->start >= o->text && f->end <= o->text_end;
}

bool fl_object_function(const struct fl_object *o, uintptr_t pc, struct fl_function *f) {
  return (o->go && fl_go_function(o, pc, f)) || unwind_function(o, pc, f);
}
