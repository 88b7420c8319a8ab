/* SPDX-License-Identifier: MIT */
#include "tramp.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <string.h>

#include "conn.h"
#include "dispatch.h"
#include "log.h"
#include "options.h"
#include "raw.h"
#include "real.h"
#include "registry/sys.h"
#include "trampoline/cache.h"
#include "trampoline/decode.h"
#include "trampoline/numbers.h"
#include "trampoline/tramp.h"

#define OBJECTS 1024
#define BUDGET_NS 8000000u /* of processor time, for reading a main program that has no plan in the cache */

bool fl_tramp_stdio;

#ifdef __GLIBC__

void fl_tramp_note(int fd, bool ours) {
  static _Atomic bool high; /* a descriptor whose low 16 bits are another's: bytes stay set from then on */

  if (ours && fd > UINT16_MAX)
    atomic_store_explicit(&high, true, memory_order_relaxed);
  _Atomic uint8_t *byte = &fl_tramp_fds[(uint16_t)fd];
  if (ours) {
    /* seq_cst: comes before the entry, see below. Most stores would change nothing. */
    if (!atomic_load_explicit(byte, memory_order_relaxed))
      atomic_store_explicit(byte, 1, memory_order_seq_cst);
  } else if (!atomic_load_explicit(&high, memory_order_relaxed) && atomic_load_explicit(byte, memory_order_relaxed)) {
    atomic_store_explicit(byte, 0, memory_order_seq_cst);
    if (fl_entry(fd)) /* another thread has just been given the number, and found the byte still set */
      atomic_store_explicit(byte, 1, memory_order_seq_cst);
  }
}

/* ---- objects ---- */

static struct {
  struct fl_object libc, loader, main_program, self;
  bool has_libc, has_loader, has_main, has_self;
  bool main_needs_libc;
  bool running; /* other threads ran when this was looked for */
  bool raw;     /* raw.h's functions are in use */
} found;

static bool holds(const struct fl_object *o, uintptr_t at) { return at >= o->low && at < o->high; }
static bool in_libc(uintptr_t at) { return found.has_libc && holds(&found.libc, at); }

static int look_at(struct dl_phdr_info *info, size_t size, void *arg) {
  struct fl_object o;
  unsigned *n = arg;
  bool is_main = (*n)++ == 0; /* the loader begins with it */

  if (!fl_object_of(&o, info))
    return 0;
  if (is_main) {
    found.main_program = o;
    found.has_main = true;
    found.main_needs_libc = fl_object_needs(info, "libc.so.6");
  } else if (holds(&o, (uintptr_t)&found)) {
    found.self = o;
    found.has_self = true;
  } else if (fl_object_named(info, "libc.so.6") && !found.has_libc) {
    found.libc = o;
    found.has_libc = true;
  } else if (fl_object_named(info, "ld-linux-x86-64.so.2") && !found.has_loader) {
    found.loader = o;
    found.has_loader = true;
  }
  return 0;
}

/* ---- patching ---- */

static char directory[256];
static const char *cache;

struct report {
  const char *name;
  bool stdio; /* its sites are all that stdio uses */
  unsigned reads, writes, closes;
};

static void tell(const struct fl_object *o, const struct fl_site *s, void *arg) {
  struct report *r = arg;
  uintptr_t at = fl_site_syscall(o, s) - o->bias;

  if (s->refusal == FL_SITE_OK) {
    r->reads += s->number == __NR_read;
    r->writes += s->number == __NR_write;
    r->closes += s->number == __NR_close;
  } else if (s->number == __NR_write || s->number == __NR_close) {
    r->stdio = false;
  }
  /* scripts/audit reads these */
  if (fl_options.tramp == FL_TRAMP_AUDIT && s->refusal != FL_SITE_UNWANTED && s->refusal != FL_SITE_FALSE)
    fl_log(FL_LOG_INFO, "audit: site %#lx %s+%#lx number %d: %s", (unsigned long)fl_site_syscall(o, s), r->name,
           (unsigned long)at, s->number, fl_refusal_text(s->refusal));
}

static const char *base_name(const struct fl_object *o) {
  const char *slash = strrchr(o->path, '/');

  return slash ? slash + 1 : o->path[0] ? o->path : fl_log_program();
}

