/* SPDX-License-Identifier: MIT */
/* preload/process.c - holders of connections, fork, and the end of a process. */
#include "process.h"

#include <pthread.h>
#include <pty.h>
#include <string.h>

#include "arena_alloc.h"
#include "bell.h"
#include "conn.h"
#include "epoll.h"
#include "export.h"
#include "io.h"
#include "real.h"
#include "registry/sys.h"
#include "shmring/fault.h"
#include "stats.h"

/* ---- holders ---- */

unsigned fl_holder_count(const struct fl_conn *c, int32_t holder) {
  unsigned n = 0;

  for (int i = 0; i < FL_HOLDERS; i++)
    n += atomic_load_explicit(&c->holder[i], memory_order_relaxed) == holder;
  return n;
}

bool fl_holder_replace(struct fl_conn *c, int32_t from, int32_t to) {
  for (int i = 0; i < FL_HOLDERS; i++) {
    int32_t expected = from;
    /* relaxed: the number of holders, which orders, stays the same */
    if (atomic_compare_exchange_strong_explicit(&c->holder[i], &expected, to, memory_order_relaxed,
                                                memory_order_relaxed))
      return true;
  }
  return false;
}

void fl_holder_lend(struct fl_conn *c, int32_t holder) {
  fl_conn_holder_add(c, holder);
  /* takes rx_lock: a thread inside fl_conn_watch has either watched before, which this undoes, or sees the new holder
   */
  fl_conn_native(c);
}

int32_t fl_holder_unborn(void) { return -1 - fl_tid(); }

void fl_holders_settle(int32_t from, int32_t to) {
  uint32_t high = fl_arena_high();

  for (uint32_t i = 0; i < high; i++) {
    struct fl_conn *c = fl_arena_conn(i);
    if (!fl_holder_count(c, from))
      continue;
    if (to)
      fl_holder_replace(c, from, to);
    else
      fl_conn_holder_drop(c, from);
  }
}

bool fl_process_gone(int32_t pid) {
  siginfo_t info;

  if (pid <= 0)
    return false;
  if (fl_sys_kill(pid, 0) == -ESRCH)
    return true;
  memset(&info, 0, sizeof info);
  /* WNOWAIT: the application's own wait still finds it */
  return fl_syscall6(__NR_waitid, P_PID, pid, (long)&info, WEXITED | WNOHANG | WNOWAIT, 0, 0) == 0 &&
         info.si_pid == pid;
}

/* ---- descriptors of connections ---- */

static void count_fds(struct fl_conn *c, struct fl_local *l, void *arg) {
  *(int *)arg += atomic_load_explicit(&l->nfds, memory_order_relaxed);
}

static bool lowest(const struct fl_conn *c, int fd) {
  for (int i = 0; i < fd; i++)
    if (fl_conn_of(i) == c)
      return false;
  return true;
}

void fl_process_walk(void (*f)(struct fl_conn *c, struct fl_local *l, int fd, void *arg), void *arg) {
  int left = 0;

  fl_conn_each(count_fds, &left);
  for (unsigned fd = 0; left > 0 && fd < fl_fds_size; fd++) {
    struct fl_conn *c = fl_conn_of((int)fd);
    if (!c)
      continue;
    left--;
    struct fl_local *l = fl_local_of(c);
    if (atomic_load_explicit(&l->nfds, memory_order_relaxed) == 1 || lowest(c, (int)fd))
      f(c, l, (int)fd, arg);
  }
}

static bool survives_exec(int fd) {
  int flags = fl_sys_fcntl(fd, F_GETFD, 0);

  return flags >= 0 && !(flags & FD_CLOEXEC);
}

bool fl_process_inherits(const struct fl_conn *c, const struct fl_local *l, int fd) {
  int more = atomic_load_explicit(&l->nfds, memory_order_relaxed) - 1;

  if (survives_exec(fd))
    return true;
  for (unsigned i = (unsigned)fd + 1; more > 0 && i < fl_fds_size; i++) {
    if (fl_conn_of((int)i) != c)
      continue;
    if (survives_exec((int)i))
      return true;
    more--;
  }
  return false;
}

bool fl_process_same_tuple(const struct fl_conn *c, const struct fl_tuple *t) {
  return t->cookie == c->tuple.cookie && t->local_port == c->tuple.local_port && t->remote_port == c->tuple.remote_port;
}

bool fl_process_same_socket(const struct fl_conn *c, int fd) {
  struct fl_tuple t;

  return fl_tuple_of(fd, &t) == 0 && fl_process_same_tuple(c, &t);
}

