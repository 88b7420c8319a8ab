/* SPDX-License-Identifier: MIT */
/*
 * preload/handover.c - bytes that lie unread in a ring when the connection goes to somebody who may not know of the
 * ring: another program (exec), or another process (SCM_RIGHTS).
 *
 * A socket's receive queue can be filled by its peer only. So the peer is asked to send these bytes again, over TCP
 * (fl_rx_recall). It does so with its next call for the connection, before anything else; a peer that sleeps wakes for
 * it, because no end sleeps for long while the other has not read all (fl_send_unread); one that closes or exits does
 * so before. So they come, like bytes on a slow line. If this process reads again before that, the request is taken
 * back.
 */
#include <poll.h>

#include "io.h"
#include "log.h"
#include "process.h"
#include "registry/sys.h"

#define ANSWER_NS 50000000u
#define LOOK_NS 100000

bool fl_hand_over(struct fl_conn *c, int fd) {
  fl_conn_enter(c);
  bool asked = false, can = true;
  uint64_t unread = 0;
  if (fl_conn_mapped(c) && fl_lock(&c->rx_lock) == FL_LOCKED) {
    unread = fl_rx_pending(&c->rx);
    if (unread) {
      /* a peer that ended cannot send any more */
      can = fl_sys_ready(fd, POLLRDHUP) == 0 && fl_rx_recall(&c->rx);
      asked = can;
    }
    fl_unlock(&c->rx_lock);
  }
  if (unread)
    fl_log(FL_LOG_INFO, "descriptor %d is handed over, %llu unread bytes %s", fd, (unsigned long long)unread,
           can ? "are asked back from the other end" : "cannot be asked back");
  for (uint64_t begin = fl_now(); asked && fl_rx_recalling(&c->rx) && fl_ticks_to_ns(fl_now() - begin) < ANSWER_NS;) {
    struct timespec ts = {0, LOOK_NS};
    fl_syscall6(__NR_nanosleep, (long)&ts, 0, 0, 0, 0, 0);
  }
  /* refused, or the peer has ended without a look at it: taken back */
  if (asked && !fl_rx_returned(&c->rx) && (!fl_rx_recalling(&c->rx) || fl_sys_ready(fd, POLLRDHUP) != 0) &&
      fl_lock(&c->rx_lock) == FL_LOCKED) {
    can = fl_rx_pending(&c->rx) == 0;
    fl_unlock(&c->rx_lock);
  }
  fl_conn_leave(c);
  return can;
}