/* False: nothing was changed. */
static bool patch(const struct fl_object *o, struct fl_tramp_wish wish, struct report *report) {
  struct fl_tramp_result result;
  uint64_t begin = fl_now();

  *report = (struct report){.name = base_name(o), .stdio = true};
  wish.may_plan = true;
  wish.cache = cache;
  wish.each = tell;
  wish.arg = report;
  bool ok = fl_tramp_object(o, &wish, &result);
  if (fl_options.tramp == FL_TRAMP_AUDIT)
    fl_log(FL_LOG_INFO, "audit: object %#lx %#lx %s", (unsigned long)o->low, (unsigned long)o->high, report->name);
  if (ok)
    fl_log(FL_LOG_INFO, "trampolines in %s: %u system calls lead here, %u do not, %s, %lu us", report->name,
           result.patched, result.refused, result.cached ? "planned before" : "planned now",
           (unsigned long)(fl_ticks_to_ns(fl_now() - begin) / 1000));
  else
    fl_log(FL_LOG_INFO, "no trampolines in %s, or not all: %s", report->name, result.error);
  report->stdio &= ok;
  return ok || result.patched;
}

/* ---- objects that are loaded later ---- */

static struct { uintptr_t low, high; } known[OBJECTS];
static unsigned nknown;

static bool is_known(const struct fl_object *o) {
  for (unsigned i = 0; i < nknown; i++)
    if (known[i].low == o->low && known[i].high == o->high)
      return true;
  return false;
}

static void remember(const struct fl_object *o) {
  if (nknown < OBJECTS) {
    known[nknown].low = o->low;
    known[nknown++].high = o->high;
  }
}

/* Of all namespaces: dl_iterate_phdr shows one. The loader's lock is held, or nobody else is there. */
static void each_object(void (*f)(const struct fl_object *o)) {
  for (const struct r_debug_extended *ns = (const struct r_debug_extended *)&_r_debug; ns;
       ns = ns->base.r_version >= 2 ? ns->r_next : NULL)
    for (struct link_map *l = ns->base.r_map; l; l = l->l_next) {
      const ElfW(Phdr) *phdr = NULL;
      struct fl_object o;
      int n = dlinfo(l, RTLD_DI_PHDR, &phdr);
      struct dl_phdr_info info = {
          .dlpi_addr = l->l_addr, .dlpi_name = l->l_name, .dlpi_phdr = phdr, .dlpi_phnum = (ElfW(Half))(n > 0 ? n : 0)};
      if (phdr && strncmp(l->l_name, "linux-vdso", 10) != 0 && strncmp(l->l_name, "linux-gate", 10) != 0 &&
          fl_object_of(&o, &info))
        f(&o);
    }
}

static unsigned kept;
static void keep(const struct fl_object *o) {
  for (unsigned i = kept; i < nknown; i++)
    if (known[i].low == o->low && known[i].high == o->high) {
      __typeof__(known[0]) swap = known[kept];
      known[kept++] = known[i];
      known[i] = swap;
      return;
    }
}

static void patch_new(const struct fl_object *o) {
  struct report report;

  if (is_known(o) || holds(o, (uintptr_t)&found))
    return;
  remember(o);
  patch(o, (struct fl_tramp_wish){.careful = true, .running = found.running}, &report);
}

/* The loader calls: something was mapped, and not yet relocated or begun; or something is gone. */
static void loaded(void) {
  int saved = errno;

  if (_r_debug.r_state == RT_CONSISTENT && !fl_in_vfork_child()) {
    kept = 0;
    each_object(keep);
    nknown = kept;
    each_object(patch_new);
  }
  errno = saved;
}

/* ---- start ---- */

/* The kernel lane of the hooks is made here from now on. False: that is not possible, and nothing may be patched. */
static bool use_raw(void) {
  if (found.raw)
    return true;
  if (!found.has_libc || !found.has_self || !fl_raw_possible(in_libc)) {
    fl_log(FL_LOG_INFO, "no trampolines: another library stands between this one and libc");
    return false;
  }
  fl_tramp_init();
  fl_raw_use();
  found.raw = true;
  return true;
}

