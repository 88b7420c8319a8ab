/* SPDX-License-Identifier: MIT */
/* tests/conform/signals.c - handlers that run while a call blocks, and threads that are cancelled in one. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/time.h>

#include "calls.h"
#include "groups.h"
#include "waits.h"

/* ---- EINTR ---- */

enum { I_CALL, I_RESTART, I_TIMED, I_HANDLER, I_WHEN };
#define CALL_NAMES RECV_CALL_NAMES, "recv-WAITALL", "send-blocked", WAIT_CALL_NAMES
enum { WAITALL_CALL = RECV_CALLS, SEND_CALL, FIRST_WAIT };
enum { RETURNS, RECEIVES, SENDS, JUMPS };
#define HANDLER_NAMES "returns", "receives", "sends", "longjmp"

static volatile sig_atomic_t handled, armed;
static int handler_does;
static sigjmp_buf jump;

static void on_signal(int sig) {
  char c[4];

  handled++;
  if (handler_does == RECEIVES && recv(run.fd, c, sizeof c, MSG_DONTWAIT) > 0)
    handled += 1000;
  if (handler_does == SENDS && handled == 1 && send(run.fd, "s", 1, MSG_DONTWAIT) != 1)
    handled += 1000;
  if (armed) {
    armed = 0;
    siglongjmp(jump, 1);
  }
}

static void blocked_call(const int *v) {
  struct waiting w;
  long ret;

  if (v[I_CALL] < WAITALL_CALL) {
    do_recv((enum recv_call)v[I_CALL], run.fd, 10, 0, ONE);
  } else if (v[I_CALL] == WAITALL_CALL) {
    do_recv(RECV, run.fd, 10, MSG_WAITALL, ONE);
  } else if (v[I_CALL] == SEND_CALL) {
    ret = send(run.fd, run.buf, BUF_BYTES, 0);
    note("send %s", ret < 0 ? error_name(errno) : "some");
    run.shared->value[1] += ret > 0 ? ret : 0;
  } else {
    wait_open(&w, (enum wait_call)(v[I_CALL] - FIRST_WAIT));
    wait_add(&w, run.fd, EPOLLIN);
    do_wait(&w, "wait", v[I_TIMED] ? 3000000 : FOREVER, NULL);
    wait_close(&w);
  }
}

static void interrupted(const int *v) {
  enum end me = v[I_CALL] % 2 ? SERVER : CLIENT;
  bool sends = v[I_CALL] == SEND_CALL;

  connect_ends(AF_INET);
  onto_ring();
  ON(me) {
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = v[I_RESTART] ? SA_RESTART : 0};
    handled = 0;
    handler_does = v[I_HANDLER];
    sigaction(SIGUSR1, &sa, NULL);
    if (v[I_TIMED]) {
      struct timeval t = {3, 0};
      setsockopt(run.fd, SOL_SOCKET, sends ? SO_SNDTIMEO : SO_RCVTIMEO, &t, sizeof t);
    }
    if (sends) /* until there is no more room */
      for (long n; (n = send(run.fd, run.buf, BUF_BYTES, MSG_DONTWAIT)) > 0;)
        run.shared->value[1] += n;
    run.shared->value[0] = 0;
    release();
    if (sigsetjmp(jump, 1) == 0) {
      armed = v[I_HANDLER] == JUMPS;
      blocked_call(v);
      armed = 0;
    } else {
      note("jumped");
    }
    run.shared->value[0] = 1;
  }
  ON(OTHER(me)) {
    if (v[I_WHEN])
      settle(me);
    else
      pause_us(100);
    /* one that comes before the call blocks is lost: so some more. Then what it waits for. */
    bool restarts = v[I_RESTART] && !v[I_TIMED] && v[I_CALL] < FIRST_WAIT && v[I_HANDLER] != JUMPS;
    for (int i = 0; i < (restarts ? 3 : 300) && !run.shared->value[0]; i++) {
      send_signal(me, SIGUSR1);
      pause_us(v[I_WHEN] ? 3000 : 500);
    }
    if (sends)
      for (int64_t got = 0; !run.shared->value[0] || got < run.shared->value[1];) {
        long n = recv(run.fd, run.buf, BUF_BYTES, MSG_DONTWAIT);
        got += n > 0 ? n : 0;
        if (n <= 0 && run.shared->value[0] && got >= run.shared->value[1])
          break;
        if (n <= 0)
          pause_us(50);
      }
    else
      put(10);
  }
  ON(me) {
    struct timeval none = {0};
    setsockopt(run.fd, SOL_SOCKET, sends ? SO_SNDTIMEO : SO_RCVTIMEO, &none, sizeof none);
    signal(SIGUSR1, SIG_IGN);
    note("handler %s", handled >= 1000 ? "failed" : handled ? "ran" : "did not run");
    if (!sends) {
      pause_us(500);
      drain("left");
    }
  }
  ON(OTHER(me)) drain("of the handler");
  talk();
}

