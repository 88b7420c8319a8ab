/* SPDX-License-Identifier: MIT */
/* tests/conform/changes.c - registrations that are changed, and who looks then. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "groups.h"
#include "states.h"

enum { C_CHANGE, C_STATE, C_LOOK, C_FIRST };

/* "d": EPOLL_CTL_DEL; "a", "m": ADD, MOD with the interest that follows; "?" waits for nothing, and notes what is
 * there. */
static const char *const changes[] = {"mo",
                                      "mo mi",
                                      "mo ? mi ? mo",
                                      "d",
                                      "d ai",
                                      "d ao",
                                      "d ? ao ? d ? ai",
                                      "d ai d",
                                      "ai ao",
                                      "d mi d",
                                      "mr mp",
                                      "mb",
                                      "d ab",
                                      "me",
                                      "me ? me",
                                      "mi me ? mi",
                                      "m1",
                                      "mo m1 ? m1 ? mi",
                                      "mn",
                                      "mN mi",
                                      "mx",
                                      "d ax ? mi",
                                      "mo mw",
                                      "dd",
                                      "q",
                                      "f"};
#define CHANGE_NAMES \
  "out", "out,in", "out,look,in,look,out", "del", "del,in", "del,out", "del,look,out,look,del,look,in", "del,in,del", \
      "added-twice", "changed-when-deleted", "rdhup,pri", "both", "del,both", "edge", "edge-twice", "edge,look,level", \
      "oneshot", "oneshot-again", "nothing", "null,in", "exclusive", "del,exclusive,in", "out,all", "deleted-twice", \
      "bad-op", "itself"

static const enum state states_[] = {EMPTY, SOME, ON_KERNEL, BOTH_LANES, FIN, SOME_RESET};
#define STATES_ "empty", "some", "kernel-lane", "both-lanes", "fin", "some+reset"

enum { WAIT_0, WAIT_1, POLLED, NESTED, THROUGH_DUP, AFTER_DUP, FORKED, BY_CHILD, ASLEEP, CLOSED_THEN, CLOSED_DUP };
#define LOOKS \
  "at-once", "1ms", "poll", "nested", "through-a-dup", "conn-has-a-dup", "after-fork", "child-looks", \
      "another-thread", "then-closed", "closed,a-dup-stays"

static int set;

static uint32_t interest(char c) {
  switch (c) {
  case 'i': return EPOLLIN;
  case 'o': return EPOLLOUT;
  case 'b': return EPOLLIN | EPOLLOUT;
  case 'r': return EPOLLRDHUP;
  case 'p': return EPOLLPRI;
  case 'e': return EPOLLIN | EPOLLOUT | EPOLLET;
  case '1': return EPOLLIN | EPOLLOUT | EPOLLONESHOT;
  case 'x': return EPOLLIN | EPOLLEXCLUSIVE;
  case 'w': return EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLRDNORM | EPOLLWRNORM;
  default: return 0;
  }
}

#define EVENTS 4

static void events_noted(const char *what, long n, const struct epoll_event *e) {
  note_ret(what, n);
  for (long i = 0; i < n; i++)
    note("  %s, data %llu", epoll_text(e[i].events), (unsigned long long)e[i].data.u64);
}

static void wait_noted(const char *what, int epfd, int ms) {
  static unsigned turn; /* room for one event is a way of its own */
  struct epoll_event e[EVENTS];

  pause_us(60); /* the exception "epoll-lag" */
  events_noted(what, epoll_wait(epfd, e, turn++ % 2 ? EVENTS : 1, ms), e);
}

static void change(const char *how) {
  static uint64_t data;
  struct epoll_event e;

  data = 100;
  for (; *how; how++) {
    switch (*how) {
    case ' ': continue;
    case '?': wait_noted("look", set, 0); continue;
    case 'd': note_ret("DEL", epoll_ctl(set, EPOLL_CTL_DEL, run.fd, data % 2 ? NULL : &e)); continue;
    case 'q': note_ret("op 9", epoll_ctl(set, 9, run.fd, &e)); continue;
    case 'f': note_ret("MOD itself", epoll_ctl(set, EPOLL_CTL_MOD, set, &e)); continue;
    default: break;
    }
    int op = *how == 'a' ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    e = (struct epoll_event){.events = interest(*++how), .data.u64 = ++data};
    note_ret(op == EPOLL_CTL_ADD ? "ADD" : "MOD", epoll_ctl(set, op, run.fd, *how == 'N' ? NULL : &e));
  }
}

static struct {
  struct epoll_event e[EVENTS];
  long n;
} woken;

static void *sleeper(void *arg) {
  thread_is_me();
  woken.n = epoll_wait(set, woken.e, EVENTS, 300);
  return arg;
}

static void by_child(void) {
  pid_t pid = fork();

  if (pid == 0) {
    wait_noted("child", set, 0);
    _exit(0);
  }
  waitpid(pid, NULL, 0);
}

