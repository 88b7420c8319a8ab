/* SPDX-License-Identifier: MIT */
/* tests/conform/bad.c - arguments that are wrong: addresses, descriptors, lengths, flags. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/uio.h>
#include <unistd.h>

#include "calls.h"
#include "groups.h"

/* ---- addresses ---- */

enum { A_CALL, A_ADDRESS, A_STATE };
#define ADDRESS_NAMES \
  "NULL", "small", "unmapped", "read-only", "last-bytes-unmapped", "kernel", "non-canonical", "zero-length-NULL"
enum { RING_BYTES, NO_BYTES, TWO_LANES };

static void bad_iov(int call, void *p, size_t n) {
  struct iovec iov[2] = {{run.buf, 3}, {p, n}};
  struct mmsghdr m = {.msg_hdr = {.msg_iov = iov, .msg_iovlen = 2}};

  switch (call) {
  case 0: note_ret("read", read(run.fd, p, n)); return;
  case 1: note_ret("recv", recv(run.fd, p, n, MSG_DONTWAIT)); return;
  case 2: note_ret("recvfrom", recvfrom(run.fd, p, n, MSG_DONTWAIT, NULL, NULL)); return;
  case 3: note_ret("readv", readv(run.fd, iov, 2)); return;
  case 4: note_ret("recvmsg", recvmsg(run.fd, &m.msg_hdr, MSG_DONTWAIT)); return;
  case 5: note_ret("recvmmsg", recvmmsg(run.fd, &m, 1, MSG_DONTWAIT, NULL)); return;
  case 6: note_ret("peek", recv(run.fd, p, n, MSG_DONTWAIT | MSG_PEEK)); return;
  case 7: note_ret("write", write(run.fd, p, n)); return;
  case 8: note_ret("send", send(run.fd, p, n, 0)); return;
  case 9: note_ret("sendto", sendto(run.fd, p, n, 0, NULL, 0)); return;
  case 10: note_ret("writev", writev(run.fd, iov, 2)); return;
  case 11: note_ret("sendmsg", sendmsg(run.fd, &m.msg_hdr, 0)); return;
  case 12: note_ret("sendmmsg", sendmmsg(run.fd, &m, 1, 0)); return;
  case 13: note_ret("recvmsg of it", recvmsg(run.fd, p, MSG_DONTWAIT)); return;
  case 14: note_ret("sendmsg of it", sendmsg(run.fd, p, 0)); return;
  case 15: note_ret("readv of it", readv(run.fd, p, 2)); return;
  case 16: note_ret("poll", poll(p, 2, 0)); return;
  default: note_ret("setsockopt", setsockopt(run.fd, SOL_SOCKET, SO_KEEPALIVE, p, 4)); return;
  }
}
#define BAD_CALL_NAMES \
  "read", "recv", "recvfrom", "readv", "recvmsg", "recvmmsg", "peek", "write", "send", "sendto", "writev", "sendmsg", \
      "sendmmsg", "msghdr-recv", "msghdr-send", "iovecs", "pollfds", "option"

static void bad_address(const int *v) {
  enum end me = v[A_CALL] % 2 ? SERVER : CLIENT;

  connect_ends(AF_INET);
  onto_ring();
  ON(OTHER(me)) {
    if (v[A_STATE] != NO_BYTES)
      put(10);
    if (v[A_STATE] == TWO_LANES)
      put_kernel(10);
  }
  ON(me) {
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void *p;
    await_bytes(v[A_STATE] == NO_BYTES ? 0 : v[A_STATE] == TWO_LANES ? 20 : 10);
    no_blocking(run.fd, true);
    memset(run.buf, 'b', 3);
    memset(page, 'p', 8192);
    mprotect(page + 4096, 4096, PROT_NONE);
    switch (v[A_ADDRESS]) {
    case 1: p = (void *)16; break;
    case 2: p = page + 4096; break;
    case 3:
      mprotect(page, 4096, PROT_READ);
      p = page;
      break;
    case 4: p = page + 4096 - 4; break;
    case 5: p = (void *)0xffff800000000000; break;
    case 6: p = (void *)0x00f0000000000000; break;
    default: p = NULL; break;
    }
    bad_iov(v[A_CALL], p, v[A_ADDRESS] == 7 ? 0 : 16);
    munmap(page, 8192);
    drain("left");
    no_blocking(run.fd, false);
  }
  ON(OTHER(me)) {
    pause_us(200);
    drain("came");
  }
  talk();
}

