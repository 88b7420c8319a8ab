/* SPDX-License-Identifier: MIT */
/*
 * trampoline/decode.h - instructions of a function, as much of them as planning needs. libcapstone does the decoding;
 * it is loaded when it is needed, because merely linking it costs every process more than a millisecond.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  FL_INSN_SYSCALL = 1u << 0,
  FL_INSN_FLOW = 1u << 1,        /* may go on elsewhere: jump, call, return, trap */
  FL_INSN_CONDITIONAL = 1u << 2, /* a jump on a condition with a known target */
  FL_INSN_TARGET = 1u << 3,      /* `target` is known */
  FL_INSN_INDIRECT = 1u << 4,    /* a jump through a register or memory */
  FL_INSN_LANDING = 1u << 5,     /* endbr64: something may jump here that nobody can see */
  FL_INSN_RAX = 1u << 6,         /* may change rax, */
  FL_INSN_NUMBER = 1u << 7,      /* and does so: it becomes `number` */
  FL_INSN_VECTOR = 1u << 8,      /* uses a vector, mask or x87 register */
  FL_INSN_RIP = 1u << 9,         /* its operand is relative to rip: at `disp` are the four bytes */
};

struct fl_insn {
  uintptr_t at;
  uintptr_t target;
  int32_t number;
  uint16_t flags;
  uint8_t size, disp;
};

/* Loads libcapstone; false: it is not there, or does not understand itself (its version). */
bool fl_decode_open(void);
void fl_decode_close(void);

/* Decodes [start, end) in order, handing out each instruction. False: some bytes are no instruction, or f said so. */
bool fl_decode(uintptr_t start, uintptr_t end, bool (*f)(const struct fl_insn *insn, void *arg), void *arg);
