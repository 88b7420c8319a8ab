/* SPDX-License-Identifier: MIT */
/* tests/faults/traffic.c - see traffic.h. Every wait is without a limit: a lost wake-up is found by the driver. */
#include "traffic.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define BUFFER 65536

extern char **environ;

const char *const mode_names[MODES] = {"recv", "threads", "fork", "epoll", "epoll, edges", "poll", "select"};

static _Thread_local uint64_t thread_random; /* threads of one end decide differently */

static uint64_t chance(struct side *side, uint64_t n) {
  if (!thread_random)
    thread_random = mix(side->random ^ (uint64_t)(uintptr_t)&thread_random);
  return below(&thread_random, n);
}

static uint64_t min(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* ---- the plan ---- */

static void plan_link(struct shared *s, struct side *side, int i, uint64_t *r, bool talk, bool both) {
  uint64_t turn[2], turns = both || talk ? 1 + spread(r, talk ? 200 : 24) : 0, total[2];
  struct link *l = &side->link[i];
  int me = side->end;

  for (int e = 0; e < 2; e++)
    turn[e] = spread(r, talk && below(r, 4) == 0 ? 20000 : 200);
  for (int e = 0; e < 2; e++)
    total[e] = turns * turn[e] + (talk ? 0 : spread(r, below(r, 8) ? 60000 : 600000));
  for (int e = 0; e < 2; e++)
    s->flow[i][e].total = total[e];
  *l = (struct link){.side = side,
                     .fd = -1,
                     .number = i,
                     .out = &s->flow[i][me],
                     .in = &s->flow[i][!me],
                     .out_seed = mix(s->plan.seed ^ (uint64_t)(i * 2 + me + 1) << 32),
                     .in_seed = mix(s->plan.seed ^ (uint64_t)(i * 2 + !me + 1) << 32),
                     .out_turn = turn[me],
                     .in_turn = turn[!me],
                     .talk_out = turns * turn[me],
                     .talk_in = turns * turn[!me],
                     .can_write = true,
                     .can_read = true};
}

void traffic_plan(struct shared *s, int end, struct side *side) {
  uint64_t r = mix(s->plan.seed);
  bool talk = below(&r, 2), both = below(&r, 4) != 0;
  enum mode mode[2];
  bool shuts[2];
  int quits;

  *side = (struct side){.s = s, .end = end, .quit_at = UINT64_MAX};
  side->n = 1 + (int)(below(&r, 2) ? 0 : below(&r, CONNS));
  for (int e = 0; e < 2; e++) {
    mode[e] = (enum mode)below(&r, MODES);
    if (talk && (mode[e] == MODE_THREADS || mode[e] == MODE_FORK))
      mode[e] = MODE_BLOCK;
    if (!talk && mode[e] == MODE_BLOCK)
      mode[e] = MODE_THREADS;
    shuts[e] = below(&r, 2);
  }
  /* a corrupt end is killed as one process */
  side->mode = mode[end] == MODE_FORK && s->plan.kind == KIND_CORRUPT && s->plan.end == end ? MODE_THREADS : mode[end];
  side->shuts = shuts[end];
  quits = below(&r, 10) == 0 ? (int)below(&r, 2) : -1;
  for (int i = 0; i < side->n; i++) {
    plan_link(s, side, i, &r, talk, both);
    side->link[i].peer_shuts = shuts[!end];
  }
  side->random = mix(s->plan.seed ^ (uint64_t)(end + 77));
  if (quits == end) {
    side->quit_at = spread(&side->random, side->link[0].out->total + 1);
    side->quit_how = (int)below(&side->random, 3);
  }
}

/* ---- bytes ---- */

static void pattern(unsigned char *out, uint64_t seed, uint64_t from, size_t n) {
  for (size_t i = 0; i < n;) {
    uint64_t word = mix(seed + (from + i) / 8), at = (from + i) % 8;
    for (; at < 8 && i < n; at++, i++)
      out[i] = (unsigned char)(word >> 8 * at);
  }
}

static _Thread_local unsigned char sending[BUFFER], receiving[BUFFER], expected[BUFFER];

/* Leaves in the midst of it, as programs do. */
static void maybe_quit(struct side *side, uint64_t at) {
  if (at < side->quit_at)
    return;
  atomic_store(&side->s->quit[side->end], 1);
  switch (side->quit_how) {
  case 0: _exit(0);
  case 1: exit(0);
  default:
    side->quit_at = UINT64_MAX;
    for (int i = 0; i < side->n; i++)
      close(side->link[i].fd);
    _exit(0);
  }
}

static void end_flow(_Atomic uint32_t *how, _Atomic int32_t *number, ssize_t n, int error) {
  atomic_store(number, n == 0 ? 0 : error);
  atomic_store(how, n == 0 ? ENDED_EOF : error == ECONNRESET ? ENDED_RESET : error == EPIPE ? ENDED_PIPE : ENDED_OTHER);
}

/* Things that programs do in between, and that touch the connection. */
static void distract(struct link *l) {
  struct side *side = l->side;
  char *argv[] = {"true", NULL};
  pid_t pid;
  int fd;

  switch (chance(side, 1000)) {
  case 0:
    if ((pid = fork()) == 0) {
      if (chance(side, 2))
        execv("/bin/true", argv);
      _exit(0);
    }
    if (pid > 0)
      waitpid(pid, NULL, 0);
    break;
  case 1:
    if (posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ) == 0)
      waitpid(pid, NULL, 0);
    break;
  case 2:
  case 3:
    if ((fd = dup(l->fd)) >= 0)
      close(fd);
    break;
  case 4: execv("/nonexistent/true", argv); break; /* as a search through PATH does */
  case 5: usleep((useconds_t)chance(side, 2000)); break;
  default: break;
  }
}

