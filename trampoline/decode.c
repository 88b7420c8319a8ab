/* SPDX-License-Identifier: MIT */
#include "decode.h"

#include <capstone/capstone.h>
#include <dlfcn.h>

static struct {
  void *library;
  __typeof__(&cs_open) open;
  __typeof__(&cs_close) close;
  __typeof__(&cs_option) option;
  __typeof__(&cs_malloc) malloc;
  __typeof__(&cs_free) free;
  __typeof__(&cs_disasm_iter) iterate;
  __typeof__(&cs_version) version;
  csh handle;
  cs_insn *insn;
} cs;

void fl_decode_close(void) {
  if (cs.insn)
    cs.free(cs.insn, 1);
  if (cs.handle)
    cs.close(&cs.handle);
  if (cs.library)
    dlclose(cs.library);
  cs.insn = NULL;
  cs.handle = 0;
  cs.library = NULL;
}

bool fl_decode_open(void) {
  if (cs.library)
    return true;
  /* the version whose structures this was compiled with */
  cs.library = dlopen("libcapstone.so.4", RTLD_NOW | RTLD_LOCAL);
  if (!cs.library)
    return false;
#define FIND(name, symbol) (cs.name = (__typeof__(cs.name))dlsym(cs.library, #symbol))
  int major = 0, minor = 0;
  if (FIND(open, cs_open) && FIND(close, cs_close) && FIND(option, cs_option) && FIND(malloc, cs_malloc) &&
      FIND(free, cs_free) && FIND(iterate, cs_disasm_iter) && FIND(version, cs_version) &&
      (cs.version(&major, &minor), major == CS_API_MAJOR) &&
      cs.open(CS_ARCH_X86, CS_MODE_64, &cs.handle) == CS_ERR_OK &&
      cs.option(cs.handle, CS_OPT_DETAIL, CS_OPT_ON) == CS_ERR_OK && (cs.insn = cs.malloc(cs.handle)) != NULL)
    return true;
#undef FIND
  fl_decode_close();
  return false;
}

static bool rax(unsigned reg) {
  return reg == X86_REG_RAX || reg == X86_REG_EAX || reg == X86_REG_AX || reg == X86_REG_AL || reg == X86_REG_AH;
}

static bool vector(unsigned reg) {
  return (reg >= X86_REG_XMM0 && reg <= X86_REG_ZMM31) || (reg >= X86_REG_K0 && reg <= X86_REG_K7) ||
         (reg >= X86_REG_MM0 && reg <= X86_REG_MM7) || (reg >= X86_REG_FP0 && reg <= X86_REG_FP7) ||
         (reg >= X86_REG_ST0 && reg <= X86_REG_ST7);
}

static void operands(struct fl_insn *out, const cs_x86 *x) {
  for (unsigned i = 0; i < x->op_count; i++) {
    const cs_x86_op *op = &x->operands[i];
    if (op->type == X86_OP_REG) {
      if (rax(op->reg)) /* what it is there for is not asked: capstone is not always right about that */
        out->flags |= FL_INSN_RAX;
      if (vector(op->reg))
        out->flags |= FL_INSN_VECTOR;
    } else if (op->type == X86_OP_MEM && op->mem.base == X86_REG_RIP) {
      out->flags |= FL_INSN_RIP;
      out->disp = x->encoding.disp_offset;
    }
  }
}

/* What the bytes say of the instructions that matter is believed, not what capstone calls them. */
static void known(struct fl_insn *out, const uint8_t *b, const cs_x86 *x) {
  if (out->size == 2 && b[0] == 0x0f && b[1] == 0x05) {
    out->flags |= FL_INSN_SYSCALL | FL_INSN_RAX;
  } else if (out->size == 4 && b[0] == 0xf3 && b[1] == 0x0f && b[2] == 0x1e && b[3] == 0xfa) {
    out->flags |= FL_INSN_LANDING;
  } else if ((out->size == 5 && b[0] == 0xb8) || (out->size == 7 && b[0] == 0x48 && b[1] == 0xc7 && b[2] == 0xc0)) {
    out->flags |= FL_INSN_RAX | FL_INSN_NUMBER;
    __builtin_memcpy(&out->number, b + out->size - 4, 4);
  } else if (out->size == 2 && (b[0] == 0x31 || b[0] == 0x33) && b[1] == 0xc0) {
    out->flags |= FL_INSN_RAX | FL_INSN_NUMBER;
    out->number = 0;
  }
}

static void flow(struct fl_insn *out, const cs_detail *d) {
  bool jump = false, call = false;

  for (unsigned i = 0; i < d->groups_count; i++)
    switch (d->groups[i]) {
    case X86_GRP_JUMP:
      jump = true;
      out->flags |= FL_INSN_FLOW;
      break;
    case X86_GRP_CALL:
      call = true;
      out->flags |= FL_INSN_FLOW | FL_INSN_RAX;
      break;
    case X86_GRP_RET:
    case X86_GRP_INT:
    case X86_GRP_IRET: out->flags |= FL_INSN_FLOW; break;
    }
  if (!jump && !call)
    return;
  if (d->x86.op_count == 1 && d->x86.operands[0].type == X86_OP_IMM) {
    out->target = (uintptr_t)d->x86.operands[0].imm;
    out->flags |= FL_INSN_TARGET;
    const uint8_t *b = (const uint8_t *)out->at;
    if ((b[0] & 0xf0) == 0x70 || (b[0] == 0x0f && (b[1] & 0xf0) == 0x80))
      out->flags |= FL_INSN_CONDITIONAL;
  } else if (jump) {
    out->flags |= FL_INSN_INDIRECT;
  }
}

bool fl_decode(uintptr_t start, uintptr_t end, bool (*f)(const struct fl_insn *insn, void *arg), void *arg) {
  const uint8_t *code = (const uint8_t *)start;
  size_t left = end - start;
  uint64_t at = start;

  while (left) {
    if (!cs.iterate(cs.handle, &code, &left, &at, cs.insn))
      return false;
    const cs_detail *d = cs.insn->detail;
    struct fl_insn out = {.at = (uintptr_t)cs.insn->address, .size = (uint8_t)cs.insn->size};
    for (unsigned i = 0; i < d->regs_write_count; i++)
      if (rax(d->regs_write[i]))
        out.flags |= FL_INSN_RAX;
    for (unsigned i = 0; i < d->regs_read_count; i++)
      if (vector(d->regs_read[i]))
        out.flags |= FL_INSN_VECTOR;
    operands(&out, &d->x86);
    flow(&out, d);
    known(&out, (const uint8_t *)out.at, &d->x86);
    if (!f(&out, arg))
      return false;
  }
  return true;
}
