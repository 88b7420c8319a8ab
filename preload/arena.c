/* SPDX-License-Identifier: MIT */
/* preload/arena.c - the descriptor table, the shared arena of connections, and what this process knows of itself. */
#include "arena.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#include "arena_alloc.h"
#include "conn.h"
#include "log.h"
#include "process.h"
#include "registry/sys.h"
#include "tramp.h"

#define FDS_MAX (1u << 20)
#define FEW_ADDRESSES (4ull << 30)

_Atomic uintptr_t *fl_fds;
unsigned fl_fds_size;

static struct fl_arena *arena;
struct fl_conn *fl_conns;
struct fl_local *fl_locals;

struct fl_self fl_self;
FL_TLS struct fl_thread fl_thread;

/* ---- process ---- */

int32_t fl_tid_ask(void) {
  fl_thread = (struct fl_thread){.tid = fl_sys_gettid(), .pid = fl_self.pid};
  return fl_thread.tid;
}

void fl_self_forked(void) { fl_process_forked_child(false); }

void fl_arena_forked_child(void) {
  fl_self.pid = fl_sys_getpid();
  if (fl_self.wiped)
    *fl_self.wiped = fl_self.pid;
  fl_arena_alloc_forked_child();
}

bool fl_in_vfork_child(void) {
  /* A vfork child shares our memory, so the wiped page does not tell; only the kernel does. */
  return fl_self.pid && fl_self.wiped && *fl_self.wiped == fl_self.pid && fl_sys_getpid() != fl_self.pid;
}

static bool table_init(void) {
  struct rlimit rl;
  unsigned n = FDS_MAX;

  if (fl_syscall6(__NR_prlimit64, 0, RLIMIT_NOFILE, 0, (long)&rl, 0, 0) == 0 && rl.rlim_max < FDS_MAX)
    n = (unsigned)rl.rlim_max < 64 ? 64 : (unsigned)rl.rlim_max;
  _Atomic uintptr_t *fds = fl_sys_map_private(n * sizeof *fds);
  if (!fds)
    return false;
  fl_fds = fds;
  fl_fds_size = n;
  return true;
}

static bool arena_map(void) {
  void *at = NULL;
  int fd = fl_sys_memfd_create(FL_ARENA_NAME, MFD_CLOEXEC);

  if (fd < 0)
    return false;
  bool ok = fl_sys_ftruncate(fd, FL_ARENA_BYTES) == 0 && fl_sys_map_shared(fd, FL_ARENA_BYTES, &at) == 0;
  fl_sys_close(fd);
  if (!ok)
    return false;
  arena = at;
  fl_conns = (struct fl_conn *)((char *)at + FL_ARENA_CONN_OFFSET);
  arena->version = FL_ARENA_VERSION;
  arena->conn_size = sizeof(struct fl_conn);
  arena->conn_offset = FL_ARENA_CONN_OFFSET;
  arena->conn_count = FL_CONNS;
  atomic_thread_fence(memory_order_release);
  arena->magic = FL_ARENA_MAGIC;
  return true;
}

/* The tables take some seventy megabytes of addresses, of which little is ever touched. Where these are counted, they
 * might be what the program lacks then. */
static bool few_addresses(void) {
  struct rlimit all = {.rlim_cur = RLIM_INFINITY}, data = all;

  fl_syscall6(__NR_prlimit64, 0, RLIMIT_AS, 0, (long)&all, 0, 0);
  fl_syscall6(__NR_prlimit64, 0, RLIMIT_DATA, 0, (long)&data, 0, 0);
  return all.rlim_cur < FEW_ADDRESSES || data.rlim_cur < FEW_ADDRESSES;
}

bool fl_process_init(void) {
  if (few_addresses())
    return false;
  int32_t *wiped = fl_sys_map_private(4096);

  fl_self.pid = fl_sys_getpid();
  fl_locals = fl_sys_map_private(FL_CONNS * sizeof *fl_locals);
  if (!fl_locals || !wiped || !arena_map() || !fl_arena_alloc_init(arena)) {
    fl_log(FL_LOG_ERROR, "no memory for the connection table: everything stays on TCP");
    return false;
  }
  if (fl_syscall6(__NR_madvise, (long)wiped, 4096, MADV_WIPEONFORK, 0, 0, 0) != 0)
    return false;
  *wiped = fl_self.pid;
  fl_self.wiped = wiped;
  return table_init(); /* last: from here on connections are followed */
}

uintptr_t fl_fds_set(int fd, uintptr_t entry) {
  if ((unsigned)fd >= fl_fds_size)
    return 0;
  if (entry)
    fl_tramp_note(fd, true);
  /* acq_rel: pairs with the acquire in fl_entry, and with the former writer of this entry */
  uintptr_t before = atomic_exchange_explicit(&fl_fds[fd], entry, memory_order_acq_rel);
  if (!entry)
    fl_tramp_note(fd, false);
  return before;
}

/* ---- locks ---- */

enum fl_locked fl_lock_slow(fl_lock_t *lock, int32_t me) {
  uint64_t last = fl_now(), waited = 0, second = fl_ns_to_ticks(1000000000u), slice = second / 64;

  for (unsigned n = 1;; n++) {
    int32_t owner = 0;
    /* acquire: pairs with the release in fl_unlock */
    if (atomic_compare_exchange_strong_explicit(lock, &owner, me, memory_order_acquire, memory_order_relaxed))
      return FL_LOCKED;
    if (owner == me)
      return FL_REENTERED;
    if (n < 100) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
      continue;
    }
    fl_syscall6(__NR_sched_yield, 0, 0, 0, 0, 0, 0);
    if (n % 64 == 0 && fl_sys_tkill(owner, 0) == -ESRCH) {
      /* the owner died inside; what it left is as an interrupted call leaves it */
      if (atomic_compare_exchange_strong_explicit(lock, &owner, me, memory_order_acquire, memory_order_relaxed))
        return FL_LOCKED;
    }
    /* of a long time between two looks little counts: all of the process may have been stopped, and the owner with it
     */
    uint64_t now = fl_now();
    waited += now - last < slice ? now - last : slice;
    last = now;
    if (waited > second)
      return FL_REENTERED;
  }
}

/* ---- slots ---- */

struct fl_conn *fl_arena_conn(uint32_t i) {
  return &fl_conns[i];
}
uint32_t fl_arena_index(const struct fl_conn *c) { return (uint32_t)(c - fl_conns); }
uint32_t fl_arena_high(void) { return arena ? atomic_load_explicit(&arena->used_high, memory_order_acquire) : 0; }
