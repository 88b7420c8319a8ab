/* SPDX-License-Identifier: MIT */
/* Two processes, one connection: they find each other, and nothing is left behind. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"

/* A connection whose server end is in a second process, and its client end here. */
struct scene {
  struct ends e;
  struct peer p;
  struct fl_tuple t;
};

static struct scene scene(enum family f) {
  struct scene s = {.e = tcp_pair(f)};

  s.p = peer_spawn(s.e.server);
  close(s.e.server);
  cr_assert_eq(fl_tuple_of(s.e.client, &s.t), 0);
  return s;
}

/* Bytes go both ways through the segment. */
static void exchange(const struct peer *p, const struct fl_pairing *mine) {
  struct iovec iov = {.iov_base = "from here", .iov_len = 9};
  struct fl_span span[2];
  struct fl_tx tx;
  struct fl_rx rx;
  size_t done;
  uint64_t need;

  fl_attach(mine->seg, mine->ring_size, mine->end, &tx, &rx);
  fl_rx_watch(&rx);
  tell(p, OP_ATTACH);
  cr_assert_eq(fl_tx_push(&tx, &iov, 0, 9, 0, &done), FL_TX_OK);
  cr_assert_str_eq(tell(p, OP_PEEK).text, "from here");
  cr_assert_eq(ask(p, OP_PUSH, 0, "from there").rc, FL_TX_OK);
  cr_assert_eq(fl_rx_peek(&rx, 0, span, &need), FL_RX_RING);
  cr_assert_eq(span[0].len, 10u);
  cr_assert_eq(memcmp(span[0].base, "from there", 10), 0);
}

Test(pairing, gives_both_ends_one_segment) {
  for (enum family f = V4; f <= MAPPED; f++) {
    struct scene s = scene(f);
    struct fl_pairing mine;
    struct fl_rdv rdv;
    struct reply r;

    cr_assert_eq(fl_rdv_start(&rdv, &s.t, RING, BASE_FD, &mine), FL_RDV_WAIT, "%s", family_name[f]);
    cr_assert_eq(fl_rdv_poll(&rdv, &mine), FL_RDV_WAIT);
    r = tell(&s.p, OP_START);
    cr_assert_eq(r.rc, FL_RDV_PAIRED, "%s: %s", family_name[f], strerror(r.error));
    cr_assert_eq(r.end, 0, "who brings the segment is end 0");
    cr_assert_eq(fl_rdv_poll(&rdv, &mine), FL_RDV_PAIRED, "%s: %s", family_name[f], strerror(rdv.error));
    cr_assert_eq(mine.end, 1);
    cr_assert_eq(mine.ring_size, RING);
    cr_assert_eq(mine.bytes, fl_segment_bytes(RING));
    exchange(&s.p, &mine);
    fl_pairing_drop(&mine);
    peer_kill(&s.p);
  }
}

Test(pairing, works_in_either_order) {
  struct scene s = scene(V4);
  struct fl_pairing mine;
  struct fl_rdv rdv;

  cr_assert_eq(tell(&s.p, OP_START).rc, FL_RDV_WAIT);
  cr_assert_eq(fl_rdv_start(&rdv, &s.t, 2 * RING, BASE_FD, &mine), FL_RDV_PAIRED);
  cr_assert_eq(mine.end, 0);
  struct reply r = tell(&s.p, OP_POLL);
  cr_assert_eq(r.rc, FL_RDV_PAIRED);
  cr_assert_eq(r.ring_size, 2 * RING, "the size is the creator's");
  exchange(&s.p, &mine);
  peer_kill(&s.p);
}

Test(pairing, works_within_one_process) {
  struct ends e = tcp_pair(V4);
  struct fl_tuple c, s;
  struct fl_pairing pc, ps;
  struct fl_rdv rc, rs;

  fl_tuple_of(e.client, &c);
  fl_tuple_of(e.server, &s);
  cr_assert_eq(fl_rdv_start(&rc, &c, RING, BASE_FD, &pc), FL_RDV_WAIT);
  cr_assert_eq(fl_rdv_start(&rs, &s, RING, BASE_FD, &ps), FL_RDV_PAIRED);
  cr_assert_eq(fl_rdv_poll(&rc, &pc), FL_RDV_PAIRED);
  cr_assert_neq(pc.seg, ps.seg);
}

