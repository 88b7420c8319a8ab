/* SPDX-License-Identifier: MIT */
/* registry/message.c - see message.h. */
#include "registry/message.h"

#include <string.h>

#include "registry/sys.h"
#include "shmring/fault.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008u
#endif

union control {
  struct cmsghdr align;
  char bytes[CMSG_SPACE(FL_MESSAGE_FDS * sizeof(int))];
};

/* ---- packets ---- */

int fl_message_send(int fd, const void *data, size_t len, int passed) {
  union control control = {0};
  struct iovec iov = {.iov_base = (void *)data, .iov_len = len};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
  ssize_t n;

  if (passed >= 0) {
    msg.msg_control = &control;
    msg.msg_controllen = CMSG_SPACE(sizeof(int));
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &passed, sizeof(passed));
  }
  n = fl_sys_sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (n < 0)
    return (int)n;
  return (size_t)n == len ? 0 : -EIO;
}

/* Collects the descriptors of a message. Returns how many came; the caller owns them. */
static int take_fds(struct msghdr *msg, int fds[FL_MESSAGE_FDS]) {
  int count = 0;

  for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len < CMSG_LEN(0))
      continue;
    for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int) && count < FL_MESSAGE_FDS; i++)
      memcpy(&fds[count++], CMSG_DATA(c) + i * sizeof(int), sizeof(int));
  }
  return count;
}

int fl_message_receive(int fd, void *data, size_t len, int fds[FL_MESSAGE_FDS], int *count) {
  union control control;
  struct iovec iov = {.iov_base = data, .iov_len = len};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
  ssize_t n = fl_sys_recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

  *count = 0;
  if (n < 0)
    return n == -EINTR ? -EAGAIN : (int)n;
  *count = take_fds(&msg, fds);
  /* Cut with fewer descriptors than there was room for: the limit is this process's own. */
  if ((msg.msg_flags & MSG_CTRUNC) && *count < FL_MESSAGE_FDS)
    return -EMFILE;
  if (n == 0 && *count == 0)
    return -ECONNRESET; /* left without a word */
  if ((size_t)n != len || (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
    return -EBADMSG;
  return 0;
}

/* ---- segments ---- */

void fl_pairing_drop(struct fl_pairing *p) {
  if (p->seg)
    fl_sys_munmap(fl_segment_base(p->seg, p->bytes), p->bytes);
  *p = (struct fl_pairing){0};
}

/* *base is where it is, until *out is whole. */
static int map_segment(int memfd, uint32_t ring_size, void **base, struct fl_pairing *out) {
  size_t bytes = fl_segment_bytes(ring_size);
  int rc = fl_sys_map_shared(memfd, bytes, base);

  if (rc < 0)
    return rc;
  *out = (struct fl_pairing){.seg = fl_segment_at(*base, bytes), .bytes = bytes, .ring_size = ring_size};
  return 0;
}

static int fill_memfd(int memfd, uint32_t ring_size, struct fl_pairing *out) {
  size_t bytes = fl_segment_bytes(ring_size);
  void *base;
  ssize_t n;
  int rc = fl_sys_ftruncate(memfd, bytes);

  if (rc < 0)
    return rc;
  /* allocates the header page: no memory is an error here, and a signal in the mapping */
  n = fl_sys_pwrite(memfd, "", 1, fl_segment_page(bytes));
  if (n != 1)
    return n < 0 ? (int)n : -ENOMEM;
  rc = map_segment(memfd, ring_size, &base, out);
  if (rc < 0)
    return rc;
  FL_FAULT(segment_mapped);
  fl_segment_init(base, ring_size);
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

/* The seals come first: only memfds have that one, so nothing slow or strange is touched, and what is checked after it
 * stays true. */
int fl_segment_open(int memfd, uint32_t ring_size, struct fl_pairing *out) {
  int seals = fl_sys_fcntl(memfd, F_GET_SEALS, 0);
  void *base;
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
  rc = map_segment(memfd, ring_size, &base, out);
  if (rc < 0)
    return rc;
  if (fl_segment_check(base, out->bytes) == ring_size)
    return 0;
  fl_pairing_drop(out);
  return -EBADMSG;
}
