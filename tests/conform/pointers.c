/* SPDX-License-Identifier: MIT */
/* tests/conform/pointers.c - what calls are given besides buffers: pointers that are bad, arrays of any shape, iovecs
 * with holes; and what comes back on the error queue. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/errqueue.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <unistd.h>

#include "groups.h"

/* ---- pointers ---- */

enum { P_WHAT, P_ADDRESS, P_STATE };
enum {
  RECVFROM_ADDRESS,
  RECVFROM_LENGTH,
  RECVMSG_NAME,
  RECVMSG_CONTROL,
  RECVMMSG_TIMEOUT,
  RECVMMSG_VECTOR,
  SENDTO_ADDRESS,
  SENDMSG_NAME,
  SENDMSG_CONTROL,
  SENDMMSG_VECTOR,
  SENDFILE_OFFSET,
  PPOLL_TIMEOUT,
  PPOLL_MASK,
  SELECT_SET,
  SELECT_TIMEOUT,
  PSELECT_MASK,
  EPOLL_EVENTS,
  EPOLL_MASK,
  EPOLL_TIMEOUT,
  EPOLL_ADD,
  EPOLL_DEL,
  GETSOCKOPT_VALUE,
  GETSOCKOPT_LENGTH,
  GETPEERNAME,
  GETSOCKNAME_LENGTH,
  IOCTL_VALUE,
  IOCTL_FIONBIO,
  SPLICE_OFFSET,
  POINTERS
};
#define POINTER_NAMES \
  "recvfrom-address", "recvfrom-length", "recvmsg-name", "recvmsg-control", "recvmmsg-timeout", "recvmmsg-vector", \
      "sendto-address", "sendmsg-name", "sendmsg-control", "sendmmsg-vector", "sendfile-offset", "ppoll-timeout", \
      "ppoll-mask", "select-set", "select-timeout", "pselect-mask", "epoll_wait-events", "epoll_pwait-mask", \
      "epoll_pwait2-timeout", "EPOLL_CTL_ADD", "EPOLL_CTL_DEL", "getsockopt-value", "getsockopt-length", \
      "getpeername", "getsockname-length", "FIONREAD", "FIONBIO", "splice-offset"