/* What a call does with an address that is bad only beyond its first bytes: how many it has moved by then differs. */
static bool address_skip(const int *v) {
  return (v[A_ADDRESS] == 4 && v[A_CALL] != 0 && v[A_CALL] != 1 && v[A_CALL] != 8) ||
         (v[A_CALL] > 12 && (v[A_ADDRESS] == 3 || v[A_ADDRESS] == 4)) || (v[A_STATE] == TWO_LANES && v[A_CALL] > 6) ||
         (v[A_ADDRESS] == 7 && v[A_CALL] > 12);
}

const struct group address_group = {
    .name = "bad-address",
    .what = "EFAULT: buffers, iovecs, headers and options at addresses that are not mapped; nothing is lost by it",
    .dims = {DIM("call", BAD_CALL_NAMES), DIM("address", ADDRESS_NAMES),
             DIM("state", "ring-bytes", "no-bytes", "both-lanes")},
    .run = bad_address,
    .skip = address_skip,
    .flags = ALONE,
};

/* ---- descriptors, counts, flags ---- */

enum { D_CALL, D_FD };

static void bad_fd(const int *v) {
  int fd = -1;

  connect_ends(AF_INET);
  onto_ring();
  ON(CLIENT) {
    struct iovec iov = {run.buf, 10};
    struct mmsghdr m = {.msg_hdr = {.msg_iov = &iov, .msg_iovlen = 1}};
    struct epoll_event e = {.events = EPOLLIN};
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    int p[2], value = 0, ep = epoll_create1(0);
    if (pipe(p) || fcntl(p[0], F_SETFL, O_NONBLOCK))
      note("pipe");
    switch (v[D_FD]) {
    case 0: fd = -1; break;
    case 1: fd = 9999; break;
    case 2:
      fd = dup(run.fd);
      close(fd);
      break;
    case 3: fd = p[0]; break;
    case 4: fd = p[1]; break;
    case 5: fd = open("/dev/null", O_RDWR | O_CLOEXEC); break;
    case 6: fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0); break;
    case 7: fd = INT_MAX; break;
    default: fd = ep; break;
    }
    signal(SIGPIPE, SIG_IGN);
    switch (v[D_CALL]) {
    case 0: note_ret("read", read(fd, run.buf, 10)); break;
    case 1: note_ret("recv", recv(fd, run.buf, 10, 0)); break;
    case 2: note_ret("recvmsg", recvmsg(fd, &m.msg_hdr, 0)); break;
    case 3: note_ret("recvmmsg", recvmmsg(fd, &m, 1, 0, NULL)); break;
    case 4: note_ret("write", write(fd, run.buf, 10)); break;
    case 5: note_ret("send", send(fd, run.buf, 10, MSG_NOSIGNAL)); break;
    case 6: note_ret("sendmsg", sendmsg(fd, &m.msg_hdr, MSG_NOSIGNAL)); break;
    case 7: note_ret("shutdown", shutdown(fd, SHUT_WR)); break;
    case 8: note_ret("setsockopt", set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1)); break;
    case 9:
      note_ret("dup2", dup2(fd, 300) >= 0);
      close(300);
      break;
    case 10: note_ret("F_GETFL", fcntl(fd, F_GETFL) >= 0); break;
    case 11: note_ret("epoll_ctl", epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e)); break;
    case 12: note_ret("epoll_wait", epoll_wait(fd, &e, 1, 0)); break;
    case 13: note_ret("getpeername", getpeername(fd, (struct sockaddr *)&a, &len)); break;
    case 14: note_ret("accept", accept(fd, NULL, NULL)); break;
    default: {
      struct pollfd pf[2] = {{fd, POLLIN | POLLOUT, 0}, {run.fd, POLLIN | POLLOUT, 0}};
      note_ret("poll", poll(pf, 2, 0));
      note("  %s", poll_text((unsigned short)pf[0].revents));
      note("  %s", poll_text((unsigned short)pf[1].revents));
    }
    }
    (void)value;
    if (v[D_FD] == 5 || v[D_FD] == 6)
      close(fd);
    close(p[0]);
    close(p[1]);
    close(ep);
  }
  talk();
}

const struct group descriptor_group = {
    .name = "bad-descriptor",
    .what = "Descriptors that are closed, no sockets, not connected, or no numbers of descriptors at all",
    .dims = {DIM("call", "read", "recv", "recvmsg", "recvmmsg", "write", "send", "sendmsg", "shutdown", "setsockopt",
                 "dup2", "F_GETFL", "epoll_ctl", "epoll_wait", "getpeername", "accept", "poll"),
             DIM("descriptor", "-1", "9999", "just-closed", "pipe-end-to-read", "pipe-end-to-write", "/dev/null",
                 "unconnected", "INT_MAX", "epoll-set")},
    .run = bad_fd,
    .flags = ALONE,
};