static void look(int how) {
  struct epoll_event e = {.events = EPOLLIN, .data.u64 = 7};
  int other;

  switch (how) {
  case WAIT_1: wait_noted("1 ms", set, 1); return;
  case POLLED: {
    struct pollfd p = {.fd = set, .events = POLLIN};
    note_ret("poll", poll(&p, 1, 0));
    break;
  }
  case NESTED:
    other = epoll_create1(EPOLL_CLOEXEC);
    note_ret("nest", epoll_ctl(other, EPOLL_CTL_ADD, set, &e));
    wait_noted("outer", other, 0);
    close(other);
    break;
  case THROUGH_DUP:
    other = dup(set);
    wait_noted("dup", other, 0);
    close(other);
    break;
  case AFTER_DUP:
    other = dup(run.fd);
    wait_noted("conn dup", set, 0);
    close(other);
    break;
  case FORKED: {
    pid_t pid = fork();
    if (pid == 0)
      _exit(0);
    waitpid(pid, NULL, 0);
    break;
  }
  case BY_CHILD: by_child(); break;
  case CLOSED_THEN: close_fd(); break;
  case CLOSED_DUP:
    other = dup(run.fd);
    close_fd();
    wait_noted("closed", set, 0);
    close(other);
    break;
  default: break;
  }
  wait_noted("at once", set, 0);
}

static void changed(const int *v) {
  enum end reader = (v[C_CHANGE] + v[C_LOOK]) % 2 ? SERVER : CLIENT;
  enum state state = states_[v[C_STATE]];
  bool closes = v[C_LOOK] >= CLOSED_THEN;
  struct epoll_event e = {.events = v[C_FIRST] ? EPOLLOUT : EPOLLIN, .data.u64 = 1};
  pthread_t thread;

  connect_ends(AF_INET);
  onto_ring();
  ON(reader) {
    set = epoll_create1(EPOLL_CLOEXEC);
    note_ret("first", epoll_ctl(set, EPOLL_CTL_ADD, run.fd, &e));
    wait_noted("before", set, 0);
  }
  make_state(state, reader);
  ON(reader) {
    if (v[C_LOOK] == ASLEEP) {
      /* with nothing to wake it, for otherwise it would be luck who comes first */
      e = (struct epoll_event){.events = EPOLLPRI, .data.u64 = 2};
      note_ret("for nothing", epoll_ctl(set, EPOLL_CTL_MOD, run.fd, &e));
      atomic_store(&run.shared->tid[run.me], 0);
      pthread_create(&thread, NULL, sleeper, NULL);
      while (atomic_load(&run.shared->tid[run.me]) == 0)
        pause_us(20);
      settle(run.me);
      change(changes[v[C_CHANGE]]);
      pthread_join(thread, NULL);
      events_noted("woken", woken.n, woken.e);
      thread_is_me();
      wait_noted("then", set, 0);
    } else {
      change(changes[v[C_CHANGE]]);
      look(v[C_LOOK]);
    }
  }
  if (state_alive(state) && !closes) {
    ON(OTHER(reader)) put(5);
    ON(reader) {
      await_bytes(5);
      wait_noted("more", set, 0);
      e = (struct epoll_event){.events = EPOLLIN, .data.u64 = 9};
      note_ret("MOD", epoll_ctl(set, EPOLL_CTL_MOD, run.fd, &e));
      wait_noted("for input", set, 0);
      drain("all");
      wait_noted("all read", set, 0);
      note_ret("DEL", epoll_ctl(set, EPOLL_CTL_DEL, run.fd, NULL));
    }
    ON(OTHER(reader)) put(5);
    ON(reader) {
      await_bytes(5);
      wait_noted("deleted", set, 0);
      drain("rest");
    }
  }
  ON(reader) close(set);
  if (state_alive(state) && !closes)
    talk();
}

static bool change_skip(const int *v) {
  const char *how = changes[v[C_CHANGE]];

  /* a thread that sleeps sees several changes, or the first: luck */
  return v[C_LOOK] == ASLEEP && (strchr(how, ' ') || strchr(how, 'd') || strchr(how, 'x') || v[C_FIRST]);
}

static const char *change_late(const int *v) {
  enum state state = states_[v[C_STATE]];
  bool edge = strpbrk(changes[v[C_CHANGE]], "e1") != NULL,
       ring = state == SOME || state == BOTH_LANES || state == SOME_RESET;

  if (edge && ring && v[C_LOOK] == BY_CHILD)
    return "two processes wait in one epoll set: an edge of what is in the ring is reported to both.";
  if (edge && ring && v[C_LOOK] == NESTED)
    return "a set is put into another one while bytes lie in its rings: an edge may be reported once more.";
  return NULL;
}

const struct group change_group = {
    .name = "change",
    .what =
        "A registration is changed in an epoll set, once or several times, and then the set is looked at in any way",
    .dims = {DIM("change", CHANGE_NAMES), DIM("state", STATES_), DIM("look", LOOKS), DIM("first", "IN", "OUT")},
    .run = changed,
    .skip = change_skip,
    .late = change_late,
    .every = 12,
};
