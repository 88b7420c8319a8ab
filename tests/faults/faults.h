/* SPDX-License-Identifier: MIT */
/*
 * tests/faults/faults.h - what the parts of the fault harness share.
 *
 * The driver (main.c) starts two *warm parents*, one per end, each a program of its own with the library loaded
 * (warm.c). For every iteration it writes a plan into shared memory and lets each of them fork one process; the two
 * connect, exchange bytes (end.c, traffic.c) and put down there what they sent, received, and how it ended. At one of
 * the library's fault points, one of them suffers the fault of the plan (inject.c). Afterwards the driver judges
 * (judge.c).
 *
 * Every byte of every stream is a function of the iteration's seed, so that a receiver knows what must come.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define POINTS 384 /* of the library, and of its system calls */
#define NAME_LEN 40
#define CONNS 3
#define FAIL_TEXT 600

/* What can happen at a point. */
enum kind {
  KIND_KILL,      /* SIGKILL */
  KIND_STOP,      /* SIGSTOP, and SIGCONT after a while */
  KIND_STOP_KILL, /* SIGSTOP, and SIGKILL after a while */
  KIND_CORRUPT,   /* writes anything into the shared page, and dies a little later */
  KIND_DELAY,     /* sleeps */
  KIND_ERROR,     /* a system call fails */
  KIND_SIGNAL,    /* a signal handler runs */
  KINDS
};
extern const char *const kind_names[KINDS];

/* Does the fault end the process? */
static inline bool deadly(enum kind k) { return k == KIND_KILL || k == KIND_STOP_KILL || k == KIND_CORRUPT; }

/* One iteration. Everything else follows from the seed. */
struct plan {
  uint64_t seed;
  uint32_t kind;
  int32_t end;        /* which end suffers */
  uint32_t point;     /* at which point, */
  uint32_t nth;       /* when it is passed this often; */
  uint32_t any_after; /* or at any point, once so many were passed */
  uint32_t pause_us;  /* of a stop or delay */
  int32_t error;      /* errno of KIND_ERROR */
  uint32_t noise;     /* of 65536 passes, at either end, so many are delayed a little */
};

/* How a flow ended for its reader, or its writer. */
enum ended { ENDED_NOT, ENDED_ALL, ENDED_EOF, ENDED_RESET, ENDED_PIPE, ENDED_OTHER };

/* The last calls of one end of a flow, for whoever has to find out why it failed. */
#define CALLS_KEPT 8
struct history {
  uint32_t n; /* calls ever; number i is at i % CALLS_KEPT */
  struct {
    uint32_t call; /* of send_by_some_call or receive_by_some_call */
    uint32_t asked;
    int64_t result; /* or -errno */
    uint64_t at;
  } last[CALLS_KEPT];
};

/* One direction of one connection. */
struct flow {
  uint64_t total;               /* bytes that are to be sent */
  _Atomic uint64_t tried, sent; /* after the send that is under way; after those that returned */
  _Atomic uint64_t received;
  _Atomic uint32_t writer, reader; /* enum ended */
  _Atomic int32_t writer_errno, reader_errno;
  _Atomic uint64_t wrong; /* position + 1 of the first byte that is not what was sent */
  struct history sends, receives;
};

/* In memory that all processes of one pair share; the driver clears it before each iteration, up to `ring`. */
struct shared {
  struct plan plan;
  struct flow flow[CONNS][2]; /* [1] is written by the end that accepts */
  _Atomic uint32_t listening;
  _Atomic uint32_t linked[2];  /* connections that each end has */
  _Atomic uint32_t quit[2];    /* this end left early, of its own will */
  _Atomic uint32_t fired;      /* the plan's fault happened so many times */
  _Atomic int32_t fired_point; /* where, the first time; -1 */
  _Atomic int32_t fired_pid;
  _Atomic uint64_t passed[2]; /* points passed by each end */
  _Atomic uint32_t seen;      /* the plan's point, by the end that suffers */
  _Atomic uint32_t deaths[2]; /* processes of this end that a signal ended; counted by the warm parents */
  _Atomic uint32_t failed;
  char failure[FAIL_TEXT];

  /* not cleared */
  uint32_t ring; /* FASTLOCAL_RING of this generation of warm parents */
  uint16_t port; /* of the listener, host byte order */
};

/* Descriptors of a warm parent and of its children. */
enum { FD_COMMAND = 3, FD_REPORT, FD_STOPPED, FD_SHARED };
#define SHARED_NAME "fault-plan" /* of the memory behind FD_SHARED: a struct table, then a struct shared per pair */

/* For all pairs of a run. */
struct table {
  _Atomic uint32_t npoints; /* 0 until the first warm parent has filled in the names */
  char name[POINTS][NAME_LEN];
  _Atomic uint64_t hits[POINTS];
  _Atomic uint64_t injected[KINDS][POINTS];
  _Atomic uint64_t iterations, failures, unhit, bytes;
};
extern struct table *table;

/* ---- random numbers: the same everywhere for the same seed ---- */

static inline uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}
static inline uint64_t next(uint64_t *state) { return mix((*state)++); }
static inline uint64_t below(uint64_t *state, uint64_t n) { return next(state) % n; }
/* 1 to max, each magnitude as likely as the others */
static inline uint64_t spread(uint64_t *state, uint64_t max) {
  unsigned bits = 64 - (unsigned)__builtin_clzll(max);
  uint64_t v = next(state) >> (64 - (1 + below(state, bits)));
  return 1 + v % max;
}

/* ---- inject.c ---- */

/* Makes this process one whose points count: end 0 connects, end 1 accepts. -1 ends that. */
void inject_as(struct shared *s, int end);
/* Fills in the names of the points. */
void inject_names(void);
/* Which errno could this point's call fail with? Picks one; 0 if the point is not the beginning of a system call that
 * may fail. */
int inject_error(const char *name, uint64_t *random);

/* ---- warm.c, end.c ---- */

/* A warm parent: forks an end for each byte that it reads from FD_COMMAND, and answers on FD_REPORT when none of its
 * processes is left. Does not return. */
void warm_run(struct shared *s, int end);
/* One end, in its own process. Does not return. */
void end_run(struct shared *s, int end);

void fail(struct shared *s, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- judge.c ---- */

/* Looks at what an iteration left; false, with s->failure set, if plain TCP could not have shown it. */
bool judge(struct shared *s);
