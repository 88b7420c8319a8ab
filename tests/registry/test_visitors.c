/* SPDX-License-Identifier: MIT */
/* Who comes, or listens, without being the other end: it is sent away, gets nothing, and leaves nothing. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "registry/hello.h"

/* A connection whose client end waits here, and whose server end is in a second process that has not started. */
struct wait_scene {
  struct ends e;
  struct peer p;
  struct fl_rdv rdv;
  struct fl_pairing mine;
  struct place at;
  struct fl_hello good; /* what the true peer would say */
  int fds;              /* descriptors open while it waits */
};

static struct wait_scene wait_scene(void) {
  struct wait_scene s = {.e = tcp_pair(V4)};
  struct fl_tuple t;
  struct fl_rdv other = {.ring_size = RING};

  s.p = peer_spawn(s.e.server);
  close(s.e.server);
  cr_assert_eq(fl_tuple_of(s.e.client, &t), 0);
  cr_assert_eq(fl_rdv_start(&s.rdv, &t, RING, BASE_FD, &s.mine), FL_RDV_WAIT);
  s.at = place_of(s.rdv.fd);
  other.tuple = tell(&s.p, OP_TUPLE).tuple;
  other.peer_cookie = t.cookie;
  fl_hello_fill(&s.good, &other);
  s.fds = count_fds();
  return s;
}

/* The true peer comes, and is let in. */
static void still_pairs(struct wait_scene *s) {
  cr_assert_eq(count_fds(), s->fds, "the visitor left descriptors");
  cr_assert_null(s->mine.seg);
  cr_assert_eq(tell(&s->p, OP_START).rc, FL_RDV_PAIRED);
  cr_assert_eq(poll_until(&s->rdv, &s->mine, 8), FL_RDV_PAIRED, "%s", strerror(s->rdv.error));
  fl_pairing_drop(&s->mine);
  cr_assert_eq(count_fds(), s->fds - 1);
  peer_kill(&s->p);
}

/* A memfd like that of fl_segment_create, with these seals and this size. */
static int memfd(unsigned seals, size_t size, uint32_t ring_size) {
  int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  void *base;

  cr_assert_eq(ftruncate(fd, (off_t)size), 0);
  if (size >= fl_segment_bytes(ring_size)) {
    base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    fl_segment_init(base, ring_size);
    munmap(base, size);
  }
  cr_assert_eq(fcntl(fd, F_ADD_SEALS, seals), 0);
  return fd;
}

static int good_memfd(void) { return memfd(F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, fl_segment_bytes(RING), RING); }

/* A visitor of the right uid sends a message, and goes. It must be sent away with `error`. Closes the descriptors. */
static void bad_message(struct wait_scene *s, const void *data, size_t len, int *fds, int count, int error) {
  int fd = visit(&s->at);

  cr_assert_geq(fd, 0);
  cr_assert_eq(send_fds(fd, data, len, fds, count), 0);
  close(fd);
  for (int i = 0; i < count; i++)
    close(fds[i]);
  cr_assert_eq(poll_until(&s->rdv, &s->mine, 1), FL_RDV_WAIT);
  cr_assert_eq(s->rdv.error, error, "%s", strerror(s->rdv.error));
}

static void bad_file(int fd, int error) {
  struct wait_scene s = wait_scene();

  s.fds--; /* fd */
  bad_message(&s, &s.good, sizeof(s.good), &fd, 1, error);
  still_pairs(&s);
}

static void bad_hello(size_t offset, int error) {
  struct wait_scene s = wait_scene();
  struct fl_hello h = s.good;
  int fd = good_memfd();

  ((unsigned char *)&h)[offset] ^= 1;
  bad_message(&s, &h, sizeof(h), &fd, 1, error);
  still_pairs(&s);
}

/* The rest is worth something only if this passes. */
Test(visitor, with_a_good_message_is_let_in) {
  struct wait_scene s = wait_scene();
  int fd = good_memfd(), v = visit(&s.at);

  cr_assert_eq(send_fds(v, &s.good, sizeof(s.good), &fd, 1), 0);
  close(v);
  close(fd);
  cr_assert_eq(fl_rdv_poll(&s.rdv, &s.mine), FL_RDV_PAIRED, "%s", strerror(s.rdv.error));
  cr_assert_eq(count_fds(), s.fds - 1);
  peer_kill(&s.p);
}

