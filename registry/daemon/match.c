/* SPDX-License-Identifier: MIT */
/* registry/daemon/match.c - questions, and which two of them belong together. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#include "daemon.h"
#include "registry/message.h"
#include "say.h"

#define EXPIRE_NS (120ull * 1000000000) /* the library looks for an answer for less than a minute */

#define BELLS_MAX 64 /* of one end of a pair */

/* Waiting questions by the number that their peer's must have. */
struct place {
  uint32_t received_from;
  struct question *first;
  UT_hash_handle hh;
};
static struct place *places;
static struct question *by_age; /* waiting, oldest first */
static struct question *all;    /* by client and id */

/* ---- the tables ---- */

static struct question *find(struct client *c, uint64_t id) {
  struct question_key key = {.client = c, .id = id};
  struct question *q;

  HASH_FIND(hh, all, &key, sizeof(key), q);
  return q;
}

static struct question *waiting_for(uint32_t received_from) {
  struct place *p;

  HASH_FIND(hh, places, &received_from, sizeof(received_from), p);
  return p ? p->first : NULL;
}

static bool start_waiting(struct question *q) {
  struct place *p;

  HASH_FIND(hh, places, &q->proof.received_from, sizeof(uint32_t), p);
  if (!p) {
    p = calloc(1, sizeof(*p));
    if (!p)
      return false;
    p->received_from = q->proof.received_from;
    HASH_ADD(hh, places, received_from, sizeof(uint32_t), p);
  }
  DL_APPEND2(p->first, q, same_prev, same_next);
  DL_APPEND2(by_age, q, age_prev, age_next);
  q->key.client->owner->waiting++;
  q->key.client->waiting++;
  d.nwaiting++;
  return true;
}

static void stop_waiting(struct question *q) {
  struct place *p;

  HASH_FIND(hh, places, &q->proof.received_from, sizeof(uint32_t), p);
  DL_DELETE2(p->first, q, same_prev, same_next);
  if (!p->first) {
    HASH_DELETE(hh, places, p);
    free(p);
  }
  DL_DELETE2(by_age, q, age_prev, age_next);
  q->key.client->owner->waiting--;
  q->key.client->waiting--;
  d.nwaiting--;
}

static void count_pair(const struct question *q, int one) {
  struct owner *o = q->key.client->owner;

  o->pairs += (uint32_t)one;
  q->key.client->pairs += (uint32_t)one;
  o->memory += (uint64_t)((int64_t)one * (int64_t)fl_segment_bytes(q->ring_size));
}

/* The socket that was kept for comparing. */
static void let_go(struct question *q) {
  if (q->held >= 0)
    close_passed(&q->held, 1);
  q->held = -1;
}

/* Frees it, wherever it is: waiting, paired, or neither. The other end of a pair goes on alone, for it was told. */
static void drop(struct question *q, bool waiting) {
  if (waiting)
    stop_waiting(q);
  if (q->other) {
    q->other->other = NULL;
    count_pair(q, -1);
    count_pair(q->other, -1);
    d.npairs--;
    struct question *other = q->other;
    q->other = NULL;
    HASH_DELETE(hh, all, other);
    DL_DELETE2(other->key.client->questions, other, own_prev, own_next);
    free(other);
  }
  HASH_DELETE(hh, all, q);
  DL_DELETE2(q->key.client->questions, q, own_prev, own_next);
  let_go(q);
  free(q);
}

void match_forget(struct client *c, uint64_t id) {
  struct question *q = find(c, id);

  if (q)
    drop(q, q->other == NULL);
}

void match_forget_all(struct client *c) {
  while (c->questions)
    drop(c->questions, c->questions->other == NULL);
}

/* ---- answers ---- */

static void answer(const struct question *q, enum fl_host_type type, enum fl_host_why why) {
  struct fl_host_message m = {.magic = FL_HOST_MAGIC,
                              .version = FL_HOST_VERSION,
                              .type = (uint16_t)type,
                              .id = q->key.id,
                              .why = (uint16_t)why};

  d.counters.refused += type == FL_HOST_REFUSED;
  q->key.client->refused += type == FL_HOST_REFUSED;
  d.counters.busy += type == FL_HOST_BUSY;
  client_send(q->key.client, &m, -1);
}

/* Stands for a user in a network namespace, also after this daemon was started anew: cookies are never used again. 0:
 * unknown. */
