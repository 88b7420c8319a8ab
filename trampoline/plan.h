/* SPDX-License-Identifier: MIT */
/*
 * trampoline/plan.h - which bytes of an object are to be overwritten, and with what meaning.
 *
 * The `syscall` instruction itself stays. The whole instructions in front of it, five bytes or more, become a jump to a
 * stub, which does what they did. So the instruction is still reached, at its own address, by every call that is none
 * of ours: unwinding, cancellation, restarting and whoever looks at the program counter meet what they have always met.
 */
#pragma once

#include "object.h"

#define FL_SITE_BYTES 24u /* at most 4 bytes and one more instruction of at most 15 */
#define FL_SITE_INSNS 5u

enum fl_refusal {
  FL_SITE_OK,
  FL_SITE_UNWANTED, /* a number that does not matter */
  FL_SITE_SHORT,    /* too little room between it and what is in front of it */
  FL_SITE_TARGET,   /* something jumps, or may jump, into the bytes, or straight to the instruction */
  FL_SITE_SIGNAL,   /* a signal's return */
  FL_SITE_UNKNOWN,  /* no function known there, or not all of it can be decoded */
  FL_SITE_FALSE,    /* the two bytes are no instruction */
};
const char *fl_refusal_text(enum fl_refusal why);

enum fl_replay { FL_REPLAY_PLAIN, FL_REPLAY_RIP, FL_REPLAY_JCC };

#define FL_SITE_VECTOR 1u  /* the function uses vector registers: they must be as they were */
#define FL_SITE_CAREFUL 4u /* whose threads run it is not known either */
#define FL_SITE_GO 2u      /* Go's code: nothing may be written below its stack pointer */

struct fl_site {
  uint32_t at;     /* first byte overwritten, from the object's text on; of a refused one: the instruction */
  int16_t number;  /* -1: not known before it is made */
  uint8_t len;     /* bytes overwritten; the instruction follows */
  uint8_t flags;   /* FL_SITE_* */
  uint8_t refusal; /* enum fl_refusal */
  uint8_t ninsns;
  uint8_t size[FL_SITE_INSNS], replay[FL_SITE_INSNS], disp[FL_SITE_INSNS];
  uint8_t bytes[FL_SITE_BYTES + 2]; /* as they are, with the instruction */
};

struct fl_plan {
  struct fl_site *sites; /* ascending */
  uint32_t n, room;
  uint32_t pairs; /* byte pairs 0f 05 */
};

/* Memory for a plan, not touched before it is used. False: there is none. */
bool fl_plan_open(struct fl_plan *p);
void fl_plan_close(struct fl_plan *p);

struct fl_plan_how {
  bool careful;  /* vector registers are kept at every site: code of which it is not known that its functions are called
                    by the  rules only */
  bool thorough; /* also decode what shows at a glance that its number does not matter (for reports; twice the time) */
  uint64_t until; /* fl_plan_clock(): give up */
};

/* Processor time of this thread in ns: what a plan may cost is not to depend on what else the machine does. */
uint64_t fl_plan_clock(void);

/*
 * Does the object seem to make system calls? A look at the bytes around each pair, with no decoder: a number comes into
 * rax shortly before, and what follows is code. FL_GLANCE_LATE: it took too long. Some who make them in ways that no
 * compiler writes are told from none.
 */
enum fl_glance { FL_GLANCE_NONE, FL_GLANCE_SOME, FL_GLANCE_LATE };
enum fl_glance fl_plan_glance(const struct fl_object *o, uint64_t until);

/*
 * Finds and judges every system call of the object. The decoder must be open. False: it took too long, or too much
 * memory; the plan is not to be used. (Source of the method: syscall_intercept, and E9Patch's rule to move nothing that
 * is a jump's target.)
 */
bool fl_plan_make(struct fl_plan *p, const struct fl_object *o, const struct fl_plan_how *how);

/* Is what the plan says still what is there? All of the sites, or it is not used. */
bool fl_plan_fits(const struct fl_plan *p, const struct fl_object *o);

static inline uintptr_t fl_site_syscall(const struct fl_object *o, const struct fl_site *s) {
  return o->text + s->at + s->len;
}
