/* SPDX-License-Identifier: MIT */
/* registry/embedded.c - the rendezvous of the two ends in the abstract AF_UNIX namespace; see embedded.h. */
#include "registry/embedded.h"

#include <string.h>
#include <sys/un.h>

#include "registry/diag.h"
#include "registry/hello.h"
#include "registry/sys.h"
#include "shmring/fault.h"

#define BACKLOG 8           /* one visitor is expected; the rest is for those who only disturb */
#define VISITORS_PER_CALL 4 /* bounds the time of one fl_rdv_poll */
#define VISITORS_BAD_MAX 16 /* after that somebody disturbs on purpose */
#define VISITOR_PATIENCE 32 /* polls; a true visitor speaks microseconds after it connects */
#define DEFAULT_OVERFLOW_UID 65534u

struct name {
  struct sockaddr_un addr;
  socklen_t len;
};

/* ---- who is it ---- */

/* Reads a small file into buf, NUL-terminated. Length, or -errno. */
static ssize_t read_file(const char *path, char *buf, size_t size) {
  int fd = fl_sys_open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  ssize_t n;

  if (fd < 0)
    return fd;
  n = fl_sys_read(fd, buf, size - 1);
  fl_sys_close(fd);
  if (n >= 0)
    buf[n] = '\0';
  return n;
}

static const char *parse_number(const char *p, uint64_t *value) {
  while (*p == ' ')
    p++;
  for (*value = 0; *p >= '0' && *p <= '9' && *value <= UINT32_MAX; p++)
    *value = *value * 10 + (uint64_t)(*p - '0');
  return p;
}

/* The uid that stands for all those that the caller's user namespace does not map. Does not change in practice. */
static uid_t overflow_uid(void) {
  static _Atomic uint64_t cached; /* value + 1; relaxed: a plain number, and every thread computes the same */
  uint64_t value = atomic_load_explicit(&cached, memory_order_relaxed);
  char buf[32];

  if (value == 0) {
    if (read_file("/proc/sys/kernel/overflowuid", buf, sizeof(buf)) <= 0)
      return DEFAULT_OVERFLOW_UID;
    parse_number(buf, &value);
    atomic_store_explicit(&cached, ++value, memory_order_relaxed);
  }
  return (uid_t)(value - 1);
}

int fl_uid_names_one(uid_t uid) {
  char map[64];
  uint64_t inside, outside, count;
  const char *p = map;
  ssize_t n;

  if (uid != overflow_uid())
    return 0;
  n = read_file("/proc/self/uid_map", map, sizeof(map));
  if (n <= 0)
    return n == -EMFILE || n == -ENFILE || n == -ENOMEM ? (int)n : -EPERM;
  p = parse_number(p, &inside);
  p = parse_number(p, &outside);
  parse_number(p, &count);
  return inside == 0 && outside == 0 && count == UINT32_MAX ? 0 : -EPERM;
}

/* Does the process behind an AF_UNIX connection run as the owner of the TCP peer? 0, -EPERM, or another -errno. */
static int check_uid(int fd, uid_t want) {
  struct ucred cred;
  socklen_t len = sizeof(cred);
  int rc = fl_sys_getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len);

  if (rc < 0)
    return rc;
  return cred.uid == want ? fl_uid_names_one(want) : -EPERM;
}

/* ---- descriptors and results ---- */

/* Moves a descriptor that is to be kept out of the application's way; where there is no room it stays where it is. */
static int move_high(int fd, int base_fd) {
  int high;

  if (fd >= base_fd)
    return fd;
  high = fl_sys_fcntl(fd, F_DUPFD_CLOEXEC, base_fd);
  if (high < 0)
    return fd;
  fl_sys_close(fd);
  return high;
}

static void close_fd(int *fd) {
  if (*fd >= 0)
    fl_sys_close(*fd);
  *fd = -1;
}

/* Ends a rendezvous: nothing is held any more. rc is 0 or -errno. */
static enum fl_rdv_result end_with(struct fl_rdv *r, enum fl_rdv_result result, int rc) {
  fl_rdv_abandon(r);
  r->error = -rc;
  return result;
}

void fl_rdv_abandon(struct fl_rdv *r) {
  close_fd(&r->visitor);
  close_fd(&r->fd);
}

/* ---- the end that comes first ---- */