static uint32_t number_of(const struct client *c) {
  uint64_t h = (c->who.netns * 0x9e3779b97f4a7c15u ^ c->who.uid) * 0x9e3779b97f4a7c15u;

  return c->who.netns ? (uint32_t)(h >> 32) | 1 : 0;
}

static void answer_paired(const struct question *q, int end, int memfd) {
  struct fl_host_message m = {.magic = FL_HOST_MAGIC,
                              .version = FL_HOST_VERSION,
                              .type = FL_HOST_PAIRED,
                              .id = q->key.id,
                              .ring_size = q->ring_size,
                              .end = (uint16_t)end};

  if (q->takes_bells && q->other->takes_bells)
    m.who = number_of(q->other->key.client);

  /* If it does not get this, it stays on TCP, and its peer with it. */
  client_send(q->key.client, &m, memfd);
}

/* Nobody gets another answer to these two questions. */
static void end_both(struct question *q, struct question *p, enum fl_host_type type, enum fl_host_why why) {
  answer(q, type, why);
  answer(p, type, why);
  drop(p, true);
  drop(q, false);
}

/* ---- pairs ---- */

static bool over_limit(const struct question *q) {
  const struct limits *l = policy_limits(d.policy);
  struct owner *o = q->key.client->owner;
  bool over = o->pairs >= l->pairs || o->memory + fl_segment_bytes(q->ring_size) > l->memory;

  if (over && !o->warned)
    say(SD_WARNING, "user %llu, network namespace %llu: limit of pairs or memory reached",
        (unsigned long long)o->key.uid, (unsigned long long)o->key.netns);
  o->warned |= over;
  return over;
}

static bool allowed(const struct question *a, const struct question *b) {
  struct party x = {&a->key.client->who, ntohs(a->tuple.local_port), ntohs(a->tuple.remote_port)};
  struct party y = {&b->key.client->who, ntohs(b->tuple.local_port), ntohs(b->tuple.remote_port)};

  return policy_allows(d.policy, &x, &y);
}

/* q asks, and p waits. */
static void introduce(struct question *q, struct question *p) {
  struct fl_pairing segment;
  int memfd;

  if (!allowed(q, p)) {
    end_both(q, p, FL_HOST_REFUSED, FL_HOST_WHY_POLICY);
    return;
  }
  q->ring_size = p->ring_size = q->ring_size < p->ring_size ? q->ring_size : p->ring_size;
  if (over_limit(q) || over_limit(p)) {
    end_both(q, p, FL_HOST_BUSY, FL_HOST_WHY_LIMIT);
    return;
  }
  memfd = fl_segment_create(q->ring_size, &segment);
  if (memfd < 0) {
    end_both(q, p, FL_HOST_BUSY, FL_HOST_WHY_LIMIT);
    return;
  }
  fl_pairing_drop(&segment);
  stop_waiting(p);
  let_go(p);
  let_go(q);
  q->other = p;
  p->other = q;
  count_pair(q, 1);
  count_pair(p, 1);
  d.npairs++;
  d.counters.pairs++;
  answer_paired(p, 0, memfd);
  answer_paired(q, 1, memfd);
  close(memfd);
}

/* ---- questions ---- */

/* Counts who waits for what q brings, and gives one of them. Two are one too many: sockets that cannot be told apart,
 * or one socket in two processes. */
static unsigned candidates(const struct question *q, struct question **found) {
  unsigned n = 0;

  for (uint32_t syn = 0; syn <= 1; syn++)
    for (struct question *p = waiting_for(q->proof.sent_from + syn); p; p = p->same_next)
      if (prove_match(&q->proof, &p->proof) && p->tuple.cookie != q->tuple.cookie &&
          (!d.compares || compare_equal(q->held, &q->tuple, p->held, &p->tuple))) {
        *found = p;
        n++;
      }
  return n;
}

/*
 * Who waits with the same numbers already? The same socket, asked about anew or by another process that has it: the
 * later question counts. Another socket: one of the two is forged.
 */
static struct question *rival(struct question *q) {
  for (struct question *p = waiting_for(q->proof.received_from), *next; p; p = next) {
    next = p->same_next;
    if (p->proof.sent_from != q->proof.sent_from)
      continue;
    if (p->tuple.cookie != q->tuple.cookie)
      return p;
    drop(p, true);
  }
  return NULL;
}