static bool interrupted_skip(const int *v) {
  if (v[I_HANDLER] == RECEIVES && v[I_RESTART])
    return true; /* it would take what the call waits for */
  return v[I_HANDLER] == SENDS && v[I_CALL] == SEND_CALL;
}

const struct group interrupted_group = {
    .name = "interrupted",
    .what = "EINTR, SA_RESTART, timeouts, handlers that receive, send or jump out, for each call that blocks",
    .dims = {DIM("call", CALL_NAMES), DIM("SA_RESTART", "no", "yes"), DIM("timeout", "no", "yes"),
             DIM("handler", HANDLER_NAMES), DIM("when", "soon", "asleep")},
    .run = interrupted,
    .skip = interrupted_skip,
    .flags = ALONE,
};

/* ---- signal masks of ppoll, pselect, epoll_pwait ---- */

enum { M_CALL, M_PENDING, M_READY };

static void masked(const int *v) {
  enum end me = SERVER;

  connect_ends(AF_INET);
  onto_ring();
  if (v[M_READY]) {
    ON(OTHER(me)) v[M_READY] == 1 ? put(10) : put_kernel(10);
    ON(me) await_bytes(10);
  }
  ON(me) {
    struct sigaction sa = {.sa_handler = on_signal};
    sigset_t block, old, open;
    struct waiting w;
    handled = 0;
    handler_does = RETURNS;
    sigaction(SIGUSR1, &sa, NULL);
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    sigprocmask(SIG_BLOCK, &block, &old);
    sigemptyset(&open);
    wait_open(&w, (enum wait_call)v[M_CALL]);
    wait_add(&w, run.fd, EPOLLIN);
    if (v[M_PENDING])
      raise(SIGUSR1);
    do_wait(&w, "wait", 10000, v[M_PENDING] == 2 ? &block : &open);
    note("handled %d", (int)handled);
    do_wait(&w, "wait", 10000, v[M_PENDING] == 2 ? &block : &open);
    note("handled %d", (int)handled);
    sigprocmask(SIG_SETMASK, &old, NULL);
    note("handled %d", (int)handled);
    wait_close(&w);
    signal(SIGUSR1, SIG_DFL);
    drain("bytes");
  }
  talk();
}

static bool masked_skip(const int *v) { return !with_mask((enum wait_call)v[M_CALL]); }

const struct group masked_group = {
    .name = "masks",
    .what = "Signals that wait for the mask of ppoll, pselect, epoll_pwait",
    .dims = {DIM("wait", WAIT_CALL_NAMES), DIM("pending", "no", "opened", "blocked"),
             DIM("ready", "no", "ring", "kernel")},
    .run = masked,
    .skip = masked_skip,
};

/* ---- cancellation ---- */

enum { X_CALL, X_WHEN, X_KIND };

static void *canceled_thread(void *arg) {
  int call = *(int *)arg, old;
  struct waiting w;

  pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &old);
  thread_is_me();
  run.shared->value[0] = 1;
  char c[32];
  if (call < WAITALL_CALL)
    recv(run.fd, c, 10, 0);
  else if (call == WAITALL_CALL)
    recv(run.fd, c, 10, MSG_WAITALL);
  else if (call == SEND_CALL)
    for (;;)
      send(run.fd, run.buf, BUF_BYTES, 0);
  else {
    wait_open(&w, (enum wait_call)(call - FIRST_WAIT));
    wait_add(&w, run.fd, EPOLLIN);
    do_wait(&w, "wait", FOREVER, NULL);
  }
  return arg;
}

static void canceled(const int *v) {
  enum end me = v[X_CALL] % 2 ? SERVER : CLIENT;

  connect_ends(AF_INET);
  onto_ring();
  ON(me) {
    pthread_t t;
    void *result;
    int call = v[X_CALL];
    pthread_create(&t, NULL, canceled_thread, &call);
    while (!run.shared->value[0])
      pause_us(50);
    if (v[X_WHEN])
      settle(me);
    else
      pause_us(100);
    note_ret("cancel", pthread_cancel(t));
    pthread_join(t, &result);
    note("%s", result == PTHREAD_CANCELED ? "canceled" : "returned");
    thread_is_me();
  }
  ON(OTHER(me)) {
    if (v[X_CALL] == SEND_CALL) {
      struct trace *t = &run.shared->trace[run.me];
      uint32_t length = t->length;
      for (int i = 0; i < 3; i++) {
        pause_us(2000);
        drain("how much it had sent is luck");
      }
      t->length = length;
    }
    put(10);
  }
  ON(me) {
    await_bytes(10);
    drain("still good");
  }
  talk();
}

const struct group canceled_group = {
    .name = "canceled",
    .what = "pthread_cancel of a thread in each call that blocks; the connection goes on",
    .dims = {DIM("call", CALL_NAMES), DIM("when", "soon", "asleep")},
    .run = canceled,
    .flags = ALONE,
};