static void make_name(const struct fl_rdv *r, struct name *n) {
  static const char digits[] = "0123456789abcdef";
  char text[108];
  size_t len = fl_rdv_name(&r->tuple, text);
  uint64_t sum = r->tuple.cookie + r->peer_cookie; /* the same at both ends, another for every connection */

  text[len++] = '/';
  for (int shift = 60; shift >= 0; shift -= 4)
    text[len++] = digits[sum >> shift & 15];
  memset(&n->addr, 0, sizeof(n->addr));
  n->addr.sun_family = AF_UNIX;
  memcpy(n->addr.sun_path + 1, text, len);
  n->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + len);
}

static enum fl_rdv_result wait_for_visitors(struct fl_rdv *r, int fd) {
  FL_FAULT(rdv_bound);
  int rc = fl_sys_listen(fd, BACKLOG);

  r->fd = fd;
  if (rc < 0)
    return end_with(r, FL_RDV_ERROR, rc);
  FL_FAULT(rdv_listening);
  r->fd = move_high(fd, r->base_fd);
  return FL_RDV_WAIT;
}

/* ---- the end that comes second ---- */

static enum fl_rdv_result connect_failed(struct fl_rdv *r, int rc) {
  switch (-rc) {
  case EAGAIN:       /* the listener's backlog is full */
  case ECONNREFUSED: /* it has bound and not listened yet, or it has just gone */
  case ECONNRESET:
  case EPIPE: /* it went between the connection and the message */
  case EINTR: return end_with(r, FL_RDV_RETRY, rc);
  default: return end_with(r, FL_RDV_ERROR, rc);
  }
}

/* The name is taken: visits who has it, with a segment whose memfd is `memfd`. */
static enum fl_rdv_result visit(struct fl_rdv *r, const struct name *n, int fd, int memfd) {
  int rc = fl_sys_connect(fd, &n->addr, n->len);

  if (rc < 0)
    return connect_failed(r, rc);
  FL_FAULT(rdv_connected);
  rc = check_uid(fd, r->peer_uid);
  if (rc < 0)
    return end_with(r, rc == -EPERM ? FL_RDV_REFUSED : FL_RDV_ERROR, rc);
  FL_FAULT(rdv_hello);
  rc = fl_hello_send(fd, r, memfd);
  FL_FAULT(rdv_hello_sent);
  return rc < 0 ? connect_failed(r, rc) : FL_RDV_PAIRED;
}

/* The segment is made before the connection, so that the listener sees the message right after the visitor. */
static enum fl_rdv_result bring_segment(struct fl_rdv *r, const struct name *n, int fd, struct fl_pairing *out) {
  enum fl_rdv_result result;
  int memfd = fl_segment_create(r->ring_size, out);

  if (memfd < 0)
    return end_with(r, FL_RDV_ERROR, memfd);
  FL_FAULT(rdv_segment_made);
  result = visit(r, n, fd, memfd);
  fl_sys_close(memfd);
  if (result != FL_RDV_PAIRED)
    fl_pairing_drop(out);
  return result;
}

/* ---- start ---- */

static enum fl_rdv_result find_peer(struct fl_rdv *r) {
  struct fl_diag peer;
  int rc = fl_diag_peer(&r->tuple, &peer);

  if (rc == -ENOENT)
    return end_with(r, FL_RDV_REMOTE, rc);
  if (rc < 0)
    return end_with(r, FL_RDV_ERROR, rc);
  if (peer.inode == 0)
    return end_with(r, FL_RDV_RETRY, -ENOTCONN); /* not accepted yet: nobody's, so nobody to share with */
  r->peer_uid = peer.uid;
  r->peer_cookie = peer.cookie;
  return FL_RDV_WAIT;
}

enum fl_rdv_result fl_rdv_start(struct fl_rdv *r, const struct fl_tuple *t, uint32_t ring_size, int base_fd,
                                struct fl_pairing *out) {
  enum fl_rdv_result result;
  struct name n;
  int fd, rc;

  *r = (struct fl_rdv){.fd = -1, .visitor = -1, .base_fd = base_fd, .ring_size = ring_size, .tuple = *t};
  *out = (struct fl_pairing){0};
  if (!fl_ring_size_valid(ring_size))
    return end_with(r, FL_RDV_ERROR, -EINVAL);
  result = find_peer(r);
  if (result != FL_RDV_WAIT)
    return result;
  if (t->cookie == 0)
    return end_with(r, FL_RDV_ERROR, -EINVAL);

  FL_FAULT(rdv_peer_found);
  make_name(r, &n);
  fd = fl_sys_socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return end_with(r, FL_RDV_ERROR, fd);
  rc = fl_sys_bind(fd, &n.addr, n.len);
  if (rc == 0)
    return wait_for_visitors(r, fd);
  if (rc == -EADDRINUSE)
    result = bring_segment(r, &n, fd, out);
  else
    result = end_with(r, FL_RDV_ERROR, rc);
  fl_sys_close(fd);
  return result;
}

