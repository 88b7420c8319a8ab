/* SPDX-License-Identifier: MIT */
/* tests/conform/sets.c - epoll sets in sets, in several threads, with others beside them; bytes that are read in parts.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "groups.h"
#include "waits.h"

/* ---- bytes of both lanes, read in parts ---- */

enum { P_CALL, P_TRIGGER, P_LANES, P_WHAT, P_PIECE };
enum { NOTHING, PINNED, HELD, MODIFIED, ADDED, ADDED_ASLEEP, NESTED };
#define LANES_NAMES "ring", "kernel+ring", "ring+kernel", "kernel+ring+kernel", "ring+kernel+ring"

static size_t send_lanes(int lanes) {
  static const char *const how[] = {"r", "kr", "rk", "krk", "rkr"};
  size_t n = 0;

  for (const char *p = how[lanes]; *p; p++, n += 10)
    *p == 'r' ? put(10) : put_kernel(10);
  return n;
}
static size_t lanes_size(int lanes) { return (size_t[]){10, 20, 20, 30, 30}[lanes]; }

struct sleeper {
  pthread_t thread;
  struct waiting *w;
  long timeout, ret;
  uint32_t got[WAIT_FDS];
  int error;
};

static void *sleeps(void *arg) {
  struct sleeper *s = arg;

  thread_is_me();
  s->ret = wait_for(s->w, s->timeout, NULL, s->got);
  s->error = errno;
  return NULL;
}

/* Starts a thread that waits, and waits until it does. */
static void fall_asleep(struct sleeper *s, struct waiting *w, long timeout) {
  *s = (struct sleeper){.w = w, .timeout = timeout};
  atomic_store(&run.shared->tid[run.me], 0);
  pthread_create(&s->thread, NULL, sleeps, s);
  while (atomic_load(&run.shared->tid[run.me]) == 0)
    pause_us(20);
  settle(run.me);
}

static void joined(struct sleeper *s) { pthread_join(s->thread, NULL); }

static void note_sleeper(const char *what, const struct sleeper *s) {
  errno = s->error;
  note_ret(what, s->ret);
  for (int i = 0; i < s->w->n; i++)
    if (s->got[i])
      note("  %d %s", i, epoll_text(s->got[i]));
}

static const uint32_t triggers[] = {0, EPOLLET, EPOLLONESHOT, EPOLLEXCLUSIVE};
#define TRIGGER_NAMES "level", "EPOLLET", "EPOLLONESHOT", "EPOLLEXCLUSIVE"

static bool parts_skip(const int *v) {
  if (!by_epoll((enum wait_call)v[P_CALL]))
    return v[P_TRIGGER] || v[P_WHAT] > HELD;
  return triggers[v[P_TRIGGER]] == EPOLLEXCLUSIVE && v[P_WHAT] == MODIFIED;
}

