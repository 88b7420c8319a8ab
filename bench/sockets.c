/* SPDX-License-Identifier: MIT */
#include "sockets.h"

#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "process.h"

/* Enough for every connection of a row to arrive at once. */
enum { BACKLOG = 1024 };

union address {
  struct sockaddr any;
  struct sockaddr_in in;
  struct sockaddr_un un;
};

static socklen_t parse_address(const char *text, union address *out) {
  memset(out, 0, sizeof *out);
  if (text[0] == '/') {
    if (strlen(text) >= sizeof out->un.sun_path)
      errx(1, "%s: path too long for a socket", text);
    out->un.sun_family = AF_UNIX;
    strcpy(out->un.sun_path, text);
    return sizeof out->un;
  }

  out->in.sin_family = AF_INET;
  out->in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const char *colon = strchr(text, ':');
  if (colon) {
    char host[INET_ADDRSTRLEN];
    snprintf(host, sizeof host, "%.*s", (int)(colon - text), text);
    if (inet_pton(AF_INET, host, &out->in.sin_addr) != 1)
      errx(1, "%s: not an IPv4 address and a port", text);
    text = colon + 1;
  }
  char *end;
  unsigned long port = strtoul(text, &end, 10);
  if (*end != '\0' || end == text || port > 65535)
    errx(1, "%s: neither a path nor a port", text);
  out->in.sin_port = htons((unsigned short)port);
  return sizeof out->in;
}

static void set_nodelay(int fd) {
  int on = 1;
  if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 && errno != EOPNOTSUPP && errno != ENOPROTOOPT)
    err(1, "TCP_NODELAY");
}

int sock_listen(const char *address) {
  union address addr;
  socklen_t len = parse_address(address, &addr);
  int fd = socket(addr.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind(fd, &addr.any, len) < 0 || listen(fd, BACKLOG) < 0)
    err(1, "listen on %s", address);

  if (addr.any.sa_family == AF_UNIX) {
    printf("ready %s\n", address);
  } else {
    if (getsockname(fd, &addr.any, &len) < 0)
      err(1, "getsockname");
    printf("ready %d\n", ntohs(addr.in.sin_port));
  }
  fflush(stdout);
  return fd;
}

int sock_connect(const char *address, bool nagle) {
  union address addr;
  socklen_t len = parse_address(address, &addr);
  int fd = socket(addr.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, &addr.any, len) < 0)
    err(1, "connect to %s", address);
  if (addr.any.sa_family == AF_INET && !nagle)
    set_nodelay(fd);
  return fd;
}

int sock_accept(int listener, bool nagle) {
  int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  if (fd < 0) {
    if (errno == EINTR || errno == EAGAIN || errno == ECONNABORTED)
      return -1;
    err(1, "accept");
  }
  if (!nagle)
    set_nodelay(fd);
  return fd;
}

void sock_set_nonblocking(int fd) {
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
    err(1, "O_NONBLOCK");
}

bool sock_read_full(int fd, void *buf, size_t len) {
  for (size_t done = 0; done < len;) {
    ssize_t n = read(fd, (char *)buf + done, len - done);
    if (n == 0 || (n < 0 && (errno != EINTR || process_stopping)))
      return false;
    if (n > 0)
      done += (size_t)n;
  }
  return true;
}

bool sock_write_full(int fd, const void *buf, size_t len) {
  for (size_t done = 0; done < len;) {
    ssize_t n = write(fd, (const char *)buf + done, len - done);
    if (n < 0 && (errno != EINTR || process_stopping))
      return false;
    if (n > 0)
      done += (size_t)n;
  }
  return true;
}
