/* SPDX-License-Identifier: MIT */
/* tests/trampoline/test_patch.c - patched code at work: what arrives, what is kept, who may be inside. */
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "trampoline/cache.h"
#include "trampoline/commit.h"
#include "trampoline/decode.h"
#include "trampoline/tramp.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif

#define OURS 200 /* no open descriptor: the kernel would say EBADF */

/* ---- the side that answers ---- */

static struct {
  _Atomic unsigned calls;
  struct fl_tramp_call last;
  void *frame[16];
  int frames;
  bool decline, look, clobber, threads;
} got;

bool fl_tramp_call(struct fl_tramp_call *call) {
  got.calls++;
  if (!got.threads)
    got.last = *call;
  if (got.look)
    got.frames = backtrace(got.frame, 16);
  if (got.clobber) /* everything that C code may change */
    __asm__ volatile("vpxor %%xmm0,%%xmm0,%%xmm0\n\tvpxor %%xmm15,%%xmm15,%%xmm15\n\tcmpl %%eax,%%eax" ::
                         : "xmm0", "xmm15", "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "cc");
  if (got.decline)
    return false;
  call->number = 1000 + call->arg[2];
  return true;
}

/* ---- the patched object ---- */

static long (*site_single)(long fd, const void *buf, size_t n);
static long (*site_relative)(long fd, void *buf, size_t n);
static long (*site_any)(long nr, long a, long b, long c);
static long (*site_registers)(long fd, const void *buf, size_t n, unsigned long state[13]);
static char *site_flag;
static struct fl_object sites;

static int find(struct dl_phdr_info *info, size_t size, void *arg) {
  struct fl_object o;

  if (fl_object_of(&o, info) && (uintptr_t)site_single >= o.low && (uintptr_t)site_single < o.high)
    sites = o;
  return 0;
}

static void load(void) {
  void *h = dlopen(SITES, RTLD_NOW);

  cr_assert(h, "%s", dlerror());
#define FIND(name) (name = (__typeof__(name))dlsym(h, #name))
  cr_assert(FIND(site_single) && FIND(site_relative) && FIND(site_any) && FIND(site_registers) && FIND(site_flag));
  dl_iterate_phdr(find, NULL);
  fl_tramp_init();
}

static struct fl_tramp_result patch(struct fl_tramp_wish wish) {
  struct fl_tramp_result r;

  wish.may_plan = true;
  cr_assert(fl_tramp_object(&sites, &wish, &r), "%s", r.error);
  return r;
}

static void ours(int fd, bool yes) { fl_tramp_fds[fd] = yes; }

TestSuite(patch, .init = load);

Test(patch, a_call_on_a_descriptor_of_ours_arrives_with_its_arguments) {
  patch((struct fl_tramp_wish){0});
  ours(OURS, true);
  cr_assert_eq(site_single(OURS, "abc", 3), 1003);
  cr_assert_eq(got.last.number, SYS_write);
  cr_assert_eq(got.last.arg[0], OURS);
  cr_assert_str_eq((const char *)got.last.arg[1], "abc");
  cr_assert_eq(got.last.arg[2], 3);
  cr_assert_eq(site_relative(OURS, NULL, 7), 1007);
  cr_assert_eq(got.last.number, SYS_read);
  cr_assert_eq(site_any(SYS_read, OURS, 0, 9), 1009);
  cr_assert_eq(got.calls, 3u);
}

Test(patch, other_calls_are_the_kernels) {
  int fd = open("/dev/null", O_RDWR);

  patch((struct fl_tramp_wish){0});
  ours(OURS, true);
  cr_assert_eq(site_single(fd, "abc", 3), 3);
  cr_assert_eq(site_single(OURS + 1, "abc", 3), -EBADF);
  cr_assert_eq(site_relative(fd, NULL, 3), 0);
  cr_assert_eq(site_any(SYS_getpid, OURS, 0, 0), getpid());
  cr_assert_eq(got.calls, 0u);
  *site_flag = 0; /* what was in front of the call is done as ever: here, a jump elsewhere */
  cr_assert_eq(site_relative(OURS, NULL, 3), -1000);
  cr_assert_eq(got.calls, 0u);
}

Test(patch, a_call_that_is_declined_is_the_kernels) {
  patch((struct fl_tramp_wish){0});
  ours(OURS, true);
  got.decline = true;
  cr_assert_eq(site_single(OURS, "abc", 3), -EBADF);
  cr_assert_eq(site_any(SYS_epoll_create1, -1, 0, 0), -EINVAL); /* one that is always handed over */
  cr_assert_eq(got.calls, 2u);
}

Test(patch, registers_flags_and_the_red_zone_survive) {
  patch((struct fl_tramp_wish){0});
  ours(OURS, true);
  got.clobber = true;
  for (unsigned long value = 0; value < 3; value++) {
    unsigned long state[13], before[13];
    for (unsigned i = 0; i < 13; i++)
      before[i] = state[i] = value + 0x1111111111111111ul * i;
    before[11] = state[11] = value;
    cr_assert_eq(site_registers(OURS, "abc", 3, state), 1003);
    cr_assert_arr_eq(state, before, 12 * sizeof *state);
    cr_assert_eq(state[12] & 0x41, value == 0 ? 0x01 : value == 1 ? 0x40 : 0, "flags %#lx of %lu", state[12], value);
  }
}

Test(patch, the_upper_halves_of_vector_registers_survive) {
  if (!__builtin_cpu_supports("avx2"))
    cr_skip_test("no AVX2");
  unsigned char before[32], after[32];
  patch((struct fl_tramp_wish){.careful = true});
  ours(OURS, true);
  got.clobber = true;
  for (int i = 0; i < 32; i++)
    before[i] = (unsigned char)(3 * i + 1);
  __asm__ volatile("vmovdqu %[before], %%ymm15\n\tcall *%[site]\n\tvmovdqu %%ymm15, %[after]"
                   : [after] "=m"(after)
                   : [site] "r"(site_single), "D"((long)OURS), "S"("abc"), "d"(3L), [before] "m"(before)
                   : "rax", "rcx", "r8", "r9", "r10", "r11", "memory", "cc", "xmm15");
  cr_assert_arr_eq(after, before, 32);
}

Test(patch, the_stack_is_whole_inside) {
  void *frame[16];

  backtrace(frame, 16); /* loads libgcc */
  patch((struct fl_tramp_wish){0});
  ours(OURS, true);
  got.look = true;
  site_registers(OURS, "abc", 3, (unsigned long[13]){0});
  int n = 0;
  while (n < got.frames && !((uintptr_t)got.frame[n] > (uintptr_t)site_registers &&
                             (uintptr_t)got.frame[n] < (uintptr_t)site_registers + 300))
    n++;
  cr_assert_lt(n, got.frames, "the patched function is in the backtrace");
  Dl_info info, here;
  cr_assert(dladdr(got.frame[n + 1], &info) && dladdr((void *)fl_tramp_call, &here));
  cr_assert_eq(info.dli_fbase, here.dli_fbase, "and its caller behind it");
}

/* ---- how it is done ---- */

static bool any_writable_and_executable(void) {
  char line[512];
  bool found = false;
  FILE *f = fopen("/proc/self/maps", "r");

  while (fgets(line, sizeof line, f))
    found |= strstr(line, " rwx") || strstr(line, " -wx");
  fclose(f);
  return found;
}

Test(patch, works_where_memory_may_not_become_executable) {
  if (prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) != 0)
    cr_skip_test("a kernel before 6.3");
  cr_assert_geq(patch((struct fl_tramp_wish){0}).patched, 4u);
  ours(OURS, true);
  cr_assert_eq(site_single(OURS, "abc", 3), 1003);
  cr_assert(!any_writable_and_executable());
}