static void call_with(int what, void *p) {
  struct iovec iov = {run.buf, 5};
  struct mmsghdr m = {.msg_hdr = {.msg_iov = &iov, .msg_iovlen = 1}};
  struct pollfd pf = {run.fd, POLLIN, 0};
  struct epoll_event e = {.events = EPOLLIN};
  struct timespec zero = {0, 0};
  struct timeval none = {0, 0};
  socklen_t len = sizeof(struct sockaddr_storage);
  fd_set set;
  int ep = -1, file = -1, pipes[2] = {-1, -1};

  if (what >= EPOLL_EVENTS && what <= EPOLL_DEL) {
    ep = epoll_create1(0);
    if (what != EPOLL_ADD)
      epoll_ctl(ep, EPOLL_CTL_ADD, run.fd, &e);
  }
  FD_ZERO(&set);
  FD_SET(run.fd, &set);
  switch (what) {
  case RECVFROM_ADDRESS: note_ret("recvfrom", recvfrom(run.fd, run.buf, 5, MSG_DONTWAIT, p, &len)); break;
  case RECVFROM_LENGTH:
    note_ret("recvfrom", recvfrom(run.fd, run.buf, 5, MSG_DONTWAIT, (struct sockaddr *)run.buf, p));
    break;
  case RECVMSG_NAME:
    m.msg_hdr.msg_name = p;
    m.msg_hdr.msg_namelen = 16;
    note_ret("recvmsg", recvmsg(run.fd, &m.msg_hdr, MSG_DONTWAIT));
    break;
  case RECVMSG_CONTROL:
    m.msg_hdr.msg_control = p;
    m.msg_hdr.msg_controllen = 64;
    note_ret("recvmsg", recvmsg(run.fd, &m.msg_hdr, MSG_DONTWAIT));
    break;
  case RECVMMSG_TIMEOUT: note_ret("recvmmsg", recvmmsg(run.fd, &m, 1, MSG_DONTWAIT, p)); break;
  case RECVMMSG_VECTOR: note_ret("recvmmsg", recvmmsg(run.fd, p, 2, MSG_DONTWAIT, NULL)); break;
  case SENDTO_ADDRESS: note_ret("sendto", sendto(run.fd, run.buf, 5, 0, p, 16)); break;
  case SENDMSG_NAME:
    m.msg_hdr.msg_name = p;
    m.msg_hdr.msg_namelen = 16;
    note_ret("sendmsg", sendmsg(run.fd, &m.msg_hdr, 0));
    break;
  case SENDMSG_CONTROL:
    m.msg_hdr.msg_control = p;
    m.msg_hdr.msg_controllen = 64;
    note_ret("sendmsg", sendmsg(run.fd, &m.msg_hdr, 0));
    break;
  case SENDMMSG_VECTOR: note_ret("sendmmsg", sendmmsg(run.fd, p, 2, 0)); break;
  case SENDFILE_OFFSET:
    file = memfd_create("file", 0);
    note_ret("write", write(file, "0123456789", 10));
    note_ret("lseek", lseek(file, 2, SEEK_SET));
    note_ret("sendfile", sendfile(run.fd, file, p, 5));
    break;
  case PPOLL_TIMEOUT: note_ret("ppoll", p ? ppoll(&pf, 1, p, NULL) : 0); break; /* NULL waits for ever */
  case PPOLL_MASK: note_ret("ppoll", ppoll(&pf, 1, &zero, p)); break;
  case SELECT_SET: note_ret("select", select(run.fd + 1, p, NULL, NULL, &none)); break;
  case SELECT_TIMEOUT: note_ret("select", p ? select(run.fd + 1, &set, NULL, NULL, p) : 0); break;
  case PSELECT_MASK: note_ret("pselect", pselect(run.fd + 1, &set, NULL, NULL, &zero, p)); break;
  case EPOLL_EVENTS: note_ret("epoll_wait", epoll_wait(ep, p, 3, 0)); break;
  case EPOLL_MASK: note_ret("epoll_pwait", epoll_pwait(ep, &e, 1, 0, p)); break;
  case EPOLL_TIMEOUT: note_ret("epoll_pwait2", p ? epoll_pwait2(ep, &e, 1, p, NULL) : 0); break;
  case EPOLL_ADD: note_ret("EPOLL_CTL_ADD", epoll_ctl(ep, EPOLL_CTL_ADD, run.fd, p)); break;
  case EPOLL_DEL: note_ret("EPOLL_CTL_DEL", epoll_ctl(ep, EPOLL_CTL_DEL, run.fd, p)); break;
  case GETSOCKOPT_VALUE:
    len = sizeof(int);
    note_ret("getsockopt", getsockopt(run.fd, IPPROTO_TCP, TCP_NODELAY, p, &len));
    len = sizeof(int);
    note_ret("getsockopt", getsockopt(run.fd, SOL_SOCKET, SO_ERROR, p, &len));
    break;
  case GETSOCKOPT_LENGTH: note_ret("getsockopt", getsockopt(run.fd, IPPROTO_TCP, TCP_NODELAY, run.buf, p)); break;
  case GETPEERNAME: note_ret("getpeername", getpeername(run.fd, p, &len)); break;
  case GETSOCKNAME_LENGTH: note_ret("getsockname", getsockname(run.fd, (struct sockaddr *)run.buf, p)); break;
  case IOCTL_VALUE: note_ret("FIONREAD", ioctl(run.fd, FIONREAD, p)); break;
  case IOCTL_FIONBIO: note_ret("FIONBIO", ioctl(run.fd, FIONBIO, p)); break;
  default:
    file = memfd_create("file", 0);
    note_ret("write", write(file, "0123456789", 10));
    note_ret("pipe", pipe(pipes));
    note_ret("splice", splice(file, p, pipes[1], NULL, 5, 0));
    note_ret("splice", splice(pipes[0], p, run.fd, NULL, 5, SPLICE_F_NONBLOCK));
    note_ret("splice", splice(pipes[0], NULL, run.fd, p, 5, SPLICE_F_NONBLOCK));
  }
  close(ep);
  close(file);
  close(pipes[0]);
  close(pipes[1]);
}

