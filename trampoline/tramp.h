/* SPDX-License-Identifier: MIT */
/*
 * trampoline/tramp.h - system calls that pass through no symbol are led to a function of ours.
 *
 * fl_tramp_object patches a loaded object: each system call that matters jumps to a stub, which asks whether the
 * descriptor is one of ours (a byte of fl_tramp_fds). If not, the call goes on as it was: 2 ns. If so, the registers
 * are kept, and fl_tramp_call, which the library above defines, answers it or says that the kernel is to do so.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "object.h"
#include "plan.h"

extern _Atomic uint8_t fl_tramp_fds[65536]; /* emit.h */

/* The registers of a call; entry_x86_64.S knows the order. The kernel's ABI: what is not here, or is not `number`,
 * which gets the result, is as it was when the call returns. */
struct fl_tramp_call {
  long number; /* in: which; out: the result, -errno */
  long arg[6];
  const struct fl_stub_site *site; /* emit.h; NULL: from no stub */
};

/*
 * Above: answers the call, with the result in ->number and true; false: the kernel is to make it, at the site. On the
 * caller's stack (Go's excepted); errno is kept by whoever changes it. Defined by whoever links this library.
 */
bool fl_tramp_call(struct fl_tramp_call *call);

/* The entries from the stubs; not to be called. */
void fl_tramp_enter(void);
void fl_tramp_enter_go(void);

/* A system call from this library's own code, where it is never patched; -errno. A function with an unwind table and
 * not inlined: a thread that is cancelled in it unwinds through it, and its caller's cleanups are run. */
long fl_tramp_syscall(long number, long a, long b, long c, long d, long e, long f);

struct fl_tramp_result {
  uint32_t patched, refused; /* system calls that matter */
  uint32_t pairs;
  bool cached;       /* the plan came from the cache */
  const char *error; /* why nothing was patched, else NULL */
};

/* Prepares the entries (how much the processor has to save). Once, before the first object. */
void fl_tramp_init(void);

/*
 * Patches one object. running: other threads may be in it; then only sites at which one instruction is replaced are
 * taken. careful: see fl_plan_make. complete: all calls that matter, or none. may_plan: without a plan in the cache the
 * object is read, for at most budget_ns. each: is told of every system call of the object, or NULL. Not thread safe.
 * True: all that matters is patched, or was refused for a reason; false: see ->error, and ->patched, which is 0 if
 * nothing was changed.
 */
struct fl_tramp_wish {
  bool running, careful, complete, may_plan;
  uint64_t budget_ns; /* of processor time; 0: as long as it takes */
  const char *cache;  /* a directory (fl_cache_directory), NULL: none */
  void (*each)(const struct fl_object *o, const struct fl_site *s, void *arg);
  void *arg;
};
bool fl_tramp_object(const struct fl_object *o, const struct fl_tramp_wish *wish, struct fl_tramp_result *result);

/*
 * Does an object whose code is not known to call by the rules (`careful`) make system calls itself? By its plan in the
 * cache, or by a look at its code, which takes budget_ns of processor time at most. In the cache is also kept of which
 * large objects nothing came.
 */
bool fl_tramp_promising(const struct fl_object *o, const char *cache, uint64_t budget_ns);

/* Leads _dl_debug_state, which the loader calls when objects come and go, to f: it is called with the loader's lock
 * held, before the new objects are relocated. `loader`: ld.so. */
bool fl_tramp_hook_loader(const struct fl_object *loader, uintptr_t function, void (*f)(void));