Test(pairing, needs_no_privileges, .init = need_root) {
  struct scene s = scene(V4);
  struct fl_pairing mine;
  struct fl_rdv rdv;

  close(s.e.client);
  peer_kill(&s.p);
  cr_assert_eq(setuid(NOBODY), 0);
  s = scene(V4);
  cr_assert_eq(fl_rdv_start(&rdv, &s.t, RING, BASE_FD, &mine), FL_RDV_WAIT);
  cr_assert_eq(tell(&s.p, OP_START).rc, FL_RDV_PAIRED);
  cr_assert_eq(fl_rdv_poll(&rdv, &mine), FL_RDV_PAIRED);
  peer_kill(&s.p);
}

Test(pairing, joins_processes_of_two_users, .init = need_root) {
  for (int first = 0; first < 2; first++) {
    int listener = tcp_listener(V4), client = tcp_connect(listener, V4);
    struct peer p = peer_spawn(listener);
    struct fl_pairing mine;
    struct fl_rdv rdv;
    struct fl_tuple t;

    cr_assert_eq(ask(&p, OP_SETUID, NOBODY, "").rc, 0);
    tell(&p, OP_ACCEPT);
    cr_assert_eq(fl_tuple_of(client, &t), 0);
    if (first == 0) {
      cr_assert_eq(fl_rdv_start(&rdv, &t, RING, BASE_FD, &mine), FL_RDV_WAIT);
      cr_assert_eq(tell(&p, OP_START).rc, FL_RDV_PAIRED);
      cr_assert_eq(fl_rdv_poll(&rdv, &mine), FL_RDV_PAIRED);
    } else {
      cr_assert_eq(tell(&p, OP_START).rc, FL_RDV_WAIT);
      cr_assert_eq(fl_rdv_start(&rdv, &t, RING, BASE_FD, &mine), FL_RDV_PAIRED);
      cr_assert_eq(tell(&p, OP_POLL).rc, FL_RDV_PAIRED);
    }
    exchange(&p, &mine);
    peer_kill(&p);
  }
}

Test(pairing, reaches_a_listener_after_the_death_of_the_one_that_came) {
  struct ends e = tcp_pair(V4);
  struct peer p = peer_spawn(e.server);
  struct fl_pairing mine;
  struct fl_rdv rdv;
  struct fl_tuple t;

  fl_tuple_of(e.client, &t);
  cr_assert_eq(fl_rdv_start(&rdv, &t, RING, BASE_FD, &mine), FL_RDV_WAIT);
  cr_assert_eq(tell(&p, OP_START).rc, FL_RDV_PAIRED);
  peer_kill(&p); /* the connection lives on: e.server is still open here */
  cr_assert_eq(fl_rdv_poll(&rdv, &mine), FL_RDV_PAIRED, "%s", strerror(rdv.error));
}

Test(pairing, leaves_nothing_behind) {
  struct scene s = scene(V4);
  int here = count_fds(), there = tell(&s.p, OP_FDS).value;
  struct fl_pairing mine;
  struct fl_rdv rdv;
  struct reply r;

  errno = 4242;
  cr_assert_eq(fl_rdv_start(&rdv, &s.t, RING, BASE_FD, &mine), FL_RDV_WAIT);
  cr_assert_eq(errno, 4242);
  cr_assert_eq(count_fds(), here + 1);
  cr_assert_geq(rdv.fd, BASE_FD);
  cr_assert_eq(fcntl(rdv.fd, F_GETFD), FD_CLOEXEC);
  cr_assert_eq(count_names(&s.t), 1);
  r = tell(&s.p, OP_START);
  cr_assert(r.errno_kept);
  cr_assert_eq(r.fd, -1);
  cr_assert_eq(tell(&s.p, OP_FDS).value, there);
  errno = 4242;
  cr_assert_eq(fl_rdv_poll(&rdv, &mine), FL_RDV_PAIRED);
  cr_assert_eq(errno, 4242);
  cr_assert_eq(rdv.fd, -1);
  cr_assert_eq(count_fds(), here);
  cr_assert_eq(count_names(&s.t), 0);
  peer_kill(&s.p);
}

Test(pairing, abandoned_frees_the_name) {
  struct scene s = scene(V4);
  int here = count_fds();
  struct fl_pairing mine;
  struct fl_rdv rdv;

  cr_assert_eq(fl_rdv_start(&rdv, &s.t, RING, BASE_FD, &mine), FL_RDV_WAIT);
  fl_rdv_abandon(&rdv);
  fl_rdv_abandon(&rdv);
  cr_assert_eq(count_names(&s.t), 0);
  cr_assert_eq(count_fds(), here);
  cr_assert_eq(tell(&s.p, OP_START).rc, FL_RDV_WAIT, "the other end is now the first");
  tell(&s.p, OP_ABANDON);
  peer_kill(&s.p);
}

