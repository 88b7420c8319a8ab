/* SPDX-License-Identifier: MIT */
/* preload/sandbox.c - the library leaves a process that is about to forbid itself system calls. */
#include "sandbox.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <sys/prctl.h>

#include "conn.h"
#include "epoll.h"
#include "export.h"
#include "io.h"
#include "options.h"
#include "process.h"
#include "real.h"
#include "registry/sys.h"
#include "stats.h"

/* Those that only ask what the kernel can do pass no filter. */
static bool forbids(long number, const long *arg) {
  switch (number) {
  case __NR_prctl:
    return arg[0] == PR_SET_SECCOMP && (arg[1] == SECCOMP_MODE_STRICT || (arg[1] == SECCOMP_MODE_FILTER && arg[2]));
  case __NR_seccomp: return arg[0] == SECCOMP_SET_MODE_STRICT || (arg[0] == SECCOMP_SET_MODE_FILTER && arg[2]);
  }
  return false;
}

/*
 * The connection goes on without us, so this process stays among its holders for as long as it lives: another one that
 * holds it does not use the ring. `kept` is set if unread bytes cannot be had from the peer any more.
 */
static void leave_one(struct fl_conn *c, struct fl_local *l, int fd, void *kept) {
  (void)l;
  /* a child of fork that forbids itself system calls does not put its parent on TCP for good */
  if (atomic_load_explicit(&c->nholders, memory_order_acquire) == 1 || fl_conn_holders_purge(c))
    fl_conn_pin(c, FL_WHY_SANDBOX);
  if (fl_lock(&c->tx_lock) == FL_LOCKED) {
    fl_send_back_last(c, fd);
    fl_unlock(&c->tx_lock);
  }
  if (!fl_hand_over(c, fd))
    *(bool *)kept = true;
  fl_conn_holder_add(c, fl_pid());
}

static void leave(void) {
  bool kept = false;

  fl_process_check();
  if (fl_in_vfork_child())
    return; /* the table is its parent's */
  fl_stats_write();
  fl_options.log_level = FL_LOG_NONE;
  fl_options.transport = FL_TRANSPORT_TCP; /* for connections to come */
  fl_process_walk(leave_one, &kept);
  for (unsigned fd = 0; fd < fl_fds_size; fd++) {
    struct fl_epoll *set = fl_epoll_of((int)fd);
    if (set)
      fl_epoll_nested(set); /* its bell is taken out */
  }
  if (kept)
    return; /* the hooks are needed until these bytes are read */
  for (unsigned fd = 0; fd < fl_fds_size; fd++)
    if (fl_conn_of((int)fd))
      fl_conn_forget((int)fd, false);
  /* relaxed: a thread that still sees the table finds connections that are on TCP */
  __atomic_store_n(&fl_fds_size, 0, __ATOMIC_RELAXED);
}

void fl_sandbox_before(long number, const long *arg) {
  if (!fl_fds_size || !forbids(number, arg))
    return;
  int saved = errno;
  leave();
  errno = saved;
}

FL_EXPORT int prctl(int option, ...) {
  va_list args;
  long arg[5] = {option};

  va_start(args, option);
  for (int i = 1; i < 5; i++)
    arg[i] = va_arg(args, long);
  va_end(args);
  fl_sandbox_before(__NR_prctl, arg);
  return REAL(prctl)(option, arg[1], arg[2], arg[3], arg[4]);
}
