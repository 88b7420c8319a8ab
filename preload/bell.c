/* SPDX-License-Identifier: MIT */
#include "bell.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <sys/un.h>

#include "host.h"
#include "registry/sys.h"
#include "shmring/fault.h"

#ifndef TFD_IOC_SET_TICKS
#define TFD_IOC_SET_TICKS _IOW('T', 0, uint64_t)
#endif

#define NOTE_MAGIC 0x6c6c65626c66ull /* "flbell" */
#define POSTS_MAX 16u                /* of one connection */
#define MISSES_QUICK 32u             /* looks into the mailbox with every send; then with every MISSES_SLOW'th */
#define MISSES_SLOW 64u
#define BORROWED 16
#define FEW 512  /* a process that may have fewer descriptors gets no bells */
#define ROOM 192 /* numbers for them below the limit */

struct note {
  uint64_t magic, key, id;
};

/* A bell of another process. */
struct fl_peer_bell {
  uint64_t id; /* 0: free */
  int fd;
  int refs; /* connections of this process */
  bool far; /* a timerfd */
};

static fl_lock_t lock; /* of everything below */
static bool fork_locked;
static struct fl_peer_bell peers[FL_BELLS_MAX];
static struct mailbox {
  int fd;
  int32_t pid; /* whose it is; 0: not made yet */
  uint64_t name, key;
} mailbox = {.fd = -1};

static struct borrowed {
  struct fl_bell bell;
  _Atomic int32_t user; /* thread, 0 free */
} pool[BORROWED];

/* ---- descriptors ---- */

static uint64_t random64(void) {
  uint64_t r = 0;

  if (fl_syscall6(__NR_getrandom, (long)&r, sizeof r, 1 /* GRND_NONBLOCK */, 0, 0, 0) != (long)sizeof r)
    r = 0; /* early in the life of the machine: no bells yet */
  return r;
}

/* Near the end of what a process may have by default, where neither it nor the kernel's table minds. -1: it may have so
 * few that each counts. */
static int base(void) {
  struct rlimit limit = {0};

  fl_syscall6(__NR_prlimit64, 0, RLIMIT_NOFILE, 0, (long)&limit, 0, 0);
  if (limit.rlim_cur < FEW)
    return -1;
  return (int)(limit.rlim_cur < 1024 ? limit.rlim_cur : 1024) - ROOM;
}

/* Takes fd to a high number and marks it; -1, with fd closed, if that cannot be. */
static int adopt(int fd) {
  if (fd < 0)
    return -1;
  int from = base(), high = from < 0 ? -1 : fl_sys_fcntl(fd, F_DUPFD_CLOEXEC, from);
  fl_sys_close(fd);
  if (high < 0)
    return -1;
  if ((unsigned)high >= fl_fds_size) {
    fl_sys_close(high);
    return -1;
  }
  fl_fds_set(high, FL_TAG_PRIVATE);
  return high;
}

/* A number that lost its mark was closed or taken by the application. */
static bool ours(int fd) { return fd >= 0 && fl_entry(fd) == FL_TAG_PRIVATE; }

static void drop(int fd) {
  if (!ours(fd))
    return;
  fl_fds_set(fd, 0);
  fl_sys_close(fd);
}

/* ---- own bells ---- */

/* To `ns` after the machine's start; 0: never. What it had counted is forgotten. */
static bool set_timer(int fd, long ns) {
  struct itimerspec at = {.it_value = {.tv_nsec = ns}};

  return fl_syscall6(__NR_timerfd_settime, fd, TFD_TIMER_ABSTIME, (long)&at, 0, 0, 0) >= 0;
}

bool fl_bell_ready(struct fl_bell *b) {
  int32_t me = fl_pid();

  if (FL_LIKELY(b->pid == me))
    return ours(b->fd);
  /* an inherited copy stays open: it may be the parent's in an epoll set that both have, and goes with exec or exit */
  *b = (struct fl_bell){.fd = -1, .pid = me, .who = b->who, .id = random64()};
  if (b->id && b->who)
    b->fd = adopt((int)fl_syscall6(__NR_timerfd_create, CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK, 0, 0, 0, 0));
  else if (b->id)
    b->fd = adopt((int)fl_syscall6(__NR_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK, 0, 0, 0, 0));
  return b->fd >= 0;
}

void fl_bell_close(struct fl_bell *b) {
  if (b->pid == fl_pid())
    drop(b->fd);
  *b = (struct fl_bell){.fd = -1};
}

static _Atomic bool refused; /* relaxed: a thread that has not seen it tries once more */

void fl_bell_refuse(void) { atomic_store_explicit(&refused, true, memory_order_relaxed); }