int fl_process_fd_of(const struct fl_conn *c) {
  int left = atomic_load_explicit(&fl_local_of(c)->nfds, memory_order_relaxed);

  for (unsigned fd = 0; left > 0 && fd < fl_fds_size; fd++) {
    if (fl_conn_of((int)fd) != c)
      continue;
    if (fl_process_same_socket(c, (int)fd))
      return (int)fd;
    left--;
  }
  return -1;
}

uint64_t fl_process_unread(struct fl_conn *c) {
  uint64_t n = 0;

  if (!fl_conn_mapped(c))
    return 0;
  /* Not locked: this very thread was interrupted inside. Then the cursors are in motion, and nothing is said. */
  if (fl_lock(&c->rx_lock) != FL_LOCKED)
    return 0;
  if (!c->rx.broken) {
    fl_rx_publish(&c->rx);
    if (!fl_rx_recalling(&c->rx) || atomic_load_explicit(&c->nholders, memory_order_relaxed) == 1)
      n = fl_rx_pending(&c->rx);
  }
  fl_unlock(&c->rx_lock);
  return n;
}

/* ---- fork ---- */

/* Entry that this thread's fork put into the lists, 0 if there were no connections. The child has a copy. */
static FL_TLS int32_t unborn;

static void prepare_one(struct fl_conn *c, struct fl_local *l, void *arg) {
  /* A pairing that another thread is in the middle of: it either ends before the fork, so that the child inherits the
   * mapping, or sees the second holder. The locks are not held across the fork: the child would have no owner for them.
   */
  bool pairing = atomic_load_explicit(&c->phase, memory_order_acquire) < FL_PAIRED;
  bool tx = pairing && fl_lock(&c->tx_lock) == FL_LOCKED, rx = pairing && fl_lock(&c->rx_lock) == FL_LOCKED;

  fl_holder_lend(c, *(int32_t *)arg);
  FL_FAULT(fork_lent);
  if (rx)
    fl_unlock(&c->rx_lock);
  if (tx)
    fl_unlock(&c->tx_lock);
  unborn = *(int32_t *)arg;
}

static void fork_prepare(void) {
  unborn = 0;
  if (!fl_fds_size) /* the library has left this process (sandbox.c) */
    return;
  fl_process_check();
  int32_t mark = fl_holder_unborn();
  fl_conn_each(prepare_one, &mark);
  fl_epoll_fork_prepare();
  fl_bell_fork_prepare();
}

static void fork_parent(void) {
  if (!fl_fds_size)
    return;
  fl_bell_forked(false);
  fl_epoll_forked_parent();
}

/* In the parent, which knows the result; the child may have been faster, or not. */
static void fork_done(pid_t pid) {
  if (!unborn)
    return;
  FL_FAULT(fork_parent);
  fl_holders_settle(unborn, pid > 0 ? pid : 0);
  unborn = 0;
}

struct child {
  int32_t mark; /* the parent's entry for us, 0 if the parent knew of nothing */
  bool other_namespace;
};

static void child_one(struct fl_conn *c, struct fl_local *l, void *arg) {
  const struct child *child = arg;
  int32_t me = fl_pid();

  atomic_store_explicit(&l->users, 0, memory_order_relaxed);    /* threads that do not exist here */
  atomic_store_explicit(&l->reg_lock, 0, memory_order_relaxed); /* its holder is a thread that does not exist here */
  fl_pair_abandon(c, l); /* only closes our copies: the rendezvous stays the parent's */
  if (l->has_parked) {
    fl_pairing_drop(&l->parked);
    l->has_parked = false;
  }
  FL_FAULT(fork_child_conn);
  /* Of the two, parent and child, one turns the mark into this pid. Neither did where there was no mark: a connection
   * that another thread opened after the parent looked, or a clone that nobody prepared. */
  if (child->mark)
    fl_holder_replace(c, child->mark, me);
  unsigned n = fl_holder_count(c, me);
  if (n == 0)
    fl_holder_lend(c, me);
  else if (n > 1) /* a signal handler noticed the fork before the fork handler could */
    fl_conn_holder_drop(c, me);
  if (child->other_namespace)
    fl_conn_holder_add(c, -1); /* pids of the other holders mean nothing here: never find them dead */
  if (child->other_namespace || (fl_conn_paired(c) && !l->seg))
    fl_conn_pin(c, FL_WHY_SHARED);
}