static void bad_pointer(const int *v) {
  enum end me = v[P_WHAT] % 2 ? SERVER : CLIENT;

  connect_ends(AF_INET);
  onto_ring();
  if (v[P_STATE])
    ON(OTHER(me)) v[P_STATE] == 1 ? put(10) : put_kernel(10);
  ON(me) {
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    static char zeros[256];
    void *p = NULL;
    if (v[P_STATE])
      await_bytes(10);
    memset(run.buf, 'b', 64);
    mprotect(page + 4096, 4096, PROT_NONE);
    switch (v[P_ADDRESS]) {
    case 1: p = (void *)24; break;
    case 2: p = page + 4096; break;
    case 3: p = page + 4096 - 2; break; /* a part of it is good */
    case 4: p = (void *)0xffff800000000000; break;
    case 5: memset(zeros, 0, sizeof zeros), p = zeros; break;
    case 6: memset(zeros, 0xff, sizeof zeros), p = zeros; break;
    default: break;
    }
    call_with(v[P_WHAT], p);
    munmap(page, 8192);
    no_blocking(run.fd, false);
    note("O_NONBLOCK %d", !!(fcntl(run.fd, F_GETFL) & O_NONBLOCK));
    drain("left");
  }
  ON(OTHER(me)) {
    pause_us(200);
    drain("came");
  }
  talk();
}

/* A vector whose count is rubbish, and waits that never end. */
static bool pointer_skip(const int *v) {
  bool rubbish = v[P_ADDRESS] >= 5;

  return rubbish && (v[P_WHAT] == SENDMMSG_VECTOR || v[P_WHAT] == RECVMMSG_VECTOR || v[P_WHAT] == SELECT_SET ||
                     (v[P_ADDRESS] == 6 && (v[P_WHAT] == SENDFILE_OFFSET || v[P_WHAT] == SPLICE_OFFSET)));
}

const struct group pointer_group = {
    .name = "bad-pointer",
    .what = "Bad pointers to anything but buffers: names, lengths, timeouts, masks, sets, events, values, offsets",
    .dims = {DIM("what", POINTER_NAMES),
             DIM("address", "NULL", "small", "unmapped", "last-bytes-unmapped", "kernel", "zeros", "ones"),
             DIM("state", "no-bytes", "ring", "kernel")},
    .run = bad_pointer,
    .skip = pointer_skip,
    .every = 4,
    .flags = ALONE,
};

/* ---- arrays ---- */

enum { A_WHAT, A_STATE };
enum {
  POLL_NONE,
  POLL_TWICE,
  POLL_NEGATIVE,
  POLL_EVENTLESS,
  POLL_MANY,
  POLL_TOO_MANY,
  SELECT_NONE,
  SELECT_SMALL_N,
  SELECT_TWICE,
  SELECT_CLOSED,
  SELECT_BEYOND,
  EPOLL_ONE,
  EPOLL_IN_TURN,
  EPOLL_NONE,
  EPOLL_NEGATIVE,
  EPOLL_HUGE,
  READV_NONE,
  READV_NEGATIVE,
  READV_HOLES,
  WRITEV_HOLES,
  READV_NULL_HOLES,
  WRITEV_SUM,
  READV_SUM,
  WRITEV_BAD_LAST,
  WRITEV_BAD_MIDDLE,
  READV_BAD_MIDDLE,
  READV_BAD_UNUSED,
  RECVMMSG_TWO,
  SENDMMSG_TWO,
  SENDMMSG_SECOND_BAD,
  RECVMMSG_SECOND_BAD
};
#define ARRAY_NAMES \
  "poll-of-none", "poll-twice-the-same", "poll-negative", "poll-no-events", "poll-100", "poll-beyond-the-limit", \
      "select-of-none", "select-below-it", "select-in-two-sets", "select-closed", "select-beyond-FD_SETSIZE", \
      "epoll_wait-of-1", "epoll_wait-in-turn", "epoll_wait-of-0", "epoll_wait-of--1", "epoll_wait-of-INT_MAX", \
      "readv-of-0", "readv-of--1", "readv-holes", "writev-holes", "readv-NULL-holes", "writev-sum-too-large", \
      "readv-sum-too-large", "writev-bad-last", "writev-bad-middle", "readv-bad-middle", "readv-bad-unused", \
      "recvmmsg-2", "sendmmsg-2", "sendmmsg-second-bad", "recvmmsg-second-bad"

