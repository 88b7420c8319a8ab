/* SPDX-License-Identifier: MIT */
/* preload/conn.c - connections of this process: from connect or accept to the last close. */
#include "conn.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "arena_alloc.h"
#include "bell.h"
#include "epoll.h"
#include "io.h"
#include "learn.h"
#include "log.h"
#include "options.h"
#include "process.h"
#include "registry/sys.h"
#include "room.h"
#include "shmring/fault.h"
#include "stats.h"
#include "tramp.h"

#define LOOK_EVERY_NS 1000000u

const char *fl_reason_text(unsigned reason) {
  static const char *const texts[] = {
#define X(name, text) text,
      FL_REASONS(X)
#undef X
  };
  return reason < sizeof texts / sizeof texts[0] ? texts[reason] : "?";
}

void fl_conn_each(void (*f)(struct fl_conn *c, struct fl_local *l, void *arg), void *arg) {
  uint32_t n = fl_arena_high();

  for (uint32_t i = 0; i < n; i++) {
    struct fl_conn *c = fl_arena_conn(i);
    struct fl_local *l = fl_local_of(c);
    if (atomic_load_explicit(&l->nfds, memory_order_acquire) > 0)
      f(c, l, arg);
  }
}

/* ---- holders ---- */

void fl_conn_holder_add(struct fl_conn *c, int32_t pid) {
  for (int i = 0; i < FL_HOLDERS; i++) {
    int32_t none = 0;
    /* relaxed: the count below orders */
    if (atomic_compare_exchange_strong_explicit(&c->holder[i], &none, pid, memory_order_relaxed, memory_order_relaxed))
      break;
  }
  FL_FAULT(holder_add);
  /* A holder that found no place is counted all the same: it can then never be purged, which means TCP, which is right.
   * acq_rel: pairs with the acquire in fl_conn_usable. */
  atomic_fetch_add_explicit(&c->nholders, 1, memory_order_acq_rel);
}

void fl_conn_holder_drop(struct fl_conn *c, int32_t pid) {
  for (int i = 0; i < FL_HOLDERS; i++) {
    int32_t expected = pid;
    if (atomic_compare_exchange_strong_explicit(&c->holder[i], &expected, 0, memory_order_relaxed,
                                                memory_order_relaxed)) {
      /* acq_rel: what the process that leaves did to the cursors is visible to the one that stays */
      atomic_fetch_sub_explicit(&c->nholders, 1, memory_order_acq_rel);
      return;
    }
  }
}

bool fl_conn_holders_purge(struct fl_conn *c) {
  for (int i = 0; i < FL_HOLDERS; i++) {
    int32_t pid = atomic_load_explicit(&c->holder[i], memory_order_relaxed);
    if (pid <= 0 || pid == fl_pid() || !fl_process_gone(pid))
      continue;
    if (fl_conn_paired(c) && !atomic_load_explicit(&c->pin, memory_order_relaxed)) {
      /* it may have moved bytes that nobody counted: a program without the library, or one that was killed inside a
       * call */
      int fd = fl_process_fd_of(c);
      /* without a descriptor of ours left (conn_last) the counts do not matter any more */
      enum fl_agree agree = fd >= 0                                  ? fl_pair_counts(c, fd)
                            : atomic_load(&fl_local_of(c)->nfds) > 0 ? FL_UNSURE
                                                                     : FL_AGREE;
      FL_FAULT(holder_dead);
      if (agree == FL_UNSURE)
        continue; /* still shared until this is known */
      if (agree == FL_DIFFER)
        fl_conn_pin(c, FL_WHY_COUNTS);
      else if (fd >= 0)
        fl_pair_options(c, fd); /* O_NONBLOCK belongs to all of them, and many programs leave it behind */
    }
    fl_conn_holder_drop(c, pid);
  }
  return atomic_load_explicit(&c->nholders, memory_order_acquire) == 1;
}

void fl_conn_holders_look(struct fl_conn *c) {
  uint64_t now = fl_now();

  if (now - atomic_load_explicit(&c->looked_at, memory_order_relaxed) < fl_ns_to_ticks(LOOK_EVERY_NS))
    return;
  atomic_store_explicit(&c->looked_at, now, memory_order_relaxed);
  fl_conn_holders_purge(c);
}

