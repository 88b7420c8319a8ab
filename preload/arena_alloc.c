/* SPDX-License-Identifier: MIT */
#include "arena_alloc.h"

#include <errno.h>
#include <stddef.h>

#include "registry/sys.h"
#include "shmring/fault.h"

static struct fl_arena *arena;
static fl_lock_t lock;       /* private to the process */
static uint32_t *free_slots; /* stack of slots of our chunks */
static uint32_t nfree;
static uint32_t chunk_hint;

bool fl_arena_alloc_init(struct fl_arena *a) {
  arena = a;
  free_slots = fl_sys_map_private(FL_CONNS * sizeof *free_slots);
  return free_slots != NULL;
}

void fl_arena_alloc_forked_child(void) {
  nfree = 0;
  chunk_hint = 0;
  atomic_store_explicit(&lock, 0, memory_order_relaxed);
}

static bool slot_used(struct fl_conn *c) { return atomic_load_explicit(&c->used, memory_order_acquire) & 1; }

/* Every process that held it is dead. */
static bool slot_dead(struct fl_conn *c, bool owner_dead) {
  if (atomic_load_explicit(&fl_local_of(c)->nfds, memory_order_acquire) > 0)
    return false;
  if (!owner_dead && (atomic_load_explicit(&c->rx_sleepers, memory_order_relaxed) > 0 ||
                      atomic_load_explicit(&c->tx_busy, memory_order_relaxed) > 0))
    return false;
  for (int i = 0; i < FL_HOLDERS; i++) {
    int32_t pid = atomic_load_explicit(&c->holder[i], memory_order_relaxed);
    if (pid < 0 || pid == fl_pid() || (pid > 0 && fl_sys_kill(pid, 0) != -ESRCH))
      return false;
  }
  return true;
}

/* taken_over: the chunk was a dead process's. */
static void collect(uint32_t chunk, bool fresh, bool taken_over) {
  for (uint32_t i = 0; i < FL_CONN_CHUNK; i++) {
    struct fl_conn *c = fl_arena_conn(chunk * FL_CONN_CHUNK + i);
    if (!fresh && slot_used(c)) {
      if (!slot_dead(c, taken_over))
        continue;
      atomic_fetch_add_explicit(&c->used, 1, memory_order_acq_rel);
    }
    if (taken_over) { /* the threads that were inside died with their process */
      atomic_store_explicit(&c->tx_lock, 0, memory_order_relaxed);
      atomic_store_explicit(&c->rx_lock, 0, memory_order_relaxed);
      atomic_store_explicit(&c->tx_busy, 0, memory_order_relaxed);
      atomic_store_explicit(&c->rx_sleepers, 0, memory_order_relaxed);
    }
    free_slots[nfree++] = chunk * FL_CONN_CHUNK + i;
  }
}

static void raise_high(uint32_t chunk) {
  uint32_t want = (chunk + 1) * FL_CONN_CHUNK, high = atomic_load_explicit(&arena->used_high, memory_order_relaxed);

  while (high < want && !atomic_compare_exchange_weak_explicit(&arena->used_high, &high, want, memory_order_release,
                                                               memory_order_relaxed))
    ;
}

/* The stack is empty: slots of ours that others gave back, else a chunk that nobody has, else one of a dead process. */
static void refill(void) {
  int32_t me = fl_pid();
  uint32_t high = fl_arena_high() / FL_CONN_CHUNK;

  for (uint32_t i = 0; i < high; i++)
    if (atomic_load_explicit(&arena->owner[i], memory_order_relaxed) == me)
      collect(i, false, false);
  if (nfree)
    return;
  for (uint32_t i = chunk_hint; i < FL_CONN_CHUNKS; i++) {
    int32_t owner = atomic_load_explicit(&arena->owner[i], memory_order_relaxed);
    bool fresh = owner == 0;
    if (!fresh && (owner == me || fl_sys_kill(owner, 0) != -ESRCH))
      continue;
    /* acq_rel: pairs with another process's attempt at the same chunk */
    if (!atomic_compare_exchange_strong_explicit(&arena->owner[i], &owner, me, memory_order_acq_rel,
                                                 memory_order_relaxed))
      continue;
    FL_FAULT(slot_chunk);
    raise_high(i);
    collect(i, fresh, !fresh);
    if (nfree) {
      chunk_hint = i;
      return;
    }
  }
  chunk_hint = 0;
}

/* Everything but the locks and the counts of threads inside, which are 0, or belong to a thread that is late; and but
 * for what means something only once the connection is paired (install in pair.c). Most connections never are: they
 * touch three lines. */
static void reset(struct fl_conn *c) {
#define CLEAR(from, to) \
  __builtin_memset((char *)c + offsetof(struct fl_conn, from), 0, \
                   offsetof(struct fl_conn, to) - offsetof(struct fl_conn, from))
  CLEAR(phase, tx_lock);
  CLEAR(ktx, alive_at);
  CLEAR(krx, rx);
#undef CLEAR
}

bool fl_arena_sets_shared(void) { return atomic_load_explicit(&arena->sets_shared, memory_order_relaxed); }

_Atomic uint8_t *fl_arena_learnt(uint16_t port) { return &arena->learnt[(port ^ port >> 8) % FL_LEARNT]; }

void fl_arena_share_sets(void) { atomic_store_explicit(&arena->sets_shared, 1, memory_order_relaxed); }

struct fl_conn *fl_arena_alloc(void) {
  struct fl_conn *c = NULL;

  if (fl_lock(&lock) != FL_LOCKED)
    return NULL;
  if (!nfree)
    refill();
  if (nfree) {
    c = fl_arena_conn(free_slots[--nfree]);
    uint32_t generation = atomic_load_explicit(&c->used, memory_order_relaxed) | 1;
    reset(c);
    c->generation = generation;
    /* relaxed: `used` orders. A slot that is used and held by nobody would be collected by another thread's refill */
    atomic_store_explicit(&c->holder[0], fl_pid(), memory_order_relaxed);
    atomic_store_explicit(&c->nholders, 1, memory_order_relaxed);
    FL_FAULT(slot_reset);
    atomic_store_explicit(&c->used, generation, memory_order_release);
  }
  fl_unlock(&lock);
  return c;
}

void fl_arena_free(struct fl_conn *c) {
  uint32_t generation = c->generation;

  uint32_t i = fl_arena_index(c);
  bool ours = atomic_load_explicit(&arena->owner[i / FL_CONN_CHUNK], memory_order_relaxed) == fl_pid();

  /* under the lock if the slot is ours, or refill could find it free before it is on the stack */
  if (ours && fl_lock(&lock) != FL_LOCKED)
    return;
  FL_FAULT(slot_free);
  /* acq_rel: whoever takes the slot next sees that everybody has left; a second attempt to free it fails */
  bool freed = (generation & 1) && atomic_compare_exchange_strong_explicit(&c->used, &generation, generation + 1,
                                                                           memory_order_acq_rel, memory_order_relaxed);
  if (freed && ours)
    free_slots[nfree++] = i;
  if (ours)
    fl_unlock(&lock);
}