static void patch_libc(void) {
  struct report report;

  remember(&found.libc);
  if (!patch(&found.libc, (struct fl_tramp_wish){.running = found.running}, &report))
    return;
  fl_tramp_stdio = !found.running && report.stdio && report.reads && report.writes && report.closes;
  if (found.has_loader && fl_options.tramp != FL_TRAMP_LIBC) {
    remember(&found.loader);
    patch(&found.loader, (struct fl_tramp_wish){.running = found.running}, &report);
  }
}

/*
 * If not all was asked for: all of its calls or none. One that is not led here sees only the kernel lane, which is
 * right for a connection that none of them has brought onto rings. Go's calls are worth the time: it has no others.
 */
static void patch_main(enum fl_go go, bool all) {
  struct report report;
  struct fl_tramp_wish wish = {.careful = true, .complete = !all, .running = found.running};

  if (!found.has_main || go == FL_GO_UNKNOWN)
    return;
  remember(&found.main_program);
  wish.budget_ns = all || go == FL_GO_YES ? 0 : BUDGET_NS;
  patch(&found.main_program, wish, &report);
}

static void patch_all(void) {
  each_object(patch_new);
  found.running = false; /* not in what is loaded later, before it is begun */
  fl_decode_open();      /* not in the midst of a dlopen */
  uintptr_t hook = (uintptr_t)dlsym(RTLD_DEFAULT, "_dl_debug_state");
  if (!found.has_loader || !hook || !fl_tramp_hook_loader(&found.loader, hook, loaded))
    fl_log(FL_LOG_INFO, "no trampolines in objects that are loaded later: the loader is not as expected");
}

void fl_tramp_start(void) {
  unsigned n = 0;
  int mode = fl_options.tramp;
  bool all = mode == FL_TRAMP_ALL || mode == FL_TRAMP_AUDIT;
  enum fl_go go = FL_GO_NO;

  if (mode == FL_TRAMP_OFF || fl_options.transport == FL_TRANSPORT_TCP)
    return;
  dl_iterate_phdr(look_at, &n);
  found.running = !fl_raw_single();
  cache = fl_cache_directory(directory, sizeof directory);
  if (mode != FL_TRAMP_LIBC)
    go = found.has_main ? fl_object_go(&found.main_program, "/proc/self/exe") : FL_GO_UNKNOWN;
  if (go != FL_GO_NO && !found.main_needs_libc) {
    fl_log(FL_LOG_INFO, "no trampolines: a Go program without cgo, whose threads are not libc's");
    found.has_libc = false;
    return;
  }
  if (mode == FL_TRAMP_AUTO && !(found.has_main && fl_tramp_promising(&found.main_program, cache, BUDGET_NS)))
    return;
  if (mode == FL_TRAMP_AUDIT)
    fl_log(FL_LOG_INFO, "audit: own %#lx %#lx", (unsigned long)found.self.low, (unsigned long)found.self.high);
  if (!use_raw())
    return;
  if (mode != FL_TRAMP_LIBC)
    patch_main(go, all);
  if (mode != FL_TRAMP_AUTO)
    patch_libc();
  if (all)
    patch_all();
  else
    fl_decode_close();
}

bool fl_tramp_for_stdio(void) {
  static bool tried; /* by the one thread that there is */

  if (fl_options.tramp != FL_TRAMP_AUTO || fl_tramp_stdio || tried || !found.has_libc || !fl_raw_single() ||
      fl_options.transport == FL_TRANSPORT_TCP /* also after it has left the process (sandbox.c) */ ||
      fl_in_vfork_child())
    return fl_tramp_stdio;
  int saved = errno;
  tried = true;
  found.running = false;
  if (use_raw())
    patch_libc();
  fl_decode_close();
  errno = saved;
  return fl_tramp_stdio;
}

#else

void fl_tramp_note(int fd, bool ours) {}

void fl_tramp_start(void) {
  if (fl_options.tramp != FL_TRAMP_OFF)
    fl_log(FL_LOG_INFO, "no trampolines: this libc is not glibc");
}

bool fl_tramp_for_stdio(void) { return false; }

#endif
