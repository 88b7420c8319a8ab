/* SPDX-License-Identifier: MIT */
#include "room.h"

#include "arena_alloc.h"
#include "options.h"
#include "shmring/fault.h"

#define LOOK_EVERY_NS 1000000u /* for memory that others hold and do not need; */
#define LOOK_AT 64u            /* at so many connections */

static _Atomic uint64_t in_use; /* bytes, of this process; relaxed: a sum */

#define MAPPINGS_MAX 32000

static _Atomic int mappings; /* relaxed, as in_use */

bool fl_room_for_mapping(void) { return atomic_load_explicit(&mappings, memory_order_relaxed) < MAPPINGS_MAX; }

void fl_room_mapped(int one) { atomic_fetch_add_explicit(&mappings, one, memory_order_relaxed); }

static uint64_t most(void) { return (uint64_t)fl_options.memory << 20; }

/* Some connections may have become idle without anybody who sleeps for them. Their turn comes round. */
static void look_at_others(void) {
  static _Atomic uint64_t looked_at, turn; /* relaxed: two threads that both look do no harm */
  uint64_t now = fl_now();
  uint32_t high = fl_arena_high();

  if (high == 0 || now - atomic_load_explicit(&looked_at, memory_order_relaxed) < fl_ns_to_ticks(LOOK_EVERY_NS))
    return;
  atomic_store_explicit(&looked_at, now, memory_order_relaxed);
  for (uint32_t i = 0; i < LOOK_AT && i < high; i++) {
    struct fl_conn *c = fl_arena_conn((uint32_t)(atomic_fetch_add_explicit(&turn, 1, memory_order_relaxed) % high));
    if (atomic_load_explicit(&fl_local_of(c)->room, memory_order_relaxed) == 0)
      continue;
    fl_conn_enter(c);
    fl_room_shrink(c, now);
    fl_conn_leave(c);
  }
}

bool fl_room_grow(struct fl_conn *c, size_t more) {
  struct fl_local *l = fl_local_of(c);
  struct fl_tx *tx = &c->tx;
  uint64_t size = tx->mask + 1, has = tx->limit - tx->start;

  if (tx->limit >= size || tx->broken)
    return false;
  /* at least twice as much as now, in whole pages */
  uint64_t wants = has + (more > has ? (more + FL_PAGE - 1) & ~(uint64_t)(FL_PAGE - 1) : has);
  uint64_t limit = tx->start + wants < size ? tx->start + wants : size, extra = limit - tx->limit;
  FL_FAULT(room_grow);
  if (atomic_fetch_add_explicit(&in_use, extra, memory_order_relaxed) + extra > most()) {
    atomic_fetch_sub_explicit(&in_use, extra, memory_order_relaxed);
    look_at_others(); /* for the next time */
    return false;
  }
  atomic_fetch_add_explicit(&l->room, extra, memory_order_relaxed);
  tx->limit = limit;
  return true;
}

void fl_room_gone(struct fl_local *l) {
  atomic_fetch_sub_explicit(&in_use, atomic_exchange_explicit(&l->room, 0, memory_order_relaxed), memory_order_relaxed);
}

bool fl_room_shrink(struct fl_conn *c, uint64_t now) {
  int32_t none = 0;

  if (!fl_conn_mapped(c) || !fl_room_held(c))
    return true;
  if (now - atomic_load_explicit(&c->sent_at, memory_order_relaxed) < fl_ns_to_ticks(FL_ROOM_IDLE_NS) ||
      /* acquire: pairs with fl_unlock. Tried, not waited for: the caller may hold the locks of another connection. */
      !atomic_compare_exchange_strong_explicit(&c->tx_lock, &none, fl_tid(), memory_order_acquire,
                                               memory_order_relaxed))
    return false;
  bool small = !fl_conn_mapped(c) || !fl_room_held(c);
  if (!small && (small = fl_tx_shrink(&c->tx))) {
    fl_room_gone(fl_local_of(c));
    fl_room_begin(c);
  }
  fl_unlock(&c->tx_lock);
  return small;
}