static void note(struct history *h, uint64_t call, size_t asked, ssize_t result, uint64_t at) {
  unsigned i = h->n++ % CALLS_KEPT;

  h->last[i].call = (uint32_t)call;
  h->last[i].asked = (uint32_t)asked;
  h->last[i].result = result < 0 ? -errno : result;
  h->last[i].at = at;
}

static ssize_t send_by_some_call(struct link *l, uint64_t call, size_t n, int flags) {
  struct iovec iov[3] = {{sending, n / 3}, {sending + n / 3, 0}, {sending + n / 3, n - n / 3}};
  struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 3};

  switch (call) {
  case 0: return flags ? send(l->fd, sending, n, flags) : write(l->fd, sending, n);
  case 1: return flags ? sendmsg(l->fd, &msg, flags) : writev(l->fd, iov, 3);
  case 2: return sendmsg(l->fd, &msg, flags | MSG_NOSIGNAL);
  case 3: return send(l->fd, sending, n, flags | MSG_NOSIGNAL);
  case 4: return sendto(l->fd, sending, n, flags, NULL, 0);
  case 5: return send(l->fd, sending, n, flags | MSG_MORE);
  default: return send(l->fd, sending, n, flags);
  }
}

/* What may be sent now. */
static uint64_t allowed(const struct link *l) {
  uint64_t got = atomic_load(&l->in->received);
  uint64_t turns = got / l->in_turn + (l->side->end == 0);

  if (got >= l->talk_in || l->read_done || atomic_load(&l->in->reader)) /* or he is gone: a send says how */
    return l->out->total;
  return min(turns * l->out_turn, l->talk_out);
}