Test(pairing, a_killed_listener_frees_the_name) {
  struct ends e = tcp_pair(V4);
  struct peer p = peer_spawn(e.server); /* its socket is open here as well: only the rendezvous dies with it */
  struct fl_pairing mine;
  struct fl_rdv rdv;
  struct fl_tuple t;

  fl_tuple_of(e.client, &t);
  cr_assert_eq(tell(&p, OP_START).rc, FL_RDV_WAIT);
  cr_assert_eq(count_names(&t), 1);
  peer_kill(&p);
  cr_assert_eq(count_names(&t), 0);
  cr_assert_eq(fl_rdv_start(&rdv, &t, RING, BASE_FD, &mine), FL_RDV_WAIT);
  fl_rdv_abandon(&rdv);
}

/* The visitor has sent its segment and left; the listener gives up without looking. */
Test(pairing, an_abandoned_visitor_keeps_a_lane_that_stays_native) {
  struct scene s = scene(V4);
  struct fl_pairing mine;
  struct fl_rdv rdv;

  cr_assert_eq(fl_rdv_start(&rdv, &s.t, RING, BASE_FD, &mine), FL_RDV_WAIT);
  cr_assert_eq(tell(&s.p, OP_START).rc, FL_RDV_PAIRED);
  fl_rdv_abandon(&rdv);
  tell(&s.p, OP_ATTACH);
  cr_assert_eq(ask(&s.p, OP_PUSH, 0, "nobody looks").rc, FL_TX_NATIVE);
  peer_kill(&s.p);
}

Test(pairing, a_remote_peer_is_remote) {
  struct scene s = scene(V4);
  struct fl_tuple elsewhere = s.t;
  struct fl_pairing mine;
  struct fl_rdv rdv;
  int here = count_fds();

  elsewhere.remote.s6_addr[15] = 77;
  elsewhere.cookie = 0;
  cr_assert_eq(fl_rdv_start(&rdv, &elsewhere, RING, BASE_FD, &mine), FL_RDV_REMOTE);
  cr_assert_eq(rdv.fd, -1);
  cr_assert_null(mine.seg);
  cr_assert_eq(count_fds(), here);
  peer_kill(&s.p);
}

Test(pairing, a_closed_peer_is_remote) {
  struct scene s = scene(V4);
  struct fl_pairing mine;
  struct fl_rdv rdv;

  tell(&s.p, OP_CLOSE);
  cr_assert_eq(fl_rdv_start(&rdv, &s.t, RING, BASE_FD, &mine), FL_RDV_REMOTE);
  peer_kill(&s.p);
}

Test(pairing, a_process_that_changed_its_network_namespace_gets_an_error, .init = need_root) {
  struct scene s = scene(V4);
  struct reply r;

  cr_assert_eq(tell(&s.p, OP_NETNS).rc, 0);
  r = tell(&s.p, OP_START);
  cr_assert_eq(r.rc, FL_RDV_ERROR);
  cr_assert_eq(r.error, EXDEV);
  peer_kill(&s.p);
}

Test(pairing, an_end_not_yet_accepted_is_to_be_retried) {
  int listener = tcp_listener(V4), client = tcp_connect(listener, V4);
  struct fl_pairing mine;
  struct fl_rdv rdv;
  struct fl_tuple t;

  fl_tuple_of(client, &t);
  cr_assert_eq(fl_rdv_start(&rdv, &t, RING, BASE_FD, &mine), FL_RDV_RETRY);
  cr_assert_eq(rdv.fd, -1);
  cr_assert_geq(accept(listener, NULL, NULL), 0);
  cr_assert_eq(fl_rdv_start(&rdv, &t, RING, BASE_FD, &mine), FL_RDV_WAIT);
}