static volatile int minus_one = -1, huge = INT_MAX; /* not for the compiler to see */

static void array_call(int what) {
  static struct pollfd pf[100000];
  static unsigned long large[3][64];
  static struct epoll_event events[8];
  struct timeval none = {0, 0};
  struct epoll_event e = {.events = EPOLLIN | EPOLLOUT};
  char *b = run.buf, *bad = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  struct iovec iov[6] = {{b, 2}, {NULL, 0}, {b + 100, 0}, {b + 200, 3}, {NULL, 0}, {b + 300, 2}};
  struct iovec sum[2] = {{b, SSIZE_MAX}, {b, SSIZE_MAX}}, last[3] = {{b, 2}, {b + 10, 2}, {bad, 2}},
               middle[3] = {{b, 2}, {bad, 2}, {b + 10, 2}}, unused[3] = {{b, 4}, {b + 10, 10}, {bad, 2}};
  struct iovec two_iov[2] = {{b, 3}, {b + 100, 3}};
  struct mmsghdr two[2] = {{.msg_hdr = {.msg_iov = two_iov, .msg_iovlen = 1}},
                           {.msg_hdr = {.msg_iov = two_iov + 1, .msg_iovlen = 1}}};
  fd_set rd, wr;
  int ep = epoll_create1(0);

  FD_ZERO(&rd);
  FD_ZERO(&wr);
  FD_SET(run.fd, &rd);
  FD_SET(run.fd, &wr);
  memset(b, '-', 400);
  for (int i = 0; i < 100000; i++)
    pf[i] = (struct pollfd){i % 2 ? -i : run.fd, POLLIN, 0x7f};
  epoll_ctl(ep, EPOLL_CTL_ADD, run.fd, &e);
  switch (what) {
  case POLL_NONE: note_ret("poll", poll(NULL, 0, 0)); break;
  case POLL_TWICE:
    pf[1] = (struct pollfd){run.fd, POLLOUT, 0};
    pf[2] = (struct pollfd){run.fd, POLLIN | POLLOUT, 0};
    note_ret("poll", poll(pf, 3, 0));
    break;
  case POLL_NEGATIVE:
    pf[0].fd = -1;
    note_ret("poll", poll(pf, 2, 0));
    break;
  case POLL_EVENTLESS:
    pf[0].events = 0;
    note_ret("poll", poll(pf, 1, 0));
    break;
  case POLL_MANY: note_ret("poll", poll(pf, 100, 0)); break;
  case POLL_TOO_MANY: note_ret("poll", poll(pf, 100000, 0)); break;
  case SELECT_NONE: note_ret("select", select(0, NULL, NULL, NULL, &none)); break;
  case SELECT_SMALL_N: note_ret("select", select(run.fd, &rd, &wr, NULL, &none)); break;
  case SELECT_TWICE: note_ret("select", select(run.fd + 1, &rd, &wr, NULL, &none)); break;
  case SELECT_CLOSED:
    FD_SET(60, &rd); /* within the smallest table */
    note_ret("select", select(61, &rd, NULL, NULL, &none));
    FD_CLR(60, &rd);
    FD_SET(900, &rd);
    note_free("beyond-the-table", "select %d", select(901, &rd, NULL, NULL, &none));
    FD_ZERO(&rd);
    break;
  case SELECT_BEYOND:
    large[0][run.fd / 64] |= 1ul << run.fd % 64;
    note_ret("select", select(4000, (fd_set *)large[0], NULL, NULL, &none));
    note("  %d", (int)(large[0][run.fd / 64] >> run.fd % 64 & 1));
    break;
  case EPOLL_ONE: note_ret("epoll_wait", epoll_wait(ep, events, 1, 0)); break;
  case EPOLL_IN_TURN: { /* one at a time: nobody is passed over */
    int p[2], seen[2] = {0, 0};
    struct epoll_event out = {.events = EPOLLOUT, .data.u32 = 1}, in = {.events = EPOLLIN, .data.u32 = 0};
    if (pipe(p) || epoll_ctl(ep, EPOLL_CTL_ADD, p[1], &out) || epoll_ctl(ep, EPOLL_CTL_MOD, run.fd, &in))
      note("pipe");
    for (int i = 0; i < 40; i++) {
      pause_us(i % 2 ? 30 : 0);
      if (epoll_wait(ep, events, 1, 0) == 1)
        seen[events[0].data.u32]++;
    }
    events[0].events = 0;
    note("%s, %s", seen[0] ? "the connection" : "", seen[1] ? "the pipe" : "");
    close(p[0]);
    close(p[1]);
    break;
  }
  case EPOLL_NONE: note_ret("epoll_wait", epoll_wait(ep, events, 0, 0)); break;
  case EPOLL_NEGATIVE: note_ret("epoll_wait", epoll_wait(ep, events, minus_one, 0)); break;
  case EPOLL_HUGE: note_ret("epoll_wait", epoll_wait(ep, events, huge, 0)); break;
  case READV_NONE: note_ret("readv", readv(run.fd, iov, 0)); break;
  case READV_NEGATIVE: note_ret("readv", readv(run.fd, iov, minus_one)); break;
  case READV_HOLES:
  case READV_NULL_HOLES:
    if (what == READV_HOLES)
      iov[1].iov_base = iov[4].iov_base = bad;
    note_ret("readv", readv(run.fd, iov, 6));
    note("  %.2s %.1s %.3s %.3s", b, b + 100, b + 200, b + 300);
    break;
  case WRITEV_HOLES:
    iov[1].iov_base = bad;
    note_ret("writev", writev(run.fd, iov, 6));
    break;
  case WRITEV_SUM: note_ret("writev", writev(run.fd, sum, 2)); break;
  case READV_SUM: note_ret("readv", readv(run.fd, sum, 2)); break;
  case WRITEV_BAD_LAST: note_ret("writev", writev(run.fd, last, 3)); break;
  case WRITEV_BAD_MIDDLE: note_ret("writev", writev(run.fd, middle, 3)); break;
  case READV_BAD_MIDDLE: note_ret("readv", readv(run.fd, middle, 3)); break;
  case READV_BAD_UNUSED: note_ret("readv", readv(run.fd, unused, 3)); break;
  case RECVMMSG_TWO: note_ret("recvmmsg", recvmmsg(run.fd, two, 2, MSG_DONTWAIT, NULL)); break;
  case SENDMMSG_TWO: note_ret("sendmmsg", sendmmsg(run.fd, two, 2, 0)); break;
  case SENDMMSG_SECOND_BAD:
    two_iov[1].iov_base = bad;
    note_ret("sendmmsg", sendmmsg(run.fd, two, 2, 0));
    break;
  default:
    two_iov[1].iov_base = bad;
    note_ret("recvmmsg", recvmmsg(run.fd, two, 2, MSG_DONTWAIT, NULL));
    for (int i = 0; i < 3; i++)
      note_free("recvmmsg-later", "then %ld", recv(run.fd, b, 100, MSG_DONTWAIT));
  }
  note("%s, %s, %s", poll_text((unsigned short)pf[0].revents), FD_ISSET(run.fd, &rd) ? "rd" : "",
       FD_ISSET(run.fd, &wr) ? "wr" : "");
  if (what == POLL_TWICE)
    note("%x %x", (unsigned)pf[1].revents, (unsigned)pf[2].revents);
  note("%s %u %u", epoll_text(events[0].events), two[0].msg_len, two[1].msg_len);
  events[0].events = 0;
  munmap(bad, 4096);
  close(ep);
}

