/* SPDX-License-Identifier: MIT */
/* preload/host.c - see host.h. */
#include "host.h"

#include <errno.h>
#include <string.h>

#include "arena_alloc.h"
#include "bell.h"
#include "conn.h"
#include "log.h"
#include "options.h"
#include "registry/host.h"
#include "registry/sys.h"

#define TAKE_MAX 16               /* answers taken in by one look */
#define RETRY_NS 1000000000u      /* after the daemon was lost, or not there */
#define MISSES 256u               /* a power of two */
#define MISS_FREE 4u              /* questions in vain about one address before questions get rarer */
#define MISS_MAX (MISS_FREE + 6u) /* at most one in 64 */

enum state { NOTHING, ASKED, FOUND, DENIED, OVER_LIMIT, PAIRED };

static struct {
  fl_lock_t lock;
  int fd;            /* marked in the table; only if `open` */
  bool open, other;  /* other: the daemon speaks another version, for good */
  uint32_t session;  /* grows with every connection to the daemon */
  uint64_t retry_at; /* fl_now() from which on a daemon is looked for again, 0: at once */
  bool gone;         /* when it was last looked for there was no socket: nobody installed a daemon here */
  uint64_t questions;
} host;

/*
 * Peers on other hosts must cost next to nothing, and nobody but the daemon can tell them from peers in other
 * containers. So addresses that were asked about in vain are asked about ever more rarely. Two addresses that share a
 * place only delay each other. Relaxed: a lost count is one question more or less.
 */
static _Atomic uint8_t misses[MISSES];
static _Atomic uint8_t turns[MISSES];

static unsigned place_of(const struct fl_conn *c) {
  uint64_t h[2];

  memcpy(h, &c->tuple.remote, sizeof h);
  return (unsigned)(((h[0] ^ h[1]) * 0x9e3779b97f4a7c15u) >> 56) & (MISSES - 1);
}

static bool worth_asking(const struct fl_conn *c) {
  unsigned at = place_of(c), n = atomic_load_explicit(&misses[at], memory_order_relaxed);

  if (n <= MISS_FREE)
    return true;
  return (atomic_fetch_add_explicit(&turns[at], 1, memory_order_relaxed) & ((1u << (n - MISS_FREE)) - 1)) == 0;
}

static void count_miss(const struct fl_conn *c, bool missed) {
  _Atomic uint8_t *n = &misses[place_of(c)];
  uint8_t now = atomic_load_explicit(n, memory_order_relaxed);

  atomic_store_explicit(n, !missed ? 0 : now < MISS_MAX ? now + 1 : now, memory_order_relaxed);
}

/* ---- the daemon: with host.lock ---- */

/* The application may have closed the number (closefrom): then it is not ours any more. */
static bool still_open(void) {
  if (host.open && fl_entry(host.fd) != (FL_TAG_PRIVATE | FL_PRIVATE_HOST))
    host.open = false;
  return host.open;
}

static void lost(void) {
  if (still_open()) {
    fl_fds_set(host.fd, 0);
    fl_sys_close(host.fd);
  }
  host.open = false;
  host.retry_at = fl_now() + fl_ns_to_ticks(RETRY_NS);
}

/* 0, or -errno as fl_host_connect. */
static int reach(int base_fd) {
  if (still_open())
    return 0;
  if (host.other)
    return -EPROTO;
  if (host.retry_at && (int64_t)(fl_now() - host.retry_at) < 0)
    return host.gone ? -ENOENT : -EAGAIN;
  int fd = fl_host_connect(fl_options.registry, base_fd);
  host.gone = fd < 0 && fd != -ECONNREFUSED && fd != -EAGAIN && fd != -EMFILE && fd != -ENFILE && fd != -ENOMEM;
  if (fd < 0) {
    host.retry_at = fl_now() + fl_ns_to_ticks(RETRY_NS);
    fl_log(FL_LOG_DEBUG, "%s: errno %d", fl_options.registry, -fd);
    return fd;
  }
  if ((unsigned)fd >= fl_fds_size) { /* a number that cannot be hidden from the application */
    fl_sys_close(fd);
    host.retry_at = fl_now() + fl_ns_to_ticks(RETRY_NS);
    return -EMFILE;
  }
  fl_fds_set(fd, FL_TAG_PRIVATE | FL_PRIVATE_HOST);
  host.fd = fd;
  host.open = true;
  host.session++;
  return 0;
}

static void tell(enum fl_host_type type, uint64_t id) {
  /* unanswered and unimportant: whatever goes wrong shows with the next look */
  if (still_open())
    fl_host_send(host.fd, type, id, 0, -1);
}

/* ---- answers: with host.lock ---- */

static void file(const struct fl_host_message *m, int rc, struct fl_pairing *p) {
  struct fl_host_state *s = &fl_local_of(fl_arena_conn((uint32_t)(m->id % FL_CONNS)))->host;

  if (s->id != m->id || s->state != ASKED || s->session != host.session) { /* closed meanwhile */
    if (m->type == FL_HOST_PAIRED) {
      fl_pairing_drop(p);
      tell(FL_HOST_CLOSED, m->id);
    }
    return;
  }
  switch (m->type) {
  case FL_HOST_PAIRED:
    s->state = rc == 0 ? FOUND : DENIED;
    s->pairing = *p;
    s->who = m->who;
    if (rc < 0)
      tell(FL_HOST_CLOSED, m->id);
    break;
  case FL_HOST_BUSY: s->state = OVER_LIMIT; break;
  default: s->state = DENIED; fl_log(FL_LOG_INFO, "the host registry refuses a connection, reason %u", m->why);
  }
}

