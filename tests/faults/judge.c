/* SPDX-License-Identifier: MIT */
/*
 * tests/faults/judge.c - what a TCP connection may have shown. A flow has a writer at one end and a reader at the
 * other:
 *
 * - What was received is what was sent, from the first byte on, and not more than that.
 * - If nothing ended either end, all of it arrived.
 * - If the writer's end died, an end of file comes behind all bytes whose send had returned. A reset may come earlier,
 *   but only if there were bytes that the dead end had not read, or if it had not accepted the connection.
 *
 * Of a corrupt end nothing is demanded, and of the other one only that it went on and ended.
 */
#include <string.h>

#include "faults.h"

static bool ended_early(const struct shared *s, int end) {
  return atomic_load(&s->deaths[end]) || atomic_load(&s->quit[end]) ||
         (s->fired && deadly((enum kind)s->plan.kind) && s->plan.end == end);
}

static const char *how(uint32_t e) {
  static const char *const names[] = {"not ended", "all", "end of file", "reset", "broken pipe", "another error"};

  return names[e];
}

static void judge_flow(struct shared *s, int i, int w) {
  struct flow *f = &s->flow[i][w], *back = &s->flow[i][!w];
  bool writer_gone = ended_early(s, w), reader_gone = ended_early(s, !w);
  /* the kernel tells of a reset once: to this end's writer, if that comes first */
  bool told_writer = writer_gone && back->writer == ENDED_RESET && back->tried > back->received;
  uint64_t sent = f->sent, tried = f->tried, received = f->received, wrong = f->wrong;

  if (f->total == 0)
    return;
  if (wrong)
    fail(s, "connection %d from end %d: byte %llu is not what was sent", i, w, (unsigned long long)wrong - 1);
  else if (received > tried)
    fail(s, "connection %d from end %d: %llu bytes received, %llu sent", i, w, (unsigned long long)received,
         (unsigned long long)tried);
  else if (!writer_gone && !reader_gone && (sent != f->total || received != f->total || f->reader > ENDED_EOF))
    fail(s, "connection %d from end %d: %llu bytes, %llu sent (%s %d), %llu received (%s %d), and both ends live", i, w,
         (unsigned long long)f->total, (unsigned long long)sent, how(f->writer), f->writer_errno,
         (unsigned long long)received, how(f->reader), f->reader_errno);
  else if (!reader_gone && f->reader == ENDED_EOF && received < sent && !told_writer)
    fail(s, "connection %d from end %d: end of file after %llu bytes, %llu were sent", i, w,
         (unsigned long long)received, (unsigned long long)sent);
  else if (!reader_gone && f->reader == ENDED_RESET && back->tried == back->received && i < (int)s->linked[w])
    fail(s, "connection %d from end %d: reset after %llu of %llu bytes, and nothing was unread", i, w,
         (unsigned long long)received, (unsigned long long)sent);
  else if (!reader_gone && f->reader == ENDED_OTHER)
    fail(s, "connection %d from end %d: receive fails with errno %d", i, w, f->reader_errno);
  else if (!writer_gone && f->writer == ENDED_OTHER)
    fail(s, "connection %d from end %d: send fails with errno %d", i, w, f->writer_errno);
}

bool judge(struct shared *s) {
  if (s->plan.kind != KIND_CORRUPT || !s->fired)
    for (int i = 0; i < CONNS; i++)
      for (int w = 0; w < 2; w++)
        judge_flow(s, i, w);
  return !s->failed;
}