/* A name that is bound, and not yet listened on: the other end is between two system calls. */
Test(pairing, a_name_without_a_listener_is_to_be_retried) {
  struct scene s = scene(V4);
  struct fl_pairing mine;
  struct fl_rdv rdv;
  struct place at;
  int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0), here;

  cr_assert_eq(fl_rdv_start(&rdv, &s.t, RING, BASE_FD, &mine), FL_RDV_WAIT);
  at = place_of(rdv.fd);
  fl_rdv_abandon(&rdv);
  cr_assert_eq(bind(fd, (struct sockaddr *)&at.addr, at.len), 0);
  here = count_fds();
  cr_assert_eq(fl_rdv_start(&rdv, &s.t, RING, BASE_FD, &mine), FL_RDV_RETRY);
  cr_assert_null(mine.seg);
  cr_assert_eq(count_fds(), here);
  peer_kill(&s.p);
}

Test(pairing, a_full_backlog_is_to_be_retried) {
  struct scene s = scene(V4);
  struct fl_pairing mine;
  struct fl_rdv rdv;
  struct place at;
  int fd, n = 0;

  cr_assert_eq(fl_rdv_start(&rdv, &s.t, RING, BASE_FD, &mine), FL_RDV_WAIT);
  at = place_of(rdv.fd);
  for (;; n++) {
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&at.addr, at.len) < 0)
      break;
  }
  cr_assert_eq(errno, EAGAIN);
  cr_assert_eq(tell(&s.p, OP_START).rc, FL_RDV_RETRY);
  peer_kill(&s.p);
}

/* A child holds the same end as its parent: the two must not pair with each other. */
Test(pairing, a_forked_copy_of_an_end_does_not_pair_with_it) {
  struct scene s = scene(V4);
  struct peer copy = peer_spawn(s.e.client);
  struct fl_pairing mine;
  struct fl_rdv rdv;

  cr_assert_eq(fl_rdv_start(&rdv, &s.t, RING, BASE_FD, &mine), FL_RDV_WAIT);
  tell(&copy, OP_START);
  cr_assert_eq(poll_until(&rdv, &mine, 8), FL_RDV_WAIT);
  cr_assert_eq(tell(&s.p, OP_START).rc, FL_RDV_PAIRED);
  cr_assert_eq(poll_until(&rdv, &mine, 8), FL_RDV_PAIRED);
  exchange(&s.p, &mine);
  peer_kill(&copy);
  peer_kill(&s.p);
}

/* The same addresses again, while somebody still waits for the connection that had them before. In a network of its
 * own, so that nobody else takes the port in between. */
