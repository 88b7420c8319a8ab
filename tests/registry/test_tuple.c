/* SPDX-License-Identifier: MIT */
/* Which connection is it: addresses, names, and what the kernel knows of the other end. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

struct in6_ifreq { /* linux/ipv6.h, which does not go together with netinet/in.h */
  struct in6_addr ifr6_addr;
  uint32_t ifr6_prefixlen;
  int ifr6_ifindex;
};

Test(tuple, has_the_same_name_at_both_ends) {
  for (enum family f = V4; f <= MAPPED; f++) {
    struct ends e = tcp_pair(f);
    struct fl_tuple c, s;
    char cn[108], sn[108];

    cr_assert_eq(fl_tuple_of(e.client, &c), 0);
    cr_assert_eq(fl_tuple_of(e.server, &s), 0);
    cr_assert_eq(fl_rdv_name(&c, cn), strlen(cn));
    cr_assert_lt(fl_rdv_name(&s, sn), 100u);
    cr_assert_str_eq(cn, sn, "%s", family_name[f]);
    cr_assert_eq(c.v4, f != V6);
    cr_assert_eq(s.v4, f != V6);
    cr_assert_neq(c.cookie, s.cookie);
    cr_assert_eq(c.netns, s.netns);
    close_ends(&e);
  }
}

Test(tuple, has_another_name_for_another_connection) {
  struct ends e = tcp_pair(V4);
  int other = tcp_connect(e.listener, V4);
  struct fl_tuple a, b;
  char an[108], bn[108];

  cr_assert_eq(fl_tuple_of(e.client, &a), 0);
  cr_assert_eq(fl_tuple_of(other, &b), 0);
  fl_rdv_name(&a, an);
  fl_rdv_name(&b, bn);
  cr_assert_str_neq(an, bn);
}

Test(tuple, is_refused_for_what_is_not_tcp) {
  struct fl_tuple t;
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  int udp = socket(AF_INET, SOCK_DGRAM, 0), sv[2], p[2];

  cr_assert_eq(connect(udp, (struct sockaddr *)&a, sizeof(a)), 0);
  cr_assert_eq(fl_tuple_of(udp, &t), -EPROTONOSUPPORT);
  cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
  cr_assert_eq(fl_tuple_of(sv[0], &t), -EPROTONOSUPPORT);
  cr_assert_eq(pipe(p), 0);
  cr_assert_eq(fl_tuple_of(p[0], &t), -ENOTSOCK);
  cr_assert_eq(fl_tuple_of(-1, &t), -EBADF);
}

Test(tuple, needs_a_connection) {
  struct fl_tuple t;
  int listener = tcp_listener(V4);

  cr_assert_eq(fl_tuple_of(socket(AF_INET, SOCK_STREAM, 0), &t), -ENOTCONN);
  cr_assert_eq(fl_tuple_of(listener, &t), -ENOTCONN);
}

Test(tuple, is_refused_for_a_socket_connected_to_itself) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t len = sizeof(a);
  struct fl_tuple t;
  int fd = socket(AF_INET, SOCK_STREAM, 0);

  cr_assert_eq(bind(fd, (struct sockaddr *)&a, len), 0);
  cr_assert_eq(getsockname(fd, (struct sockaddr *)&a, &len), 0);
  cr_assert_eq(connect(fd, (struct sockaddr *)&a, len), 0);
  cr_assert_eq(fl_tuple_of(fd, &t), -EPROTONOSUPPORT);
}

Test(tuple, is_refused_for_a_socket_bound_to_a_device) {
  struct ends e = tcp_pair(V4);
  struct fl_tuple t;

  cr_assert_eq(setsockopt(e.client, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3), 0);
  cr_assert_eq(fl_tuple_of(e.client, &t), -EPROTONOSUPPORT);
}

Test(tuple, is_refused_for_link_local_addresses) {
  struct in6_ifreq add = {.ifr6_prefixlen = 64};
  struct sockaddr_in6 a = {.sin6_family = AF_INET6};
  socklen_t len = sizeof(a);
  struct fl_tuple t;
  int l, c, s;

  private_network();
  l = socket(AF_INET6, SOCK_STREAM, 0);
  c = socket(AF_INET6, SOCK_STREAM, 0);
  inet_pton(AF_INET6, "fe80::1", &add.ifr6_addr);
  add.ifr6_ifindex = (int)if_nametoindex("lo");
  cr_assert_eq(ioctl(l, SIOCSIFADDR, &add), 0, "%s", strerror(errno));
  a.sin6_addr = add.ifr6_addr;
  a.sin6_scope_id = (uint32_t)add.ifr6_ifindex;
  /* a fresh address is tentative: it may be bound to when the kernel has checked it */
  for (int i = 0; bind(l, (struct sockaddr *)&a, sizeof(a)) < 0; i++) {
    cr_assert(errno == EADDRNOTAVAIL && i < 500);
    usleep(10000);
  }
  cr_assert_eq(listen(l, 1), 0);
  cr_assert_eq(getsockname(l, (struct sockaddr *)&a, &len), 0);
  cr_assert_eq(connect(c, (struct sockaddr *)&a, len), 0, "%s", strerror(errno));
  s = accept(l, NULL, NULL);
  cr_assert_eq(fl_tuple_of(c, &t), -EPROTONOSUPPORT);
  cr_assert_eq(fl_tuple_of(s, &t), -EPROTONOSUPPORT);
}

