/* SPDX-License-Identifier: MIT */
/*
 * preload/mem.h - may the application's buffer be touched? send and recv copy in user space, where a bad address is a
 * signal; the kernel says EFAULT.
 *
 * Each thread remembers a few stretches of memory that were found good. What is not known is asked of the kernel, page
 * by page, with system calls that change nothing and that every sandbox allows: rt_sigprocmask with an impossible `how`
 * reads eight bytes, futex with FUTEX_OP_ADD of 0 writes back what is there. All is forgotten when the application
 * calls munmap, mprotect or mremap. Under valgrind nothing is asked.
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
  struct {
    uintptr_t from, to;
  } known[FL_MEM_KNOWN];
};
extern __thread struct fl_mem fl_mem_read,
    fl_mem_write __attribute__((tls_model("initial-exec"), visibility("hidden")));
extern _Atomic uint32_t fl_mem_generation;

/* Once, by the library's constructor. */
void fl_mem_init(void);

/* How many bytes from p on, at most n, can be read or written: all of them, or up to the end of some page. */
size_t fl_mem_readable_slow(const void *p, size_t n);
size_t fl_mem_writable_slow(void *p, size_t n);

static inline bool fl_mem_known(const struct fl_mem *m, const void *p, size_t n) {
  uintptr_t a = (uintptr_t)p;

  /* relaxed: a buffer that another thread unmaps while it is used is no use of it */
  if (m->generation != atomic_load_explicit(&fl_mem_generation, memory_order_relaxed))
    return false;
  for (int i = 0; i < FL_MEM_KNOWN; i++)
    if (a >= m->known[i].from && n <= m->known[i].to - a && a < m->known[i].to)
      return true;
  return false;
}

static inline size_t fl_mem_readable(const void *p, size_t n) {
  return n == 0 || fl_mem_known(&fl_mem_read, p, n) ? n : fl_mem_readable_slow(p, n);
}

static inline size_t fl_mem_writable(void *p, size_t n) {
  return n == 0 || fl_mem_known(&fl_mem_write, p, n) ? n : fl_mem_writable_slow(p, n);
}
