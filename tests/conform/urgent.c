/* SPDX-License-Identifier: MIT */
/* tests/conform/urgent.c - urgent data: MSG_OOB, SO_OOBINLINE, SIOCATMARK, SIGURG. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "calls.h"
#include "groups.h"
#include "waits.h"

enum { U_INLINE, U_WHEN, U_BEFORE, U_AFTER, U_READ };
enum { YOUNG, PAIRED };

static volatile sig_atomic_t urged;
static void on_urgent(int sig) { urged = 1; }

static void note_mark(void) {
  int mark = -1;

  note_ret("SIOCATMARK", ioctl(run.fd, SIOCATMARK, &mark));
  note("  %d, sockatmark %d", mark, sockatmark(run.fd));
}

static void urgent(const int *v) {
  enum end me = (v[U_BEFORE] + v[U_AFTER]) % 2 ? SERVER : CLIENT;
  struct waiting w;

  connect_ends(AF_INET);
  if (v[U_WHEN] == PAIRED)
    onto_ring();
  ON(me) {
    urged = 0;
    signal(SIGURG, on_urgent);
    fcntl(run.fd, F_SETOWN, getpid());
    if (v[U_INLINE])
      note_ret("SO_OOBINLINE", set_int(run.fd, SOL_SOCKET, SO_OOBINLINE, 1));
    wait_open(&w, POLL);
    wait_add(&w, run.fd, 1 | 2);
  }
  ON(OTHER(me)) {
    if (v[U_BEFORE])
      put(10);
    note_ret("send OOB", send(run.fd, "!", 1, MSG_OOB));
    if (v[U_AFTER])
      put(7);
  }
  ON(me) {
    await_bytes(v[U_BEFORE] ? 10 : 0); /* FIONREAD stops at the mark */
    for (int i = 0; i < 500 && !urged; i++)
      pause_us(1000);
    note("SIGURG %d", (int)urged);
    do_wait(&w, "poll", 1000000, NULL);
    note_mark();
    if (v[U_READ] == 0)
      do_recv(RECV, run.fd, 3, MSG_OOB, ONE);
    if (v[U_READ] == 2)
      do_recv(RECVMSG, run.fd, 3, MSG_OOB | MSG_PEEK, ONE);
    do_recv(RECV, run.fd, 100, MSG_DONTWAIT, ONE); /* stops at the mark */
    note_mark();
    do_recv(RECV, run.fd, 100, MSG_DONTWAIT, ONE);
    note_mark();
    do_recv(RECV, run.fd, 3, MSG_OOB, ONE);
    do_wait(&w, "poll", 0, NULL);
    drain("rest");
    wait_close(&w);
    signal(SIGURG, SIG_DFL);
  }
  talk();
}

static const char *urgent_late(const int *v) {
  return v[U_WHEN] == PAIRED && !v[U_INLINE] && v[U_BEFORE] && v[U_READ] == 1
             ? "urgent data comes while bytes lie unread in the ring: a receive of these goes on with what came over "
               "TCP, past the urgent mark between them, where TCP's would have stopped."
             : NULL;
}

const struct group urgent_group = {
    .name = "urgent",
    .what = "Urgent data: MSG_OOB, SO_OOBINLINE, SIOCATMARK, POLLPRI, SIGURG, with bytes before and after it",
    .dims = {DIM("SO_OOBINLINE", "no", "yes"), DIM("when", "young", "paired"), DIM("before", "nothing", "bytes"),
             DIM("after", "nothing", "bytes"), DIM("read", "oob-first", "in-order", "peeked")},
    .run = urgent,
    .late = urgent_late,
};
