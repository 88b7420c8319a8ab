/* SPDX-License-Identifier: MIT */
/* tests/trampoline/test_plan.c - which system calls are found, against objdump, and how they are judged. */
#include <criterion/criterion.h>
#include <criterion/logging.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "elf_file.h"
#include "trampoline/decode.h"
#include "trampoline/plan.h"
#include "trampoline/tramp.h"

bool fl_tramp_call(struct fl_tramp_call *call) { return false; }

#define SWEEP_MAX (16u << 20) /* bytes of text that objdump may read */

static bool open_plan(const char *path, struct fl_object *o, struct fl_plan *p) {
  struct dl_phdr_info info;

  if (access(path, R_OK) != 0) {
    cr_log_warn("%s is not there", path);
    return false;
  }
  cr_assert(elf_file_map(path, &info), "%s", path);
  cr_assert(fl_object_of(o, &info), "%s", path);
  fl_object_go(o, path);
  cr_assert(fl_decode_open());
  cr_assert(fl_plan_open(p));
  cr_assert(fl_plan_make(p, o, &(struct fl_plan_how){.thorough = true, .until = UINT64_MAX}));
  cr_assert(fl_plan_fits(p, o));
  return true;
}

static uintptr_t address(const struct fl_object *o, const struct fl_site *s) { return fl_site_syscall(o, s) - o->bias; }

static bool is_instruction(const struct fl_site *s) {
  return s->refusal != FL_SITE_FALSE && s->refusal != FL_SITE_UNKNOWN;
}

/* Addresses of the instructions that objdump sees between two addresses, ascending; the caller frees. */
static uintptr_t *objdump(const char *path, uintptr_t from, uintptr_t to, size_t *n) {
  char command[512], line[512];
  uintptr_t *at = malloc(4096 * sizeof *at);

  snprintf(command, sizeof command, "objdump -d --no-show-raw-insn --start-address=%#lx --stop-address=%#lx %s",
           (unsigned long)from, (unsigned long)to, path);
  FILE *f = popen(command, "r");
  cr_assert(f);
  *n = 0;
  while (fgets(line, sizeof line, f)) {
    char *tab = strchr(line, '\t');
    if (tab && strncmp(tab + 1, "syscall", 7) == 0 && *n < 4096)
      at[(*n)++] = strtoul(line, NULL, 16);
  }
  pclose(f);
  return at;
}

static bool contains(const uintptr_t *at, size_t n, uintptr_t address_) {
  for (size_t i = 0; i < n; i++)
    if (at[i] == address_)
      return true;
  return false;
}

/* Everything that is called an instruction is one to objdump. What objdump has beyond that lies in no function that can
 * be decoded: it also reads tables that stand in the text. Returns how many there are. */
static unsigned same_as_objdump(const char *path) {
  struct fl_object o;
  struct fl_plan p;
  unsigned instructions = 0;
  size_t n;

  if (!open_plan(path, &o, &p))
    return 0;
  bool sweep = o.text_end - o.text <= SWEEP_MAX;
  uintptr_t *all = sweep ? objdump(path, o.text - o.bias, o.text_end - o.bias, &n) : NULL;
  for (uint32_t i = 0; i < p.n; i++) {
    const struct fl_site *s = &p.sites[i];
    uintptr_t at = address(&o, s);
    if (sweep) {
      cr_assert(!is_instruction(s) || contains(all, n, at), "%s: %#lx is none", path, (unsigned long)at);
      if (contains(all, n, at))
        cr_assert_neq(s->refusal, FL_SITE_FALSE, "%s: %#lx is one", path, (unsigned long)at);
    } else if (is_instruction(s) || i < 5) {
      struct fl_function f;
      if (!fl_object_function(&o, at + o.bias, &f))
        continue;
      uintptr_t *one = objdump(path, f.start - o.bias, f.end - o.bias, &n);
      cr_assert_eq(contains(one, n, at), is_instruction(s), "%s: %#lx", path, (unsigned long)at);
      free(one);
    }
    instructions += is_instruction(s);
  }
  free(all);
  fl_plan_close(&p);
  return instructions;
}

Test(plan, libc_is_as_objdump_says) {
  unsigned n = same_as_objdump("/lib/x86_64-linux-gnu/libc.so.6");
  cr_assert(n == 0 || n > 300);
}
Test(plan, the_loader_is_as_objdump_says) {
  unsigned n = same_as_objdump("/lib64/ld-linux-x86-64.so.2");
  cr_assert(n == 0 || n > 20);
}
Test(plan, libcrypto_is_as_objdump_says) { same_as_objdump("/usr/lib/x86_64-linux-gnu/libcrypto.so.3"); }
Test(plan, libuv_is_as_objdump_says) { same_as_objdump("/usr/lib/x86_64-linux-gnu/libuv.so.1"); }
Test(plan, node_is_as_objdump_says, .timeout = 60) { same_as_objdump("/usr/bin/node"); }
Test(plan, a_go_program_is_as_objdump_says) {
  unsigned n = same_as_objdump("/usr/lib/go-1.19/bin/gofmt");
  cr_assert(n == 0 || n > 30);
}

static enum fl_glance glance(const char *path) {
  struct dl_phdr_info info;
  struct fl_object o;

  cr_assert(elf_file_map(path, &info) && fl_object_of(&o, &info), "%s", path);
  fl_object_go(&o, path);
  enum fl_glance g = fl_plan_glance(&o, UINT64_MAX);
  munmap((void *)(o.low & ~0xffful), o.high - (o.low & ~0xffful)); /* two programs may want the same addresses */
  return g;
}

