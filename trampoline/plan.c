/* SPDX-License-Identifier: MIT */
#include "plan.h"

#include <string.h>
#include <time.h>

#include "decode.h"
#include "numbers.h"
#include "registry/sys.h"

#define JUMP_BYTES 5u
#define SITES_MAX 4096u
#define INSNS_MAX (1u << 18) /* of one function */
#define PIECE (1ul << 18)    /* bytes between two looks at the clock */

const char *fl_refusal_text(enum fl_refusal why) {
  static const char *const text[] = {
      "patched",           "a number that does not matter",      "no room for a jump", "something may jump there",
      "a signal's return", "in no function that can be decoded", "not an instruction"};
  return text[why];
}

bool fl_plan_open(struct fl_plan *p) {
  memset(p, 0, sizeof *p);
  p->room = SITES_MAX;
  p->sites = fl_sys_map_private(SITES_MAX * sizeof *p->sites);
  return p->sites != NULL;
}

void fl_plan_close(struct fl_plan *p) {
  if (p->sites)
    fl_sys_munmap(p->sites, p->room * sizeof *p->sites);
  p->sites = NULL;
}

uint64_t fl_plan_clock(void) {
  struct timespec t;

  fl_syscall6(__NR_clock_gettime, CLOCK_THREAD_CPUTIME_ID, (long)&t, 0, 0, 0, 0);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static bool late(uint64_t until) { return until != UINT64_MAX && fl_plan_clock() > until; }

/* The next pair 0f 05 in [at, end), or NULL. By its rarer byte: several times as fast as memmem. */
static const uint8_t *next_pair(const uint8_t *at, const uint8_t *end) {
  while (end - at >= 2 && (at = memchr(at + 1, 0x05, (size_t)(end - at - 1))) != NULL)
    if (at[-1] == 0x0f)
      return at - 1;
  return NULL;
}

/* ---- a glance ---- */

#define BEHIND 32 /* bytes in which a number is looked for: as many as it takes to load all arguments */

/* Behind the ModRM byte of an operand: further bytes that belong to it. */
static unsigned operand_bytes(uint8_t modrm) {
  static const unsigned displacement[] = {0, 1, 4, 0};
  unsigned sib = (modrm & 0xc0) != 0xc0 && (modrm & 7) == 4;

  return sib + ((modrm & 0xc7) == 0x05 ? 4 : displacement[modrm >> 6]);
}

static bool number_matters(const uint8_t *at) {
  int32_t n;

  memcpy(&n, at, 4);
  return fl_class_of(n) != FL_CLASS_NONE;
}

enum { REX_B = 1, REX_R = 4 };

/* Does a prefix in front of b make another register of it? */
static bool other_register(const uint8_t *from, const uint8_t *b, unsigned bits) {
  return b > from && (b[-1] & 0xf0) == 0x40 && (b[-1] & bits);
}

static bool loads_rax(const uint8_t *from, const uint8_t *to) {
  for (const uint8_t *b = from; b < to; b++) {
    size_t left = (size_t)(to - b);
    if (b[0] == 0xb8 && left >= 5 && number_matters(b + 1) && !other_register(from, b, REX_B))
      return true; /* mov $number, %eax */
    if (b[0] == 0xc7 && left >= 6 && b[1] == 0xc0 && number_matters(b + 2) && !other_register(from, b, REX_B))
      return true; /* mov $number, %rax */
    if (left >= 2 && (b[0] == 0x31 || b[0] == 0x33) && b[1] == 0xc0 && !other_register(from, b, REX_B | REX_R))
      return true; /* xor %eax, %eax: read */
    if (left >= 2 && b[0] == 0x89 && (b[1] & 0xc7) == 0xc0 && !other_register(from, b, REX_B))
      return true; /* mov %reg, %eax */
    if (left >= 2 && b[0] == 0x8b && (b[1] & 0x38) == 0 && left >= 2 + operand_bytes(b[1]) &&
        !other_register(from, b, REX_R))
      return true; /* mov anything, %eax */
    if (left >= 3 && b[0] == 0x6a && b[2] == 0x58 && b[1] < 0x80 && fl_class_of(b[1]) != FL_CLASS_NONE)
      return true; /* push $number; pop %rax */
  }
  return false;
}

/* Is the pair rather the end of another instruction: an address relative to rip, or the distance of a call or jump? */
static bool belongs_to_another(const uint8_t *text, const uint8_t *at) {
  if (at - text < 2)
    return false;
  if ((at[-1] & 0xc7) == 0x05 && (at[-2] == 0x8d || at[-2] == 0x8b || at[-2] == 0x89 || at[-2] == 0x3b))
    return true;
  return (at[-1] & 0xfe) == 0xe8 && at[-2] != 0x89 && at[-2] != 0x8b;
}

/* What becomes of the result: it is compared with 0, or returned. */
static bool uses_rax(const uint8_t *b) {
  return b[0] == 0xc3 ||
         (b[0] == 0x48 && (b[1] == 0x3d || (b[1] == 0x83 && b[2] == 0xf8) || (b[1] == 0x85 && b[2] == 0xc0)));
}

static bool looks_like_call(const struct fl_object *o, const uint8_t *at) {
  const uint8_t *text = (const uint8_t *)o->text, *end = (const uint8_t *)o->text_end;

  /* no code goes on with 00; distances and addresses do */
  if (end - at < 5 || at[2] == 0 || belongs_to_another(text, at))
    return false;
  struct fl_function f;
  return (uses_rax(at + 2) || loads_rax(at - text > BEHIND ? at - BEHIND : text, at)) &&
         fl_object_function(o, (uintptr_t)at, &f) && !f.signal_frame;
}

enum fl_glance fl_plan_glance(const struct fl_object *o, uint64_t until) {
  const uint8_t *end = (const uint8_t *)o->text_end;

  for (const uint8_t *piece = (const uint8_t *)o->text; piece < end; piece += PIECE) {
    const uint8_t *to = (size_t)(end - piece) > PIECE ? piece + PIECE + 1 : end;
    if (late(until))
      return FL_GLANCE_LATE;
    for (const uint8_t *at = piece; (at = next_pair(at, to)) != NULL; at += 2)
      if (looks_like_call(o, at))
        return FL_GLANCE_SOME;
  }
  return FL_GLANCE_NONE;
}

/* ---- one function ---- */

struct body {
  struct fl_insn *insns;
  uint32_t n;
  bool vector, indirect;
};

static bool note(const struct fl_insn *insn, void *arg) {
  struct body *b = arg;

  if (b->n == INSNS_MAX)
    return false;
  b->insns[b->n++] = *insn;
  b->vector |= !!(insn->flags & FL_INSN_VECTOR);
  b->indirect |= !!(insn->flags & FL_INSN_INDIRECT);
  return true;
}

static int64_t index_of(const struct body *b, uintptr_t at) {
  uint32_t low = 0, high = b->n;

  while (low < high) {
    uint32_t middle = low + (high - low) / 2;
    if (b->insns[middle].at == at)
      return middle;
    if (b->insns[middle].at < at)
      low = middle + 1;
    else
      high = middle;
  }
  return -1;
}

static bool targeted(const struct body *b, uintptr_t first, uintptr_t last) {
  for (uint32_t i = 0; i < b->n; i++)
    if ((b->insns[i].flags & FL_INSN_TARGET) && b->insns[i].target >= first && b->insns[i].target <= last)
      return true;
  return false;
}

/* What is in rax at the instruction k, if the code in front of it says so whichever way it was reached. */
static int16_t number_at(const struct body *b, int64_t k) {
  for (int64_t i = k; i > 0;) {
    if (targeted(b, b->insns[i].at, b->insns[i].at) || (b->insns[i].flags & FL_INSN_LANDING))
      return -1; /* from elsewhere, with another number */
    i--;
    const struct fl_insn *insn = &b->insns[i];
    if (insn->flags & FL_INSN_NUMBER)
      return (int16_t)(insn->number >= 0 && insn->number < FL_NUMBERS_END ? insn->number : -1);
    if ((insn->flags & FL_INSN_RAX) || ((insn->flags & FL_INSN_FLOW) && !(insn->flags & FL_INSN_CONDITIONAL)))
      return -1;
  }
  return -1;
}

/* Which instructions in front of k make room for the jump? */
static enum fl_refusal room_at(const struct body *b, int64_t k, struct fl_site *s) {
  unsigned len = 0, n = 0;
  int64_t first = k;

  while (len < JUMP_BYTES) {
    if (first == 0 || n == FL_SITE_INSNS)
      return FL_SITE_SHORT;
    if (b->insns[first].flags & FL_INSN_LANDING)
      return FL_SITE_TARGET;
    const struct fl_insn *insn = &b->insns[--first];
    if ((insn->flags & FL_INSN_SYSCALL) || ((insn->flags & FL_INSN_FLOW) && !(insn->flags & FL_INSN_CONDITIONAL)))
      return FL_SITE_SHORT;
    if ((insn->flags & FL_INSN_CONDITIONAL) && b->insns[first].size != 2 && b->insns[first].size != 6)
      return FL_SITE_SHORT; /* prefixes */
    len += insn->size;
    n++;
  }
  /* jumps to its first byte are welcome */
  if (targeted(b, b->insns[first].at + 1, b->insns[k].at))
    return FL_SITE_TARGET;
  if (b->indirect && n > 1) /* the table of a switch is not read: its targets may be the later ones of these */
    return FL_SITE_TARGET;
  if (b->insns[first].flags & FL_INSN_LANDING)
    return FL_SITE_SHORT;
  s->len = (uint8_t)len;
  s->ninsns = (uint8_t)n;
  for (unsigned i = 0; i < n; i++) {
    const struct fl_insn *insn = &b->insns[first + i];
    s->size[i] = insn->size;
    s->disp[i] = (uint8_t)insn->disp;
    s->replay[i] = insn->flags & FL_INSN_CONDITIONAL ? FL_REPLAY_JCC
                   : insn->flags & FL_INSN_RIP       ? FL_REPLAY_RIP
                                                     : FL_REPLAY_PLAIN;
  }
  return FL_SITE_OK;
}

static void judge(struct fl_site *s, const struct fl_object *o, const struct body *b, const struct fl_function *f,
                  uintptr_t at, bool careful) {
  int64_t k = index_of(b, at);

  if (k < 0 || !(b->insns[k].flags & FL_INSN_SYSCALL)) {
    s->refusal = FL_SITE_FALSE;
    return;
  }
  s->number = number_at(b, k);
  s->flags = (uint8_t)((careful || b->vector || f->go ? FL_SITE_VECTOR : 0) | (f->go ? FL_SITE_GO : 0) |
                       (careful ? FL_SITE_CAREFUL : 0));
  if (s->number >= 0 && fl_class_of(s->number) == FL_CLASS_NONE)
    s->refusal = FL_SITE_UNWANTED;
  else
    s->refusal = (uint8_t)room_at(b, k, s);
  if (s->refusal == FL_SITE_OK)
    s->at = (uint32_t)(at - s->len - o->text);
  else
    s->len = 0;
  memcpy(s->bytes, (const void *)(o->text + s->at), s->len + 2u);
}

/* ---- jumps from elsewhere ---- */

/*
 * The cold part of a function is a function of its own to the unwind table, and jumps back. Not every function is
 * decoded, so whatever looks like a jump or call anywhere in the text (e8, e9, 0f 80 to 0f 8f, and four bytes of
 * distance) is taken for one: what would arrive behind the first byte of a site refuses it, rightly or not.
 */
static bool jump_before(const uint8_t *distance) {
  return (distance[-1] & 0xfe) == 0xe8 || ((distance[-1] & 0xf0) == 0x80 && distance[-2] == 0x0f);
}

/* Go's linker has no such parts: for its code there is nothing to look for. */
static bool needs_sweep(const struct fl_plan *p) {
  for (uint32_t i = 0; i < p->n; i++)
    if (p->sites[i].refusal == FL_SITE_OK && !(p->sites[i].flags & FL_SITE_GO))
      return true;
  return false;
}

static void refuse_target(struct fl_plan *p, size_t from, size_t to) {
  for (uint32_t k = 0; k < p->n; k++) {
    struct fl_site *s = &p->sites[k];
    /* its own bytes: a conditional jump among them was seen, and goes elsewhere */
    if (s->refusal == FL_SITE_OK && !(s->flags & FL_SITE_GO) && to > s->at && to <= s->at + s->len &&
        !(from + 3 > s->at && from < s->at + s->len))
      s->refusal = FL_SITE_TARGET;
  }
}

static bool refuse_targets(struct fl_plan *p, const struct fl_object *o, uint64_t until) {
  size_t size = o->text_end - o->text, words = size / 64 + 1;
  const uint8_t *text = (const uint8_t *)o->text;

  if (!needs_sweep(p))
    return true;
  uint64_t *inside = fl_sys_map_private(words * 8);
  if (!inside)
    return false;
  for (uint32_t i = 0; i < p->n; i++)
    for (uint32_t at = p->sites[i].at + 1; p->sites[i].refusal == FL_SITE_OK && at <= p->sites[i].at + p->sites[i].len;
         at++)
      inside[at / 64] |= 1ull << at % 64;
  bool done = true;
  for (size_t i = 2; done && i + 4 <= size; i++) {
    int32_t distance;
    if (__builtin_expect(!jump_before(text + i), 1)) {
      done = i % PIECE || !late(until);
      continue;
    }
    memcpy(&distance, text + i, 4);
    size_t to = i + 4 + (size_t)(intptr_t)distance;
    if (to < size && (inside[to / 64] >> to % 64 & 1))
      refuse_target(p, i, to);
  }
  fl_sys_munmap(inside, words * 8);
  return done;
}

/* `mov $number,%eax` right in front of it, and no other instruction that ends with the same bytes: most do not matter.
 */
static bool unwanted_at_a_glance(const uint8_t *text, const uint8_t *at, int16_t *number) {
  int32_t n;

  if (at - text < 6 || at[-5] != 0xb8 || at[-6] == 0x0f || (at[-6] & 0xf0) == 0x40)
    return false;
  memcpy(&n, at - 4, 4);
  if (n < 0 || n >= FL_NUMBERS_END || fl_class_of(n) != FL_CLASS_NONE)
    return false;
  *number = (int16_t)n;
  return true;
}

bool fl_plan_make(struct fl_plan *p, const struct fl_object *o, const struct fl_plan_how *how) {
  const uint8_t *text = (const uint8_t *)o->text, *end = (const uint8_t *)o->text_end;
  struct fl_function f = {0};
  struct body b = {0};
  bool known = false, done = true;

  b.insns = fl_sys_map_private(INSNS_MAX * sizeof *b.insns);
  if (!b.insns)
    return false;
  p->n = p->pairs = 0;
  for (const uint8_t *at = text; (at = next_pair(at, end)) != NULL; at += 2) {
    if (p->n == p->room || late(how->until)) {
      done = false;
      break;
    }
    struct fl_site *s = &p->sites[p->n++];
    *s = (struct fl_site){.at = (uint32_t)(at - text), .number = -1, .refusal = FL_SITE_UNKNOWN, .bytes = {0x0f, 0x05}};
    p->pairs++;
    if (!how->thorough && unwanted_at_a_glance(text, at, &s->number)) {
      s->refusal = FL_SITE_UNWANTED;
      continue;
    }
    if (!known || (uintptr_t)at < f.start || (uintptr_t)at >= f.end) {
      known = fl_object_function(o, (uintptr_t)at, &f);
      if (!known)
        continue;
      b.n = 0;
      b.vector = b.indirect = false;
      if (!f.signal_frame && !fl_decode(f.start, f.end, note, &b))
        b.n = 0;
    }
    if (f.signal_frame)
      s->refusal = FL_SITE_SIGNAL;
    else if (b.n)
      judge(s, o, &b, &f, (uintptr_t)at, how->careful);
  }
  fl_sys_munmap(b.insns, INSNS_MAX * sizeof *b.insns);
  return done && refuse_targets(p, o, how->until);
}

bool fl_plan_fits(const struct fl_plan *p, const struct fl_object *o) {
  uint32_t before = 0;

  for (uint32_t i = 0; i < p->n; i++) {
    const struct fl_site *s = &p->sites[i];
    unsigned sum = 0;
    if ((s->refusal == FL_SITE_OK && s->at < before) || s->at > o->text_end - o->text || s->len > FL_SITE_BYTES ||
        s->len + 2u > o->text_end - o->text - s->at ||
        memcmp((const void *)(o->text + s->at), s->bytes, s->len + 2u) != 0)
      return false;
    if (s->refusal != FL_SITE_OK)
      continue;
    before = s->at + s->len + 2u;
    if (s->len < JUMP_BYTES || s->ninsns == 0 || s->ninsns > FL_SITE_INSNS || s->bytes[s->len] != 0x0f ||
        s->bytes[s->len + 1] != 0x05 || s->number >= FL_NUMBERS_END ||
        (s->flags & ~(FL_SITE_VECTOR | FL_SITE_GO | FL_SITE_CAREFUL)))
      return false;
    for (unsigned k = 0; k < s->ninsns; k++) {
      sum += s->size[k];
      if (s->size[k] == 0 || s->size[k] > 15 || s->replay[k] > FL_REPLAY_JCC ||
          s->disp[k] + 4u > (s->replay[k] == FL_REPLAY_RIP ? s->size[k] : 19u))
        return false;
    }
    if (sum != s->len)
      return false;
  }
  return true;
}
