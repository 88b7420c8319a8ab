/* SPDX-License-Identifier: MIT */
/*
 * preload/mem.h - may the application's buffer be touched? send and recv copy in user space, where a bad address is a
 * signal; the kernel says EFAULT.
 *
 * Each thread remembers a few stretches of memory that were found good, and which of them it saw last. What is not
 * known is asked of the kernel, page by page, with system calls that change nothing and that every sandbox allows:
 * rt_sigprocmask with an impossible `how` reads eight bytes, futex with FUTEX_OP_ADD of 0 writes back what is there.
 * All is forgotten when the application calls munmap, mprotect or mremap. Under
 * valgrind nothing is asked.
 *
 * All of them [any thread], async-signal-safe; errno is left alone.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FL_MEM_KNOWN 4

struct fl_mem {
  uint32_t generation;
  uint32_t next;
  uint32_t hit; /* index of the one that was found last */
  struct {
    uintptr_t from, to;
  } known[FL_MEM_KNOWN];
};
extern __thread struct fl_mem fl_mem_read __attribute__((tls_model("initial-exec"), visibility("hidden")));
extern __thread struct fl_mem fl_mem_write __attribute__((tls_model("initial-exec"), visibility("hidden")));
extern _Atomic uint32_t fl_mem_generation __attribute__((visibility("hidden")));

/* Once, by the library's constructor. */
void fl_mem_init(void);

/* How many bytes from p on, at most n, can be read or written: all of them, or up to the end of some page. */
size_t fl_mem_readable_slow(const void *p, size_t n);
size_t fl_mem_writable_slow(void *p, size_t n);

static inline bool fl_mem_in(const struct fl_mem *m, uint32_t i, uintptr_t a, size_t n) {
  uintptr_t to = m->known[i].to;
  return a >= m->known[i].from && a < to && n <= to - a;
}

static inline bool fl_mem_hit(const struct fl_mem *m, const void *p, size_t n) {
  /* relaxed: a buffer that another thread unmaps while it is used is no use of it */
  return __builtin_expect(m->generation == atomic_load_explicit(&fl_mem_generation, memory_order_relaxed) &&
                              fl_mem_in(m, m->hit, (uintptr_t)p, n),
                          1);
}

static inline size_t fl_mem_readable(const void *p, size_t n) {
  return n == 0 || fl_mem_hit(&fl_mem_read, p, n) ? n : fl_mem_readable_slow(p, n);
}

static inline size_t fl_mem_writable(void *p, size_t n) {
  return n == 0 || fl_mem_hit(&fl_mem_write, p, n) ? n : fl_mem_writable_slow(p, n);
}
