/* SPDX-License-Identifier: MIT */
/*
 * trampoline/emit.h - the code of a stub, for one architecture: the seam. emit_x86_64.c and entry_x86_64.S are all that
 * knows instructions by their bytes; another architecture has a file of each (on aarch64 `svc 0` and a 4-byte branch).
 */
#pragma once

#include "plan.h"

#define FL_STUB_MAX 256u /* bytes of one stub at most */

/* What a stub tells the entry, right behind its code; entry_x86_64.S knows the offsets. */
struct fl_stub_site {
  uintptr_t after;   /* the instruction behind the system call */
  uintptr_t syscall; /* the system call itself */
  uintptr_t entry;   /* fl_tramp_enter or a relative */
  uint32_t flags;    /* FL_SITE_* */
  int32_t number;    /* as planned */
};

/*
 * Which descriptors are ours: a byte for each number, by its low 16 bits, not 0 if one with these bits may be. Stubs
 * look here, so a byte is set before the first call that must be seen, and cleared after the last.
 */
extern _Atomic uint8_t fl_tramp_fds[65536];

/* Fills what stubs look up. Once, before the first. */
void fl_emit_init(void);

/*
 * Writes the stub that will stand at `at`, FL_STUB_MAX bytes at `to`. Returns its length, 0 if a distance does not fit.
 * The stub changes rcx and r11, which the kernel changes as well, and no flag, and uses no stack.
 */
size_t fl_emit_stub(uint8_t *to, uintptr_t at, const struct fl_object *o, const struct fl_site *s);

/* The bytes that go over the site: a jump to `stub`, and fill. False: too far. `to` has room for s->len bytes. */
bool fl_emit_jump(uint8_t *to, const struct fl_object *o, const struct fl_site *s, uintptr_t stub);

/* A function that does nothing (the loader's _dl_debug_state): 5 bytes that jump to `target`; false: it is not as
 * expected. */
bool fl_emit_hook(uint8_t to[5], const uint8_t *function, uintptr_t at, uintptr_t target);

/* A far jump to an address anywhere. Returns its length. */
size_t fl_emit_far_jump(uint8_t *to, uintptr_t target);

/* After code was written by this thread: it is what is executed from here on. */
void fl_emit_settle(void);