/* Fits a free one? First the same as the last time, then one that was never made, then any. */
static bool fits(const struct fl_bell *b, uint32_t who, int pass) {
  return pass == 0 ? b->pid == fl_pid() && b->who == who : pass == 1 ? b->pid != fl_pid() : true;
}

struct fl_bell *fl_bell_borrow(uint32_t who) {
  for (int i = 0; i < 3 * BORROWED && !atomic_load_explicit(&refused, memory_order_relaxed); i++) {
    struct borrowed *p = &pool[i % BORROWED];
    int32_t none = 0;
    /* acquire: pairs with fl_bell_return; what the last user made is seen */
    if (!atomic_compare_exchange_strong_explicit(&p->user, &none, fl_tid(), memory_order_acquire, memory_order_relaxed))
      continue;
    if (!fits(&p->bell, who, i / BORROWED)) {
      fl_bell_return(&p->bell);
      continue;
    }
    if (FL_UNLIKELY(p->bell.who != who)) {
      fl_bell_close(&p->bell);
      p->bell.who = who;
    }
    if (fl_bell_ready(&p->bell))
      return &p->bell;
    fl_bell_return(&p->bell);
    return NULL;
  }
  return NULL;
}

void fl_bell_return(struct fl_bell *b) {
  struct borrowed *p = (struct borrowed *)b;
  _Static_assert(offsetof(struct borrowed, bell) == 0, "one is found from the other");

  atomic_store_explicit(&p->user, 0, memory_order_release);
}

void fl_bell_clear(const struct fl_bell *b) {
  uint64_t count;

  if (!ours(b->fd))
    return;
  if (b->who)
    set_timer(b->fd, 0); /* no time: the ticks are forgotten */
  else
    fl_sys_read(b->fd, &count, sizeof count);
}

/* A kernel without TFD_IOC_SET_TICKS (CONFIG_CHECKPOINT_RESTORE) is given a time that is over: slower, the same. */
static bool ring_far(int fd) {
  uint64_t one = 1;

  return fl_sys_ioctl(fd, TFD_IOC_SET_TICKS, &one) >= 0 || set_timer(fd, 1);
}

void fl_bell_ring(int fd) {
  uint64_t one = 1, count;

  if (fd & FL_BELL_FAR) {
    ring_far(fd & ~FL_BELL_FAR);
    return;
  }
  /* Full: somebody has rung it 2^64 times and it was never cleared. Whoever makes room and finds it full again was
   * overtaken by another that rang. */
  if (fl_sys_write(fd, &one, sizeof one) == -EAGAIN) {
    fl_sys_read(fd, &count, sizeof count);
    fl_sys_write(fd, &one, sizeof one);
  }
}

/* ---- mailboxes ---- */

static socklen_t mailbox_address(uint64_t name, struct sockaddr_un *a) {
  static const char prefix[] = "fastlocal/bell/", digits[] = "0123456789abcdef";
  char *p = a->sun_path;

  *a = (struct sockaddr_un){.sun_family = AF_UNIX};
  memcpy(p + 1, prefix, sizeof prefix - 1);
  p += sizeof prefix;
  for (int shift = 60; shift >= 0; shift -= 4)
    *p++ = digits[name >> shift & 15];
  return (socklen_t)(p - (char *)a);
}

/*
 * Its name can be read in /proc/net/unix, and anybody may send to it. So the kernel is to throw away what comes without
 * the key, while it is still the sender's: a message that is in the queue keeps others out, and may bring descriptors
 * whose close takes long.
 */
static bool only_with_key(int fd, uint64_t key) {
  uint32_t word[2];
  enum { AT = offsetof(struct note, key) };

  memcpy(word, &key, sizeof word);
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0),          BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, sizeof(struct note), 0, 5),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, AT),         BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ntohl(word[0]), 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, AT + 4),     BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ntohl(word[1]), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, sizeof(struct note)), BPF_STMT(BPF_RET | BPF_K, 0),
  };
  struct sock_fprog program = {sizeof code / sizeof code[0], code};

  return fl_sys_setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0;
}

/* This process's mailbox; false if it has none. Lock held. */
static bool mailbox_ready(void) {
  struct sockaddr_un a;

  if (FL_LIKELY(mailbox.pid == fl_pid()))
    return ours(mailbox.fd);
  if (mailbox.pid)
    drop(mailbox.fd); /* the parent's */
  mailbox = (struct mailbox){.fd = -1, .pid = fl_pid(), .name = random64(), .key = random64()};
  if (!mailbox.name || !mailbox.key)
    return false;
  int fd = fl_sys_socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd >= 0 && (!only_with_key(fd, mailbox.key) || fl_sys_bind(fd, &a, mailbox_address(mailbox.name, &a)) < 0)) {
    fl_sys_close(fd);
    return false;
  }
  mailbox.fd = adopt(fd);
  return mailbox.fd >= 0;
}