Test(pairing, is_not_disturbed_by_an_earlier_connection_of_the_same_addresses, .init = private_network) {
  struct linger reset = {.l_onoff = 1};
  struct scene s = scene(V4);
  struct fl_pairing mine, old_mine;
  struct fl_rdv rdv, old;
  struct sockaddr_in local = {0}, remote = {0};
  socklen_t len = sizeof(local);
  struct fl_tuple t;
  int client, server;

  cr_assert_eq(fl_rdv_start(&old, &s.t, RING, BASE_FD, &old_mine), FL_RDV_WAIT);
  getsockname(s.e.client, (struct sockaddr *)&local, &len);
  getpeername(s.e.client, (struct sockaddr *)&remote, &len);
  setsockopt(s.e.client, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
  close(s.e.client);
  peer_kill(&s.p);

  client = socket(AF_INET, SOCK_STREAM, 0);
  cr_assert_eq(bind(client, (struct sockaddr *)&local, len), 0, "%s", strerror(errno));
  cr_assert_eq(connect(client, (struct sockaddr *)&remote, len), 0);
  server = accept(s.e.listener, NULL, NULL);
  s.p = peer_spawn(server);
  fl_tuple_of(client, &t);
  cr_assert_eq(fl_rdv_start(&rdv, &t, RING, BASE_FD, &mine), FL_RDV_WAIT);
  cr_assert_eq(tell(&s.p, OP_START).rc, FL_RDV_PAIRED);
  cr_assert_eq(fl_rdv_poll(&old, &old_mine), FL_RDV_WAIT);
  cr_assert_eq(fl_rdv_poll(&rdv, &mine), FL_RDV_PAIRED);
  exchange(&s.p, &mine);
  peer_kill(&s.p);
}

Test(pairing, keeps_a_low_number_where_there_is_no_room_above) {
  struct scene s = scene(V4);
  struct fl_pairing mine;
  struct fl_rdv rdv;

  cr_assert_eq(fl_rdv_start(&rdv, &s.t, RING, 1 << 30, &mine), FL_RDV_WAIT);
  cr_assert_lt(rdv.fd, 1000);
  cr_assert_eq(tell(&s.p, OP_START).rc, FL_RDV_PAIRED);
  cr_assert_eq(fl_rdv_poll(&rdv, &mine), FL_RDV_PAIRED);
  peer_kill(&s.p);
}

Test(pairing, a_wrong_ring_size_is_an_error) {
  struct scene s = scene(V4);
  struct fl_pairing mine;
  struct fl_rdv rdv;

  cr_assert_eq(fl_rdv_start(&rdv, &s.t, RING + 1, BASE_FD, &mine), FL_RDV_ERROR);
  cr_assert_eq(rdv.error, EINVAL);
  peer_kill(&s.p);
}

/* ---- a system that refuses ---- */

Test(pairing, without_descriptors_is_an_error) {
  static const int rooms[] = {0, 1, 3}; /* for nothing; for one at a time; enough, also to ask who "nobody" is */

  for (int i = 0, room; i < 3; i++) {
    struct scene s = scene(V4);
    struct fl_pairing mine;
    struct fl_rdv rdv;
    struct reply r;

    room = rooms[i];
    cr_assert_eq(fl_rdv_start(&rdv, &s.t, RING, BASE_FD, &mine), FL_RDV_WAIT);
    cr_assert_eq(ask(&s.p, OP_NOFILE, room, "").rc, 0);
    r = tell(&s.p, OP_START);
    if (room < 2) {
      cr_assert_eq(r.rc, FL_RDV_ERROR, "%d", room);
      cr_assert_eq(r.error, EMFILE);
      cr_assert_eq(fl_rdv_poll(&rdv, &mine), FL_RDV_WAIT, "nothing was sent");
    } else {
      cr_assert_eq(r.rc, FL_RDV_PAIRED);
      cr_assert_eq(fl_rdv_poll(&rdv, &mine), FL_RDV_PAIRED);
    }
    cr_assert_eq(ask(&s.p, OP_NOFILE, room, "").rc, room ? 0 : -EMFILE, "no descriptor was lost");
    peer_kill(&s.p);
  }
}

Test(pairing, a_listener_without_descriptors_gets_an_error) {
  for (int room = 0; room < 3; room++) { /* for nothing; for the visitor; for the look-up or the memfd */
    struct scene s = scene(V4);
    struct fl_pairing mine;
    struct fl_rdv rdv;
    struct reply r;

    cr_assert_eq(tell(&s.p, OP_START).rc, FL_RDV_WAIT);
    cr_assert_eq(ask(&s.p, OP_NOFILE, room, "").rc, 0);
    cr_assert_eq(fl_rdv_start(&rdv, &s.t, RING, BASE_FD, &mine), FL_RDV_PAIRED);
    r = tell(&s.p, OP_POLL);
    cr_assert_eq(r.rc, room < 2 ? FL_RDV_ERROR : FL_RDV_PAIRED, "%d: %s", room, strerror(r.error));
    cr_assert_eq(r.error, room < 2 ? EMFILE : 0);
    cr_assert_eq(r.fd, -1);
    peer_kill(&s.p);
  }
}

Test(pairing, without_sock_diag_is_an_error) {
  struct scene s = scene(V4);
  struct reply r;

  cr_assert_eq(tell(&s.p, OP_NO_DIAG).rc, 0);
  r = tell(&s.p, OP_START);
  cr_assert_eq(r.rc, FL_RDV_ERROR);
  cr_assert_eq(r.error, EPERM);
  cr_assert(r.errno_kept);
  peer_kill(&s.p);
}

/* ---- at the same moment ---- */

#define PATIENCE 20 /* seconds: only a broken test is ever that slow */

static uint64_t xorshift(uint64_t *x) {
  *x ^= *x << 13;
  *x ^= *x >> 7;
  return *x ^= *x << 17;
}

static void nap(uint64_t *x) {
  for (volatile uint64_t i = xorshift(x) % 20000; i > 0; i--)
    ;
}

/* Starts until it is paired. False: it took too many tries. */
static bool pair_up(int fd, uint64_t *rnd, struct fl_pairing *p) {
  struct fl_rdv r;
  struct fl_tuple t;

  if (fl_tuple_of(fd, &t) < 0)
    return false;
  for (time_t deadline = time(NULL) + PATIENCE; time(NULL) <= deadline;) {
    enum fl_rdv_result result;

    nap(rnd);
    result = fl_rdv_start(&r, &t, FL_RING_MIN, BASE_FD, p);
    while (result == FL_RDV_WAIT && time(NULL) <= deadline) {
      sched_yield();
      result = fl_rdv_poll(&r, p);
    }
    if (result == FL_RDV_PAIRED)
      return true;
    if (result != FL_RDV_RETRY)
      return false;
  }
  return false;
}

/* Both sides write the number of the round through the segment, and read it. */
static bool same_segment(const struct fl_pairing *p, uint64_t round) {
  struct iovec iov = {.iov_base = &round, .iov_len = sizeof(round)};
  struct fl_span span[2];
  struct fl_tx tx;
  struct fl_rx rx;
  size_t done;
  uint64_t need, got = 0;
  time_t deadline = time(NULL) + PATIENCE;

  fl_attach(p->seg, p->ring_size, p->end, &tx, &rx);
  fl_rx_watch(&rx);
  while (fl_tx_push(&tx, &iov, 0, sizeof(round), 0, &done) != FL_TX_OK && time(NULL) <= deadline)
    sched_yield();
  while (fl_rx_peek(&rx, 0, span, &need) != FL_RX_RING && time(NULL) <= deadline)
    sched_yield();
  if (time(NULL) > deadline)
    return false;
  memcpy(&got, span[0].base, sizeof(got));
  return got == round;
}

static bool one_round(int fd, uint64_t round, uint64_t *rnd) {
  struct fl_pairing p;
  bool ok = pair_up(fd, rnd, &p) && same_segment(&p, round);

  fl_pairing_drop(&p);
  return ok;
}

Test(pairing, a_thousand_starts_at_the_same_moment_all_pair, .timeout = 120) {
  struct timeval limit = {.tv_sec = 2 * PATIENCE};
  int listener = tcp_listener(V4), status, here, rounds = 1000;
  uint64_t rnd = 88172645463325252ull;
  char go;
  pid_t pid = fork();

  cr_assert_geq(pid, 0);
  if (pid == 0) {
    uint64_t mine = 1234567;

    for (int i = 0; i < rounds; i++) {
      int fd = accept(listener, NULL, NULL);

      if (write(fd, "g", 1) != 1 || !one_round(fd, (uint64_t)i, &mine) || read(fd, &go, 1) != 1)
        _exit(1);
      close(fd);
    }
    _exit(0);
  }
  here = count_fds();
  for (int i = 0; i < rounds; i++) {
    int fd = tcp_connect(listener, V4);

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)); /* the child may have failed */
    cr_assert_eq(read(fd, &go, 1), 1);
    cr_assert(one_round(fd, (uint64_t)i, &rnd), "round %d", i);
    cr_assert_eq(write(fd, "d", 1), 1);
    close(fd);
  }
  cr_assert_eq(count_fds(), here);
  waitpid(pid, &status, 0);
  cr_assert_eq(status, 0);
}