void fl_process_forked_child(bool handlers_ran) {
  static _Atomic int32_t done; /* last process that did this: threads behind a clone may find it at the same time */
  int32_t pid = fl_sys_getpid(), before = atomic_load_explicit(&done, memory_order_relaxed);
  struct child child = {.mark = handlers_ran ? unborn : 0};

  unborn = 0;
  if (handlers_ran)
    atomic_store_explicit(&done, pid, memory_order_relaxed);
  else if (before == pid ||
           !atomic_compare_exchange_strong_explicit(&done, &before, pid, memory_order_relaxed, memory_order_relaxed))
    return;
  FL_FAULT(fork_child);
  fl_arena_forked_child();
  /* The parent is in another pid namespace (unshare before fork): it is 0 here. */
  child.other_namespace = fl_syscall6(__NR_getppid, 0, 0, 0, 0, 0, 0) == 0;
  fl_stats_reset_child();
  fl_bell_forked(true);
  fl_epoll_forked_child();
  fl_host_forked_child();
  fl_conn_each(child_one, &child);
}

static void fork_child(void) {
  if (fl_fds_size)
    fl_process_forked_child(true);
}

void fl_process_hooks_init(void) {
  /* registered first, so called last before the fork and first after it */
  pthread_atfork(fork_prepare, fork_parent, fork_child);
  at_quick_exit(fl_process_exit);
}

/* Functions that older libcs lack, or that only this file calls. */
static struct {
  __typeof__(&_Fork) _Fork;
  __typeof__(&forkpty) forkpty;
  __typeof__(&daemon) daemon;
} extra;

#define EXTRA(name) (extra.name ? extra.name : (__typeof__(&name))fl_real_one((void **)&extra.name, #name))

/*
 * The handlers do the work. These wrappers exist because only their caller knows whether the fork succeeded, and the
 * child's pid. (A fork inside of libc that has no wrapper leaves its mark to the child.)
 */
FL_EXPORT pid_t fork(void) {
  pid_t pid = REAL(fork)();

  if (pid != 0)
    fork_done(pid);
  return pid;
}

FL_EXPORT int forkpty(int *master, char *name, const struct termios *term, const struct winsize *size) {
  pid_t pid = EXTRA(forkpty)(master, name, term, size);

  if (pid != 0)
    fork_done(pid);
  return pid;
}

FL_EXPORT int daemon(int nochdir, int noclose) {
  int32_t caller = fl_sys_getpid();
  int rc = EXTRA(daemon)(nochdir, noclose);

  if (fl_sys_getpid() == caller)
    fork_done(0); /* it failed */
  else /* the parent ends inside of libc, where no hook sees it, and stays a zombie for as long as its own parent likes
        */
    fl_holders_settle(caller, FL_HOLDER_GONE);
  return rc;
}

/* Runs no handlers, and may be called in a signal handler. */
FL_EXPORT pid_t _Fork(void) {
  fork_prepare();
  pid_t pid = EXTRA(_Fork)();

  if (pid == 0) {
    fork_child();
  } else {
    fork_parent();
    fork_done(pid);
  }
  return pid;
}

/* ---- the end ---- */

static void leave_one(struct fl_conn *c, struct fl_local *l, int fd, void *arg) {
  int32_t me = fl_pid();

  FL_FAULT(exit_conn);
  if (!fl_conn_holders_purge(c)) {
    fl_process_unread(c); /* publishes the tail */
    /* Another process goes on with it. One descriptor more than there are: a close that some destructor still makes
     * here is not taken for the family's last. */
    atomic_fetch_add_explicit(&l->nfds, 1, memory_order_relaxed);
    fl_conn_holder_drop(c, me);
    return;
  }
  if (!fl_conn_paired(c))
    return;
  fl_holder_lend(c, me);
  FL_FAULT(exit_lent);
  if (fl_process_unread(c) > 0 && fl_process_same_socket(c, fd)) {
    /* TCP resets a connection whose process ends with unread bytes, and the kernel does not know of these */
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    fl_sys_setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  }
  if (fl_lock(&c->tx_lock) == FL_LOCKED) {
    fl_send_back_last(c, fd);
    if (!c->tx.broken)
      fl_tx_flag(&c->tx, FL_FLAG_FIN);
    fl_unlock(&c->tx_lock);
  }
}

void fl_process_exit(void) {
  static _Atomic int32_t done;

  if (!fl_fds_size)
    return;
  fl_process_check();
  if (fl_in_vfork_child() || atomic_exchange_explicit(&done, fl_sys_getpid(), memory_order_relaxed) == fl_sys_getpid())
    return;
  FL_FAULT(exit_begin);
  fl_stats_write(); /* first: it reports the connections that only this process holds */
  fl_process_walk(leave_one, NULL);
}

FL_EXPORT __attribute__((noreturn)) void _exit(int status) {
  fl_process_exit();
  REAL(_exit)(status);
  for (;;) /* there is no libc to ask */
    fl_syscall6(__NR_exit_group, status, 0, 0, 0, 0, 0);
}

FL_EXPORT __attribute__((noreturn)) void _Exit(int status) { _exit(status); }