static void parts(const int *v) {
  static const size_t pieces[] = {1, 5, 10, 14};
  enum end me = (v[P_CALL] + v[P_LANES]) % 2 ? SERVER : CLIENT;
  uint32_t events = EPOLLIN | triggers[v[P_TRIGGER]];
  size_t all = lanes_size(v[P_LANES]);
  struct waiting w, outer;
  struct sleeper s = {0};
  int hold[2];
  pid_t child = -1;

  connect_ends(AF_INET);
  onto_ring();
  ON(me) {
    wait_open(&w, (enum wait_call)v[P_CALL]);
    if (v[P_WHAT] != ADDED && v[P_WHAT] != ADDED_ASLEEP) {
      wait_add(&w, run.fd, events);
      do_wait(&w, "before", 0, NULL);
    }
  }
  ON(OTHER(me)) send_lanes(v[P_LANES]);
  ON(me) {
    await_bytes(all);
    switch (v[P_WHAT]) {
    case PINNED:
      set_int(run.fd, SOL_SOCKET, SO_RCVLOWAT, 2);
      set_int(run.fd, SOL_SOCKET, SO_RCVLOWAT, 1);
      break;
    case HELD:
      if (pipe2(hold, O_CLOEXEC))
        note("pipe");
      child = fork();
      if (child == 0) {
        char c;
        close(hold[1]);
        _exit(read(hold[0], &c, 1) != 0);
      }
      break;
    case MODIFIED: wait_change(&w, 0, events); break;
    case ADDED: wait_add(&w, run.fd, events); break;
    case ADDED_ASLEEP:
      fall_asleep(&s, &w, 3000000);
      wait_add(&w, run.fd, events);
      joined(&s);
      note_sleeper("asleep", &s);
      break;
    case NESTED:
      wait_open(&outer, EPOLL_WAIT);
      wait_add(&outer, w.epfd, EPOLLIN);
      break;
    default: break;
    }
    if (v[P_WHAT] == NESTED && triggers[v[P_TRIGGER]] == EPOLLET)
      except_from_now("one-edge-more");
    /* others have work to do first */
    for (int i = 0; i < 5; i++)
      do_wait(&w, "not read", 0, NULL);
    for (size_t got = 0; got < all;) {
      long n = recv(run.fd, run.buf, pieces[v[P_PIECE]], MSG_DONTWAIT);
      note_data("recv", n, run.buf);
      if (n <= 0)
        break;
      got += (size_t)n;
      if (v[P_WHAT] == NESTED) { /* what has to come back from the other end may take as long as it naps */
        pause_us(200);
        if (triggers[v[P_TRIGGER]] == 0)
          do_wait(&outer, "outer", got < all ? 2000000 : 0, NULL);
      }
      do_wait(&w, "part read", 0, NULL);
    }
    except_from_now(NULL);
    release();
    if (triggers[v[P_TRIGGER]] == EPOLLONESHOT)
      wait_change(&w, 0, events);
    do_wait(&w, "asleep", 3000000, NULL);
  }
  ON(OTHER(me)) {
    settle(me);
    put(8);
  }
  ON(me) {
    thread_is_me();
    drain("more");
    wait_close(&w);
    if (v[P_WHAT] == NESTED)
      wait_close(&outer);
    if (child > 0) {
      close(hold[0]);
      close(hold[1]);
      waitpid(child, NULL, 0);
    }
  }
  talk();
}

const struct group parts_group = {
    .name = "read-in-parts",
    .what = "Readiness while bytes of both lanes are read in parts: pinned, held by a child, registered late or with a "
            "thread asleep in the set, nested",
    .dims = {DIM("wait", WAIT_CALL_NAMES), DIM("trigger", TRIGGER_NAMES), DIM("lanes", LANES_NAMES),
             DIM("what", "nothing", "pinned", "held", "EPOLL_CTL_MOD", "EPOLL_CTL_ADD", "added-with-a-sleeper",
                 "nested"),
             DIM("piece", "1", "5", "10", "14")},
    .run = parts,
    .skip = parts_skip,
    .every = 12,
};

/* ---- registered before it is connected ---- */

enum { E_CALL, E_TRIGGER, E_MODE, E_WHAT, E_INTEREST };
enum { AS_ADDED, AS_CHANGED, AS_DUP, AS_DELETED, AS_NUMBER_USED_AGAIN };

static void connect_registered(const int *v, struct waiting *w) {
  struct sockaddr_in a = {.sin_family = AF_INET,
                          .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                          .sin_port = htons((uint16_t)run.shared->port[0])};
  uint32_t events = EPOLLIN | (v[E_INTEREST] ? EPOLLOUT : 0) | triggers[v[E_TRIGGER]];

  wait_open(w, (enum wait_call)v[E_CALL]);
  run.fd = socket(AF_INET, SOCK_STREAM, 0);
  if (v[E_MODE])
    no_blocking(run.fd, true);
  if (v[E_WHAT] == AS_NUMBER_USED_AGAIN) {
    struct epoll_event e = {.events = EPOLLIN};
    epoll_ctl(w->epfd, EPOLL_CTL_ADD, run.fd, &e);
    close(run.fd);
    run.fd = socket(AF_INET, SOCK_STREAM, 0);
    if (v[E_MODE])
      no_blocking(run.fd, true);
  }
  wait_add(w, run.fd, events);
  if (v[E_WHAT] == AS_DUP) { /* the registration belongs to the old number, which stays */
    int copy = dup(run.fd);
    note_ret("connect", connect(copy, (struct sockaddr *)&a, sizeof a) && errno != EINPROGRESS);
    close(copy);
  } else {
    note_ret("connect", connect(run.fd, (struct sockaddr *)&a, sizeof a) && errno != EINPROGRESS);
  }
  if (v[E_WHAT] == AS_CHANGED && triggers[v[E_TRIGGER]] != EPOLLEXCLUSIVE)
    wait_change(w, 0, events);
  if (v[E_WHAT] == AS_DELETED) {
    note_ret("EPOLL_CTL_DEL", epoll_ctl(w->epfd, EPOLL_CTL_DEL, run.fd, NULL));
    note_ret("EPOLL_CTL_DEL", epoll_ctl(w->epfd, EPOLL_CTL_DEL, run.fd, NULL));
  }
}