/* Each side gives up at random. Whoever visited may be left with a segment that nobody took; nothing else. */
Test(pairing, random_abandons_leave_nothing_behind, .timeout = 120) {
  struct ends e = tcp_pair(V4);
  struct fl_tuple t;
  int status, here;
  pid_t pid;

  cr_assert_eq(fl_tuple_of(e.client, &t), 0);
  here = count_fds();
  pid = fork();
  cr_assert_geq(pid, 0);
  for (uint64_t i = 0, rnd = 99 + (uint64_t)(pid == 0); i < 1500; i++) {
    struct fl_tuple own;
    struct fl_pairing p;
    struct fl_rdv r;
    enum fl_rdv_result result;

    fl_tuple_of(pid == 0 ? e.server : e.client, &own);
    nap(&rnd);
    result = fl_rdv_start(&r, &own, FL_RING_MIN, BASE_FD, &p);
    for (uint64_t j = xorshift(&rnd) % 40; j > 0 && result == FL_RDV_WAIT; j--)
      result = fl_rdv_poll(&r, &p);
    if (result == FL_RDV_PAIRED)
      fl_pairing_drop(&p);
    fl_rdv_abandon(&r);
    if (result != FL_RDV_PAIRED && result != FL_RDV_WAIT && result != FL_RDV_RETRY) {
      if (pid == 0)
        _exit(1);
      cr_assert_fail("%d: %s", result, strerror(r.error));
    }
  }
  if (pid == 0)
    _exit(0);
  waitpid(pid, &status, 0);
  cr_assert_eq(status, 0);
  cr_assert_eq(count_fds(), here);
  cr_assert_eq(count_names(&t), 0);
}
