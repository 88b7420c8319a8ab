/* SPDX-License-Identifier: MIT */
/*
 * tests/process/fault.c - bad addresses in calls on a connection: what the kernel says, and nothing is lost by it.
 *
 *   fault all
 */
#include <limits.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "common.h"

static char *none, *unmapped, *constant, *edge; /* edge: one good page, the next is not */

static void result(const char *what, ssize_t n) { say("%s: %zd %s\n", what, n, n < 0 ? strerror(errno) : ""); }

static void there(int fd, const char *text) {
  char c;
  int n = 0;

  if (recv(fd, &c, 1, MSG_DONTWAIT) != -1)
    die("recv");
  send_all(fd, text, strlen(text));
  while (ioctl(fd, FIONREAD, &n) == 0 && n < (int)strlen(text))
    sched_yield();
}

static void expect(int fd, const char *text) {
  char buf[64] = "";

  recv_all(fd, buf, strlen(text));
  say("then: %s\n", buf);
}

static void receive(int fd, char *bad, const char *name) {
  struct iovec iov[2] = {{bad, 4}, {bad + 4, 4}};
  struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
  struct mmsghdr many[2] = {{.msg_hdr = msg}, {.msg_hdr = msg}};

  say("-- receive into %s\n", name);
  there(fd, "precious");
  result("read", read(fd, bad, 8));
  result("recv", recv(fd, bad, 8, 0));
  result("recv peek", recv(fd, bad, 8, MSG_PEEK));
  result("recv waitall", recv(fd, bad, 8, MSG_WAITALL));
  result("recv dontwait", recv(fd, bad, 8, MSG_DONTWAIT));
  result("recvfrom", recvfrom(fd, bad, 8, 0, NULL, NULL));
  result("readv", readv(fd, iov, 2));
  result("recvmsg", recvmsg(fd, &msg, 0));
  result("recvmmsg", recvmmsg(fd, many, 2, 0, NULL));
  expect(fd, "precious");
  result("nothing there", recv(fd, bad, 8, MSG_DONTWAIT));
}

static void transmit(int fd, char *bad, const char *name) {
  struct iovec iov[2] = {{bad, 4}, {bad + 4, 4}};
  struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
  struct mmsghdr many[2] = {{.msg_hdr = msg}, {.msg_hdr = msg}};

  say("-- send from %s\n", name);
  result("write", write(fd, bad, 8));
  result("send", send(fd, bad, 8, 0));
  result("sendto", sendto(fd, bad, 8, MSG_DONTWAIT, NULL, 0));
  result("writev", writev(fd, iov, 2));
  result("sendmsg", sendmsg(fd, &msg, 0));
  result("sendmmsg", sendmmsg(fd, many, 2, 0));
  send_all(fd, "after", 5);
  expect(fd, "after");
}

static void structures(int fd, void *bad, const char *name) {
  int ep = epoll_create1(0), one = 1;
  struct epoll_event e = {.events = EPOLLIN};

  say("-- structures at %s\n", name);
  there(fd, "precious");
  result("readv", readv(fd, bad, 2));
  result("recvmsg", recvmsg(fd, bad, 0));
  result("recvmmsg", recvmmsg(fd, bad, 2, 0, NULL));
  result("writev", writev(fd, bad, 2));
  result("sendmsg", sendmsg(fd, bad, 0));
  result("sendmmsg", sendmmsg(fd, bad, 2, 0));
  result("poll", poll(bad, 2, 0));
  result("select", select(fd + 1, bad, NULL, NULL, NULL));
  epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
  result("epoll_wait", epoll_wait(ep, bad, 1, 0));
  result("epoll_ctl", epoll_ctl(ep, EPOLL_CTL_MOD, fd, bad));
  result("TCP_NODELAY", setsockopt(fd, IPPROTO_TCP, 1, bad, sizeof one));
  result("FIONREAD", ioctl(fd, FIONREAD, bad));
  close(ep);
  expect(fd, "precious");
}

static void partly(int fd) {
  char *end = edge + 4096;
  struct iovec iov[2] = {{end - 5, 5}, {end, 5}};

  say("-- partly good\n");
  there(fd, "0123456789");
  result("readv", readv(fd, iov, 2));
  expect(fd, "0123456789");
  result("writev", writev(fd, iov, 1));
  expect(fd, "01234");
}

static void changed(int fd) {
  char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

  say("-- was good before\n");
  for (int i = 0; i < 3; i++) {
    there(fd, "x");
    result("recv", recv(fd, p, 1, 0));
  }
  there(fd, "y");
  mprotect(p, 8192, PROT_READ);
  result("recv", recv(fd, p, 1, 0));
  mprotect(p, 8192, PROT_NONE);
  result("send", send(fd, p, 1, 0));
  munmap(p, 8192);
  result("recv", recv(fd, p, 1, 0));
  result("send", send(fd, p, 1, 0));
  expect(fd, "y");
}

int main(int argc, char **argv) {
  struct far far;
  int fd = echo_connection(&far, "echo");

  alarm(10);
  none = mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  unmapped = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  constant = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  edge = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  munmap(unmapped, 8192);
  mprotect(edge + 4096, 4096, PROT_NONE);
  receive(fd, none, "a page without access");
  receive(fd, unmapped, "no page");
  receive(fd, constant, "a read-only page");
  receive(fd, NULL, "NULL");
  receive(fd, (char *)-64, "the kernel's");
  transmit(fd, none, "a page without access");
  transmit(fd, unmapped, "no page");
  transmit(fd, NULL, "NULL");
  transmit(fd, (char *)-64, "the kernel's");
  structures(fd, none, "a page without access");
  structures(fd, unmapped, "no page");
  structures(fd, (char *)-4096, "the kernel's");
  partly(fd);
  changed(fd);
  much(fd);
  close(fd);
  far_finish(&far);
  return 0;
}