/* ---- messages ---- */

Test(visitor, with_another_magic_is_sent_away) { bad_hello(offsetof(struct fl_hello, magic), EBADMSG); }
Test(visitor, with_another_version_is_sent_away) { bad_hello(offsetof(struct fl_hello, version), EPROTO); }
Test(visitor, with_an_odd_ring_size_is_sent_away) { bad_hello(offsetof(struct fl_hello, ring_size), EBADMSG); }
Test(visitor, from_another_address_is_sent_away) { bad_hello(offsetof(struct fl_hello, local) + 15, EADDRNOTAVAIL); }
Test(visitor, to_another_address_is_sent_away) { bad_hello(offsetof(struct fl_hello, remote) + 15, EADDRNOTAVAIL); }
Test(visitor, from_another_port_is_sent_away) { bad_hello(offsetof(struct fl_hello, local_port), EADDRNOTAVAIL); }
Test(visitor, to_another_port_is_sent_away) { bad_hello(offsetof(struct fl_hello, remote_port), EADDRNOTAVAIL); }
Test(visitor, from_another_socket_is_sent_away) { bad_hello(offsetof(struct fl_hello, local_cookie), ESTALE); }
Test(visitor, to_another_socket_is_sent_away) { bad_hello(offsetof(struct fl_hello, remote_cookie), ESTALE); }

Test(visitor, with_garbage_is_sent_away) {
  struct wait_scene s = wait_scene();
  char junk[sizeof(struct fl_hello)];
  int fd = good_memfd();

  memset(junk, 0xa5, sizeof(junk));
  bad_message(&s, junk, sizeof(junk), &fd, 1, EBADMSG);
  still_pairs(&s);
}

Test(visitor, with_a_short_message_is_sent_away) {
  for (size_t len = 1; len < sizeof(struct fl_hello); len += 23) {
    struct wait_scene s = wait_scene();
    int fd = good_memfd();

    bad_message(&s, &s.good, len, &fd, 1, EBADMSG);
    still_pairs(&s);
  }
}

Test(visitor, with_an_empty_message_is_sent_away) {
  struct wait_scene s = wait_scene();
  int fd = good_memfd();

  bad_message(&s, "", 0, &fd, 1, EBADMSG);
  still_pairs(&s);
}

Test(visitor, with_a_long_message_is_sent_away) {
  struct wait_scene s = wait_scene();
  char longer[sizeof(struct fl_hello) + 1] = {0};
  int fd = good_memfd();

  memcpy(longer, &s.good, sizeof(s.good));
  bad_message(&s, longer, sizeof(longer), &fd, 1, EBADMSG);
  still_pairs(&s);
}

Test(visitor, without_a_descriptor_is_sent_away) {
  struct wait_scene s = wait_scene();

  bad_message(&s, &s.good, sizeof(s.good), NULL, 0, EBADMSG);
  still_pairs(&s);
}

Test(visitor, with_several_descriptors_is_sent_away) {
  for (int count = 2; count <= 12; count += 5) { /* 2 fit our buffer, 7 and 12 do not */
    struct wait_scene s = wait_scene();
    int fds[12];

    for (int i = 0; i < count; i++)
      fds[i] = good_memfd();
    bad_message(&s, &s.good, sizeof(s.good), fds, count, EBADMSG);
    still_pairs(&s);
  }
}

/* ---- files ---- */