/* One send; false if it would have had to wait. */
static bool send_some(struct link *l, int flags) {
  struct side *side = l->side;
  uint64_t at = atomic_load(&l->out->sent), room = allowed(l) - at;
  size_t n = (size_t)min(room, spread(&thread_random, chance(side, 4) ? 2000 : BUFFER));

  distract(l);
  pattern(sending, l->out_seed, at, n);
  atomic_store(&l->out->tried, at + n);
  uint64_t call = chance(side, 12);
  ssize_t sent = send_by_some_call(l, call, n, flags);
  note(&l->out->sends, call, n, sent, at);
  if (sent > 0) {
    atomic_store(&l->out->sent, at + (uint64_t)sent);
    maybe_quit(side, at + (uint64_t)sent);
  } else {
    atomic_store(&l->out->tried, at); /* a call that failed has sent nothing */
    if (errno == EINTR)
      return true;
    if (errno == EAGAIN)
      return false;
    end_flow(&l->out->writer, &l->out->writer_errno, -1, errno);
    l->write_done = true;
    return true;
  }
  if (at + (uint64_t)sent == l->out->total) {
    atomic_store(&l->out->writer, ENDED_ALL);
    l->write_done = true;
    if (side->shuts)
      shutdown(l->fd, SHUT_WR);
  }
  return true;
}

static void check(struct link *l, uint64_t at, size_t n) {
  pattern(expected, l->in_seed, at, n);
  if (memcmp(receiving, expected, n) == 0)
    return;
  size_t i = 0;
  while (receiving[i] == expected[i])
    i++;
  uint64_t none = 0;
  atomic_compare_exchange_strong(&l->in->wrong, &none, at + i + 1);
}

static ssize_t receive_by_some_call(struct link *l, uint64_t call, size_t n, int flags) {
  struct iovec iov[2] = {{receiving, n / 2}, {receiving + n / 2, n - n / 2}};
  struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};

  switch (call) {
  case 0: return flags ? recv(l->fd, receiving, n, flags) : read(l->fd, receiving, n);
  case 1: return flags ? recvmsg(l->fd, &msg, flags) : readv(l->fd, iov, 2);
  case 2: return recvmsg(l->fd, &msg, flags);
  case 3: return recvfrom(l->fd, receiving, n, flags, NULL, NULL);
  default: return recv(l->fd, receiving, n, flags);
  }
}

/* One receive; false if it would have had to wait. `want`: so many bytes come for sure, or the end. */
static bool receive_some(struct link *l, int flags, uint64_t want) {
  struct side *side = l->side;
  uint64_t at = atomic_load(&l->in->received);
  size_t n = (size_t)spread(&thread_random, chance(side, 4) ? 5000 : BUFFER);

  distract(l);
  if (!(flags & MSG_DONTWAIT) && want && side->mode <= MODE_FORK && chance(side, 8) == 0) {
    flags |= MSG_WAITALL;
    n = (size_t)min(n, want);
  } else if (chance(side, 16) == 0) {
    ssize_t seen = recv(l->fd, receiving, n, flags | MSG_PEEK);
    note(&l->in->receives, 99, n, seen, at);
    if (seen > 0)
      check(l, at, (size_t)seen);
    if (seen < 0 && errno != EAGAIN && errno != EINTR) { /* an error is told once */
      end_flow(&l->in->reader, &l->in->reader_errno, seen, errno);
      l->read_done = true;
      return true;
    }
  }
  uint64_t call = chance(side, 5);
  ssize_t got = receive_by_some_call(l, call, n, flags);
  if (!l->in->wrong)
    note(&l->in->receives, call | (flags & MSG_WAITALL ? 100 : 0), n, got, at);
  if (got < 0 && errno == EINTR)
    return true;
  if (got < 0 && errno == EAGAIN)
    return false;
  if (got <= 0) {
    end_flow(&l->in->reader, &l->in->reader_errno, got, errno);
    l->read_done = true;
    return true;
  }
  check(l, at, (size_t)got);
  atomic_store(&l->in->received, at + (uint64_t)got);
  if (at + (uint64_t)got == l->in->total && !l->peer_shuts) {
    atomic_store(&l->in->reader, ENDED_ALL);
    l->read_done = true;
  }
  maybe_quit(side, at + (uint64_t)got);
  return true;
}

/* ---- blocking ---- */

static void nonblocking(struct link *l) { fcntl(l->fd, F_SETFL, fcntl(l->fd, F_GETFL) | O_NONBLOCK); }

