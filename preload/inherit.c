/* SPDX-License-Identifier: MIT */
/*
 * preload/inherit.c - unread bytes of a ring that the peer cannot send again (it has ended, or kernel bytes came after
 * them): they go with the descriptor into the new program, which reads them if it has the library.
 *
 * exec copies what is unread into a segment of its own, in a memfd without FD_CLOEXEC at one of the highest numbers.
 * The new program's library looks there once, as it starts, takes the segment for the ring of a connection that is
 * pinned to TCP, and closes the memfd. Nothing else is needed: ring bytes come before kernel bytes as the extents say.
 */
#include "inherit.h"

#include <string.h>
#include <sys/resource.h>

#include "io.h"
#include "log.h"
#include "process.h"
#include "registry/sys.h"
#include "room.h"

#define MAGIC 0x3174697265686e69ull /* "inherit1" */
#define SLOTS 4u
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW)
#define FDS 8

/* Behind the segment. */
struct inherited {
  uint64_t magic;
  int32_t pid;
  uint32_t ring_size;
  uint64_t cookie;
  int32_t fds[FDS]; /* -1: no more */
  uint8_t nonblock, nodelay, cork;
};

static int highest(void) {
  struct rlimit limit = {0};

  fl_syscall6(__NR_prlimit64, 0, RLIMIT_NOFILE, 0, (long)&limit, 0, 0);
  return limit.rlim_cur > 1024 ? 1023 : (int)limit.rlim_cur - 1;
}

/* ---- before exec ---- */

/* Copies what is unread, with its extents, krx bytes of the kernel lane being gone. */
static bool copy_ring(struct fl_rx *walk, uint64_t krx, void *map, uint32_t size) {
  struct fl_tx ours, theirs;
  struct fl_rx rx, none;
  struct fl_span span[2];
  uint64_t need;
  size_t done;
  enum fl_rx_result r;

  struct fl_segment *seg = fl_segment_init(map, size);
  fl_attach(seg, size, 0, &ours, &rx);
  fl_attach(seg, size, 1, &theirs, &none);
  fl_rx_watch(&rx);
  while ((r = fl_rx_peek(walk, UINT64_MAX, span, &need)) == FL_RX_RING) {
    struct iovec iov[2] = {{(void *)span[0].base, span[0].len}, {(void *)span[1].base, span[1].len}};
    size_t n = span[0].len + span[1].len;
    if (fl_tx_push(&theirs, iov, 0, n, walk->koff > krx ? walk->koff - krx : 0, &done) != FL_TX_OK)
      return false;
    walk->tail += n;
  }
  fl_rx_native_always(&rx);
  fl_tx_intent(&theirs, UINT64_MAX); /* ask the socket, always */
  fl_tx_flag(&theirs, FL_FLAG_FIN);
  return r == FL_RX_EMPTY;
}

static void list_fds(const struct fl_conn *c, int fd, struct inherited *to) {
  int n = 0;

  memset(to->fds, -1, sizeof to->fds);
  to->fds[n++] = fd;
  for (unsigned i = 0; i < fl_fds_size && n < FDS; i++) {
    if ((int)i == fd || fl_conn_of((int)i) != c)
      continue;
    int flags = fl_sys_fcntl((int)i, F_GETFD, 0);
    if (flags >= 0 && !(flags & FD_CLOEXEC))
      to->fds[n++] = (int)i;
  }
}

/* A number where the new program looks. */
static int place(int fd) {
  int high = highest();

  for (int at = high; at > high - (int)SLOTS && at > 2; at--)
    if (fl_sys_fcntl(at, F_GETFD, 0) == -EBADF && fl_syscall6(__NR_dup3, fd, at, 0, 0, 0, 0) == at)
      return at;
  return -1;
}