/* The file that is mapped where the sites are. */
static void mapped_there(char *line, size_t size) {
  unsigned long low, high;
  FILE *f = fopen("/proc/self/maps", "r");

  while (fgets(line, (int)size, f))
    if (sscanf(line, "%lx-%lx", &low, &high) == 2 && (uintptr_t)site_single >= low && (uintptr_t)site_single < high)
      break;
  fclose(f);
}

Test(patch, the_code_keeps_its_place_in_its_file) {
  char line[512];

  patch((struct fl_tramp_wish){0});
  mapped_there(line, sizeof line);
  cr_assert(strstr(line, SITES) && strstr(line, " r-xp "), "%s", line);
}

Test(patch, works_where_memory_may_not_be_written_as_by_a_debugger) {
  char line[512];

  if (setresuid(65534, 65534, 65534) != 0) /* /proc/self/mem is root's now */
    cr_skip_test("only with root's rights");
  cr_assert_lt(open("/proc/self/mem", O_RDWR), 0);
  patch((struct fl_tramp_wish){0});
  mapped_there(line, sizeof line);
  cr_assert(strstr(line, "fastlocal-code") && strstr(line, " r-xp "), "%s", line);
  ours(OURS, true);
  cr_assert_eq(site_single(OURS, "abc", 3), 1003);
  cr_assert_eq(site_relative(OURS, NULL, 7), 1007);
  cr_assert_eq(site_single(OURS + 1, "abc", 3), -EBADF);
}