Test(visitor, with_an_unsealed_memfd_is_sent_away) { bad_file(memfd(0, fl_segment_bytes(RING), RING), EPERM); }
Test(visitor, with_a_memfd_that_can_shrink_is_sent_away) {
  bad_file(memfd(F_SEAL_GROW | F_SEAL_SEAL, fl_segment_bytes(RING), RING), EPERM);
}
Test(visitor, with_a_memfd_that_cannot_be_written_is_sent_away) {
  bad_file(memfd(F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE, fl_segment_bytes(RING), RING), EPERM);
}
Test(visitor, with_a_small_memfd_is_sent_away) {
  bad_file(memfd(F_SEAL_SHRINK, fl_segment_bytes(RING) - 1, RING), EBADMSG);
}
Test(visitor, with_a_large_memfd_is_sent_away) {
  bad_file(memfd(F_SEAL_SHRINK, fl_segment_bytes(RING) + FL_PAGE, RING), EBADMSG);
}
Test(visitor, with_an_empty_memfd_is_sent_away) { bad_file(memfd(F_SEAL_SHRINK, 0, RING), EBADMSG); }
Test(visitor, with_a_segment_of_another_size_is_sent_away) {
  bad_file(memfd(F_SEAL_SHRINK, fl_segment_bytes(RING), 2 * RING), EBADMSG);
}
Test(visitor, with_a_blank_segment_is_sent_away) {
  int fd = memfd(0, 0, RING);

  cr_assert_eq(ftruncate(fd, (off_t)fl_segment_bytes(RING)), 0);
  cr_assert_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
  bad_file(fd, EBADMSG);
}
Test(visitor, with_a_memfd_open_for_reading_is_sent_away) {
  int fd = good_memfd(), ro;
  char path[64];

  snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  ro = open(path, O_RDONLY | O_CLOEXEC);
  cr_assert_geq(ro, 0);
  close(fd);
  bad_file(ro, EACCES);
}
Test(visitor, with_a_regular_file_is_sent_away) {
  char path[] = "/tmp/fastlocal-test-XXXXXX";
  int fd = mkstemp(path);

  unlink(path);
  cr_assert_eq(ftruncate(fd, (off_t)fl_segment_bytes(RING)), 0);
  bad_file(fd, EBADF);
}
Test(visitor, with_a_pipe_is_sent_away) {
  int p[2];

  cr_assert_eq(pipe2(p, O_CLOEXEC), 0);
  close(p[1]);
  bad_file(p[0], EBADF);
}
Test(visitor, with_a_socket_is_sent_away) { bad_file(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), EBADF); }
Test(visitor, with_a_device_is_sent_away) { bad_file(open("/dev/zero", O_RDWR | O_CLOEXEC), EBADF); }
Test(visitor, with_a_bare_path_descriptor_is_sent_away) {
  int fd = open("/", O_PATH | O_CLOEXEC);
  struct wait_scene s = wait_scene();

  s.fds--;
  bad_message(&s, &s.good, sizeof(s.good), &fd, 1, EBADF);
  still_pairs(&s);
}

/* ---- comings and goings ---- */

Test(visitor, that_leaves_without_a_word_is_forgotten) {
  struct wait_scene s = wait_scene();

  close(visit(&s.at)); /* left before it was let in */
  cr_assert_eq(fl_rdv_poll(&s.rdv, &s.mine), FL_RDV_WAIT);
  cr_assert_eq(s.rdv.error, ECONNRESET);
  int v = visit(&s.at); /* leaves after it was let in */
  cr_assert_eq(fl_rdv_poll(&s.rdv, &s.mine), FL_RDV_WAIT);
  cr_assert_geq(s.rdv.visitor, BASE_FD);
  cr_assert_eq(fcntl(s.rdv.visitor, F_GETFD), FD_CLOEXEC);
  close(v);
  cr_assert_eq(fl_rdv_poll(&s.rdv, &s.mine), FL_RDV_WAIT);
  cr_assert_eq(s.rdv.visitor, -1);
  still_pairs(&s);
}

Test(visitor, that_speaks_late_is_let_in) {
  struct wait_scene s = wait_scene();
  int fd = good_memfd(), v = visit(&s.at);

  cr_assert_eq(fl_rdv_poll(&s.rdv, &s.mine), FL_RDV_WAIT);
  cr_assert_eq(fl_rdv_poll(&s.rdv, &s.mine), FL_RDV_WAIT);
  cr_assert_eq(send_fds(v, &s.good, sizeof(s.good), &fd, 1), 0);
  close(v);
  close(fd);
  cr_assert_eq(fl_rdv_poll(&s.rdv, &s.mine), FL_RDV_PAIRED);
  cr_assert_eq(count_fds(), s.fds - 1);
  peer_kill(&s.p);
}