static bool broken(const struct link *l) {
  return atomic_load(&l->in->reader) > ENDED_ALL || atomic_load(&l->out->writer) > ENDED_ALL;
}

/* The dialogue that both ends begin with, one message at a time. */
static void talk(struct side *side) {
  bool more = true;

  while (more) {
    more = false;
    for (int i = 0; i < side->n; i++) {
      struct link *l = &side->link[i];
      uint64_t sent = atomic_load(&l->out->sent), got = atomic_load(&l->in->received);
      uint64_t turn = side->end == 0 ? sent / l->out_turn : got / l->in_turn;
      if (broken(l) || (sent >= l->talk_out && got >= l->talk_in))
        continue;
      more = true;
      if (side->end == 1)
        while (!broken(l) && atomic_load(&l->in->received) < (turn + 1) * l->in_turn)
          receive_some(l, 0, (turn + 1) * l->in_turn - atomic_load(&l->in->received));
      while (!broken(l) && atomic_load(&l->out->sent) < (turn + 1) * l->out_turn)
        send_some(l, 0);
      if (side->end == 0)
        while (!broken(l) && atomic_load(&l->in->received) < (turn + 1) * l->in_turn)
          receive_some(l, 0, (turn + 1) * l->in_turn - atomic_load(&l->in->received));
    }
  }
}

static void *writer(void *arg) {
  struct link *l = arg;

  while (!l->write_done)
    send_some(l, 0);
  return NULL;
}

static void *reader(void *arg) {
  struct link *l = arg;

  while (!l->read_done) {
    uint64_t left = l->in->total - atomic_load(&l->in->received);
    receive_some(l, 0, left);
  }
  return NULL;
}

static void threads(struct side *side, bool write, bool read) {
  pthread_t thread[2 * CONNS];
  int n = 0;

  for (int i = 0; i < side->n; i++) {
    if (write && pthread_create(&thread[n], NULL, writer, &side->link[i]) == 0)
      n++;
    if (read && pthread_create(&thread[n], NULL, reader, &side->link[i]) == 0)
      n++;
  }
  while (n > 0)
    pthread_join(thread[--n], NULL);
}

/* The child writes, this process reads. */
static void forked(struct side *side) {
  pid_t pid = fork();

  if (pid == 0) {
    threads(side, true, false);
    if (chance(side, 2))
      _exit(0);
    exit(0);
  }
  threads(side, pid < 0, true);
  if (pid > 0)
    waitpid(pid, NULL, 0);
}

/* ---- readiness ---- */

struct waiting {
  struct side *side;
  int epfd;
  bool registered[CONNS];
  uint32_t events[CONNS];
};

static int wait_ms(struct side *side) { return chance(side, 12) ? -1 : (int)chance(side, 4); }

static uint32_t interest(const struct link *l) {
  bool write = !l->write_done && !l->can_write && atomic_load(&l->out->sent) < allowed(l);

  return (l->read_done ? 0u : EPOLLIN) | (write ? EPOLLOUT : 0u);
}

