/* SPDX-License-Identifier: MIT */
/* registry/daemon/clients.c - who is connected, who they are, and how much they may say. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#include "daemon.h"
#include "registry/message.h"
#include "say.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define MESSAGES_PER_TURN 16 /* then others get their turn */
#define ACCEPTS_PER_TURN 32
#define PAUSE_MS 10
#define DRAIN_MAX 4096 /* messages of a client that leaves; more than a socket's buffer holds */

/* ---- owners ---- */

static struct owner *owner_of(const struct identity *who) {
  struct owner_key key = {.netns = who->netns, .uid = who->uid};
  struct owner *o;

  HASH_FIND(hh, d.owners, &key, sizeof(key), o);
  if (o)
    return o;
  o = calloc(1, sizeof(*o));
  if (!o)
    return NULL;
  o->key = key;
  o->tokens = policy_limits(d.policy)->rate;
  o->tokens_at = now_ns();
  HASH_ADD(hh, d.owners, key, sizeof(key), o);
  return o;
}

static void owner_leave(struct owner *o) {
  if (--o->clients > 0)
    return;
  HASH_DELETE(hh, d.owners, o);
  free(o);
}

/* May one more message of this owner be read? */
static bool spend(struct owner *o, uint64_t now) {
  double rate = policy_limits(d.policy)->rate;

  o->tokens += (double)(now - o->tokens_at) * rate / 1e9;
  o->tokens_at = now;
  if (o->tokens > rate)
    o->tokens = rate;
  if (o->tokens < 1)
    return false;
  o->tokens -= 1;
  return true;
}

/* ---- identity ---- */

/* The path of "0::/path"; a host with the old hierarchies has "/" there, and a path in one of the others. */
static char *cgroup_of(pid_t pid) {
  char path[64], *line = NULL, *found = NULL;
  size_t size = 0;
  FILE *f;

  snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
  f = fopen(path, "re");
  while (f && getline(&line, &size, f) > 0) {
    char *second = strchr(line, ':'), *at = second ? strchr(second + 1, ':') : NULL;
    if (!at)
      continue;
    at++;
    at[strcspn(at, "\n")] = '\0';
    if (!found || (strcmp(found, "/") == 0 && strcmp(at, "/") != 0) || (line[0] == '0' && strcmp(at, "/") != 0)) {
      free(found);
      found = strdup(at);
    }
  }
  free(line);
  if (f)
    fclose(f);
  return found;
}

/* Is the process that connected still there, and its pid still its own? */
static bool still_lives(int fd) {
  int pidfd = -1;
  socklen_t len = sizeof(pidfd);
  struct pollfd p = {.events = POLLIN};

  if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len) < 0)
    return errno == ENOPROTOOPT || errno == EINVAL; /* before Linux 6.5 */
  p.fd = pidfd;
  bool lives = poll(&p, 1, 0) == 0;
  close(pidfd);
  return lives;
}

static bool identify(int fd, struct client *c) {
  struct ucred cred;
  socklen_t len = sizeof(cred);

  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
    return false;
  c->pid = cred.pid;
  c->who.uid = cred.uid;
  c->who.uid_known = fl_uid_names_one(cred.uid) == 0;
  len = sizeof(c->who.netns);
  if (getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &c->who.netns, &len) < 0)
    c->who.netns = 0; /* before Linux 5.14 */
  if (c->pid > 0)
    c->who.cgroup = cgroup_of(c->pid);
  if (c->who.cgroup && !still_lives(fd)) {
    free(c->who.cgroup); /* perhaps another process's */
    c->who.cgroup = NULL;
  }
  return true;
}

/* ---- coming and going ---- */

static void listen_again(bool on) {
  struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};

  if (d.listening == on)
    return;
  if (epoll_ctl(d.epoll, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, d.listener, &e) == 0)
    d.listening = on;
}

static void free_client(struct client *c) {
  close(c->fd);
  free(c->who.cgroup);
  free(c);
}

static void welcome(int fd) {
  struct client *c = calloc(1, sizeof(*c));
  struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};

  if (!c) {
    close(fd);
    return;
  }
  c->fd = fd;
  if (!identify(fd, c) || !(c->owner = owner_of(&c->who))) {
    free_client(c);
    return;
  }
  c->owner->clients++;
  if (c->owner->clients > policy_limits(d.policy)->clients || epoll_ctl(d.epoll, EPOLL_CTL_ADD, fd, &e) < 0) {
    if (!c->owner->warned)
      say(SD_WARNING, "user %u, network namespace %llu: too many processes", c->who.uid,
          (unsigned long long)c->who.netns);
    c->owner->warned = true;
    owner_leave(c->owner);
    free_client(c);
    return;
  }
  DL_APPEND(d.clients, c);
  d.nclients++;
  c->serial = ++d.counters.clients;
}