static void early(const int *v) {
  struct waiting w;
  bool deleted = v[E_WHAT] == AS_DELETED;

  ON(CLIENT) connect_registered(v, &w);
  ON(SERVER) run.fd = accept(run.listener[0], NULL, NULL);
  set_int(run.fd, IPPROTO_TCP, TCP_NODELAY, 1);
  warm();
  for (int round = 0; round < 3; round++) {
    ON(CLIENT) {
      uint32_t got[WAIT_FDS];
      if (triggers[v[E_TRIGGER]] == EPOLLONESHOT && !deleted)
        wait_change(&w, 0, w.events[0]);
      wait_for(&w, 0, NULL, got); /* what edges warming left is luck */
      if (triggers[v[E_TRIGGER]] == EPOLLONESHOT && !deleted)
        wait_change(&w, 0, w.events[0] & ~(uint32_t)EPOLLOUT);
      release();
      long n = wait_for(&w, deleted ? 20000 : 3000000, NULL, got);
      if (v[E_INTEREST] == 0 || triggers[v[E_TRIGGER]] == EPOLLONESHOT || deleted) { /* else it may not have slept */
        note_ret("woken", n);
        note("  %s", epoll_text(got[0]));
      }
    }
    ON(SERVER) {
      settle(CLIENT);
      put(10);
    }
    ON(CLIENT) {
      await_bytes(10);
      drain("came");
      do_wait(&w, "read", 0, NULL);
    }
  }
  ON(CLIENT) {
    wait_close(&w);
    no_blocking(run.fd, false);
  }
  talk();
}

static bool early_skip(const int *v) { return !by_epoll((enum wait_call)v[E_CALL]); }

const struct group early_group = {
    .name = "registered-early",
    .what = "Sockets that are put into an epoll set before they are connected",
    .dims = {DIM("wait", WAIT_CALL_NAMES), DIM("trigger", TRIGGER_NAMES), DIM("mode", "blocking", "O_NONBLOCK"),
             DIM("then", "connect", "EPOLL_CTL_MOD", "connect-a-dup", "EPOLL_CTL_DEL", "number-used-again"),
             DIM("interest", "IN", "IN+OUT")},
    .run = early,
    .skip = early_skip,
    .every = 2,
};

/* ---- a set in another, or in poll ---- */

enum { N_OUTER, N_OUTER_TRIGGER, N_INNER_TRIGGER, N_DEPTH, N_WHEN, N_LANES };
enum { BEFORE_IT_PAIRS, BEFORE_BYTES, WITH_BYTES };

static void nested(const int *v) {
  enum end me = (v[N_OUTER] + v[N_LANES]) % 2 ? SERVER : CLIENT;
  struct waiting inner, middle, outer;
  size_t all = lanes_size(v[N_LANES]);
  struct waiting *in = v[N_DEPTH] ? &middle : &inner;

  connect_ends(AF_INET);
  if (v[N_WHEN] != BEFORE_IT_PAIRS)
    onto_ring();
  ON(me) {
    wait_open(&inner, EPOLL_WAIT);
    wait_add(&inner, run.fd, EPOLLIN | triggers[v[N_INNER_TRIGGER]]);
    wait_open(&outer, (enum wait_call)v[N_OUTER]);
    wait_open(&middle, EPOLL_WAIT);
    wait_add(&middle, inner.epfd, EPOLLIN);
    if (v[N_WHEN] != WITH_BYTES) {
      wait_add(&outer, in->epfd, EPOLLIN | triggers[v[N_OUTER_TRIGGER]]);
      do_wait(&outer, "outer, before", 0, NULL);
    }
  }
  if (v[N_WHEN] == BEFORE_IT_PAIRS)
    warm();
  for (int round = 0; round < 2; round++) {
    ON(OTHER(me)) send_lanes(v[N_LANES]);
    ON(me) {
      await_bytes(all);
      if (round == 0 && v[N_WHEN] == WITH_BYTES)
        wait_add(&outer, in->epfd, EPOLLIN | triggers[v[N_OUTER_TRIGGER]]);
      else if (triggers[v[N_OUTER_TRIGGER]] == EPOLLONESHOT)
        wait_change(&outer, 0, EPOLLIN | EPOLLONESHOT);
      do_wait(&outer, "outer", 1000000, NULL);
      do_wait(&inner, "inner", 0, NULL);
      note_data("recv", recv(run.fd, run.buf, 4, MSG_DONTWAIT), run.buf);
      if (v[N_INNER_TRIGGER] == 0 && v[N_OUTER_TRIGGER] == 0) {
        do_wait(&outer, "outer, some read", 1000000, NULL);
        do_wait(&inner, "inner, some read", 1000000, NULL);
      }
      drain("rest");
      do_wait(&inner, "inner, all read", 0, NULL);
      do_wait(&outer, "outer, all read", 0, NULL);
      if (triggers[v[N_OUTER_TRIGGER]] == EPOLLONESHOT)
        wait_change(&outer, 0, EPOLLIN | EPOLLONESHOT);
      if (triggers[v[N_INNER_TRIGGER]] == EPOLLONESHOT)
        wait_change(&inner, 0, EPOLLIN | EPOLLONESHOT);
      release();
      do_wait(&outer, "outer, asleep", 3000000, NULL);
    }
    ON(OTHER(me)) {
      settle(me);
      put(9);
    }
    ON(me) {
      await_bytes(9);
      do_wait(&inner, "inner, woken", 1000000, NULL);
      drain("came");
      do_wait(&inner, "inner, read", 0, NULL);
      if (triggers[v[N_INNER_TRIGGER]] == EPOLLONESHOT)
        wait_change(&inner, 0, EPOLLIN | EPOLLONESHOT);
    }
  }
  ON(me) {
    wait_close(&inner);
    wait_close(&middle);
    wait_close(&outer);
  }
  talk();
}

