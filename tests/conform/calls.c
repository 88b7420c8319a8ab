/* SPDX-License-Identifier: MIT */
#include "calls.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <unistd.h>

#define GUARD 64 /* bytes behind the buffer that nothing may touch */
#define IOVS (IOV_MAX + 1)

static int cut(char *buf, size_t n, enum shape shape, struct iovec iov[IOVS]) {
  int count = 0;
  size_t at = 0;

  switch (shape) {
  case ONE: iov[count++] = (struct iovec){buf, n}; return count;
  case PIECES:
    for (size_t piece = 1; at < n; piece += 2) {
      size_t len = piece < n - at && count < 20 ? piece : n - at;
      iov[count++] = (struct iovec){buf + at, len};
      at += len;
    }
    return count;
  case EMPTY_ONES:
    iov[count++] = (struct iovec){buf, 0};
    iov[count++] = (struct iovec){NULL, 0};
    iov[count++] = (struct iovec){buf, n / 2};
    iov[count++] = (struct iovec){buf, 0};
    iov[count++] = (struct iovec){buf + n / 2, n - n / 2};
    iov[count++] = (struct iovec){NULL, 0};
    return count;
  default:
    for (int all = shape == MANY ? IOV_MAX : IOV_MAX + 1; count < all; at += iov[count++].iov_len)
      iov[count] = (struct iovec){buf + at, count == all - 1 ? n - at : at < n};
    return count;
  }
}

static void note_msg(const struct msghdr *m, long ret) {
  if (ret >= 0)
    note("  name %u, control %zu, flags %#x", m->msg_namelen, m->msg_controllen, (unsigned)m->msg_flags);
}

long do_recv(enum recv_call call, int fd, size_t n, int flags, enum shape shape) {
  static const char *const names[] = {RECV_CALL_NAMES, ""};
  static struct iovec iov[IOVS];
  char control[256];
  struct sockaddr_storage name = {0};
  struct mmsghdr many[2] = {{.msg_hdr = {.msg_name = &name,
                                         .msg_namelen = sizeof name,
                                         .msg_iov = iov,
                                         .msg_control = control,
                                         .msg_controllen = sizeof control}}};
  socklen_t len = sizeof name;
  int count = cut(run.buf, n, shape, iov);
  long ret = -1;

  memset(run.buf, '.', n + GUARD);
  many[0].msg_hdr.msg_iovlen = (size_t)count;
  errno = 0;
  switch (call) {
  case READ: ret = read(fd, run.buf, n); break;
  case RECV: ret = recv(fd, run.buf, n, flags); break;
  case RECVFROM: ret = recvfrom(fd, run.buf, n, flags, (struct sockaddr *)&name, &len); break;
  case RECVMSG: ret = recvmsg(fd, &many[0].msg_hdr, flags); break;
  case RECVMMSG:
    ret = recvmmsg(fd, many, 1, flags, NULL);
    note_ret("recvmmsg", ret);
    if (ret == 1)
      ret = many[0].msg_len;
    break;
  case READV: ret = readv(fd, iov, count); break;
  case PREADV2: ret = preadv2(fd, iov, count, -1, 0); break;
  case RECV_CALLS: break;
  }
  int saved = errno;
  if (flags & MSG_TRUNC)
    note_ret(names[call], ret);
  else
    note_data(names[call], ret, run.buf);
  if (call == RECVFROM)
    note("  address %u", ret < 0 ? 0 : len);
  if (call == RECVMSG || call == RECVMMSG)
    note_msg(&many[0].msg_hdr, ret);
  for (size_t i = ret < 0 || flags & MSG_TRUNC ? 0 : (size_t)ret; i < n + GUARD; i++)
    if (run.buf[i] != '.') {
      note("  byte %zu was written to", i);
      break;
    }
  errno = saved;
  return ret;
}

static int file_of(const char *data, size_t n) {
  int fd = memfd_create("file", MFD_CLOEXEC);

  for (size_t done = 0; done < n;) {
    ssize_t k = pwrite(fd, data + done, n - done, (off_t)done);
    if (k <= 0)
      break;
    done += (size_t)k;
  }
  return fd;
}

static long by_sendfile(int fd, size_t n) {
  int file = file_of(run.buf, n);
  off_t at = 0;
  long ret = sendfile(fd, file, &at, n);
  int saved = errno;

  note("  offset %ld", (long)at);
  close(file);
  errno = saved;
  return ret;
}

static long by_splice(int fd, size_t n, int flags) {
  int file = file_of(run.buf, n), p[2];
  loff_t at = 0;
  long ret = 0;

  if (pipe2(p, O_CLOEXEC))
    return -1;
  fcntl(p[1], F_SETPIPE_SZ, 1 << 20);
  long in = splice(file, &at, p[1], NULL, n, 0);
  if (in > 0 || n == 0)
    ret = splice(p[0], NULL, fd, NULL, n, SPLICE_F_MOVE | (flags & MSG_DONTWAIT ? SPLICE_F_NONBLOCK : 0));
  int saved = errno;
  close(file);
  close(p[0]);
  close(p[1]);
  errno = saved;
  return ret;
}

long do_send(enum send_call call, int fd, size_t n, int flags, enum shape shape) {
  static const char *const names[] = {SEND_CALL_NAMES, ""};
  static struct iovec iov[IOVS];
  int count = cut(run.buf, n, shape, iov);
  struct mmsghdr many[2] = {{.msg_hdr = {.msg_iov = iov, .msg_iovlen = (size_t)count}}};
  long ret = -1;

  fill(run.buf, run.put, n);
  errno = 0;
  switch (call) {
  case WRITE: ret = write(fd, run.buf, n); break;
  case SEND: ret = send(fd, run.buf, n, flags); break;
  case SENDTO: ret = sendto(fd, run.buf, n, flags, NULL, 0); break;
  case SENDMSG: ret = sendmsg(fd, &many[0].msg_hdr, flags); break;
  case SENDMMSG:
    ret = sendmmsg(fd, many, 1, flags);
    note_ret("sendmmsg", ret);
    if (ret == 1)
      ret = many[0].msg_len;
    break;
  case WRITEV: ret = writev(fd, iov, count); break;
  case PWRITEV2: ret = pwritev2(fd, iov, count, -1, 0); break;
  case SENDFILE: ret = by_sendfile(fd, n); break;
  case SPLICE: ret = by_splice(fd, n, flags); break;
  case SEND_CALLS: break;
  }
  int saved = errno;
  note_ret(names[call], ret);
  if (ret > 0)
    run.put += (uint64_t)ret;
  errno = saved;
  return ret;
}