static void take_answers(void) {
  for (int i = 0; i < TAKE_MAX && still_open(); i++) {
    struct fl_host_message m = {0};
    struct fl_pairing p;
    int bell = -1, rc = fl_host_receive(host.fd, &m, &p, &bell);

    if (rc == -EAGAIN)
      return;
    if (m.type == 0) {
      if (rc == -EPROTO) {
        host.other = true;
        fl_log(FL_LOG_WARN, "the host registry has another version (%u): it is not used", m.version);
      } else {
        fl_log(FL_LOG_INFO, "the host registry is gone (errno %d)", -rc);
      }
      lost();
      return;
    }
    if (m.type == FL_HOST_BELL)
      fl_bell_arrived(m.bell, bell);
    else
      file(&m, rc, &p);
  }
}

/* ---- what host.h offers ---- */

/* The lock is not to be had in a signal handler that interrupted its holder: later, then. */
enum fl_host_result fl_host_ask(struct fl_conn *c, int fd, int base_fd) {
  struct fl_host_state *s = &fl_local_of(c)->host;
  enum fl_host_result result = FL_HOST_WAITING;

  if (!fl_options.registry[0] || !worth_asking(c))
    return FL_HOST_ABSENT;
  if (fl_lock(&host.lock) != FL_LOCKED)
    return FL_HOST_LATER;
  int rc = reach(base_fd);
  if (rc == 0) {
    s->id = ++host.questions * FL_CONNS + fl_arena_index(c);
    s->session = host.session;
    s->state = ASKED;
    rc = fl_host_send(host.fd, FL_HOST_ASK, s->id, fl_options.ring, fd);
    if (rc < 0) {
      s->state = NOTHING;
      if (rc != -EAGAIN && rc != -ETOOMANYREFS && rc != -ENOMEM && rc != -ENOBUFS)
        lost();
      rc = -EAGAIN;
    }
  }
  if (rc < 0)
    result = host.gone || host.other ? FL_HOST_ABSENT : FL_HOST_LATER;
  fl_unlock(&host.lock);
  return result;
}

enum fl_host_result fl_host_look(struct fl_conn *c, struct fl_pairing *out) {
  struct fl_host_state *s = &fl_local_of(c)->host;
  enum fl_host_result result = FL_HOST_WAITING;

  if (fl_lock(&host.lock) != FL_LOCKED)
    return result;
  if (s->state == ASKED)
    take_answers();
  switch ((enum state)s->state) {
  case ASKED:
    if (host.open && s->session == host.session)
      break;
    s->state = NOTHING; /* the daemon that was asked is gone */
    result = host.other ? FL_HOST_ABSENT : FL_HOST_LATER;
    break;
  case FOUND:
    *out = s->pairing;
    s->state = PAIRED;
    count_miss(c, false);
    result = FL_HOST_FOUND;
    break;
  case OVER_LIMIT:
    s->state = NOTHING;
    result = FL_HOST_LATER;
    break;
  case NOTHING:
  case DENIED:
  case PAIRED:
    s->state = NOTHING;
    result = FL_HOST_DENIED;
    break;
  }
  fl_unlock(&host.lock);
  return result;
}

void fl_host_give_bell(struct fl_conn *c, uint64_t bell, int timer) {
  struct fl_host_state *s = &fl_local_of(c)->host;

  if (fl_lock(&host.lock) != FL_LOCKED)
    return;
  if (s->state == PAIRED && s->session == host.session && still_open())
    fl_host_send_bell(host.fd, s->id, bell, timer);
  fl_unlock(&host.lock);
}

void fl_host_take(void) {
  if (fl_lock(&host.lock) != FL_LOCKED)
    return;
  take_answers();
  fl_unlock(&host.lock);
}

void fl_host_end(struct fl_conn *c) {
  struct fl_host_state *s = &fl_local_of(c)->host;

  if (s->state == NOTHING)
    return;
  bool locked = fl_lock(&host.lock) == FL_LOCKED;
  if (s->state == ASKED)
    count_miss(c, true);
  if (s->state == FOUND)
    fl_pairing_drop(&s->pairing);
  if (locked && host.open && s->session == host.session)
    tell(s->state == ASKED ? FL_HOST_CANCEL : FL_HOST_CLOSED, s->id);
  s->state = NOTHING;
  if (locked)
    fl_unlock(&host.lock);
}

static void forget_question(struct fl_conn *c, struct fl_local *l, void *arg) {
  if (l->host.state == FOUND)
    fl_pairing_drop(&l->host.pairing);
  l->host.state = NOTHING;
}

void fl_host_forked_child(void) {
  atomic_store_explicit(&host.lock, 0, memory_order_relaxed); /* its holder is a thread that does not exist here */
  if (still_open()) {
    fl_fds_set(host.fd, 0);
    fl_sys_close(host.fd);
  }
  host.open = false;
  host.session++;
  host.retry_at = 0;
  fl_conn_each(forget_question, NULL);
}