Test(lookup, finds_the_socket_at_the_other_end) {
  for (enum family f = V4; f <= MAPPED; f++) {
    struct ends e = tcp_pair(f);
    struct fl_tuple c, s;
    struct stat client, server;
    uint64_t inode;
    uid_t uid;

    fstat(e.client, &client);
    fstat(e.server, &server);
    cr_assert_eq(fl_tuple_of(e.client, &c), 0);
    cr_assert_eq(fl_tuple_of(e.server, &s), 0);
    cr_assert_eq(fl_peer_lookup(&c, &uid, &inode), 0, "%s", family_name[f]);
    cr_assert_eq(inode, server.st_ino);
    cr_assert_eq(uid, getuid());
    cr_assert_eq(fl_peer_lookup(&s, &uid, &inode), 0, "%s", family_name[f]);
    cr_assert_eq(inode, client.st_ino);
    close_ends(&e);
  }
}

Test(lookup, reports_the_uid_of_the_process_that_accepted, .init = need_root) {
  int listener = tcp_listener(V4), client = tcp_connect(listener, V4);
  struct peer p = peer_spawn(listener);
  struct fl_tuple t;
  uint64_t inode;
  uid_t uid;

  cr_assert_eq(fl_tuple_of(client, &t), 0);
  cr_assert_eq(fl_peer_lookup(&t, &uid, &inode), 0);
  cr_assert_eq(inode, 0u, "not accepted yet");
  cr_assert_eq(ask(&p, OP_SETUID, NOBODY, "").rc, 0);
  tell(&p, OP_ACCEPT);
  cr_assert_eq(fl_peer_lookup(&t, &uid, &inode), 0);
  cr_assert_neq(inode, 0u);
  cr_assert_eq(uid, (uid_t)NOBODY);
  peer_kill(&p);
}

/* The kernel answers a miss with the listener of that port, if there is one. */
Test(lookup, does_not_take_a_listener_for_the_other_end) {
  for (enum family f = V4; f <= MAPPED; f++) {
    struct ends e = tcp_pair(f);
    struct fl_tuple t;
    uint64_t inode;
    uid_t uid;

    cr_assert_eq(fl_tuple_of(e.client, &t), 0);
    t.local_port = htons(1);
    t.cookie = 0;
    cr_assert_eq(fl_peer_lookup(&t, &uid, &inode), -ENOENT, "%s", family_name[f]);
    close_ends(&e);
  }
}

Test(lookup, does_not_find_a_closed_end) {
  struct ends e = tcp_pair(V4);
  struct fl_tuple t;
  uint64_t inode;
  uid_t uid;

  cr_assert_eq(fl_tuple_of(e.client, &t), 0);
  close(e.server); /* FIN_WAIT2 without an owner */
  cr_assert_eq(fl_peer_lookup(&t, &uid, &inode), -ENOENT);
  shutdown(e.client, SHUT_WR); /* TIME_WAIT */
  t.cookie = 0;                /* our own socket is CLOSE now, and not to be seen either */
  cr_assert_eq(fl_peer_lookup(&t, &uid, &inode), -ENOENT);
}

Test(lookup, finds_an_end_that_only_ended_its_sending) {
  struct ends e = tcp_pair(V4);
  struct fl_tuple t;
  uint64_t inode;
  uid_t uid;

  cr_assert_eq(fl_tuple_of(e.client, &t), 0);
  shutdown(e.server, SHUT_WR);
  cr_assert_eq(fl_peer_lookup(&t, &uid, &inode), 0);
}

Test(lookup, refuses_a_socket_of_another_network_namespace) {
  struct ends e = tcp_pair(V4);
  struct fl_tuple t;
  uint64_t inode;
  uid_t uid;

  cr_assert_eq(fl_tuple_of(e.client, &t), 0);
  private_network();
  cr_assert_eq(fl_peer_lookup(&t, &uid, &inode), -EXDEV);
  t.cookie = t.netns = 0; /* the bare addresses: nobody has them here */
  cr_assert_eq(fl_peer_lookup(&t, &uid, &inode), -ENOENT);
}

Test(lookup, tells_a_kernel_that_shows_nothing_from_a_remote_peer) {
  struct ends e = tcp_pair(V4);
  struct fl_tuple t;
  uint64_t inode;
  uid_t uid;

  cr_assert_eq(fl_tuple_of(e.client, &t), 0);
  t.local_port = htons(1); /* a tuple with a cookie, and sock_diag has no such socket of our own */
  cr_assert_eq(fl_peer_lookup(&t, &uid, &inode), -EOPNOTSUPP);
}

Test(lookup, leaves_errno_and_descriptors_alone) {
  struct ends e = tcp_pair(V4);
  struct fl_tuple t;
  uint64_t inode;
  uid_t uid;
  int before = count_fds();

  errno = 4242;
  fl_tuple_of(-1, &t);
  fl_tuple_of(e.client, &t);
  fl_peer_lookup(&t, &uid, &inode);
  t.local_port = 0;
  fl_peer_lookup(&t, &uid, &inode);
  cr_assert_eq(errno, 4242);
  cr_assert_eq(count_fds(), before);
}
