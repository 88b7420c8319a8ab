/* SPDX-License-Identifier: MIT */
/* registry/diag.c - exact lookups with NETLINK_SOCK_DIAG: one socket, one request, one answer. */
#include "registry/diag.h"

#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <string.h>

#include "registry/sys.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

struct request {
  struct nlmsghdr nlh;
  struct inet_diag_req_v2 req;
};

/* The kernel appends attributes that are not asked for here; the answer is cut behind them. */
union answer {
  struct nlmsghdr nlh;
  unsigned char bytes[512];
};

static void set_address(__be32 out[4], const struct in6_addr *a, bool v4) {
  memset(out, 0, 16);
  if (v4)
    memcpy(out, &a->s6_addr[12], 4);
  else
    memcpy(out, a, 16);
}

/* A v4 connection may be reported by its AF_INET or, if the socket is AF_INET6, in v4-mapped form. */
static bool same_address(const __be32 got[4], uint8_t family, const struct in6_addr *want) {
  struct in6_addr a = {0};

  if (family == AF_INET6)
    memcpy(&a, got, 16);
  else {
    a.s6_addr[10] = a.s6_addr[11] = 0xff;
    memcpy(&a.s6_addr[12], got, 4);
  }
  return memcmp(&a, want, sizeof(a)) == 0;
}

/* Is this socket one end of a connection that can still carry data? */
static int check_state(const struct inet_diag_msg *m) {
  switch (m->idiag_state) {
  case TCP_ESTABLISHED:
  case TCP_CLOSE_WAIT:
  case TCP_SYN_RECV: /* also TCP_DEFER_ACCEPT: our handshake is over, the other end's is not */ return 0;
  case TCP_FIN_WAIT1:
  case TCP_FIN_WAIT2:
  case TCP_CLOSING:
  case TCP_LAST_ACK: return m->idiag_inode ? 0 : -ENOENT; /* half-closed by a living process, or closed */
  default: return -ENOENT; /* TIME_WAIT; or LISTEN, which is what the kernel finds when the connection is not there */
  }
}

/* Checks one answer against the addresses asked for: the kernel's lookup also finds listeners. */
static int check_answer(const union answer *a, size_t len, const struct fl_tuple *t, struct fl_diag *d) {
  struct inet_diag_msg m;
  int rc;

  if (len < sizeof(a->nlh) || a->nlh.nlmsg_len < sizeof(a->nlh))
    return -EPROTO;
  if (a->nlh.nlmsg_type == NLMSG_ERROR) {
    if (len < NLMSG_HDRLEN + sizeof(int))
      return -EPROTO;
    memcpy(&rc, a->bytes + NLMSG_HDRLEN, sizeof(rc));
    return rc < 0 ? rc : -EPROTO;
  }
  if (a->nlh.nlmsg_type != SOCK_DIAG_BY_FAMILY || len < NLMSG_HDRLEN + sizeof(m) ||
      a->nlh.nlmsg_len < NLMSG_HDRLEN + sizeof(m))
    return -EPROTO;
  memcpy(&m, a->bytes + NLMSG_HDRLEN, sizeof(m));
  if (m.id.idiag_sport != t->local_port || m.id.idiag_dport != t->remote_port)
    return -ENOENT;
  if (!same_address(m.id.idiag_src, m.idiag_family, &t->local) ||
      !same_address(m.id.idiag_dst, m.idiag_family, &t->remote))
    return -ENOENT;
  rc = check_state(&m);
  if (rc < 0)
    return rc;
  *d = (struct fl_diag){
      .uid = m.idiag_uid,
      .inode = m.idiag_inode,
      .cookie = (uint64_t)m.id.idiag_cookie[1] << 32 | m.id.idiag_cookie[0],
  };
  return 0;
}

/* One question on an open netlink socket: the socket whose own addresses are t's. */
static int ask(int fd, const struct fl_tuple *t, uint32_t seq, struct fl_diag *d) {
  struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
  struct request q = {
      .nlh = {.nlmsg_len = sizeof(q),
              .nlmsg_type = SOCK_DIAG_BY_FAMILY,
              .nlmsg_flags = NLM_F_REQUEST,
              .nlmsg_seq = seq},
      .req = {.sdiag_family = t->v4 ? AF_INET : AF_INET6,
              .sdiag_protocol = IPPROTO_TCP,
              .idiag_states = ~0u,
              .id = {.idiag_sport = t->local_port,
                     .idiag_dport = t->remote_port,
                     .idiag_cookie = {INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE}}},
  };
  union answer a;
  long n;

  set_address(q.req.id.idiag_src, &t->local, t->v4);
  set_address(q.req.id.idiag_dst, &t->remote, t->v4);
  n = fl_sys_sendto(fd, &q, sizeof(q), MSG_DONTWAIT | MSG_NOSIGNAL, &kernel, sizeof(kernel));
  if (n < 0)
    return (int)n;

  /* The kernel answers within sendto, so the answer is there; anything else is not ours, and is skipped. */
  for (int i = 0; i < 4; i++) {
    struct sockaddr_nl from = {0};
    socklen_t from_len = sizeof(from);

    n = fl_sys_recvfrom(fd, &a, sizeof(a), MSG_DONTWAIT, &from, &from_len);
    if (n < 0)
      return n == -EAGAIN ? -EPROTO : (int)n;
    if (from.nl_pid == 0 && (size_t)n >= sizeof(a.nlh) && a.nlh.nlmsg_seq == seq)
      return check_answer(&a, (size_t)n, t, d);
  }
  return -EPROTO;
}

/* Does the connection belong to the namespace that this netlink socket asks in? */
static int check_namespace(int fd, const struct fl_tuple *t) {
  uint64_t here = 0;
  socklen_t len = sizeof(here);

  if (t->netns == 0 || fl_sys_getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &here, &len) < 0)
    return 0;
  return here == t->netns ? 0 : -EXDEV;
}

static struct fl_tuple reversed(const struct fl_tuple *t) {
  struct fl_tuple r = *t;

  r.local = t->remote;
  r.local_port = t->remote_port;
  r.remote = t->local;
  r.remote_port = t->local_port;
  return r;
}

int fl_diag_peer(const struct fl_tuple *t, struct fl_diag *d) {
  struct fl_tuple peer = reversed(t);
  struct fl_diag self;
  int fd = fl_sys_socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
  int rc;

  if (fd < 0)
    return fd;
  rc = check_namespace(fd, t);
  if (rc == 0)
    rc = ask(fd, &peer, 1, d);
  /* A kernel without tcp_diag also says ENOENT. Tell the two apart by a socket that must be there: our own. */
  if (rc == -ENOENT && t->cookie != 0 && ask(fd, t, 2, &self) == -ENOENT)
    rc = -EOPNOTSUPP;
  fl_sys_close(fd);
  return rc;
}

int fl_peer_lookup(const struct fl_tuple *t, uid_t *uid, uint64_t *inode) {
  struct fl_diag d;
  int rc = fl_diag_peer(t, &d);

  if (rc < 0)
    return rc;
  *uid = d.uid;
  *inode = d.inode;
  return 0;
}