/* Some of these sites cannot be. */
Test(patch, all_or_nothing) {
  struct fl_tramp_result r;

  cr_assert(!fl_tramp_object(&sites, &(struct fl_tramp_wish){.may_plan = true, .complete = true}, &r));
  cr_assert_not_null(r.error);
  cr_assert_eq(r.patched, 0u);
  cr_assert_gt(r.refused, 0u);
  ours(OURS, true);
  cr_assert_eq(site_single(OURS, "abc", 3), -EBADF);
  cr_assert_eq(got.calls, 0u);
}

Test(patch, without_a_plan_nothing_is_changed) {
  struct fl_tramp_result r;
  unsigned char before[8];

  memcpy(before, (const void *)site_single, sizeof before);
  cr_assert(!fl_tramp_object(&sites, &(struct fl_tramp_wish){.may_plan = false}, &r));
  cr_assert_not_null(r.error);
  cr_assert_arr_eq((const unsigned char *)site_single, before, sizeof before);
}

struct text {
  uint8_t bytes[4096];
  uintptr_t page;
};

static void remember(struct text *t) {
  t->page = (uintptr_t)site_single & ~4095ul;
  cr_assert_leq(sites.text_end, t->page + 4096);
  memcpy(t->bytes, (const void *)t->page, 4096);
}
static void restore(const struct text *t) { cr_assert(fl_commit_bytes(t->page, t->bytes, 4096)); }

static _Atomic bool stop;
static _Atomic unsigned long rounds;

static void *writer(void *arg) {
  int fd = *(int *)arg;

  while (!stop) {
    long r = site_single(fd, "abc", 3);
    if (r != 3 && r != 1003)
      return (void *)1;
    rounds++;
  }
  return NULL;
}

/* Only where one instruction becomes one other can a thread be anywhere; so only there. */
Test(patch, threads_may_run_in_what_is_patched, .timeout = 60) {
  int fd = open("/dev/null", O_WRONLY);
  pthread_t t[3];
  struct text before;
  void *r;

  got.threads = true;
  remember(&before);
  ours(fd, true);
  fl_decode_open();
  for (int i = 0; i < 3; i++)
    pthread_create(&t[i], NULL, writer, &fd);
  for (int i = 0; i < 1000; i++) {
    struct fl_tramp_result result = patch((struct fl_tramp_wish){.running = true});
    cr_assert_gt(result.patched, 0u);
    cr_assert_eq(*(const uint8_t *)site_single, 0xe9);
    unsigned long seen = rounds;
    for (int k = 0; k < 100 && rounds == seen; k++)
      sched_yield();
    restore(&before);
  }
  stop = true;
  for (int i = 0; i < 3; i++) {
    pthread_join(t[i], &r);
    cr_assert_null(r);
  }
  cr_assert_gt(got.calls, 0u);
}

