/* SPDX-License-Identifier: MIT */
/* registry/tuple.c - which connection is it: addresses, and the name that both ends derive from them. */
#include <string.h>

#include "registry/embedded.h"
#include "registry/sys.h"

#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif
#ifndef SO_BINDTOIFINDEX
#define SO_BINDTOIFINDEX 62
#endif
#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

union address {
  struct sockaddr sa;
  struct sockaddr_in v4;
  struct sockaddr_in6 v6;
};

static int get_int(int fd, int name, int *value) {
  socklen_t len = sizeof(*value);

  return fl_sys_getsockopt(fd, SOL_SOCKET, name, value, &len);
}

/* 0 if the kernel does not know the option. */
static uint64_t get_u64(int fd, int name) {
  uint64_t value = 0;
  socklen_t len = sizeof(value);

  return fl_sys_getsockopt(fd, SOL_SOCKET, name, &value, &len) < 0 ? 0 : value;
}

static int check_tcp(int fd) {
  int domain, type, protocol, device = 0;
  int rc;

  if ((rc = get_int(fd, SO_DOMAIN, &domain)) < 0 || (rc = get_int(fd, SO_TYPE, &type)) < 0 ||
      (rc = get_int(fd, SO_PROTOCOL, &protocol)) < 0)
    return rc;
  if ((domain != AF_INET && domain != AF_INET6) || type != SOCK_STREAM || protocol != IPPROTO_TCP)
    return -EPROTONOSUPPORT;
  /* Two devices (VRFs) may carry connections with the same addresses. */
  if (get_int(fd, SO_BINDTOIFINDEX, &device) == 0 && device != 0)
    return -EPROTONOSUPPORT;
  return 0;
}

static int normalise(const union address *a, struct in6_addr *addr, in_port_t *port) {
  if (a->sa.sa_family == AF_INET) {
    memset(addr, 0, sizeof(*addr));
    addr->s6_addr[10] = addr->s6_addr[11] = 0xff;
    memcpy(&addr->s6_addr[12], &a->v4.sin_addr, 4);
    *port = a->v4.sin_port;
    return 0;
  }
  if (a->sa.sa_family != AF_INET6 || IN6_IS_ADDR_LINKLOCAL(&a->v6.sin6_addr) || a->v6.sin6_scope_id != 0)
    return -EPROTONOSUPPORT; /* a scoped address names a host only together with an interface */
  *addr = a->v6.sin6_addr;
  *port = a->v6.sin6_port;
  return 0;
}

int fl_tuple_of(int fd, struct fl_tuple *t) {
  union address local = {0}, remote = {0};
  socklen_t local_len = sizeof(local), remote_len = sizeof(remote);
  int rc;

  if ((rc = check_tcp(fd)) < 0 || (rc = fl_sys_getpeername(fd, &remote, &remote_len)) < 0 ||
      (rc = fl_sys_getsockname(fd, &local, &local_len)) < 0)
    return rc;
  memset(t, 0, sizeof(*t));
  if ((rc = normalise(&local, &t->local, &t->local_port)) < 0 ||
      (rc = normalise(&remote, &t->remote, &t->remote_port)) < 0)
    return rc;
  if (t->local_port == t->remote_port && memcmp(&t->local, &t->remote, sizeof(t->local)) == 0)
    return -EPROTONOSUPPORT; /* connected to itself: there is no other end to share with */
  t->v4 = IN6_IS_ADDR_V4MAPPED(&t->local) && IN6_IS_ADDR_V4MAPPED(&t->remote);
  t->cookie = get_u64(fd, SO_COOKIE);
  t->netns = get_u64(fd, SO_NETNS_COOKIE);
  return 0;
}

static size_t append_hex(char *out, const void *data, size_t len) {
  static const char digits[] = "0123456789abcdef";
  const unsigned char *p = data;

  for (size_t i = 0; i < len; i++) {
    out[2 * i] = digits[p[i] >> 4];
    out[2 * i + 1] = digits[p[i] & 15];
  }
  return 2 * len;
}

size_t fl_rdv_name(const struct fl_tuple *t, char name[108]) {
  static const char prefix[] = "fastlocal/2/";
  int order = memcmp(&t->local, &t->remote, sizeof(t->local));
  bool local_first;
  size_t n = sizeof(prefix) - 1;

  if (order == 0)
    order = memcmp(&t->local_port, &t->remote_port, sizeof(t->local_port));
  local_first = order < 0;
  memcpy(name, prefix, n);
  n += append_hex(name + n, local_first ? &t->local : &t->remote, 16);
  n += append_hex(name + n, local_first ? &t->local_port : &t->remote_port, 2);
  name[n++] = '-';
  n += append_hex(name + n, local_first ? &t->remote : &t->local, 16);
  n += append_hex(name + n, local_first ? &t->remote_port : &t->local_port, 2);
  name[n] = '\0';
  return n;
}
