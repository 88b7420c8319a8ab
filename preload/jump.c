/* SPDX-License-Identifier: MIT */
/* preload/jump.c - see jump.h. */
#include "jump.h"

#include <setjmp.h>
#include <signal.h>

#include "export.h"
#include "real.h"
#include "registry/sys.h"

#define STACK_MAX ((uintptr_t)64 << 20) /* farther away than that is another stack: a switch of coroutines */

FL_TLS struct fl_held *fl_held_top __attribute__((visibility("hidden")));

_Noreturn void __longjmp_chk(struct __jmp_buf_tag env[1], int value);

#if defined(__x86_64__) && !defined(__ILP32__) && !defined(__GLIBC__)
static uintptr_t target(const struct __jmp_buf_tag *env) { return env->__jb[6]; } /* musl */
#elif defined(__x86_64__) && !defined(__ILP32__)
/* glibc's jmp_buf: the seventh word is the stack pointer, rotated and mixed with a secret of the process. */
static uintptr_t target(const struct __jmp_buf_tag *env) {
  uintptr_t sp = (uintptr_t)env->__jmpbuf[6], guard;

  __asm__("mov %%fs:0x30, %0" : "=r"(guard));
  return (sp >> 17 | sp << 47) ^ guard;
}
#else
static uintptr_t target(const struct __jmp_buf_tag *env) { return 0; }
#endif

static bool inside(const stack_t *s, uintptr_t p) {
  return (s->ss_flags & SS_ONSTACK) && p - (uintptr_t)s->ss_sp < s->ss_size;
}

static void leave(const struct __jmp_buf_tag *env) {
  stack_t alternate = {0};
  uintptr_t to;

  if (FL_LIKELY(!fl_held_top) || !(to = target(env)))
    return;
  fl_syscall6(__NR_sigaltstack, 0, (long)&alternate, 0, 0, 0, 0);
  while (fl_held_top) {
    struct fl_held *h = fl_held_top;
    uintptr_t at = (uintptr_t)h;
    if (inside(&alternate, to) != inside(&alternate, at)) {
      if (inside(&alternate, to)) /* within the handler */
        return;
    } else if (at >= to || to - at > STACK_MAX) {
      return;
    }
    fl_held_top = h->below;
    h->release(h->what);
  }
}

static struct {
  void (*longjmp)(struct __jmp_buf_tag env[1], int value);
  void (*_longjmp)(struct __jmp_buf_tag env[1], int value);
  void (*siglongjmp)(struct __jmp_buf_tag env[1], int value);
  void (*__longjmp_chk)(struct __jmp_buf_tag env[1], int value);
} extra;

#define JUMP(name) \
  do { \
    leave(env); \
    if (!extra.name) \
      fl_real_one((void **)&extra.name, #name); \
    extra.name(env, value); \
    __builtin_trap(); \
  } while (0)

FL_EXPORT _Noreturn void longjmp(struct __jmp_buf_tag env[1], int value) { JUMP(longjmp); }
FL_EXPORT _Noreturn void _longjmp(struct __jmp_buf_tag env[1], int value) { JUMP(_longjmp); }
FL_EXPORT _Noreturn void siglongjmp(struct __jmp_buf_tag env[1], int value) { JUMP(siglongjmp); }
FL_EXPORT _Noreturn void __longjmp_chk(struct __jmp_buf_tag env[1], int value) { JUMP(__longjmp_chk); }