/* A socket that can be one end of a pair, and what identifies it. */
static bool examine(int fd, struct question *q) {
  struct tcp_info info;
  socklen_t len = sizeof(info);

  if (fl_tuple_of(fd, &q->tuple) < 0 || getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
    return false;
  if (info.tcpi_state != TCP_ESTABLISHED && info.tcpi_state != TCP_CLOSE_WAIT && info.tcpi_state != TCP_FIN_WAIT1 &&
      info.tcpi_state != TCP_FIN_WAIT2)
    return false;
  if (!d.compares)
    return prove_read(fd, &q->proof) == 0;
  q->proof = compare_proof(&q->tuple);
  q->held = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  return q->held >= 0;
}

static struct question *question_new(struct client *c, const struct fl_host_message *m) {
  struct question *q = calloc(1, sizeof(*q));

  if (!q)
    return NULL;
  q->key.client = c;
  q->key.id = m->id;
  q->ring_size = m->ring_size;
  q->takes_bells = m->who & FL_HOST_TAKES_BELLS;
  q->since = now_ns();
  q->held = -1;
  HASH_ADD(hh, all, key, sizeof(q->key), q);
  DL_APPEND2(c->questions, q, own_prev, own_next);
  return q;
}

void match_ask(struct client *c, const struct fl_host_message *m, int tcp_fd) {
  struct question *q, *p = NULL;

  d.counters.questions++;
  c->asked++;
  match_forget(c, m->id);
  q = question_new(c, m);
  if (!q)
    return;
  if (d.compares && !policy_compares(d.policy)) {
    answer(q, FL_HOST_REFUSED, FL_HOST_WHY_NO_PROOF);
    drop(q, false);
    return;
  }
  if (!fl_ring_size_valid(m->ring_size) || !examine(tcp_fd, q)) {
    answer(q, FL_HOST_REFUSED, FL_HOST_WHY_SOCKET);
    drop(q, false);
    return;
  }
  if ((p = rival(q)) || candidates(q, &p) > 1) {
    end_both(q, p, FL_HOST_REFUSED, FL_HOST_WHY_AMBIGUOUS);
    return;
  }
  if (p) {
    introduce(q, p);
  } else if (c->owner->waiting >= policy_limits(d.policy)->waiting || !start_waiting(q)) {
    answer(q, FL_HOST_BUSY, FL_HOST_WHY_LIMIT);
    drop(q, false);
  }
}

/* ---- bells ---- */

void match_bell(struct client *c, const struct fl_host_message *m, int timer) {
  struct question *q = find(c, m->id);

  /* the pair may have come to its end meanwhile */
  if (!q || !q->other || !q->takes_bells || !q->other->takes_bells || q->bells >= BELLS_MAX ||
      !passed_timer(timer)) /* whoever got anything else would have to close it */
    return;
  q->bells++;
  struct fl_host_message there = *m;
  there.id = q->other->key.id;
  client_send(q->other->key.client, &there, timer);
}

/* ---- time ---- */

/* One of those that wait and are compared with each other; false: nothing has changed. */
static bool compare_one(struct question *q, uint64_t now) {
  struct question *p;
  unsigned n = candidates(q, &p);

  if (n == 0 && now - q->since < COMPARE_HOLD_NS)
    return false;
  if (n == 1) {
    stop_waiting(q);
    introduce(q, p);
    return true;
  }
  /* the peer has not come, or there are several: perhaps later */
  answer(q, FL_HOST_BUSY, FL_HOST_WHY_LIMIT);
  drop(q, true);
  return true;
}

static void compare_all(uint64_t now) {
  static uint64_t due;
  struct question *q = by_age;

  if (now < due)
    return;
  due = now + COMPARE_AGAIN_MS * UINT64_C(1000000);
  while (q) {
    struct question *next = q->age_next;
    /* what it was introduced to may be the next one: begin anew */
    q = compare_one(q, now) ? by_age : next;
  }
}

int match_expire(uint64_t now) {
  if (d.compares)
    compare_all(now);
  while (by_age && now - by_age->since >= EXPIRE_NS) {
    d.counters.expired++;
    drop(by_age, true);
  }
  if (!by_age)
    return -1;
  return d.compares ? COMPARE_AGAIN_MS : (int)((EXPIRE_NS - (now - by_age->since)) / 1000000) + 1;
}
