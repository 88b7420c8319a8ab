/* SPDX-License-Identifier: MIT */
/*
 * tests/conform/conform.h - what a case of the conformance suite is made of.
 *
 * A case is one function that runs in two processes at once, the client and the server of one connection. It is run
 * four ways: without the library, with it on the client, on the server, and on both, where the connection is brought
 * onto the rings before the interesting part. Each end writes down all that an application can see; what it writes must
 * be the same in all four ways.
 *
 *     static void half_close(const int *v) {
 *       connect_ends(v[0] ? AF_INET6 : AF_INET);
 *       onto_ring();
 *       ON(CLIENT) note_ret("shutdown", shutdown(run.fd, SHUT_WR));
 *       ON(SERVER) {
 *         await_end();
 *         note_ret("recv", recv(run.fd, run.buf, 10, MSG_DONTWAIT));
 *       }
 *     }
 *
 * ON(end) is a step: its body runs in that end alone, while the other waits, so a trace depends on nothing but the
 * case. A call that blocks is a step which has been released: the other end goes on to the next step meanwhile, and may
 * wait with `settle` until this one is asleep. Both ends take the same steps: what decides about steps must not come
 * from what one end has seen, but from the case's values, or from what an earlier step left in run.shared->value.
 *
 * The two ends share memory for this, and no descriptors: the numbers that a program sees are those of plain programs.
 */
#pragma once

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

enum end { CLIENT, SERVER };
enum way { PLAIN, ON_CLIENT, ON_SERVER, ON_BOTH, PLAIN_AGAIN, WAYS };

#define TRACE_BYTES (64u << 10)
#define BUF_BYTES (1u << 20)
#define VALUES 16

struct trace {
  _Atomic uint32_t length; /* beyond TRACE_BYTES: cut */
  char text[TRACE_BYTES];
};

/* One per pair of ends, mapped by both and by the runner. */
struct shared {
  _Atomic uint32_t go, done; /* cases begun by the runner; ends that are through with it. Futexes. */
  uint32_t selected;         /* the case */
  enum way way;
  _Atomic uint32_t turn; /* steps that are over, or released. Futex. */
  _Atomic int32_t tid[2];
  _Atomic uint8_t gone[2];   /* ended in the middle of a case */
  _Atomic uint8_t ringed[2]; /* bytes came and went through rings lately */
  _Atomic uint8_t missed;    /* the connection should have come onto the rings and did not */
  int port[2];               /* IPv4, IPv6 */
  _Atomic int64_t value[VALUES];
  struct trace trace[2];
};

struct run {
  enum end me;
  struct shared *shared;
  const char *path; /* of the shared memory, for programs that are executed */
  int listener[2];  /* server: IPv4, IPv6 */
  int fd;           /* the connection, -1 if there is none */
  int family;
  uint32_t step;
  bool released;
  uint64_t put, got; /* bytes of the pattern sent and received */
  char *buf;         /* BUF_BYTES */
};
extern struct run run;

/* ---- steps (turns.c) ---- */

bool turn_begin(enum end end);
bool turn_end(void);
#define ON(end) for (bool on_ = turn_begin(end); on_; on_ = turn_end())
#define OTHER(e) ((enum end)(1 - (e)))

void release(void);         /* in a step: the other end goes on */
void settle(enum end end);  /* until that end's thread (run.shared->tid) sleeps; a tenth of a second at most */
void pause_us(unsigned us); /* not a wait for anything: gives others the time to come as far as they will */
void thread_is_me(void);    /* `settle` and `send_signal` of this end mean the calling thread */
void send_signal(enum end end, int sig);
uint64_t clock_ms(void);

/* ---- the trace (trace.c) ---- */

__attribute__((format(printf, 1, 2))) void note(const char *format, ...);
/* "what 5" or "what -1 EAGAIN"; hands the value on and keeps errno. */
long note_ret(const char *what, long ret);
/* The same, and what was read: short texts as they are, others by length and hash. */
long note_data(const char *what, long ret, const void *data);
/* What no program can rely on: written down and not compared. `exception` is a name of exceptions.c. */
__attribute__((format(printf, 2, 3))) void note_free(const char *exception, const char *format, ...);
/* The same for all that this end notes until the case is over; NULL ends it. */
void except_from_now(const char *exception);
/* Since `begin` (clock_ms): early, in time, or late (by a second), compared with the milliseconds that it should take.
 */
void note_time(const char *what, uint64_t begin, unsigned wanted);
const char *error_name(int error);
const char *poll_text(unsigned events); /* a static buffer, as all of these */
const char *epoll_text(unsigned events);
const char *address_text(const struct sockaddr *a, socklen_t len); /* "the peer", "itself", ... */
uint64_t hash_of(const void *data, size_t n);

/* ---- streams (stream.c) ---- */

/* Steps: a connection between the ends, TCP_NODELAY on (delayed acknowledgements would cost each case 40 ms). */
void connect_ends(int family);
void connect_ends_plainly(int family); /* without TCP_NODELAY */
/* Steps: messages there and back, until the connection is on the rings if both ends have the library. */
void onto_ring(void);
/* The same number of messages, but whether they come to use rings is left open. */
void warm(void);
/* Steps: ten bytes each way, and what came. Is the connection still good? */
void talk(void);
/* Steps: both ends send FIN and read to the end. */
void part(void);
void close_fd(void);

/* The next n bytes of the pattern, sent by send(); to be received by the other end. */
void put(size_t n);
/* The same over the kernel lane, where there are two: a send with a destination, which TCP ignores. */
void put_kernel(size_t n);
void fill(void *to, uint64_t position, size_t n);
void await_bytes(size_t n); /* FIONREAD says so many; a second at most */
void await_end(void);       /* FIN or RST has come */
/* Reads without blocking until there is nothing more: bytes, their hash, and how it ended. */
void drain(const char *what);
void no_blocking(int fd, bool on);
int set_int(int fd, int level, int name, int value);
bool on_ring(int fd); /* ring.c: does this end's library use a ring for it now? False without the library. */
uint64_t ring_bytes(int fd, bool sent);

/* ---- the matrix (matrix.c) ---- */

struct dim {
  const char *name;
  const char *const *values;
  int count;
};
#define DIM(name, ...) \
  { name, (const char *const[]){__VA_ARGS__}, (int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)) }
#define DIMS_MAX 8

#define ALONE 1u /* in processes of its own, which may end in any way */

struct group {
  const char *name, *what; /* for the report: "readiness", "What poll ... say" */
  struct dim dims[DIMS_MAX];
  void (*run)(const int *v);         /* v: index of the value of each dimension */
  bool (*skip)(const int *v);        /* combinations that mean nothing */
  const char *(*late)(const int *v); /* why a combination cannot be run yet, or NULL */
  unsigned every;                    /* of the cases each so many-th runs in CI, 0 is 1 */
  unsigned flags;
};

extern const struct group *const groups[];
extern const unsigned group_count;

struct exception {
  const char *name, *title, *why;
};
extern const struct exception exceptions[];
extern const unsigned exception_count;

struct selected {
  const struct group *group;
  uint64_t index;
  int v[DIMS_MAX];
};

/* All cases in order; false beyond the last. `s` is zeroed before the first call. */
bool next_case(struct selected *s, unsigned *group);
/* Belongs to the part that CI runs. */
bool in_ci(const struct selected *s);
void case_name(const struct selected *s, char *to, size_t size);

/* ---- an end (end.c) ---- */

int end_main(enum end me, const char *path);
