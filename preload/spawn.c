/* SPDX-License-Identifier: MIT */
/*
 * preload/spawn.c - helpers that libc starts without fork handlers: posix_spawn, system, popen.
 *
 * A connection that the helper can inherit is held by it as well, while it lives: on TCP for that time and no longer.
 * Its pid stands in the list of holders; when it is found dead, and the kernel's counts show that it left the
 * connection alone, the rings are used again. A helper's own children are not seen.
 */
#include <errno.h>
#include <string.h>

#include "arena_alloc.h"
#include "conn.h"
#include "epoll.h"
#include "export.h"
#include "log.h"
#include "process.h"
#include "real.h"
#include "registry/sys.h"

/* ---- file actions ---- */

/* glibc's struct __spawn_action, as far as needed; trusted only after actions_known() has seen it at work. */
struct action {
  int tag;
  union {
    struct {
      int fd, newfd;
    } dup2;
    struct {
      int fd;
      const char *path;
      int flags;
      mode_t mode;
    } open;
  } u;
};

enum { UNKNOWN_YET, READABLE, OPAQUE };

#ifdef __GLIBC__
/* Does this libc's list look as we think? Then *tag is what stands for a dup2. */
static bool actions_known(int *tag) {
  static _Atomic int state; /* relaxed: every thread finds the same */
  static _Atomic int dup2_tag;

  if (atomic_load_explicit(&state, memory_order_acquire) == UNKNOWN_YET) {
    posix_spawn_file_actions_t probe;
    bool ok = false;
    if (posix_spawn_file_actions_init(&probe) == 0) {
      if (posix_spawn_file_actions_adddup2(&probe, 1, 2) == 0 && posix_spawn_file_actions_addclose(&probe, 3) == 0 &&
          posix_spawn_file_actions_adddup2(&probe, 2, 1) == 0 && probe.__used == 3 && probe.__allocated >= 3) {
        const struct action *a = (const struct action *)probe.__actions;
        ok = a[0].u.dup2.fd == 1 && a[0].u.dup2.newfd == 2 && a[2].u.dup2.fd == 2 && a[2].u.dup2.newfd == 1 &&
             a[1].u.dup2.fd == 3 && a[0].tag == a[2].tag && a[0].tag != a[1].tag;
        atomic_store_explicit(&dup2_tag, a[0].tag, memory_order_relaxed);
      }
      posix_spawn_file_actions_destroy(&probe);
    }
    atomic_store_explicit(&state, ok ? READABLE : OPAQUE, memory_order_release);
  }
  *tag = atomic_load_explicit(&dup2_tag, memory_order_relaxed);
  return atomic_load_explicit(&state, memory_order_relaxed) == READABLE;
}

/* Do the actions give c to the child, although its descriptors are FD_CLOEXEC? */
static bool actions_pass(const posix_spawn_file_actions_t *actions, const struct fl_conn *c) {
  int tag;

  if (!actions || actions->__used <= 0)
    return false;
  if (!actions_known(&tag))
    return true; /* who knows */
  const struct action *a = (const struct action *)actions->__actions;
  for (int i = 0; i < actions->__used; i++)
    if (a[i].tag == tag && fl_conn_of(a[i].u.dup2.fd) == c)
      return true;
  return false;
}
#else
static bool actions_pass(const posix_spawn_file_actions_t *actions, const struct fl_conn *c) { return actions; }
#endif

/* ---- lending ---- */

struct loan {
  const posix_spawn_file_actions_t *actions;
  int32_t mark; /* 0: nothing was lent */
};

static void lend_one(struct fl_conn *c, struct fl_local *l, int fd, void *arg) {
  struct loan *loan = arg;

  if (!fl_process_inherits(c, l, fd) && !actions_pass(loan->actions, c))
    return;
  loan->mark = fl_holder_unborn();
  fl_holder_lend(c, loan->mark);
  if (!fl_hand_over(c, fd))
    fl_log(FL_LOG_WARN, "descriptor %d: unread bytes are lost to the helper", fd);
}

static void lend(struct loan *loan, const posix_spawn_file_actions_t *actions) {
  *loan = (struct loan){.actions = actions};
  if (!fl_arena_high() || fl_in_vfork_child())
    return;
  fl_process_check();
  fl_process_walk(lend_one, loan);
  fl_epoll_tell_all();
}

/* holder: who has them from now on; 0 if no helper came to be. */
static void lent(struct loan *loan, int32_t holder) {
  if (loan->mark)
    fl_holders_settle(loan->mark, holder);
  loan->mark = 0;
}

/* ---- posix_spawn ---- */

typedef int spawn_function(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,
                           char *const[], char *const[]);

static int spawn_with(spawn_function *real, pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                      const posix_spawnattr_t *attr, char *const argv[], char *const envp[]) {
  struct loan loan;
  pid_t child = 0;

  lend(&loan, actions);
  int error = real(&child, path, actions, attr, argv, envp);
  lent(&loan, error ? 0 : child);
  if (!error && pid)
    *pid = child;
  return error;
}

FL_EXPORT int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                          const posix_spawnattr_t *attr, char *const argv[], char *const envp[]) {
  return spawn_with(REAL(posix_spawn), pid, path, actions, attr, argv, envp);
}

FL_EXPORT int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                           const posix_spawnattr_t *attr, char *const argv[], char *const envp[]) {
  return spawn_with(REAL(posix_spawnp), pid, file, actions, attr, argv, envp);
}

/* ---- system ---- */

static void system_end(struct loan *loan) { lent(loan, FL_HOLDER_GONE); }

FL_EXPORT int system(const char *command) {
  /* a cancellation point: libc then kills the helper */
  struct loan loan __attribute__((cleanup(system_end)));

  lend(&loan, NULL);
  return REAL(system)(command);
}

/* ---- popen ---- */

#ifdef __GLIBC__
/* The helper's pid: in glibc it follows the FILE and its table of functions. Believed only if it is a child of ours. */
static pid_t popen_pid(FILE *f) {
  siginfo_t info;
  pid_t pid;

  memcpy(&pid, (char *)f + sizeof(struct _IO_FILE) + sizeof(void *), sizeof pid);
  if (pid <= 0 || fl_syscall6(__NR_waitid, P_PID, pid, (long)&info, WEXITED | WNOHANG | WNOWAIT, 0, 0) != 0)
    return 0;
  return pid;
}
#else
static pid_t popen_pid(FILE *f) { return 0; }
#endif

static void pin_one(struct fl_conn *c, struct fl_local *l, void *arg) {
  if (fl_holder_count(c, *(int32_t *)arg))
    fl_conn_pin(c, FL_WHY_PASSED);
}

FL_EXPORT FILE *popen(const char *command, const char *mode) {
  struct loan loan;

  lend(&loan, NULL);
  FILE *f = REAL(popen)(command, mode);
  if (!loan.mark)
    return f;
  pid_t pid = f ? popen_pid(f) : 0;
  if (f && pid == 0) /* somebody has it, and we cannot know how long */
    fl_conn_each(pin_one, &loan.mark);
  lent(&loan, !f ? 0 : pid > 0 ? pid : FL_HOLDER_GONE);
  return f;
}
