/* SPDX-License-Identifier: MIT */
#include "tramp.h"

#include <cpuid.h>
#include <string.h>

#include "cache.h"
#include "commit.h"
#include "decode.h"
#include "emit.h"
#include "numbers.h"
#include "registry/sys.h"

/* ---- what the entries need ---- */

/* The states that C code may change: SSE, AVX, and AVX-512's three. 0: the processor has no xsave. */
#define XSAVE_STATES 0xe6u

__attribute__((visibility("hidden"))) uint64_t fl_tramp_xsave_bytes = 576;
__attribute__((visibility("hidden"))) uint32_t fl_tramp_xsave_mask;

extern char fl_tramp_go_stacks[], fl_tramp_go_stacks_end[];
#define GO_STACK 32768u /* as in entry_x86_64.S */

/* Here, and not in fl_tramp_init: a page of each is touched. */
static void link_go_stacks(void) {
  for (char *s = fl_tramp_go_stacks; s < fl_tramp_go_stacks_end; s += GO_STACK) {
    char *next = s + GO_STACK < fl_tramp_go_stacks_end ? s + GO_STACK : fl_tramp_go_stacks;
    memcpy(s + 8, &next, sizeof next);
  }
}

void fl_tramp_init(void) {
  unsigned a, b, c, d;

  fl_emit_init();
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
    return;
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  fl_tramp_xsave_mask = low & XSAVE_STATES;
  /* what xsave writes lies where the processor says for each state */
  uint64_t bytes = 576;
  for (unsigned i = 2; i < 8; i++)
    if ((fl_tramp_xsave_mask >> i & 1) && __get_cpuid_count(13, i, &a, &b, &c, &d) && b + a > bytes)
      bytes = b + a;
  fl_tramp_xsave_bytes = (bytes + 63) & ~63ul;
}

/* ---- objects ---- */

static bool wanted(const struct fl_site *s) {
  return s->refusal != FL_SITE_UNWANTED && s->refusal != FL_SITE_FALSE && s->refusal != FL_SITE_SIGNAL &&
         (s->number < 0 || fl_class_of(s->number) != FL_CLASS_NONE);
}

/* A thread that is just between two of the instructions that the jump replaces would go on in the middle of it. */
static void leave_out_running(struct fl_plan *p, const struct fl_object *o) {
  for (uint32_t i = 0; i < p->n; i++) {
    struct fl_site *s = &p->sites[i];
    uintptr_t at = o->text + s->at;
    if (s->refusal == FL_SITE_OK && (s->ninsns > 1 || at / 4096 != (at + s->len - 1) / 4096))
      s->refusal = FL_SITE_SHORT;
  }
}

static enum fl_cached made(const struct fl_tramp_wish *w) { return w->careful ? FL_CACHED_CAREFUL : FL_CACHED_PLAIN; }

static const char *plan(struct fl_plan *p, const struct fl_object *o, const struct fl_tramp_wish *w,
                        struct fl_tramp_result *r) {
  if (w->cache && fl_cache_read(w->cache, o, p, made(w))) {
    r->cached = true;
    return NULL;
  }
  if (!w->may_plan)
    return "no plan in the cache";
  if (!fl_decode_open())
    return "libcapstone.so.4 is not there";
  uint64_t end = w->budget_ns ? fl_plan_clock() + w->budget_ns : UINT64_MAX;
  if (!fl_plan_make(p, o, &(struct fl_plan_how){.careful = w->careful, .until = end})) {
    p->n = 0;
    if (w->cache) /* fl_tramp_promising is not to try again each time */
      fl_cache_write(w->cache, o, p, FL_CACHED_NOTHING);
    return "it takes too long to read, or too much memory";
  }
  /* what does not matter is neither kept nor compared again */
  uint32_t n = 0;
  for (uint32_t i = 0; i < p->n; i++)
    if (p->sites[i].refusal == FL_SITE_OK || wanted(&p->sites[i]) || p->sites[i].refusal == FL_SITE_SIGNAL)
      p->sites[n++] = p->sites[i];
  p->n = n;
  if (w->cache)
    fl_cache_write(w->cache, o, p, made(w));
  return NULL;
}

static bool complete(const struct fl_plan *p) {
  for (uint32_t i = 0; i < p->n; i++)
    if (p->sites[i].refusal != FL_SITE_OK && wanted(&p->sites[i]))
      return false;
  return true;
}

bool fl_tramp_object(const struct fl_object *o, const struct fl_tramp_wish *w, struct fl_tramp_result *r) {
  struct fl_plan p;

  memset(r, 0, sizeof *r);
  if (!fl_plan_open(&p)) {
    r->error = "no memory";
    return false;
  }
  r->error = plan(&p, o, w, r);
  if (!r->error) {
    if (w->running)
      leave_out_running(&p, o);
    if (o->go)
      link_go_stacks();
    if (w->complete && !complete(&p))
      r->error = "not all of its system calls can be led here";
    else if (!fl_commit(o, &p, w->running, &r->patched))
      r->error = "the system does not allow to change code";
    r->pairs = p.pairs;
    for (uint32_t i = 0; i < p.n; i++) {
      r->refused += p.sites[i].refusal != FL_SITE_OK && wanted(&p.sites[i]);
      if (w->each)
        w->each(o, &p.sites[i], w->arg);
    }
  }
  fl_plan_close(&p);
  return !r->error;
}

#define GLANCE_WORTH (1u << 20) /* bytes of code that take longer to look through than to look up */

bool fl_tramp_promising(const struct fl_object *o, const char *cache, uint64_t budget_ns) {
  struct fl_plan p;
  bool some = false;

  if (!fl_plan_open(&p))
    return false;
  if (cache && fl_cache_read(cache, o, &p, FL_CACHED_CAREFUL)) {
    for (uint32_t i = 0; i < p.n; i++)
      some |= p.sites[i].refusal == FL_SITE_OK;
    some &= complete(&p);
  } else if (!cache || !fl_cache_read(cache, o, &p, FL_CACHED_NOTHING)) {
    some = fl_plan_glance(o, fl_plan_clock() + budget_ns) == FL_GLANCE_SOME;
    p.n = 0;
    if (!some && cache && o->text_end - o->text >= GLANCE_WORTH)
      fl_cache_write(cache, o, &p, FL_CACHED_NOTHING);
  }
  fl_plan_close(&p);
  return some;
}

bool fl_tramp_hook_loader(const struct fl_object *loader, uintptr_t function, void (*f)(void)) {
  uint8_t code[32], jump[5];
  size_t n = fl_emit_far_jump(code, (uintptr_t)f);

  if (function < loader->text || function + sizeof jump > loader->text_end)
    return false;
  uintptr_t stub = fl_commit_near(loader, code, n);
  return stub && fl_emit_hook(jump, (const uint8_t *)function, function, stub) &&
         fl_commit_bytes(function, jump, sizeof jump);
}