int fl_inherit_save(struct fl_conn *c, int fd, int32_t pid, bool take, struct fl_rx *before) {
  struct inherited what = {.magic = MAGIC, .pid = pid};
  struct fl_tuple t;
  void *map = NULL;
  int at = -1;

  if (!fl_conn_paired(c) || fl_tuple_of(fd, &t) != 0 || fl_lock(&c->rx_lock) != FL_LOCKED)
    return -1;
  if (!fl_conn_mapped(c)) {
    fl_unlock(&c->rx_lock);
    return -1;
  }
  uint32_t size = (uint32_t)(c->rx.mask + 1);
  size_t bytes = fl_segment_bytes(size);
  int memfd = fl_sys_memfd_create("fastlocal-inherit", MFD_ALLOW_SEALING);
  if (memfd >= 0 && fl_sys_ftruncate(memfd, bytes + FL_PAGE) == 0 &&
      fl_sys_map_shared(memfd, bytes + FL_PAGE, &map) == 0) {
    struct fl_rx walk = c->rx;
    what.ring_size = size;
    what.cookie = t.cookie;
    what.nonblock = atomic_load_explicit(&c->nonblock, memory_order_relaxed);
    what.nodelay = atomic_load_explicit(&c->nodelay, memory_order_relaxed);
    what.cork = atomic_load_explicit(&c->cork, memory_order_relaxed);
    list_fds(c, fd, &what);
    bool ok = copy_ring(&walk, atomic_load_explicit(&c->krx, memory_order_relaxed), map, size);
    memcpy((char *)map + bytes, &what, sizeof what);
    fl_sys_munmap(map, bytes + FL_PAGE);
    if (ok && fl_sys_fcntl(memfd, F_ADD_SEALS, SEALS) == 0 && (at = place(memfd)) >= 0) {
      *before = take ? c->rx : (struct fl_rx){0};
      if (take)
        c->rx = walk; /* the tail is not published: exec may fail */
      fl_tx_flag(&c->tx, FL_FLAG_LEFT);
    }
  }
  if (memfd >= 0)
    fl_sys_close(memfd);
  fl_unlock(&c->rx_lock);
  return at;
}

void fl_inherit_undo(struct fl_conn *c, int memfd, const struct fl_rx *before) {
  fl_sys_close(memfd);
  if (!before->lane || fl_lock(&c->rx_lock) != FL_LOCKED)
    return;
  if (fl_conn_paired(c))
    c->rx = *before;
  fl_unlock(&c->rx_lock);
}

/* ---- after it ---- */

static bool adopt(const struct inherited *what, void *map, size_t bytes) {
  struct fl_segment *seg = fl_segment_at(map, bytes);
  struct fl_tuple t;
  int fd = what->fds[0];

  if (fl_segment_check(map, bytes) != what->ring_size || fl_tuple_of(fd, &t) != 0 || t.cookie != what->cookie)
    return false;
  fl_conn_open(fd, what->nonblock, false);
  struct fl_conn *c = fl_conn_of(fd);
  if (!c)
    return false;
  for (int i = 1; i < FDS && what->fds[i] >= 0; i++)
    if (fl_tuple_of(what->fds[i], &t) == 0 && t.cookie == what->cookie)
      fl_conn_share(c, what->fds[i]);
  fl_conn_pin(c, FL_WHY_PASSED);
  struct fl_local *l = fl_local_of(c);
  c->tuple = t;
  l->seg_bytes = bytes;
  atomic_store_explicit(&l->seg, seg, memory_order_relaxed);
  fl_room_mapped(1);
  fl_attach(seg, what->ring_size, 0, &c->tx, &c->rx);
  atomic_store_explicit(&c->nodelay, what->nodelay, memory_order_relaxed);
  atomic_store_explicit(&c->cork, what->cork, memory_order_relaxed);
  /* release: pairs with fl_conn_paired */
  atomic_store_explicit(&c->phase, FL_PAIRED, memory_order_release);
  fl_log(FL_LOG_INFO, "descriptor %d: %llu unread bytes came with it", fd, (unsigned long long)fl_rx_pending(&c->rx));
  return true;
}

static void load(int memfd) {
  struct inherited what;
  void *map = NULL;

  /* whatever else has this number is not touched */
  if (fl_sys_fcntl(memfd, F_GET_SEALS, 0) != SEALS)
    return;
  long size = fl_sys_size(memfd);
  size_t bytes = size > (long)FL_PAGE ? (size_t)size - FL_PAGE : 0;
  if (!bytes || fl_syscall6(__NR_pread64, memfd, (long)&what, sizeof what, (long)bytes, 0, 0) != sizeof what ||
      what.magic != MAGIC || what.pid != fl_sys_getpid())
    return;
  if (fl_ring_size_valid(what.ring_size) && fl_segment_bytes(what.ring_size) == bytes &&
      fl_sys_map_shared(memfd, bytes, &map) == 0 && !adopt(&what, map, bytes))
    fl_sys_munmap(map, bytes);
  fl_sys_close(memfd);
}

void fl_inherit_load(void) {
  int high = highest();

  for (int at = high; at > high - (int)SLOTS && at > 2; at--)
    load(at);
}