void clients_accept(void) {
  for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
    int fd = accept4(d.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
        say(SD_WARNING, "no room for more clients: %s", strerror(errno));
        listen_again(false); /* until one leaves */
      }
      return;
    }
    welcome(fd);
  }
}

static void goodbye(struct client *c) {
  struct fl_host_message m;
  int fds[FL_MESSAGE_FDS], count = 0, rc = 0;

  match_forget_all(c);
  if (c->paused)
    LL_DELETE2(d.paused, c, paused_next);
  /* What was not read may carry descriptors: not ours to close all at once. From here on no more can come. */
  shutdown(c->fd, SHUT_RDWR);
  for (int i = 0; i < DRAIN_MAX && rc != -EAGAIN && rc != -ECONNRESET; i++) {
    rc = fl_message_receive(c->fd, &m, sizeof(m), fds, &count);
    close_passed(fds, count);
  }
  DL_DELETE(d.clients, c);
  owner_leave(c->owner);
  free_client(c);
  d.nclients--;
  listen_again(true);
}

void clients_close_all(void) {
  while (d.clients)
    goodbye(d.clients);
}

/* ---- talking ---- */

bool client_send(struct client *c, const struct fl_host_message *m, int passed) {
  return fl_message_send(c->fd, m, sizeof(*m), passed) == 0;
}

/* Says which version this is, once: whoever speaks another one is not listened to. */
static void other_version(struct client *c) {
  struct fl_host_message m = {.magic = FL_HOST_MAGIC, .version = FL_HOST_VERSION, .type = FL_HOST_OTHER};

  client_send(c, &m, -1);
}

/* False: a client that is not to be listened to any more. */
static bool obey(struct client *c, const struct fl_host_message *m, const int *fds, int count) {
  if (m->magic != FL_HOST_MAGIC)
    return false;
  if (m->version != FL_HOST_VERSION) {
    other_version(c);
    return false;
  }
  switch (m->type) {
  case FL_HOST_ASK:
    if (count != 1)
      return false;
    match_ask(c, m, fds[0]);
    return true;
  case FL_HOST_BELL:
    if (count != 1)
      return false;
    match_bell(c, m, fds[0]);
    return true;
  case FL_HOST_CANCEL:
  case FL_HOST_CLOSED: match_forget(c, m->id); return count == 0;
  default: return false;
  }
}

static void pause_client(struct client *c) {
  struct epoll_event e = {.events = 0, .data.ptr = c};

  if (epoll_ctl(d.epoll, EPOLL_CTL_MOD, c->fd, &e) < 0)
    return;
  c->paused = true;
  LL_PREPEND2(d.paused, c, paused_next);
}

void clients_resume(uint64_t now) {
  struct client *c, *next;

  LL_FOREACH_SAFE2(d.paused, c, next, paused_next) {
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    if (!spend(c->owner, now))
      continue;
    LL_DELETE2(d.paused, c, paused_next);
    c->paused = false;
    epoll_ctl(d.epoll, EPOLL_CTL_MOD, c->fd, &e);
  }
}

int clients_timeout(void) { return d.paused ? PAUSE_MS : -1; }

void client_ready(struct client *c) {
  uint64_t now = now_ns();

  for (int i = 0; i < MESSAGES_PER_TURN; i++) {
    struct fl_host_message m;
    int fds[FL_MESSAGE_FDS], count, rc;

    if (c->paused) /* it has hung up */
      return goodbye(c);
    if (!spend(c->owner, now))
      return pause_client(c);
    rc = fl_message_receive(c->fd, &m, sizeof(m), fds, &count);
    if (rc == -EAGAIN)
      return;
    if (rc == -EMFILE) { /* our own limit: the question is lost, and its asker stays on TCP */
      close_passed(fds, count);
      continue;
    }
    bool good = rc == 0 && obey(c, &m, fds, count);
    close_passed(fds, count);
    if (!good) {
      d.counters.bad += rc != -ECONNRESET;
      return goodbye(c);
    }
  }
}
