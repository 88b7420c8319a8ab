/* SPDX-License-Identifier: MIT */
/* tools/host.c - see host.h. */
#include "host.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define PATIENCE_S 5
#define ANSWER_MAX (4u << 20)

static int reach(const char *path) {
  struct sockaddr_un addr = {.sun_family = AF_UNIX};
  struct timeval patience = {.tv_sec = PATIENCE_S};
  int fd, e;

  if (strlen(path) >= sizeof(addr.sun_path))
    return -ENAMETOOLONG;
  memcpy(addr.sun_path, path, strlen(path) + 1);
  fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return -errno;
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0)
    return fd;
  e = errno;
  close(fd);
  return -e;
}

/* What the daemon sends until it closes, with a NUL behind it; NULL: nothing. The caller frees it. */
static char *read_all(int fd) {
  char *text = NULL;
  size_t size = 0, room = 0;
  ssize_t n = 0;

  do {
    size += (size_t)n;
    if (room - size < 2) {
      room = room ? room * 2 : 65536;
      char *more = room <= ANSWER_MAX ? realloc(text, room) : NULL;
      if (!more) {
        free(text);
        return NULL;
      }
      text = more;
    }
    n = recv(fd, text + size, room - size - 1, 0);
  } while (n > 0);
  text[size] = '\0';
  return text;
}

/* One page, as a JSON array; NULL and *rc. */
static json_t *page(const char *path, uint64_t after, int *rc) {
  char request[64], *text, *body;
  json_t *list = NULL;
  int fd = reach(path);

  *rc = fd < 0 ? fd : -EBADMSG;
  if (fd < 0)
    return NULL;
  snprintf(request, sizeof(request), "GET /processes?after=%" PRIu64 " HTTP/1.0\r\n\r\n", after);
  text = send(fd, request, strlen(request), MSG_NOSIGNAL) < 0 ? NULL : read_all(fd);
  close(fd);
  body = text ? strstr(text, "\r\n\r\n") : NULL;
  if (body)
    list = json_loads(body + 4, 0, NULL);
  free(text);
  if (list && !json_is_array(list)) {
    json_decref(list);
    list = NULL;
  }
  return list;
}

static uint64_t number(const json_t *row, const char *key) {
  return (uint64_t)json_integer_value(json_object_get(row, key));
}

int host_list(const char *socket, struct host_process **out, size_t *count) {
  uint64_t after = 0;
  size_t n;
  int rc;

  *out = NULL;
  *count = 0;
  do {
    json_t *rows = page(socket, after, &rc), *row;
    size_t i;

    if (!rows)
      break;
    n = json_array_size(rows);
    struct host_process *more = reallocarray(*out, *count + n + 1, sizeof(*more));
    if (!more) {
      json_decref(rows);
      rc = -ENOMEM;
      break;
    }
    *out = more;
    json_array_foreach(rows, i, row) {
      const char *cgroup = json_string_value(json_object_get(row, "cgroup"));
      char *copy = strdup(cgroup ? cgroup : "");
      if (number(row, "serial") <= after || !copy) { /* it would never end */
        free(copy);
        n = 0;
        break;
      }
      after = number(row, "serial");
      (*out)[(*count)++] = (struct host_process){.pid = (pid_t)number(row, "pid"),
                                                 .uid = (uid_t)number(row, "uid"),
                                                 .netns = number(row, "netns"),
                                                 .waiting = (uint32_t)number(row, "waiting"),
                                                 .pairs = (uint32_t)number(row, "pairs"),
                                                 .asked = (uint32_t)number(row, "asked"),
                                                 .refused = (uint32_t)number(row, "refused"),
                                                 .cgroup = copy};
    }
    json_decref(rows);
    rc = 0;
  } while (n > 0);
  if (rc == 0)
    return 0;
  host_free(*out, *count);
  *out = NULL;
  *count = 0;
  return rc;
}

void host_free(struct host_process *list, size_t count) {
  for (size_t i = 0; i < count; i++)
    free(list[i].cgroup);
  free(list);
}
