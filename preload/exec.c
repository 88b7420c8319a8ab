/* SPDX-License-Identifier: MIT */
/*
 * preload/exec.c - this process becomes another program.
 *
 * A descriptor that survives is a plain TCP socket for the new program. So the peer has to send over TCP from now on,
 * and no other thread of ours may change that before the kernel stops it: the process is entered twice into the
 * holders. The entries stay, with the pid, while the new program lives.
 *
 * What stands unread in a ring at that moment the peer is asked to send again over TCP (handover.c); if it cannot, it
 * goes with the descriptor, for a new program that has the library (inherit.c).
 *
 * FD_CLOEXEC descriptors are closed by the kernel. That is a close like any other: another holder may use the rings
 * again, and a connection without another holder is reset if bytes of its ring were unread.
 *
 * exec fails often (a search through PATH), so everything that is done can be undone: no pin, no flag for the peer.
 */
#include <stdarg.h>

#include "arena_alloc.h"
#include "conn.h"
#include "epoll.h"
#include "export.h"
#include "inherit.h"
#include "io.h"
#include "log.h"
#include "process.h"
#include "real.h"
#include "registry/sys.h"
#include "shmring/fault.h"

#define LINGERS 8
#define SAVES 4
#define UNSEEN_DUPS 64 /* a vfork child puts descriptors below this number in place */

struct exec {
  int32_t pid;
  bool vfork;
  bool touched;
  int nsaved;
  struct {
    struct fl_conn *c;
    int memfd;
    struct fl_rx before;
  } saved[SAVES];
  int nlingers;
  struct {
    int fd;
    struct linger old;
  } lingers[LINGERS];
};