Test(visitor, that_stays_silent_does_not_keep_the_true_one_out) {
  struct wait_scene s = wait_scene();
  int v = visit(&s.at);

  cr_assert_eq(tell(&s.p, OP_START).rc, FL_RDV_PAIRED);
  cr_assert_eq(poll_until(&s.rdv, &s.mine, 100), FL_RDV_PAIRED);
  close(v);
  cr_assert_eq(count_fds(), s.fds - 1);
  peer_kill(&s.p);
}

struct speaker {
  const struct wait_scene *s;
  int fd, memfd, sent;
  unsigned delay;
};

static void *speak(void *arg) {
  struct speaker *v = arg;

  for (volatile unsigned i = v->delay; i > 0; i--)
    ;
  v->sent = send_fds(v->fd, &v->s->good, sizeof(v->s->good), &v->memfd, 1);
  return NULL;
}

/* One that speaks at the very moment at which it is sent away: either it is let in, or its message fails. A message
 * that nobody reads would leave one end that takes itself for paired, and another that waits for it in vain. */
Test(visitor, that_speaks_as_it_is_sent_away_knows_it) {
  struct wait_scene s = wait_scene();
  int memfd = good_memfd(), paired = 0, away = 0;

  signal(SIGPIPE, SIG_IGN);
  for (unsigned i = 0; i < 4000; i++) {
    struct speaker v = {.s = &s, .fd = visit(&s.at), .memfd = memfd, .delay = i * 7919 % 40000};
    struct fl_tuple t = s.rdv.tuple;
    enum fl_rdv_result result;
    pthread_t thread;

    cr_assert_eq(pthread_create(&thread, NULL, speak, &v), 0);
    do
      result = fl_rdv_poll(&s.rdv, &s.mine);
    while (result == FL_RDV_WAIT && s.rdv.bad == 0);
    pthread_join(thread, NULL);
    close(v.fd);
    cr_assert_eq(v.sent == 0, result == FL_RDV_PAIRED, "round %u: sent %d, result %d", i, v.sent, result);
    if (result == FL_RDV_PAIRED) {
      fl_pairing_drop(&s.mine);
      paired++;
    } else {
      fl_rdv_abandon(&s.rdv);
      away++;
    }
    cr_assert_eq(fl_rdv_start(&s.rdv, &t, RING, BASE_FD, &s.mine), FL_RDV_WAIT);
  }
  fprintf(stderr, "%d were let in, %d sent away\n", paired, away);
  close(memfd);
  peer_kill(&s.p);
}

Test(visitor, that_is_silent_goes_with_an_abandoned_rendezvous) {
  struct wait_scene s = wait_scene();
  int v = visit(&s.at);

  cr_assert_eq(fl_rdv_poll(&s.rdv, &s.mine), FL_RDV_WAIT);
  fl_rdv_abandon(&s.rdv);
  close(v);
  cr_assert_eq(count_fds(), s.fds - 1);
  cr_assert_eq(count_names(&s.rdv.tuple), 0);
  peer_kill(&s.p);
}

Test(visitor, one_too_many_ends_the_wait) {
  struct wait_scene s = wait_scene();
  enum fl_rdv_result result = FL_RDV_WAIT;
  int n = 0;

  for (; result == FL_RDV_WAIT && n < 100; n++) {
    close(visit(&s.at));
    result = fl_rdv_poll(&s.rdv, &s.mine);
  }
  cr_assert_eq(result, FL_RDV_REFUSED);
  cr_assert_eq(n, 16);
  cr_assert_eq(count_fds(), s.fds - 1);
  cr_assert_eq(count_names(&s.rdv.tuple), 0);
  peer_kill(&s.p);
}

Test(visitor, several_at_once_take_more_than_one_call) {
  struct wait_scene s = wait_scene();

  for (int i = 0; i < 8; i++)
    close(visit(&s.at));
  cr_assert_eq(fl_rdv_poll(&s.rdv, &s.mine), FL_RDV_WAIT);
  cr_assert_lt(s.rdv.bad, 8, "one call is bounded");
  still_pairs(&s);
}