/* ---- life ---- */

bool fl_stream_change(int fd, uintptr_t off, uintptr_t on) {
  uintptr_t e = fl_entry(fd);

  while ((e & FL_TAG_MASK) == FL_TAG_STREAM)
    /* acq_rel: what the mark stands for is there, and seen by who takes the entry away */
    if (atomic_compare_exchange_weak_explicit(&fl_fds[fd], &e, (e & ~off) | on, memory_order_acq_rel,
                                              memory_order_acquire))
      return true;
  return false;
}

void fl_conn_open(int fd, bool nonblock, bool accepted) {
  if (!fl_fds || (unsigned)fd >= fl_fds_size)
    return;
  uintptr_t former = fl_entry(fd);
  if (former && (former & FL_TAG_MASK) != FL_TAG_STREAM)
    fl_conn_forget(fd, false); /* closed behind our back */
  struct fl_conn *c = fl_arena_alloc();
  if (!c)
    return;
  struct fl_local *l = fl_local_of(c);
  __builtin_memset((char *)l + offsetof(struct fl_local, nfds), 0,
                   offsetof(struct fl_local, rdv) - offsetof(struct fl_local, nfds));
  atomic_store_explicit(&l->nfds, 1, memory_order_relaxed);
  l->after = fl_options.pair_after;
  l->accepted = accepted;
  atomic_store_explicit(&c->nonblock, nonblock, memory_order_relaxed);
  atomic_store_explicit(&c->reason, FL_WHY_YOUNG, memory_order_relaxed);
  atomic_store_explicit(&c->fd_hint, fd, memory_order_relaxed);
  FL_FAULT(conn_open);
  if (fd <= STDERR_FILENO && !fl_tramp_stdio)
    fl_conn_pin(c, FL_WHY_STDIO); /* this process may use it through stdin, stdout or stderr */
  former = fl_fds_set(fd, (uintptr_t)c | FL_TAG_CONN);
  fl_stats_conn_opened();
  if (FL_LIKELY((former & FL_TAG_MASK) != FL_TAG_STREAM || !(former & (FL_STREAM_WAITED | FL_STREAM_ODD))))
    return;
  if (former & FL_STREAM_WAITED)
    fl_early_connected(fd);
  if (former & FL_STREAM_ODD)
    fl_conn_pin(c, FL_WHY_NESTED);
}

void fl_conn_share(struct fl_conn *c, int fd) {
  if (fl_entry(fd))
    fl_conn_forget(fd, false);
  if ((unsigned)fd >= fl_fds_size) {
    fl_conn_pin(c, FL_WHY_PASSED); /* a number that the table does not reach */
    return;
  }
  atomic_fetch_add_explicit(&fl_local_of(c)->nfds, 1, memory_order_relaxed);
  fl_fds_set(fd, (uintptr_t)c | FL_TAG_CONN);
  fl_epoll_tell_all();
}

void fl_conn_put(struct fl_conn *c) {
  if (!atomic_load_explicit(&c->closed, memory_order_acquire) ||
      atomic_load_explicit(&c->rx_sleepers, memory_order_acquire) > 0 ||
      atomic_load_explicit(&c->tx_busy, memory_order_acquire) > 0 ||
      atomic_load_explicit(&fl_local_of(c)->users, memory_order_acquire) > 0)
    return;
  fl_arena_free(c);
}

/* Unmaps what was retired, if nobody looks at it any more. */
static void unmap_retired(struct fl_local *l) {
  if (!atomic_load_explicit(&l->retired, memory_order_relaxed) ||
      atomic_load_explicit(&l->users, memory_order_seq_cst) > 0)
    return;
  /* acq_rel: of two that come here one gets it */
  struct fl_segment *seg = atomic_exchange_explicit(&l->retired, NULL, memory_order_acq_rel);
  if (seg)
    fl_sys_munmap(fl_segment_base(seg, l->seg_bytes), l->seg_bytes);
}