static void arrays(const int *v) {
  enum end me = v[A_WHAT] % 2 ? SERVER : CLIENT;

  connect_ends(AF_INET);
  onto_ring();
  ON(OTHER(me)) {
    if (v[A_STATE] == 1 || v[A_STATE] == 2)
      put(10);
    if (v[A_STATE] >= 2)
      put_kernel(10);
  }
  ON(me) {
    await_bytes(v[A_STATE] == 2 ? 20 : v[A_STATE] ? 10 : 0);
    no_blocking(run.fd, true);
    array_call(v[A_WHAT]);
    no_blocking(run.fd, false);
    drain("left");
  }
  ON(OTHER(me)) {
    pause_us(200);
    drain("came");
  }
  talk();
}

/* How much of a message TCP takes out before it meets a bad address differs by where its segments end. */
static bool arrays_skip(const int *v) {
  return v[A_STATE] == 2 && (v[A_WHAT] == READV_BAD_MIDDLE || v[A_WHAT] == READV_BAD_UNUSED);
}

const struct group arrays_group = {
    .name = "arrays",
    .what = "Arrays of any shape: none, the same twice, holes, too many, bad parts of an iovec; lengths of 0",
    .dims = {DIM("what", ARRAY_NAMES), DIM("state", "no-bytes", "ring", "both-lanes", "kernel")},
    .run = arrays,
    .skip = arrays_skip,
    .flags = ALONE,
};

