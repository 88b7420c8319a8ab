/* SPDX-License-Identifier: MIT */
/* preload/mem.c - see mem.h. */
#include "mem.h"

#include <linux/futex.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "export.h"
#include "real.h"
#include "registry/sys.h"

#define PAGE ((uintptr_t)4096) /* the smallest there is: where pages are larger, some are asked for twice */

__thread struct fl_mem fl_mem_read, fl_mem_write;
_Atomic uint32_t fl_mem_generation = 1;

static bool trusted;

/* Valgrind looks at every address itself, and says what it thinks of it: of our questions as well. */
void fl_mem_init(void) {
  const char *preloads = getenv("LD_PRELOAD"); /* NOLINT(concurrency-mt-unsafe): in the constructor */

  trusted = preloads && strstr(preloads, "/vgpreload_core");
}

static bool page_readable(uintptr_t page) {
  /* NULL stands for no mask */
  return page && fl_syscall6(__NR_rt_sigprocmask, -1, (long)page, 0, 8, 0, 0) != -EFAULT;
}

/* An atomic addition of nothing. The comparison that decides whether waiters there are woken is as good as never true.
 */
static bool page_writable(uintptr_t page) {
  static uint32_t nobody;
  long op = (long)FUTEX_OP(FUTEX_OP_ADD, 0, FUTEX_OP_CMP_LT, -2048) & 0xffffffff;

  return fl_syscall6(__NR_futex, (long)&nobody, FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG, 0, 0, (long)page, op) != -EFAULT;
}

/* In this order: a signal handler that comes in between finds a stretch that is too short, or none. */
static void remember(struct fl_mem *m, uint32_t generation, uintptr_t from, uintptr_t to) {
  if (m->generation != generation) {
    for (int i = 0; i < FL_MEM_KNOWN; i++)
      m->known[i].to = 0;
    atomic_signal_fence(memory_order_seq_cst);
    m->generation = generation;
  }
  for (int i = 0; i < FL_MEM_KNOWN; i++) {
    if (m->known[i].to == 0 || from > m->known[i].to || to < m->known[i].from)
      continue;
    if (from < m->known[i].from)
      m->known[i].from = from;
    if (to > m->known[i].to)
      m->known[i].to = to;
    return;
  }
  uint32_t i = m->next++ % FL_MEM_KNOWN;
  m->known[i].to = 0;
  atomic_signal_fence(memory_order_seq_cst);
  m->known[i].from = from;
  atomic_signal_fence(memory_order_seq_cst);
  m->known[i].to = to;
}

/* One that holds all of it, which is looked at first from now on; -1: none. */
static int find(struct fl_mem *m, const void *p, size_t n) {
  /* relaxed, as in fl_mem_hit */
  if (m->generation != atomic_load_explicit(&fl_mem_generation, memory_order_relaxed))
    return -1;
  for (uint32_t i = 0; i < FL_MEM_KNOWN; i++)
    if (fl_mem_in(m, i, (uintptr_t)p, n)) {
      m->hit = i;
      return (int)i;
    }
  return -1;
}

static size_t ask(struct fl_mem *m, bool (*good)(uintptr_t page), const void *p, size_t n) {
  uintptr_t a = (uintptr_t)p, first = a & ~(PAGE - 1), page = first;
  /* before the questions: what is unmapped meanwhile is forgotten again */
  uint32_t generation = atomic_load_explicit(&fl_mem_generation, memory_order_relaxed);

  if (a + n < a)
    n = (size_t)-a - 1;
  if (trusted)
    page += (a - first + n + PAGE - 1) & ~(PAGE - 1);
  while (page < a + n && good(page))
    page += PAGE;
  if (page > first)
    remember(m, generation, first, page);
  return page <= a ? 0 : page - a < n ? page - a : n;
}

size_t fl_mem_readable_slow(const void *p, size_t n) {
  if (find(&fl_mem_read, p, n) >= 0)
    return n;
  uint32_t generation = fl_mem_write.generation;
  int i = find(&fl_mem_write, p, n);
  if (i < 0)
    return ask(&fl_mem_read, page_readable, p, n);
  remember(&fl_mem_read, generation, fl_mem_write.known[i].from, fl_mem_write.known[i].to);
  return n;
}

size_t fl_mem_writable_slow(void *p, size_t n) {
  return find(&fl_mem_write, p, n) >= 0 ? n : ask(&fl_mem_write, page_writable, p, n);
}

/* ---- what makes memory bad ---- */

static struct {
  __typeof__(&munmap) munmap;
  __typeof__(&mprotect) mprotect;
  __typeof__(&mremap) mremap;
} extra;

#define EXTRA(name) (extra.name ? extra.name : (__typeof__(&name))fl_real_one((void **)&extra.name, #name))

/* relaxed: concerns buffers that the caller itself uses afterwards, or hands to others by means that order this too */
static void forget(void) { atomic_fetch_add_explicit(&fl_mem_generation, 1, memory_order_relaxed); }

FL_EXPORT int munmap(void *p, size_t n) {
  int r = EXTRA(munmap)(p, n);

  forget();
  return r;
}

FL_EXPORT int mprotect(void *p, size_t n, int prot) {
  int r = EXTRA(mprotect)(p, n, prot);

  forget();
  return r;
}

FL_EXPORT void *mremap(void *p, size_t n, size_t to, int flags, ...) {
  va_list ap;

  va_start(ap, flags);
  void *at = va_arg(ap, void *);
  va_end(ap);
  void *r = EXTRA(mremap)(p, n, to, flags, at);
  forget();
  return r;
}