union control {
  struct cmsghdr align;
  char bytes[CMSG_SPACE(sizeof(int))];
};

/* Posts b to the other end's mailbox. */
static void post(const struct fl_segment *seg, int end, const struct fl_bell *b) {
  const struct fl_mailbox *to = &seg->mailbox[!end];
  struct note n = {NOTE_MAGIC, atomic_load_explicit(&to->key, memory_order_relaxed), b->id};
  uint64_t name = atomic_load_explicit(&to->name, memory_order_relaxed);
  union control control = {0};
  struct sockaddr_un a;
  struct iovec iov = {&n, sizeof n};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

  if (!name || fl_lock(&lock) != FL_LOCKED)
    return;
  FL_FAULT(bell_post);
  if (mailbox_ready()) {
    msg.msg_name = &a;
    msg.msg_namelen = mailbox_address(name, &a);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &b->fd, sizeof b->fd);
    fl_sys_sendmsg(mailbox.fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
  }
  fl_unlock(&lock);
}

#define EVENTFD "anon_inode:[eventfd]"
#define TIMERFD "anon_inode:[timerfd]"
_Static_assert(sizeof EVENTFD == 21 && sizeof TIMERFD == 21, "see is_kind");

/* Only an eventfd is ever written to, only a timerfd ever set. `want` is 20 characters. */
static bool is_kind(int fd, const char *want) {
  char path[32] = "/proc/self/fd/", link[21] = "";
  char *p = path + strlen(path), digits[12];
  int n = 0;

  do
    digits[n++] = (char)('0' + fd % 10);
  while ((fd /= 10) > 0);
  while (n > 0)
    *p++ = digits[--n];
  long len = fl_syscall6(__NR_readlinkat, AT_FDCWD, (long)path, (long)link, sizeof link, 0, 0);
  return len == 20 && memcmp(link, want, 20) == 0;
}

static struct fl_peer_bell *peer_find(uint64_t id) {
  for (int i = 0; i < FL_BELLS_MAX; i++)
    if (peers[i].id == id)
      return &peers[i];
  return NULL;
}

/* A place for one more. If there is none, one that nobody uses makes room: its process sent it and was never heard of
 * again. */
static struct fl_peer_bell *peer_room(void) {
  static unsigned turn;

  for (int i = 0; i < FL_BELLS_MAX; i++) {
    struct fl_peer_bell *p = &peers[turn++ % FL_BELLS_MAX];
    if (p->refs > 0)
      continue;
    if (p->id)
      drop(p->fd);
    *p = (struct fl_peer_bell){0};
    return p;
  }
  return NULL;
}

/* The descriptor of a message that has exactly one, else -1; none is left open. */
static int only_one(struct msghdr *msg) {
  struct cmsghdr *c = CMSG_FIRSTHDR(msg);
  int fd[2] = {-1, -1}; /* there is room for two, by the alignment */

  if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len < CMSG_LEN(0))
    return -1;
  size_t n = c->cmsg_len - CMSG_LEN(0);
  memcpy(fd, CMSG_DATA(c), n < sizeof fd ? n : sizeof fd);
  if (fd[1] < 0 && !(msg->msg_flags & MSG_CTRUNC))
    return fd[0];
  for (int i = 0; i < 2; i++)
    if (fd[i] >= 0)
      fl_sys_close(fd[i]);
  return -1;
}