/* ---- the cache ---- */

static char directory[64];

static void cache_open(void) {
  load();
  strcpy(directory, "/tmp/fl-cache-XXXXXX");
  cr_assert(mkdtemp(directory));
}

static void cache_close(void) {
  char command[128];

  snprintf(command, sizeof command, "rm -r %s", directory);
  cr_assert_eq(system(command), 0);
}

TestSuite(cache, .init = cache_open, .fini = cache_close);

/* The plan of an object that is patched already no longer fits, so these only make and read plans. */
static bool make(struct fl_plan *p) {
  return fl_decode_open() && fl_plan_open(p) && fl_plan_make(p, &sites, &(struct fl_plan_how){.until = UINT64_MAX});
}

static void only_file(char *path, size_t size) {
  char command[128];

  snprintf(command, sizeof command, "ls %s", directory);
  FILE *f = popen(command, "r");
  char name[128] = "";
  cr_assert(fgets(name, sizeof name, f));
  pclose(f);
  name[strcspn(name, "\n")] = '\0';
  snprintf(path, size, "%s/%s", directory, name);
}

Test(cache, a_plan_comes_back_as_it_was) {
  struct fl_plan made, read;

  cr_assert(make(&made) && fl_plan_open(&read));
  cr_assert(!fl_cache_read(directory, &sites, &read, FL_CACHED_PLAIN));
  fl_cache_write(directory, &sites, &made, FL_CACHED_PLAIN);
  cr_assert(fl_cache_read(directory, &sites, &read, FL_CACHED_PLAIN));
  cr_assert_eq(read.n, made.n);
  cr_assert_arr_eq(read.sites, made.sites, made.n * sizeof *made.sites);
  cr_assert(!fl_cache_read(directory, &sites, &read, FL_CACHED_CAREFUL), "a careful plan is another one");
}

Test(cache, what_others_may_write_is_not_believed) {
  struct fl_plan made, read;
  char path[256];

  cr_assert(make(&made) && fl_plan_open(&read));
  fl_cache_write(directory, &sites, &made, FL_CACHED_PLAIN);
  only_file(path, sizeof path);
  chmod(path, 0622);
  cr_assert(!fl_cache_read(directory, &sites, &read, FL_CACHED_PLAIN));
  chmod(path, 0600);
  cr_assert(fl_cache_read(directory, &sites, &read, FL_CACHED_PLAIN));
  chmod(directory, 0777);
  cr_assert(!fl_cache_read(directory, &sites, &read, FL_CACHED_PLAIN));
  chmod(directory, 0700);
  if (geteuid() == 0) {
    cr_assert_eq(chown(path, 65534, 65534), 0);
    cr_assert(!fl_cache_read(directory, &sites, &read, FL_CACHED_PLAIN));
  }
}

Test(cache, a_damaged_file_is_not_believed) {
  struct fl_plan made, read;
  char path[256];

  cr_assert(make(&made) && fl_plan_open(&read));
  fl_cache_write(directory, &sites, &made, FL_CACHED_PLAIN);
  only_file(path, sizeof path);
  struct stat st;
  stat(path, &st);
  int fd = open(path, O_RDWR);
  for (off_t at = 0; at < st.st_size; at++) {
    unsigned char b, other;
    cr_assert_eq(pread(fd, &b, 1, at), 1);
    other = (unsigned char)(b ^ 0x41);
    cr_assert_eq(pwrite(fd, &other, 1, at), 1);
    /* a changed byte may make another valid plan only where that says nothing about the code: flags, numbers, pairs */
    if (fl_cache_read(directory, &sites, &read, FL_CACHED_PLAIN))
      cr_assert(fl_plan_fits(&read, &sites));
    cr_assert_eq(pwrite(fd, &b, 1, at), 1);
  }
  cr_assert(ftruncate(fd, st.st_size - 1) == 0);
  cr_assert(!fl_cache_read(directory, &sites, &read, FL_CACHED_PLAIN));
  close(fd);
}