/* The kernel allows no EPOLLEXCLUSIVE of a set. */
static bool nested_skip(const int *v) {
  return (v[N_OUTER_TRIGGER] && !by_epoll((enum wait_call)v[N_OUTER])) ||
         triggers[v[N_OUTER_TRIGGER]] == EPOLLEXCLUSIVE;
}

const struct group nested_group = {
    .name = "nested",
    .what = "An epoll set in poll, select or another set, put there at different times",
    .dims = {DIM("outer", WAIT_CALL_NAMES), DIM("trigger", TRIGGER_NAMES),
             DIM("inner", "level", "EPOLLET", "EPOLLONESHOT"), DIM("sets-between", "none", "one"),
             DIM("when", "young", "paired", "with-bytes"), DIM("lanes", LANES_NAMES)},
    .run = nested,
    .skip = nested_skip,
    .every = 16,
};

/* ---- one set, several threads ---- */

enum { S_TRIGGER, S_THREADS, S_COMES, S_READS, S_CALL };
#define THREADS_MAX 4

static void shared_set(const int *v) {
  static const int counts[] = {2, 4};
  enum end me = v[S_COMES] % 2 ? SERVER : CLIENT;
  uint32_t events = EPOLLIN | triggers[v[S_TRIGGER]];
  int threads = counts[v[S_THREADS]];
  struct waiting w, copy[THREADS_MAX];
  struct sleeper s[THREADS_MAX];
  size_t all = lanes_size(v[S_COMES]);
  int p[2];
  char c;

  connect_ends(AF_INET);
  onto_ring();
  ON(me) {
    wait_open(&w, (enum wait_call)v[S_CALL]);
    wait_add(&w, run.fd, events);
    if (pipe2(p, O_CLOEXEC))
      note("pipe");
    wait_add(&w, p[0], EPOLLIN); /* ends the sleep of those who are not woken */
  }
  for (int round = 0; round < 3; round++) {
    ON(me) {
      for (int i = 0; i < threads; i++) {
        copy[i] = w;
        fall_asleep(&s[i], &copy[i], 4000000);
      }
    }
    ON(OTHER(me)) put(10);
    ON(me) {
      int woken = 0, others = 0;
      pause_us(1000);
      if (write(p[1], "x", 1) != 1)
        note("pipe");
      for (int i = 0; i < threads; i++) {
        joined(&s[i]);
        woken += s[i].got[0] == EPOLLIN;
        others += s[i].ret < 1 || (s[i].got[0] | s[i].got[1]) != EPOLLIN;
      }
      if (read(p[0], &c, 1) != 1)
        note("pipe");
      thread_is_me();
      note("woken %d of %d, others %d", woken, threads, others);
    }
    ON(OTHER(me)) send_lanes(v[S_COMES]);
    ON(me) {
      await_bytes(10 + all);
      if (v[S_READS]) { /* a part first, with nobody asleep */
        note_data("recv", recv(run.fd, run.buf, 7, MSG_DONTWAIT), run.buf);
        if (triggers[v[S_TRIGGER]] == EPOLLONESHOT)
          wait_change(&w, 0, events);
        do_wait(&w, "some read", 0, NULL);
        do_wait(&w, "some read", 0, NULL);
      }
      drain("all");
      if (triggers[v[S_TRIGGER]] == EPOLLONESHOT)
        wait_change(&w, 0, events);
      do_wait(&w, "all read", 0, NULL);
    }
  }
  ON(me) {
    wait_close(&w);
    close(p[0]);
    close(p[1]);
  }
  talk();
}