/* One message of the mailbox; false if there is none. Lock held. */
static bool mailbox_take(void) {
  struct note n = {0};
  union control control;
  struct iovec iov = {&n, sizeof n};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  ssize_t got = fl_sys_recvmsg(mailbox.fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

  if (got < 0)
    return false;
  int fd = only_one(&msg);
  if (fd < 0)
    return true;
  struct fl_peer_bell *p = NULL;
  if (got == (ssize_t)sizeof n && n.magic == NOTE_MAGIC && n.key == mailbox.key && n.id && !peer_find(n.id))
    p = peer_room();
  if (!p || !is_kind(fd, EVENTFD)) {
    fl_sys_close(fd);
    return true;
  }
  fd = adopt(fd);
  if (fd >= 0)
    *p = (struct fl_peer_bell){.id = n.id, .fd = fd};
  return true;
}

void fl_bell_arrived(uint64_t id, int fd) {
  struct fl_peer_bell *p = NULL;

  if (fl_lock(&lock) == FL_LOCKED) {
    if (id && !peer_find(id) && is_kind(fd, TIMERFD) && (p = peer_room()) && (fd = adopt(fd)) >= 0)
      *p = (struct fl_peer_bell){.id = id, .fd = fd, .far = true};
    else if (!p && fd >= 0)
      fl_sys_close(fd);
    fl_unlock(&lock);
  } else {
    fl_sys_close(fd);
  }
}

/* ---- the receiver ---- */

static int end_of(const struct fl_conn *c, const struct fl_segment *seg) { return c->tx.lane == &seg->lane[1]; }

bool fl_bell_rest(struct fl_conn *c, uint64_t head, const struct fl_bell *b) {
  struct fl_local *l = fl_local_of(c);

  if (!l->bells || l->who != b->who)
    return false;
  if (FL_LIKELY(fl_rx_bell(&c->rx, head, b->id)))
    return true;
  const struct fl_segment *seg = atomic_load_explicit(&l->seg, memory_order_relaxed);
  if (seg && fl_rx_bell_offer(&c->rx, b->id) && l->bell_posts < POSTS_MAX) {
    l->bell_posts++;
    if (l->who)
      fl_host_give_bell(c, b->id, b->fd);
    else
      post(seg, end_of(c, seg), b);
  }
  return false;
}

/* ---- the sender ---- */

int fl_bell_of(struct fl_conn *c) {
  const struct fl_local *l = fl_local_of(c);

  if (!l->bell || l->bell->id != fl_tx_bell_known(&c->tx) || !ours(l->bell->fd))
    return -1;
  return l->bell->far ? l->bell->fd | FL_BELL_FAR : l->bell->fd;
}

/* One connection fewer; the last one closes it. Lock held. */
static void unref(struct fl_peer_bell *p) {
  if (p && --p->refs == 0) {
    drop(p->fd);
    *p = (struct fl_peer_bell){0};
  }
}

static void share_mailbox(struct fl_segment *seg, int end) {
  struct fl_mailbox *m = &seg->mailbox[end];

  if (!mailbox_ready() || atomic_load_explicit(&m->name, memory_order_relaxed) == mailbox.name)
    return;
  atomic_store_explicit(&m->key, mailbox.key, memory_order_relaxed);
  atomic_store_explicit(&m->name, mailbox.name, memory_order_release);
}

void fl_bell_learn(struct fl_conn *c) {
  struct fl_local *l = fl_local_of(c);
  struct fl_segment *seg = atomic_load_explicit(&l->seg, memory_order_relaxed);
  uint64_t wanted = fl_tx_bell_wanted(&c->tx);

  if (wanted == 0 || !l->bells || !seg || (wanted == fl_tx_bell_known(&c->tx) && l->bell && l->bell->id == wanted) ||
      (++l->bell_misses > MISSES_QUICK && l->bell_misses % MISSES_SLOW))
    return;
  if (l->who)
    fl_host_take(); /* its lock comes before ours */
  if (fl_lock(&lock) != FL_LOCKED)
    return;
  struct fl_peer_bell *p = peer_find(wanted);
  if (!p && !l->who && mailbox_ready()) {
    share_mailbox(seg, end_of(c, seg));
    for (int i = 0; i < FL_BELLS_MAX && !p && mailbox_take(); i++)
      p = peer_find(wanted);
  }
  if (p && p->far && p->refs == 0 && !ring_far(p->fd))
    p = NULL; /* a filter forbids it: better known before somebody sleeps with it */
  if (!p) {
    fl_tx_bell_ask(&c->tx, wanted);
  } else if (fl_tx_bell_learn(&c->tx, wanted)) {
    p->refs++;
    unref(l->bell);
    l->bell = p;
    l->bell_misses = 0;
  }
  fl_unlock(&lock);
}

/* ---- life ---- */

void fl_bell_paired(struct fl_conn *c, uint32_t who, bool same_user) {
  struct fl_local *l = fl_local_of(c);
  struct fl_segment *seg = l->seg;

  l->who = who;
  l->bells = same_user || who;
  if (!same_user || fl_lock(&lock) != FL_LOCKED)
    return;
  share_mailbox(seg, end_of(c, seg));
  fl_unlock(&lock);
}

void fl_bell_gone(struct fl_conn *c) {
  struct fl_local *l = fl_local_of(c);

  if (!l->bell || fl_lock(&lock) != FL_LOCKED)
    return;
  unref(l->bell);
  l->bell = NULL;
  fl_unlock(&lock);
}

void fl_bell_fork_prepare(void) { fork_locked = fl_lock(&lock) == FL_LOCKED; }

void fl_bell_forked(bool child) {
  if (child) {
    atomic_store_explicit(&lock, 0, memory_order_relaxed);
    for (int i = 0; i < BORROWED; i++)
      atomic_store_explicit(&pool[i].user, 0, memory_order_relaxed);
  } else if (fork_locked) {
    fl_unlock(&lock);
  }
}
