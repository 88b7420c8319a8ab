/* SPDX-License-Identifier: MIT */
/* registry/host.c - a process's side of the conversation with fastlocald; see host.h. */
#include "registry/host.h"

#include <string.h>
#include <sys/un.h>

#include "registry/message.h"
#include "registry/sys.h"

int fl_host_connect(const char *path, int base_fd) {
  struct sockaddr_un addr = {.sun_family = AF_UNIX};
  size_t len = strlen(path);
  int fd, high, rc;

  if (len == 0 || len >= sizeof(addr.sun_path))
    return -ENOENT;
  memcpy(addr.sun_path, path, len);
  fd = fl_sys_socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return fd;
  rc = fl_sys_connect(fd, &addr, sizeof(addr));
  if (rc < 0) {
    fl_sys_close(fd);
    return rc;
  }
  high = fd < base_fd ? fl_sys_fcntl(fd, F_DUPFD_CLOEXEC, base_fd) : -1;
  if (high < 0)
    return fd;
  fl_sys_close(fd);
  return high;
}

int fl_host_send(int fd, enum fl_host_type type, uint64_t id, uint32_t ring_size, int tcp_fd) {
  struct fl_host_message m = {
      .magic = FL_HOST_MAGIC, .version = FL_HOST_VERSION, .type = (uint16_t)type, .ring_size = ring_size, .id = id};

  if (type == FL_HOST_ASK)
    m.who = FL_HOST_TAKES_BELLS;
  return fl_message_send(fd, &m, sizeof(m), tcp_fd);
}

int fl_host_send_bell(int fd, uint64_t id, uint64_t bell, int timer) {
  struct fl_host_message m = {
      .magic = FL_HOST_MAGIC, .version = FL_HOST_VERSION, .type = FL_HOST_BELL, .id = id, .bell = bell};

  return fl_message_send(fd, &m, sizeof(m), timer);
}

static int check(const struct fl_host_message *m, int count) {
  if (m->magic != FL_HOST_MAGIC)
    return -EBADMSG;
  if (m->version != FL_HOST_VERSION)
    return -EPROTO;
  if (count != (m->type == FL_HOST_PAIRED || m->type == FL_HOST_BELL))
    return -EBADMSG;
  if ((m->type < FL_HOST_PAIRED || m->type > FL_HOST_BUSY) && m->type != FL_HOST_BELL)
    return -EBADMSG;
  return 0;
}

int fl_host_receive(int fd, struct fl_host_message *m, struct fl_pairing *out, int *bell) {
  int fds[FL_MESSAGE_FDS], count, rc;

  *out = (struct fl_pairing){0};
  rc = fl_message_receive(fd, m, sizeof(*m), fds, &count);
  if (rc == 0)
    rc = check(m, count);
  if (rc < 0)
    m->type = 0;
  else if (m->type == FL_HOST_PAIRED) {
    rc = fl_ring_size_valid(m->ring_size) && m->end <= 1 ? fl_segment_open(fds[0], m->ring_size, out) : -EINVAL;
    out->end = m->end;
  }
  if (m->type == FL_HOST_BELL && bell) {
    *bell = fds[0];
    return rc;
  }
  for (int i = 0; i < count; i++)
    fl_sys_close(fds[i]);
  return rc;
}