static void wait_epoll(struct waiting *w, bool edge) {
  struct side *side = w->side;
  struct epoll_event events[CONNS];
  int open = 0;

  for (int i = 0; i < side->n; i++) {
    struct link *l = &side->link[i];
    bool over = l->read_done && l->write_done;
    uint32_t want = edge ? EPOLLIN | EPOLLOUT | EPOLLET | EPOLLRDHUP : interest(l);
    struct epoll_event e = {.events = want, .data.u32 = (uint32_t)i};
    open += !over;
    if (over && w->registered[i]) {
      epoll_ctl(w->epfd, EPOLL_CTL_DEL, l->fd, NULL);
      w->registered[i] = false;
    } else if (!over && (!w->registered[i] || want != w->events[i])) {
      epoll_ctl(w->epfd, w->registered[i] ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, l->fd, &e);
      w->registered[i] = true;
      w->events[i] = want;
    }
  }
  if (!open)
    return;
  int max = 1 + (int)chance(side, CONNS), n = epoll_wait(w->epfd, events, max, wait_ms(side));
  for (int i = 0; i < n; i++) {
    struct link *l = &side->link[events[i].data.u32];
    l->can_read |= (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0;
    l->can_write |= (events[i].events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0;
  }
}

static void wait_poll(struct side *side) {
  struct pollfd p[CONNS];

  for (int i = 0; i < side->n; i++) {
    struct link *l = &side->link[i];
    bool over = l->read_done && l->write_done;
    p[i] = (struct pollfd){.fd = over ? -1 : l->fd, .events = (short)interest(l)}; /* the same bits */
  }
  if (poll(p, (nfds_t)side->n, wait_ms(side)) <= 0)
    return;
  for (int i = 0; i < side->n; i++) {
    side->link[i].can_read |= (p[i].revents & (POLLIN | POLLHUP | POLLERR)) != 0;
    side->link[i].can_write |= (p[i].revents & (POLLOUT | POLLHUP | POLLERR)) != 0;
  }
}

static void wait_select(struct side *side) {
  fd_set rd, wr;
  int top = -1, ms = wait_ms(side);
  struct timeval tv = {0, ms * 1000};

  FD_ZERO(&rd);
  FD_ZERO(&wr);
  for (int i = 0; i < side->n; i++) {
    struct link *l = &side->link[i];
    uint32_t want = interest(l);
    if (want & EPOLLIN)
      FD_SET(l->fd, &rd);
    if (want & EPOLLOUT)
      FD_SET(l->fd, &wr);
    if (want && l->fd > top)
      top = l->fd;
  }
  if (select(top + 1, &rd, &wr, NULL, ms < 0 ? NULL : &tv) <= 0)
    return;
  for (int i = 0; i < side->n; i++) {
    side->link[i].can_read |= FD_ISSET(side->link[i].fd, &rd) != 0;
    side->link[i].can_write |= FD_ISSET(side->link[i].fd, &wr) != 0;
  }
}

/* One step each way; true if something went on. */
static bool advance(struct link *l) {
  struct side *side = l->side;
  bool on = false;

  if (!l->write_done && l->can_write && atomic_load(&l->out->sent) < allowed(l)) {
    if (send_some(l, 0))
      on = true;
    else
      l->can_write = false;
  }
  if (!l->read_done && l->can_read) {
    if (receive_some(l, 0, 0))
      on = true;
    else
      l->can_read = false;
    /* who is told of levels need not read until there is no more */
    if (side->mode != MODE_EDGE && chance(side, 3) == 0)
      l->can_read = false;
  }
  return on;
}

static void events(struct side *side) {
  struct waiting w = {.side = side, .epfd = -1};

  for (int i = 0; i < side->n; i++)
    nonblocking(&side->link[i]);
  if (side->mode == MODE_EPOLL || side->mode == MODE_EDGE)
    w.epfd = epoll_create1(0);
  for (;;) {
    bool on = false, over = true;
    for (int i = 0; i < side->n; i++) {
      on |= advance(&side->link[i]);
      over &= side->link[i].read_done && side->link[i].write_done;
    }
    if (over)
      break;
    if (on)
      continue;
    if (w.epfd >= 0)
      wait_epoll(&w, side->mode == MODE_EDGE);
    else if (side->mode == MODE_POLL)
      wait_poll(side);
    else
      wait_select(side);
  }
  if (w.epfd >= 0)
    close(w.epfd);
}

void traffic_run(struct side *side) {
  chance(side, 1); /* seeds this thread */
  switch (side->mode) {
  case MODE_BLOCK:
    talk(side);
    for (int i = 0; i < side->n; i++)
      reader(&side->link[i]); /* the end of the stream, if the other says so */
    break;
  case MODE_THREADS:
    talk(side);
    threads(side, true, true);
    break;
  case MODE_FORK:
    talk(side);
    forked(side);
    break;
  default: events(side);
  }
}