Test(plan, a_glance_tells_who_makes_calls) {
  static const char *const none[] = {"/bin/ls", "/bin/bash", "/usr/bin/python3", "/usr/bin/perl", "/bin/tar"};

  cr_expect_eq(glance(SITES), FL_GLANCE_SOME);
  cr_expect_eq(glance("/lib/x86_64-linux-gnu/libc.so.6"), FL_GLANCE_SOME);
  if (access("/usr/lib/go-1.19/bin/gofmt", R_OK) == 0)
    cr_expect_eq(glance("/usr/lib/go-1.19/bin/gofmt"), FL_GLANCE_SOME);
  for (size_t i = 0; i < sizeof none / sizeof *none; i++)
    if (access(none[i], R_OK) == 0)
      cr_expect_eq(glance(none[i]), FL_GLANCE_NONE, "%s", none[i]);
}

Test(plan, what_matters_in_libc_can_be_patched) {
  struct fl_object o;
  struct fl_plan p;
  unsigned patched = 0, left = 0, signals = 0;

  if (!open_plan("/lib/x86_64-linux-gnu/libc.so.6", &o, &p))
    cr_skip_test("another layout of libraries");
  for (uint32_t i = 0; i < p.n; i++) {
    const struct fl_site *s = &p.sites[i];
    patched += s->refusal == FL_SITE_OK && s->number >= 0;
    left += s->refusal != FL_SITE_OK && s->refusal != FL_SITE_UNWANTED && s->number >= 0;
    signals += s->refusal == FL_SITE_SIGNAL;
    if (s->refusal == FL_SITE_SIGNAL) /* __restore_rt: mov $15, %rax */
      cr_assert_eq(memcmp((const void *)(fl_site_syscall(&o, s) - 7), "\x48\xc7\xc0\x0f\0\0\0\x0f\x05", 9), 0);
  }
  cr_assert_geq(patched, 80u);
  cr_assert_leq(left, 3u);
  cr_assert_eq(signals, 1u);
  fl_plan_close(&p);
}

/* ---- sites.S ---- */

static const struct {
  const char *name;
  enum fl_refusal refusal;
  int number;
  unsigned instructions;
} expected[] = {
    {"site_single", FL_SITE_OK, 1, 1},
    {"site_relative", FL_SITE_OK, 0, 3},
    {"site_any", FL_SITE_OK, -1, 2},
    {"site_target", FL_SITE_TARGET, -1, 0},
    {"site_short", FL_SITE_SHORT, 0, 0},
    {"site_false", FL_SITE_FALSE, -1, 0},
    {"site_unwanted", FL_SITE_UNWANTED, 39, 0},
    {"site_cold", FL_SITE_TARGET, 0, 2},
    {"site_registers", FL_SITE_OK, 1, 1},
};

static uintptr_t symbol(const struct dl_phdr_info *info, const char *name) {
  char command[512], line[256];
  uintptr_t at = 0;

  snprintf(command, sizeof command, "nm %s", info->dlpi_name);
  FILE *f = popen(command, "r");
  cr_assert(f);
  while (fgets(line, sizeof line, f)) {
    line[strcspn(line, "\n")] = '\0';
    if (strlen(line) > 19 && strcmp(line + 19, name) == 0)
      at = strtoul(line, NULL, 16);
  }
  pclose(f);
  return info->dlpi_addr + at;
}

Test(plan, sites_are_judged) {
  struct fl_object o;
  struct fl_plan p;
  struct dl_phdr_info info;

  cr_assert(open_plan(SITES, &o, &p));
  info = (struct dl_phdr_info){.dlpi_addr = o.bias, .dlpi_name = SITES};
  for (size_t k = 0; k < sizeof expected / sizeof *expected; k++) {
    struct fl_function f;
    const struct fl_site *s = NULL;
    cr_assert(fl_object_function(&o, symbol(&info, expected[k].name), &f), "%s", expected[k].name);
    for (uint32_t i = 0; i < p.n; i++)
      if (fl_site_syscall(&o, &p.sites[i]) >= f.start && fl_site_syscall(&o, &p.sites[i]) < f.end)
        s = &p.sites[i];
    cr_assert(s, "%s", expected[k].name);
    cr_expect_eq(s->refusal, expected[k].refusal, "%s: %s", expected[k].name, fl_refusal_text(s->refusal));
    cr_expect_eq(s->number, expected[k].number, "%s: number %d", expected[k].name, s->number);
    if (expected[k].instructions && s->refusal == FL_SITE_OK)
      cr_expect_eq(s->ninsns, expected[k].instructions, "%s: %u instructions", expected[k].name, s->ninsns);
    cr_expect_eq(!!(s->flags & FL_SITE_VECTOR), strcmp(expected[k].name, "site_registers") == 0, "%s",
                 expected[k].name);
  }
  fl_plan_close(&p);
}

Test(plan, a_plan_of_other_bytes_does_not_fit) {
  struct fl_object o;
  struct fl_plan p;

  cr_assert(open_plan(SITES, &o, &p));
  for (uint32_t i = 0; i < p.n; i++) {
    p.sites[i].bytes[0] ^= 1;
    cr_assert(!fl_plan_fits(&p, &o));
    p.sites[i].bytes[0] ^= 1;
    if (p.sites[i].refusal != FL_SITE_OK)
      continue;
    p.sites[i].size[0]++;
    cr_assert(!fl_plan_fits(&p, &o));
    p.sites[i].size[0]--;
  }
  p.sites[0].at = UINT32_MAX;
  cr_assert(!fl_plan_fits(&p, &o));
}
