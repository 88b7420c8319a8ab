/* SPDX-License-Identifier: MIT */
#include <cpuid.h>
#include <string.h>

#include "emit.h"
#include "numbers.h"
#include "tramp.h"

_Atomic uint8_t fl_tramp_fds[65536];

/* By number: does the first argument decide, or is the call handed over in any case? For sites that make any call. As
 * large as a 16-bit number can be, so that no comparison is needed; one page of each is touched. */
static uint8_t by_fd[65536], by_any[65536];

void fl_emit_init(void) {
#define X(name, class) \
  by_fd[__NR_##name] = FL_CLASS_##class == FL_CLASS_FD; \
  by_any[__NR_##name] = FL_CLASS_##class == FL_CLASS_ANY;
  FL_NUMBERS(X)
#undef X
}

struct code {
  uint8_t *start, *at;
  uintptr_t address; /* of start, where it will run */
  bool bad;
};

static void put(struct code *c, const void *bytes, size_t n) {
  memcpy(c->at, bytes, n);
  c->at += n;
}
#define PUT(c, ...) \
  do { \
    const uint8_t bytes_[] = {__VA_ARGS__}; \
    put(c, bytes_, sizeof bytes_); \
  } while (0)

static uintptr_t here(const struct code *c) { return c->address + (uintptr_t)(c->at - c->start); }

/* Four bytes: the distance from behind them (and `more` bytes of the same instruction) to `target`. */
static void distance(struct code *c, uintptr_t target, unsigned more) {
  intptr_t d = (intptr_t)(target - (here(c) + 4 + more));
  int32_t d32 = (int32_t)d;

  c->bad |= d32 != d;
  put(c, &d32, 4);
}

static void jump(struct code *c, uintptr_t target) {
  PUT(c, 0xe9);
  distance(c, target, 0);
}

/* The instructions that the jump displaced, with the same effect at another place. */
static void replay(struct code *c, const struct fl_object *o, const struct fl_site *s) {
  const uint8_t *b = s->bytes;
  uintptr_t from = o->text + s->at;

  for (unsigned i = 0; i < s->ninsns; i++) {
    unsigned size = s->size[i];
    int32_t d;
    if (s->replay[i] == FL_REPLAY_JCC) {
      bool near = size == 6;
      if (near)
        memcpy(&d, b + 2, 4);
      else
        d = (int32_t)b[1] - (b[1] & 0x80 ? 256 : 0);
      PUT(c, 0x0f, (uint8_t)(0x80 | (b[near] & 0x0f)));
      distance(c, from + size + (uintptr_t)(intptr_t)d, 0);
    } else if (s->replay[i] == FL_REPLAY_RIP) {
      unsigned at = s->disp[i];
      memcpy(&d, b + at, 4);
      put(c, b, at);
      distance(c, from + size + (uintptr_t)(intptr_t)d, size - at - 4);
      put(c, b + at + 4, size - at - 4);
    } else {
      put(c, b, size);
    }
    b += size;
    from += size;
  }
}

/* rcx = table[index in rcx], and a jump to somewhere if it is 0. No flag is changed: jecxz, not a comparison. Returns
 * where the distance of the jump is to be put. */
static uint8_t *look_up(struct code *c, const void *table) {
  uintptr_t address = (uintptr_t)table;

  PUT(c, 0x49, 0xbb); /* movabs $table, %r11 */
  put(c, &address, 8);
  PUT(c, 0x41, 0x0f, 0xb6, 0x0c, 0x0b); /* movzbl (%r11,%rcx), %ecx */
  PUT(c, 0x67, 0xe3, 0);                /* jecxz */
  return c->at - 1;
}
static void arrive(struct code *c, uint8_t *from) { *from = (uint8_t)(c->at - from - 1); }

size_t fl_emit_stub(uint8_t *to, uintptr_t at, const struct fl_object *o, const struct fl_site *s) {
  struct code c = {to, to, at, false};
  uint8_t *native[2];
  unsigned natives = 0;

  replay(&c, o, s);
  if (s->number < 0) {
    PUT(&c, 0x0f, 0xb7, 0xc8); /* movzwl %ax, %ecx */
    uint8_t *not_any = look_up(&c, by_any);
    PUT(&c, 0xeb, 0); /* jmp: hand over */
    uint8_t *any = c.at - 1;
    arrive(&c, not_any);
    PUT(&c, 0x0f, 0xb7, 0xc8);
    native[natives++] = look_up(&c, by_fd);
    PUT(&c, 0x0f, 0xb7, 0xcf); /* movzwl %di, %ecx */
    native[natives++] = look_up(&c, fl_tramp_fds);
    arrive(&c, any);
  } else if (fl_class_of(s->number) == FL_CLASS_FD) {
    PUT(&c, 0x0f, 0xb7, 0xcf);
    native[natives++] = look_up(&c, fl_tramp_fds);
  }
  PUT(&c, 0x4c, 0x8d, 0x1d); /* lea site(%rip), %r11 */
  uint8_t *site_distance = c.at;
  c.at += 4;
  PUT(&c, 0x49, 0x8b, 0x0b);                                                /* mov after(%r11), %rcx */
  PUT(&c, 0x41, 0xff, 0x63, (uint8_t)offsetof(struct fl_stub_site, entry)); /* jmp *entry(%r11) */
  for (unsigned i = 0; i < natives; i++)
    arrive(&c, native[i]);
  jump(&c, fl_site_syscall(o, s));

  while ((uintptr_t)c.at % 8 != (c.address - (uintptr_t)c.start) % 8) /* `at` is aligned, `to` need not be */
    PUT(&c, 0xcc);
  int32_t d = (int32_t)(c.at - site_distance - 4);
  memcpy(site_distance, &d, 4);
  struct fl_stub_site site = {.after = fl_site_syscall(o, s) + 2,
                              .syscall = fl_site_syscall(o, s),
                              .entry = (uintptr_t)(s->flags & FL_SITE_GO ? fl_tramp_enter_go : fl_tramp_enter),
                              .flags = s->flags,
                              .number = s->number};
  put(&c, &site, sizeof site);
  return c.bad ? 0 : (size_t)(c.at - c.start);
}

bool fl_emit_jump(uint8_t *to, const struct fl_object *o, const struct fl_site *s, uintptr_t stub) {
  struct code c = {to, to, o->text + s->at, false};

  jump(&c, stub);
  while (c.at < to + s->len)
    PUT(&c, 0x90); /* never reached */
  return !c.bad;
}

size_t fl_emit_far_jump(uint8_t *to, uintptr_t target) {
  const uint8_t code[] = {0xff, 0x25, 0, 0, 0, 0}; /* jmp *0(%rip) */

  memcpy(to, code, sizeof code);
  memcpy(to + sizeof code, &target, 8);
  return sizeof code + 8;
}

/* The forms of padding that assemblers write: nop, nopw, data16 and cs prefixes. */
static bool padding(const uint8_t *p, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (p[i] != 0x90 && p[i] != 0x66 && p[i] != 0x2e && p[i] != 0x0f && p[i] != 0x1f && p[i] != 0xcc)
      return false;
  return true;
}

bool fl_emit_hook(uint8_t to[5], const uint8_t *function, uintptr_t at, uintptr_t target) {
  static const uint8_t with_landing[] = {0xf3, 0x0f, 0x1e, 0xfa, 0xc3};
  struct code c = {to, to, at, false};

  if (memcmp(function, with_landing, 5) != 0 && !(function[0] == 0xc3 && padding(function + 1, 4)))
    return false;
  jump(&c, target);
  return !c.bad;
}

/* The processor notices writes to code by itself, if by the same address; here it was another. */
void fl_emit_settle(void) {
  unsigned a, b, c, d;

  __cpuid(0, a, b, c, d);
}