/* ---- poll ---- */

/*
 * Is the visitor who it should be? If it is not the owner whom the start found, the TCP peer is looked up again: its
 * owner may have changed since (fchown), and it may be gone. (Each look costs 8 us, a seventh of all that pairing
 * costs. A connection has the same peer for all of its life, so a visitor of the right user is as good as at the
 * start.) FL_RDV_WAIT: yes; FL_RDV_RETRY: send it away; else the end.
 */
static enum fl_rdv_result examine(struct fl_rdv *r, int fd) {
  struct fl_diag peer;
  int rc = check_uid(fd, r->peer_uid);

  if (rc == 0)
    return FL_RDV_WAIT;
  rc = fl_diag_peer(&r->tuple, &peer);
  r->error = -rc;
  if (rc == -ENOENT || (rc == 0 && peer.cookie != r->peer_cookie))
    return FL_RDV_REMOTE;
  if (rc < 0)
    return FL_RDV_ERROR;
  rc = peer.inode ? check_uid(fd, peer.uid) : -EPERM;
  r->error = -rc;
  if (rc < 0)
    return rc == -EPERM ? FL_RDV_RETRY : FL_RDV_ERROR;
  r->peer_uid = peer.uid;
  return FL_RDV_WAIT;
}

/* Sends the visitor away. FL_RDV_RETRY: look for the next; FL_RDV_REFUSED: it was one too many. */
static enum fl_rdv_result dismiss(struct fl_rdv *r, int error) {
  close_fd(&r->visitor);
  r->patience = 0;
  r->error = error;
  return ++r->bad < VISITORS_BAD_MAX ? FL_RDV_RETRY : FL_RDV_REFUSED;
}

/* Lets in the next visitor, if there is one. FL_RDV_WAIT: r->visitor is it, or -1 if nobody has come. */
static enum fl_rdv_result admit(struct fl_rdv *r) {
  enum fl_rdv_result result;
  int fd;

  if (fl_sys_readable(r->fd) == 0)
    return FL_RDV_WAIT; /* the usual case, at a tenth of the cost of an accept that finds nobody */
  fd = fl_sys_accept4(r->fd, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd == -EAGAIN || fd == -ECONNABORTED || fd == -EINTR)
    return FL_RDV_WAIT;
  if (fd < 0) {
    r->error = -fd;
    return FL_RDV_ERROR;
  }
  r->visitor = fd;
  FL_FAULT(rdv_visitor);
  result = examine(r, fd);
  return result == FL_RDV_RETRY ? dismiss(r, r->error) : result;
}

/* Is this error of fl_hello_receive this process's own lack of something, and not the visitor's fault? */
static bool own_fault(int rc) { return rc == -EMFILE || rc == -ENOMEM || rc == -ENOBUFS; }

/* FL_RDV_WAIT: nothing to do now; FL_RDV_RETRY: a visitor was sent away, look for the next; else the end. */
static enum fl_rdv_result serve(struct fl_rdv *r, struct fl_pairing *out) {
  int rc;

  if (r->visitor < 0) {
    enum fl_rdv_result result = admit(r);

    if (result != FL_RDV_WAIT || r->visitor < 0)
      return result;
  }
  rc = fl_hello_receive(r->visitor, r, out);
  FL_FAULT(rdv_hello_received);
  if (rc == -EAGAIN && ++r->patience < VISITOR_PATIENCE) {
    r->visitor = move_high(r->visitor, r->base_fd);
    return FL_RDV_WAIT;
  }
  if (rc == -EAGAIN) {
    /* It may speak just now, and would take itself for paired if it were sent away: from here on its send fails, and
     * what it sent before is here. */
    fl_sys_shutdown(r->visitor, SHUT_RD);
    rc = fl_hello_receive(r->visitor, r, out);
  }
  if (rc < 0 && !own_fault(rc))
    return dismiss(r, -rc);
  r->error = -rc;
  return rc == 0 ? FL_RDV_PAIRED : FL_RDV_ERROR;
}

enum fl_rdv_result fl_rdv_poll(struct fl_rdv *r, struct fl_pairing *out) {
  *out = (struct fl_pairing){0};
  for (int i = 0; i < VISITORS_PER_CALL; i++) {
    enum fl_rdv_result result = serve(r, out);

    if (result == FL_RDV_WAIT)
      return result;
    if (result != FL_RDV_RETRY)
      return end_with(r, result, -r->error);
  }
  return FL_RDV_WAIT;
}