static bool shared_skip(const int *v) { return !by_epoll((enum wait_call)v[S_CALL]); }

const struct group shared_set_group = {
    .name = "shared-set",
    .what = "Threads asleep in one epoll set: how many wake, for each trigger",
    .dims = {DIM("trigger", TRIGGER_NAMES), DIM("threads", "2", "4"), DIM("comes", LANES_NAMES),
             DIM("reads", "all", "in-parts"), DIM("wait", WAIT_CALL_NAMES)},
    .run = shared_set,
    .skip = shared_skip,
    .every = 8,
};

/* ---- one connection, several sets ---- */

enum { M_SETS, M_TRIGGERS, M_WAITS, M_LANES, M_DUP };

static void several_sets(const int *v) {
  static const int counts[] = {2, 3, 6};
  enum end me = v[M_LANES] % 2 ? SERVER : CLIENT;
  int sets = counts[v[M_SETS]], copies[6];
  struct waiting w[6];
  struct sleeper s[6];
  size_t all = lanes_size(v[M_LANES]);

#define TRIGGER_OF(i) triggers[v[M_TRIGGERS] < 3 ? v[M_TRIGGERS] : (i) % 3]
  connect_ends(AF_INET);
  onto_ring();
  ON(me) for (int i = 0; i < sets; i++) {
    copies[i] = v[M_DUP] ? dup(run.fd) : run.fd;
    wait_open(&w[i], EPOLL_WAIT);
    wait_add(&w[i], copies[i], EPOLLIN | TRIGGER_OF(i));
  }
  for (int round = 0; round < 3; round++) {
    ON(me) if (v[M_WAITS]) for (int i = 0; i < sets; i++) fall_asleep(&s[i], &w[i], 3000000);
    ON(OTHER(me)) send_lanes(v[M_LANES]);
    ON(me) {
      if (v[M_WAITS])
        for (int i = 0; i < sets; i++)
          joined(&s[i]);
      thread_is_me();
      await_bytes(all);
      for (int i = 0; i < sets; i++) {
        if (v[M_WAITS])
          note_sleeper("woken", &s[i]);
        else
          do_wait(&w[i], "ready", 0, NULL);
        /* an edge may have been seen with a part of what came */
        if (TRIGGER_OF(i) != EPOLLET)
          do_wait(&w[i], "again", 0, NULL);
      }
      note_data("recv", recv(run.fd, run.buf, 4, MSG_DONTWAIT), run.buf);
      for (int i = 0; i < sets; i++)
        if (TRIGGER_OF(i) != EPOLLET)
          do_wait(&w[i], "some read", 0, NULL);
      drain("rest");
      for (int i = 0; i < sets; i++) {
        uint32_t got[WAIT_FDS];
        if (TRIGGER_OF(i) == EPOLLET)
          wait_for(&w[i], 0, NULL, got);
        else
          do_wait(&w[i], "all read", 0, NULL);
        if (TRIGGER_OF(i) == EPOLLONESHOT)
          wait_change(&w[i], 0, EPOLLIN | EPOLLONESHOT);
      }
    }
  }
  ON(me) for (int i = 0; i < sets; i++) {
    wait_close(&w[i]);
    if (v[M_DUP])
      close(copies[i]);
  }
  talk();
}

const struct group several_sets_group = {
    .name = "several-sets",
    .what = "One connection in several epoll sets, itself or by dups, with a thread asleep in each or none",
    .dims = {DIM("sets", "2", "3", "6"), DIM("trigger", "level", "EPOLLET", "EPOLLONESHOT", "mixed"),
             DIM("threads", "none", "asleep"), DIM("lanes", LANES_NAMES), DIM("registered", "itself", "dups")},
    .run = several_sets,
    .every = 4,
};