/* ---- MSG_ZEROCOPY and the error queue ---- */

enum { Z_WHEN, Z_CALL, Z_SIZE, Z_END };

static void note_errors(void) {
  char control[256];
  struct msghdr m = {.msg_control = control, .msg_controllen = sizeof control};
  struct pollfd p = {run.fd, 0, 0};

  note_ret("poll", poll(&p, 1, 300));
  note("  %s", poll_text((unsigned short)p.revents));
  if (recvmsg(run.fd, &m, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) {
    note_ret("error queue", -1);
    return;
  }
  struct cmsghdr *c = CMSG_FIRSTHDR(&m);
  if (c) {
    struct sock_extended_err *e = (struct sock_extended_err *)CMSG_DATA(c);
    note("  %d %d: errno %u, origin %u, code %u, %u to %u", c->cmsg_level, c->cmsg_type, e->ee_errno, e->ee_origin,
         e->ee_code, e->ee_info, e->ee_data);
  }
}

static void zerocopy(const int *v) {
  static const size_t sizes[] = {10, 20000};
  enum end me = v[Z_END] ? SERVER : CLIENT;
  size_t size = sizes[v[Z_SIZE]];

  connect_ends(AF_INET);
  if (v[Z_WHEN])
    onto_ring();
  ON(me) {
    put(5);
    note_ret("SO_ZEROCOPY", set_int(run.fd, SOL_SOCKET, SO_ZEROCOPY, 1));
    fill(run.buf, run.put, size);
    struct iovec iov = {run.buf, size};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    for (int i = 0; i < 2; i++)
      note_ret("send", v[Z_CALL] ? sendmsg(run.fd, &m, MSG_ZEROCOPY) : send(run.fd, run.buf, size, MSG_ZEROCOPY));
    put(5);
  }
  ON(OTHER(me)) {
    await_bytes(2 * size + 10);
    drain("came");
  }
  ON(me) {
    note_errors();
    note_errors();
    drain("nothing");
  }
  talk();
}

const struct group zerocopy_group = {
    .name = "zerocopy",
    .what = "SO_ZEROCOPY, MSG_ZEROCOPY and the notices on the error queue",
    .dims = {DIM("when", "young", "paired"), DIM("call", "send", "sendmsg"), DIM("size", "10", "20000"),
             DIM("end", "client", "server")},
    .run = zerocopy,
};