void fl_conn_leave(struct fl_conn *c) {
  struct fl_local *l = fl_local_of(c);

  /* seq_cst: what this thread did to the connection comes before its end; pairs with conn_last */
  if (atomic_fetch_sub_explicit(&l->users, 1, memory_order_seq_cst) > 1)
    return;
  unmap_retired(l);
  if (FL_UNLIKELY(atomic_load_explicit(&c->closed, memory_order_relaxed)))
    fl_conn_put(c);
}

/* TCP answers a close with unread bytes by a reset; the kernel must be told when the unread bytes are in the ring. */
static void reset_on_close(int fd) {
  struct linger now = {.l_onoff = 1, .l_linger = 0};

  fl_sys_setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

/* A connection that does not look for its peer, and has not found it, is nothing but counts. */
static bool plain(const struct fl_conn *c) {
  uint8_t phase = atomic_load_explicit(&c->phase, memory_order_relaxed);
  return (phase == FL_FRESH || phase == FL_SETTLED) && atomic_load_explicit(&c->nholders, memory_order_acquire) == 1;
}

/* The descriptor is open after all: it was a vfork child's copy of it that was closed. */
static void forget_not(struct fl_conn *c, struct fl_local *l, int fd) {
  atomic_fetch_add_explicit(&l->nfds, 1, memory_order_acq_rel);
  fl_fds_set(fd, (uintptr_t)c | FL_TAG_CONN);
}

/* The last descriptor of this process goes. `was_plain`: nobody has asked yet whether this is the child of a vfork,
 * which closes its own descriptors, and whose memory is ours. */
static void conn_last(struct fl_conn *c, struct fl_local *l, int fd, bool closing, bool was_plain) {
  bool tx = fl_lock(&c->tx_lock) == FL_LOCKED, rx = fl_lock(&c->rx_lock) == FL_LOCKED;

  if (FL_UNLIKELY(was_plain && !plain(c) && fl_in_vfork_child())) {
    forget_not(c, l, fd); /* another thread began to pair it in the meantime */
    if (rx)
      fl_unlock(&c->rx_lock);
    if (tx)
      fl_unlock(&c->tx_lock);
    fl_conn_pin(c, FL_WHY_SHARED); /* its epoll sets have forgotten it */
    return;
  }
  bool sole = atomic_load_explicit(&c->nholders, memory_order_acquire) == 1 || fl_conn_holders_purge(c);

  FL_FAULT(conn_last);
  fl_elsewhere();
  fl_pair_abandon(c, l);
  fl_bell_gone(c);
  fl_room_gone(l);
  if (l->has_parked) {
    l->has_parked = false;
    fl_pairing_drop(&l->parked);
  }
  struct fl_segment *seg = atomic_load_explicit(&l->seg, memory_order_relaxed);
  if (fl_conn_paired(c)) {
    fl_rx_native_always(&c->rx);
    FL_FAULT(conn_last_native);
    fl_rx_publish(&c->rx);
    if (sole) {
      /* passed to another process: the connection goes on, and its bytes may be on their way back (fl_hand_over) */
      bool goes_on = atomic_load_explicit(&c->pin, memory_order_relaxed) == FL_WHY_PASSED;
      if (closing && !goes_on && (fl_rx_pending(&c->rx) > 0 || c->reset))
        reset_on_close(fd);
      if (tx && closing)
        fl_send_back_last(c, fd);
      if (!c->tx.broken && !goes_on)
        fl_tx_flag(&c->tx, FL_FLAG_FIN);
    }
  }
  if (sole) {
    fl_learn_end(c, l);
    fl_stats_conn_closed(c);
    atomic_store_explicit(&c->phase, FL_SETTLED, memory_order_release);
    atomic_store_explicit(&c->closed, 1, memory_order_release);
  }
  FL_FAULT(conn_last_flagged);
  if (seg) {
    fl_room_mapped(-1);
    atomic_store_explicit(&l->retired, seg, memory_order_relaxed);
    /* seq_cst: pairs with fl_conn_enter; whoever enters from here on sees no mapping */
    atomic_store_explicit(&l->seg, NULL, memory_order_seq_cst);
  }
  if (rx)
    fl_unlock(&c->rx_lock);
  if (tx)
    fl_unlock(&c->tx_lock);
  FL_FAULT(conn_last_unlocked);
  fl_conn_holder_drop(c, fl_pid());
  FL_FAULT(conn_unmap);
  unmap_retired(l);
  if (sole)
    fl_conn_put(c);
}

void fl_conn_forget(int fd, bool closing) {
  uintptr_t e = fl_entry(fd);
  if (!e)
    return;
  fl_process_check(); /* first: in a clone that no handler saw, this may be what removes the family's second holder */
  if ((e & FL_TAG_MASK) == FL_TAG_STREAM) { /* mostly says nothing that a vfork child's close would make false */
    if (FL_UNLIKELY(e & FL_STREAM_WAITED)) {
      if (fl_in_vfork_child())
        return;
      fl_early_closed(fd);
    }
    fl_fds_set(fd, 0);
    return;
  }
  /* Asking the kernel who we are costs as much as all the rest. A plain connection can do without: if the child of a
   * vfork makes the table forget it, it stays on TCP, where it is. */
  bool was_plain = (e & FL_TAG_MASK) == FL_TAG_CONN && plain((struct fl_conn *)e);
  if (!was_plain && fl_in_vfork_child())
    return;
  e = fl_fds_set(fd, 0);
  if ((e & FL_TAG_MASK) == FL_TAG_EPOLL) {
    fl_epoll_forget((struct fl_epoll *)(e & ~(uintptr_t)FL_TAG_MASK), fd);
    return;
  }
  if (!e || (e & FL_TAG_MASK) != FL_TAG_CONN) /* 0: another thread closes it at the same time, and was first */
    return;
  struct fl_conn *c = (struct fl_conn *)e;
  struct fl_local *l = fl_local_of(c);
  int left = atomic_fetch_sub_explicit(&l->nfds, 1, memory_order_acq_rel) - 1;
  if (left > 0) {
    /* The kernel keeps an epoll registration alive while a dup of its descriptor is open, and can no longer be told to
     * delete it: keep the item as well, it goes with the last descriptor. */
    if (was_plain && fl_in_vfork_child())
      forget_not(c, l, fd); /* through its other descriptor it may pair */
    return;
  }
  fl_epoll_conn_gone(c, l, closing);
  conn_last(c, l, fd, closing, was_plain);
}

/* ---- lanes ---- */

/* rx_lock held where it can be had: a thread inside fl_conn_watch has either watched before, or sees what the caller
 * set. */
static void native(struct fl_conn *c) {
  fl_conn_enter(c);
  if (fl_conn_mapped(c))
    fl_rx_native_always(&c->rx);
  fl_conn_leave(c);
}

void fl_conn_native(struct fl_conn *c) {
  bool locked = fl_lock(&c->rx_lock) == FL_LOCKED;

  native(c);
  if (locked)
    fl_unlock(&c->rx_lock);
}

void fl_conn_pin(struct fl_conn *c, enum fl_reason why) {
  uint8_t none = 0;

  FL_FAULT(conn_pin);
  /* acq_rel: whoever sees the pin (fl_conn_usable) uses the ring no more */
  if (!atomic_compare_exchange_strong_explicit(&c->pin, &none, (uint8_t)why, memory_order_acq_rel,
                                               memory_order_relaxed))
    return;
  fl_log(FL_LOG_INFO, "connection %u pinned to TCP: %s", fl_arena_index(c), fl_reason_text(why));
  fl_conn_native(c);
}

void fl_conn_watch(struct fl_conn *c) {
  struct fl_local *l = fl_local_of(c);

  if (fl_rx_state(&c->rx) == FL_WATCHING)
    return;
  if (!fl_conn_usable(c) || c->rx.broken || atomic_load_explicit(&c->rx_sleepers, memory_order_seq_cst) > 0)
    return;
  fl_epoll_watch(c, l);
}

void fl_conn_watch_now(struct fl_conn *c) {
  fl_rx_watch(&c->rx);
  FL_FAULT(conn_watch_now);
  /*
   * seq_cst, both here and in the places that set pin or nholders before fl_conn_native: whoever comes second sees the
   * other. A pin that this thread missed above will be followed by its own change to NATIVE, one that came before is
   * seen here.
   */
  atomic_thread_fence(memory_order_seq_cst);
  if (!fl_conn_usable(c))
    fl_rx_native_always(&c->rx);
}