/* The kernel will close the last descriptor with bytes unread that it does not know of. */
static void reset_at_exec(struct exec *x, int fd) {
  struct linger now = {.l_onoff = 1, .l_linger = 0};
  socklen_t len = sizeof now;

  /* More of them than we can restore: their peers find out by themselves (rx.c, eof_is_reset). */
  if (x->nlingers == LINGERS || fl_sys_getsockopt(fd, SOL_SOCKET, SO_LINGER, &x->lingers[x->nlingers].old, &len) < 0)
    return;
  x->lingers[x->nlingers++].fd = fd;
  fl_sys_setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

/* fd goes to the new program. Another holder may still read what is unread: then (not `sole`) both get it, for only one
 * of them will. */
static void hand_over(struct exec *x, struct fl_conn *c, int fd, bool sole) {
  if (fl_hand_over(c, fd))
    return;
  int memfd = x->nsaved < SAVES ? fl_inherit_save(c, fd, x->pid, sole, &x->saved[x->nsaved].before) : -1;
  if (memfd < 0) {
    fl_log(FL_LOG_WARN, "descriptor %d: the new program does not get the unread bytes", fd);
    return;
  }
  x->saved[x->nsaved].c = c;
  x->saved[x->nsaved++].memfd = memfd;
}

static void pass_one(struct fl_conn *c, struct fl_local *l, int fd, void *arg) {
  struct exec *x = arg;
  bool inherits = fl_process_inherits(c, l, fd);

  if (x->vfork) {
    if (inherits) { /* the parent goes on; it finds this pid dead some day */
      fl_holder_lend(c, x->pid);
      hand_over(x, c, fd, false);
      x->touched = true;
    }
    return;
  }
  x->touched = true;
  bool sole = fl_conn_holders_purge(c);
  if (!inherits && !sole) {
    fl_process_unread(c); /* publishes the tail */
    /* one descriptor more than there are: no close may be taken for this family's last while we are not in the list */
    atomic_fetch_add_explicit(&l->nfds, 1, memory_order_relaxed);
    fl_conn_holder_drop(c, x->pid);
    return;
  }
  fl_holder_lend(c, x->pid);
  FL_FAULT(exec_lent);
  if (inherits) {
    hand_over(x, c, fd, sole);
    return;
  }
  if (fl_process_unread(c) > 0 && fl_process_same_socket(c, fd))
    reset_at_exec(x, fd);
  if (fl_lock(&c->tx_lock) == FL_LOCKED) {
    fl_send_back_last(c, fd);
    fl_unlock(&c->tx_lock);
  }
}

struct unseen {
  struct exec *x;
  int fd;
  struct fl_tuple tuple;
};

static void unseen_one(struct fl_conn *c, struct fl_local *l, void *arg) {
  struct unseen *u = arg;

  if (atomic_load_explicit(&c->phase, memory_order_acquire) == FL_FRESH || !fl_process_same_tuple(c, &u->tuple) ||
      fl_holder_count(c, u->x->pid))
    return;
  fl_holder_lend(c, u->x->pid);
  hand_over(u->x, c, u->fd, false);
  u->x->touched = true;
}

/*
 * What a vfork child does to its descriptors is not in the table, which is its parent's. It has most often put a
 * connection on 0, 1 or 2 (Python's subprocess with stdin=socket): find it by its addresses.
 */
static void pass_unseen(struct exec *x) {
  struct unseen u = {.x = x};

  for (int fd = 0; fd < UNSEEN_DUPS; fd++) {
    u.fd = fd;
    int flags = fl_sys_fcntl(fd, F_GETFD, 0);
    if (flags >= 0 && !(flags & FD_CLOEXEC) && !fl_conn_of(fd) && fl_tuple_of(fd, &u.tuple) == 0)
      fl_conn_each(unseen_one, &u);
  }
}

static void exec_begin(struct exec *x) {
  x->touched = false;
  x->nlingers = x->nsaved = 0;
  if (!fl_fds_size || !fl_arena_high())
    return;
  fl_process_check();
  x->vfork = fl_in_vfork_child();
  x->pid = x->vfork ? fl_sys_getpid() : fl_pid();
  FL_FAULT(exec_begin);
  fl_process_walk(pass_one, x);
  if (x->vfork)
    pass_unseen(x);
  fl_epoll_tell_all();
}

/* A connection that this process holds has exactly one entry of it. */
static void back_one(struct fl_conn *c, struct fl_local *l, void *arg) {
  int32_t me = *(int32_t *)arg;
  unsigned n = fl_holder_count(c, me);

  if (n == 0) {
    fl_holder_lend(c, me);
    atomic_fetch_sub_explicit(&l->nfds, 1, memory_order_relaxed);
  }
  for (; n > 1; n--)
    fl_conn_holder_drop(c, me);
}

static int exec_failed(struct exec *x, int rc) {
  if (!x->touched)
    return rc;
  for (int i = 0; i < x->nsaved; i++)
    fl_inherit_undo(x->saved[i].c, x->saved[i].memfd, &x->saved[i].before);
  for (int i = 0; i < x->nlingers; i++)
    fl_sys_setsockopt(x->lingers[i].fd, SOL_SOCKET, SO_LINGER, &x->lingers[i].old, sizeof x->lingers[i].old);
  if (x->vfork)
    fl_holders_settle(x->pid, 0);
  else
    fl_conn_each(back_one, &x->pid);
  return rc;
}

#define EXEC(call) \
  do { \
    struct exec x; \
    exec_begin(&x); \
    return exec_failed(&x, (call)); \
  } while (0)

FL_EXPORT int execve(const char *path, char *const argv[], char *const envp[]) { EXEC(REAL(execve)(path, argv, envp)); }
FL_EXPORT int execv(const char *path, char *const argv[]) { EXEC(REAL(execv)(path, argv)); }
FL_EXPORT int execvp(const char *file, char *const argv[]) { EXEC(REAL(execvp)(file, argv)); }
FL_EXPORT int execvpe(const char *file, char *const argv[], char *const envp[]) {
  EXEC(REAL(execvpe)(file, argv, envp));
}
FL_EXPORT int fexecve(int fd, char *const argv[], char *const envp[]) { EXEC(REAL(fexecve)(fd, argv, envp)); }
FL_EXPORT int execveat(int dir, const char *path, char *const argv[], char *const envp[], int flags) {
  EXEC(REAL(execveat)(dir, path, argv, envp, flags));
}

/* ---- argument lists: on the stack, as in glibc, because a vfork child may not allocate ---- */

static size_t count_args(const char *first, va_list args) {
  size_t n = 0;

  for (const char *arg = first; arg; arg = va_arg(args, const char *))
    n++;
  return n;
}

/* Takes the list, with its NULL, off args. */
static void take_args(char **argv, size_t n, const char *first, va_list *args) {
  argv[0] = (char *)first;
  for (size_t i = 1; i <= n; i++)
    argv[i] = va_arg(*args, char *);
}

/* argv gets the list and lives until the calling function returns; args is left behind the NULL. */
#define ARGV(argv, first, args) \
  do { \
    va_start(args, first); \
    size_t argc = count_args(first, args); \
    va_end(args); \
    argv = __builtin_alloca((argc + 1) * sizeof *argv); \
    va_start(args, first); \
    take_args(argv, argc, first, &args); \
  } while (0)

FL_EXPORT int execl(const char *path, const char *arg, ...) {
  va_list args;
  char **argv;

  ARGV(argv, arg, args);
  va_end(args);
  return execv(path, argv);
}

FL_EXPORT int execlp(const char *file, const char *arg, ...) {
  va_list args;
  char **argv;

  ARGV(argv, arg, args);
  va_end(args);
  return execvp(file, argv);
}

FL_EXPORT int execle(const char *path, const char *arg, ...) {
  va_list args;
  char **argv;

  ARGV(argv, arg, args);
  char **envp = va_arg(args, char **);
  va_end(args);
  return execve(path, argv, envp);
}
