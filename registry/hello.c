/* SPDX-License-Identifier: MIT */
/* registry/hello.c - the message of a rendezvous, and the memfd that it carries. */
#include "registry/hello.h"

#include <string.h>

#include "registry/sys.h"
#include "shmring/fault.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008u
#endif

#define HELLO_FDS 4 /* room for descriptors; exactly one may come */

union control {
  struct cmsghdr align;
  char bytes[CMSG_SPACE(HELLO_FDS * sizeof(int))];
};

void fl_pairing_drop(struct fl_pairing *p) {
  if (p->seg)
    fl_sys_munmap(p->seg, p->bytes);
  *p = (struct fl_pairing){0};
}

static int map_segment(int memfd, uint32_t ring_size, struct fl_pairing *out) {
  void *addr;
  int rc = fl_sys_map_shared(memfd, fl_segment_bytes(ring_size), &addr);

  if (rc < 0)
    return rc;
  *out = (struct fl_pairing){.seg = addr, .bytes = fl_segment_bytes(ring_size), .ring_size = ring_size};
  return 0;
}

static int fill_memfd(int memfd, uint32_t ring_size, struct fl_pairing *out) {
  ssize_t n;
  int rc = fl_sys_ftruncate(memfd, fl_segment_bytes(ring_size));

  if (rc < 0)
    return rc;
  n = fl_sys_write(memfd, "",
                   1); /* allocates the first page: no memory is an error here, and a signal in the mapping */
  if (n != 1)
    return n < 0 ? (int)n : -ENOMEM;
  rc = map_segment(memfd, ring_size, out);
  if (rc < 0)
    return rc;
  FL_FAULT(segment_mapped);
  fl_segment_init(out->seg, ring_size);
  return fl_sys_fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
}

int fl_segment_create(uint32_t ring_size, struct fl_pairing *out) {
  int memfd = fl_sys_memfd_create("fastlocal", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
  int rc;

  *out = (struct fl_pairing){0};
  if (memfd == -EINVAL) /* before Linux 6.3 */
    memfd = fl_sys_memfd_create("fastlocal", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (memfd < 0)
    return memfd;
  rc = fill_memfd(memfd, ring_size, out);
  if (rc == 0)
    return memfd;
  fl_pairing_drop(out);
  fl_sys_close(memfd);
  return rc;
}

void fl_hello_fill(struct fl_hello *h, const struct fl_rdv *r) {
  const struct fl_tuple *t = &r->tuple;

  *h = (struct fl_hello){
      .magic = FL_HELLO_MAGIC,
      .version = FL_HELLO_VERSION,
      .ring_size = r->ring_size,
      .local_cookie = t->cookie,
      .remote_cookie = r->peer_cookie,
      .local = t->local,
      .remote = t->remote,
      .local_port = t->local_port,
      .remote_port = t->remote_port,
  };
}

int fl_hello_send(int fd, const struct fl_rdv *r, int memfd) {
  struct fl_hello h;
  union control control = {0};
  struct iovec iov = {.iov_base = &h, .iov_len = sizeof(h)};
  struct msghdr msg = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = CMSG_SPACE(sizeof(int))};
  struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
  ssize_t n;

  fl_hello_fill(&h, r);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(c), &memfd, sizeof(memfd));
  n = fl_sys_sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (n < 0)
    return (int)n;
  return (size_t)n == sizeof(h) ? 0 : -EIO;
}

/* Collects the descriptors of a message. Returns how many came; the caller owns them. */
static int take_fds(struct msghdr *msg, int fds[HELLO_FDS]) {
  int count = 0;

  for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len < CMSG_LEN(0))
      continue;
    for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int) && count < HELLO_FDS; i++)
      memcpy(&fds[count++], CMSG_DATA(c) + i * sizeof(int), sizeof(int));
  }
  return count;
}

/* One message, with the descriptors that came with it, however wrong it is. 0 or -errno. */
static int receive_message(int fd, struct fl_hello *h, int fds[HELLO_FDS], int *count) {
  union control control;
  struct iovec iov = {.iov_base = h, .iov_len = sizeof(*h)};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
  ssize_t n = fl_sys_recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

  *count = 0;
  if (n < 0)
    return n == -EINTR ? -EAGAIN : (int)n;
  *count = take_fds(&msg, fds);
  /* Cut with fewer descriptors than there was room for: the limit is this process's own. */
  if ((msg.msg_flags & MSG_CTRUNC) && *count < HELLO_FDS)
    return -EMFILE;
  if (n == 0 && *count == 0)
    return -ECONNRESET; /* left without a word */
  if ((size_t)n != sizeof(*h) || *count != 1 || (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
    return -EBADMSG;
  return 0;
}

static int check_hello(const struct fl_hello *h, const struct fl_rdv *r) {
  const struct fl_tuple *t = &r->tuple;

  if (h->magic != FL_HELLO_MAGIC || h->zero != 0)
    return -EBADMSG;
  if (h->version != FL_HELLO_VERSION)
    return -EPROTO;
  if (!fl_ring_size_valid(h->ring_size))
    return -EBADMSG;
  if (memcmp(&h->local, &t->remote, sizeof(h->local)) != 0 || memcmp(&h->remote, &t->local, sizeof(h->remote)) != 0 ||
      h->local_port != t->remote_port || h->remote_port != t->local_port)
    return -EADDRNOTAVAIL;
  /* Another incarnation of these addresses, or a forked copy of this very end. */
  if (h->local_cookie != r->peer_cookie || h->remote_cookie != t->cookie)
    return -ESTALE;
  return 0;
}

/*
 * Maps a descriptor of unknown kind if it is a memfd that cannot shrink and has the right size. The seals come first:
 * only memfds have that one, so nothing slow or strange is touched, and what is checked after it stays true.
 */
static int open_segment(int memfd, uint32_t ring_size, struct fl_pairing *out) {
  int seals = fl_sys_fcntl(memfd, F_GET_SEALS, 0);
  long size;
  int rc;

  if (seals < 0)
    return -EBADF;
  if (!(seals & F_SEAL_SHRINK))
    return -EPERM;
  size = fl_sys_size(memfd);
  if (size < 0 ||
      (unsigned long)size != fl_segment_bytes(ring_size)) /* no huge page divides it: never a hugetlb file */
    return -EBADMSG;
  rc = map_segment(memfd, ring_size, out);
  if (rc < 0)
    return rc;
  if (fl_segment_check(out->seg, out->bytes) == ring_size)
    return 0;
  fl_pairing_drop(out);
  return -EBADMSG;
}

int fl_hello_receive(int fd, const struct fl_rdv *r, struct fl_pairing *out) {
  struct fl_hello h = {0};
  int fds[HELLO_FDS], count;
  int rc = receive_message(fd, &h, fds, &count);

  *out = (struct fl_pairing){0};
  if (rc == 0)
    rc = check_hello(&h, r);
  if (rc == 0)
    rc = open_segment(fds[0], h.ring_size, out);
  for (int i = 0; i < count; i++)
    fl_sys_close(fds[i]);
  FL_FAULT(hello_message);
  if (rc == 0)
    out->end = 1;
  return rc;
}
