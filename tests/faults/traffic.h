/* SPDX-License-Identifier: MIT */
/* tests/faults/traffic.h - the bytes that two ends exchange: how many, in what order, and by which calls. */
#pragma once

#include "faults.h"

/* How an end waits, and with what it works. */
enum mode { MODE_BLOCK, MODE_THREADS, MODE_FORK, MODE_EPOLL, MODE_EDGE, MODE_POLL, MODE_SELECT, MODES };
extern const char *const mode_names[MODES];

/* One connection, as one end sees it. */
struct link {
  struct side *side;
  int fd;
  int number;
  struct flow *out, *in;
  uint64_t out_seed, in_seed; /* what the bytes are a function of */
  uint64_t out_turn, in_turn; /* bytes of one message of a dialogue, and of its answer */
  uint64_t talk_out, talk_in; /* so many bytes belong to the dialogue: nobody sends before it is his turn */
  bool peer_shuts;            /* the other end says that it is done; else this one counts */
  bool write_done, read_done, can_write, can_read;
};

struct side {
  struct shared *s;
  int end, n;
  enum mode mode;
  bool shuts;       /* shutdown when all is sent */
  uint64_t quit_at; /* bytes received or sent in one flow after which this end leaves; UINT64_MAX: never */
  int quit_how;
  uint64_t random; /* private: decisions that the other end need not know */
  struct link link[CONNS];
};

/* Derives both ends' shape from the plan: the number of connections, and everything in *side but the descriptors. */
void traffic_plan(struct shared *s, int end, struct side *side);
/* Until all flows have ended. */
void traffic_run(struct side *side);