/* The connection tells that itself; what is in the segment stays unused. */
Test(visitor, whose_connection_closed_meanwhile_is_believed) {
  struct wait_scene s = wait_scene();

  cr_assert_eq(tell(&s.p, OP_START).rc, FL_RDV_PAIRED);
  peer_kill(&s.p);
  cr_assert_eq(fl_rdv_poll(&s.rdv, &s.mine), FL_RDV_PAIRED);
  fl_pairing_drop(&s.mine);
  cr_assert_eq(count_fds(), s.fds - 2); /* the listener, and the line to the second process */
}

/* ---- another user ---- */

/* Runs as nobody; its exit status is what f returns. */
static int as_nobody(int (*f)(const struct wait_scene *), const struct wait_scene *s) {
  int status = 0;
  pid_t pid = fork();

  if (pid == 0)
    _exit(setuid(NOBODY) < 0 ? 99 : f(s));
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 98;
}

static int send_a_good_message(const struct wait_scene *s) {
  int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  int v = visit(&s->at);

  if (v < 0 || ftruncate(fd, (off_t)fl_segment_bytes(RING)) < 0)
    return 1;
  return send_fds(v, &s->good, sizeof(s->good), &fd, 1) < 0 ? 2 : 0;
}

Test(stranger, that_visits_is_sent_away_and_the_true_peer_pairs, .init = need_root) {
  struct wait_scene s = wait_scene();

  for (int i = 0; i < 5; i++)
    cr_assert_eq(as_nobody(send_a_good_message, &s), 0);
  cr_assert_eq(poll_until(&s.rdv, &s.mine, 3), FL_RDV_WAIT);
  cr_assert_eq(s.rdv.error, EPERM);
  cr_assert_eq(s.rdv.bad, 5);
  still_pairs(&s);
}

/* Takes the name before the first end comes; reports how many visitors and how many bytes it got. */
static void squat(const struct place *at, int ctl) {
  char buf[256], cmd;
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), visitors = 0, bytes = 0, v;

  if (setuid(NOBODY) < 0 || bind(fd, (const struct sockaddr *)&at->addr, at->len) < 0 || listen(fd, 8) < 0)
    _exit(1);
  if (write(ctl, "r", 1) != 1 || read(ctl, &cmd, 1) != 1)
    _exit(2);
  while ((v = accept(fd, NULL, NULL)) >= 0) {
    ssize_t n = recv(v, buf, sizeof(buf), MSG_DONTWAIT);

    visitors++;
    bytes += n > 0 ? (int)n : 0;
  }
  _exit(visitors == 1 && bytes == 0 ? 0 : 3);
}

Test(stranger, that_has_the_name_gets_nothing, .init = need_root) {
  struct wait_scene s = wait_scene();
  int sv[2], status;
  struct reply r;
  char ready;
  pid_t pid;

  fl_rdv_abandon(&s.rdv);
  cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
  pid = fork();
  if (pid == 0)
    squat(&s.at, sv[1]);
  cr_assert_eq(read(sv[0], &ready, 1), 1);
  r = tell(&s.p, OP_START);
  cr_assert_eq(r.rc, FL_RDV_REFUSED);
  cr_assert_eq(r.error, EPERM);
  cr_assert_eq(r.fd, -1);
  cr_assert_eq(write(sv[0], "g", 1), 1);
  waitpid(pid, &status, 0);
  cr_assert_eq(status, 0);
  peer_kill(&s.p);
}

/* Where uids are not mapped, everybody else looks like nobody: that is not an identity. */
Test(stranger, that_cannot_be_told_from_others_is_refused, .init = need_root) {
  struct wait_scene s = wait_scene();
  struct reply r;

  if (tell(&s.p, OP_USERNS).rc == 0) {
    r = tell(&s.p, OP_START);
    cr_assert_eq(r.rc, FL_RDV_REFUSED);
    cr_assert_eq(r.error, EPERM);
    cr_assert_eq(fl_rdv_poll(&s.rdv, &s.mine), FL_RDV_WAIT);
    cr_assert_eq(s.rdv.error, ECONNRESET, "nothing was sent");
  }
  peer_kill(&s.p);
}
