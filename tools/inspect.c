/* SPDX-License-Identifier: MIT */
/* tools/inspect.c - see inspect.h. */
#include "inspect.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "preload/arena.h"
#include "sockets.h"

#define BATCH 64u /* connections read at once */

struct target {
  pid_t pid;
  pid_t own_pid; /* the same process as it sees itself, in its own pid namespace */
  int mem;       /* /proc/PID/mem, -1 until needed */
};

/* ---- /proc ---- */

static FILE *open_proc(pid_t pid, const char *name) {
  char path[64];

  snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
  return fopen(path, "re");
}

static void read_name(pid_t pid, char *name, size_t size) {
  FILE *f = open_proc(pid, "comm");

  snprintf(name, size, "?");
  if (!f)
    return;
  if (fgets(name, (int)size, f))
    name[strcspn(name, "\n")] = '\0';
  fclose(f);
  for (char *p = name; *p != '\0'; p++)
    if (*p < ' ' || *p > '~')
      *p = '?'; /* the process chose it, and it goes to a terminal */
}

/* The last of "NSpid:  1234  7" is what getpid returns in there. */
static pid_t read_own_pid(pid_t pid) {
  FILE *f = open_proc(pid, "status");
  char line[256];
  pid_t own = pid;

  while (f && fgets(line, sizeof(line), f)) {
    if (strncmp(line, "NSpid:", 6) == 0) {
      const char *last = strrchr(line, '\t');
      long n = last ? strtol(last + 1, NULL, 10) : 0;

      if (n > 0 && n <= INT32_MAX)
        own = (pid_t)n;
      break;
    }
  }
  if (f)
    fclose(f);
  return own;
}

/* Where is the arena mapped? */
static enum inspect_result find_arena(pid_t pid, uint64_t *start, uint64_t *bytes) {
  static const char name[] = "/memfd:" FL_ARENA_NAME;
  enum inspect_result result = INSPECT_NONE;
  FILE *f = open_proc(pid, "maps");
  char *line = NULL;
  size_t size = 0;

  if (!f)
    return errno == EACCES || errno == EPERM ? INSPECT_DENIED : INSPECT_GONE;
  while (getline(&line, &size, f) >= 0) {
    uint64_t from, to, offset;
    char perms[8];
    int at = 0;

    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %" SCNx64 " %*s %*s %n", &from, &to, perms, &offset, &at) < 4 ||
        at == 0)
      continue;
    if (offset == 0 && perms[3] == 's' && to > from && strncmp(line + at, name, sizeof(name) - 1) == 0 &&
        (line[at + (int)sizeof(name) - 1] == ' ' || line[at + (int)sizeof(name) - 1] == '\n')) {
      *start = from;
      *bytes = to - from;
      result = INSPECT_OK;
      break;
    }
  }
  if (result == INSPECT_NONE && ferror(f))
    result = INSPECT_DENIED; /* some kernels refuse the reading and not the opening */
  free(line);
  fclose(f);
  return result;
}

/* ---- memory ---- */

static bool read_memory(struct target *t, uint64_t address, void *buf, size_t len) {
  struct iovec local = {.iov_base = buf, .iov_len = len};
  struct iovec remote = {.iov_base = (void *)(uintptr_t)address, .iov_len = len};
  char path[64];

  if (process_vm_readv(t->pid, &local, 1, &remote, 1, 0) == (ssize_t)len)
    return true;
  if (errno == EFAULT || address > INT64_MAX)
    return false;
  /* Seccomp filters of containers refuse process_vm_readv more often than this file. */
  if (t->mem < 0) {
    snprintf(path, sizeof(path), "/proc/%d/mem", (int)t->pid);
    t->mem = open(path, O_RDONLY | O_CLOEXEC);
  }
  return t->mem >= 0 && pread(t->mem, buf, len, (off_t)address) == (ssize_t)len;
}

/* ---- what the numbers mean ---- */

const char *inspect_reason(unsigned reason) {
  static const char *const texts[] = {
#define X(name, text) text,
      FL_REASONS(X)
#undef X
  };
  return reason < sizeof(texts) / sizeof(texts[0]) ? texts[reason] : "?";
}

static const char *phase_text(unsigned phase) {
  switch (phase) {
  case FL_FRESH: return "young";
  case FL_SEEKING: return "seeking";
  case FL_PAIRED: return "paired";
  case FL_SETTLED: return "tcp";
  default: return "?";
  }
}

static const char *state_text(unsigned state) {
  switch (state) {
  case FL_NATIVE: return "native";
  case FL_WATCHING: return "watching";
  case FL_BELL: return "bell";
  case FL_RECALL: return "recall";
  case FL_RETURNED: return "returned";
  default: return "?";
  }
}

static struct inspect_count count(const struct fl_count *k) {
  return (struct inspect_count){.bytes = k->bytes, .messages = k->messages};
}

/* The state of a direction is in the segment, which the process has mapped at `lane`. */
static void read_lane(struct target *t, const struct fl_lane *lane, uint32_t ring_size, bool broken,
                      struct inspect_lane *out) {
  uint64_t word = 0, tail = 0, head;

  out->state = "?";
  if (!read_memory(t, (uint64_t)(uintptr_t)lane + offsetof(struct fl_lane, tail), &tail, sizeof(tail)) ||
      !read_memory(t, (uint64_t)(uintptr_t)lane + offsetof(struct fl_lane, word), &word, sizeof(word)))
    return;
  out->state = broken ? "broken" : state_text(word & FL_STATE_MASK);
  head = word >> FL_STATE_BITS;
  if (head >= tail && head - tail <= ring_size)
    out->queued = head - tail;
}

static bool holds(const struct fl_conn *c, pid_t pid) {
  for (int i = 0; i < FL_HOLDERS; i++)
    if (c->holder[i] == pid)
      return true;
  return false;
}

static void set_addresses(struct inspect_conn *out, const struct fl_conn *c, pid_t pid) {
  uint16_t local_port = ntohs(c->tuple.local_port), remote_port = ntohs(c->tuple.remote_port);

  if (local_port != 0 && remote_port != 0) {
    out->local = (struct inspect_address){c->tuple.local, local_port};
    out->remote = (struct inspect_address){c->tuple.remote, remote_port};
  } else if (out->fd >= 0) {
    sockets_lookup(pid, out->fd, &out->local, &out->remote);
  }
}

/* c is a private copy, perhaps torn. */
static void convert(struct target *t, const struct fl_conn *c, struct inspect_conn *out) {
  bool paired = c->phase == FL_PAIRED;

  *out = (struct inspect_conn){
      .pid = t->pid,
      .fd = c->fd_hint,
      .phase = phase_text(c->phase),
      .usable = paired && c->pin == 0 && c->nholders == 1,
      .tx = {.state = "-", .ring = count(&c->tx_ring), .kernel = count(&c->tx_kernel)},
      .rx = {.state = "-", .ring = count(&c->rx_ring), .kernel = count(&c->rx_kernel)},
  };
  if (c->pin != 0)
    out->reason = c->pin;
  else if (!paired)
    out->reason = c->reason;
  else
    out->reason = c->nholders > 1 ? FL_WHY_SHARED : FL_WHY_NONE;
  out->why = inspect_reason(out->reason);
  set_addresses(out, c, t->pid);
  if (paired) {
    if (c->tx.mask < FL_RING_MAX && fl_ring_size_valid(c->tx.mask + 1))
      out->ring_size = (uint32_t)(c->tx.mask + 1);
    read_lane(t, c->tx.lane, out->ring_size, c->tx.broken, &out->tx);
    read_lane(t, c->rx.lane, out->ring_size, c->rx.broken, &out->rx);
  }
}

/* ---- the arena ---- */

/* Reads and checks the header; the bytes of the mapping bound what it may say. */
static bool read_header(struct target *t, uint64_t start, uint64_t bytes, struct fl_arena *header) {
  if (bytes < sizeof(*header) || !read_memory(t, start, header, sizeof(*header)))
    return false;
  return header->magic == FL_ARENA_MAGIC && header->version == FL_ARENA_VERSION &&
         header->conn_size == sizeof(struct fl_conn) && header->conn_offset >= sizeof(*header) &&
         header->conn_offset <= bytes && header->conn_count <= (bytes - header->conn_offset) / sizeof(struct fl_conn) &&
         header->used_high <= header->conn_count;
}

static bool append(struct inspect_process *out, size_t *room, const struct inspect_conn *c) {
  if (out->count == *room) {
    size_t more = *room ? *room * 2 : 16;
    struct inspect_conn *bigger = reallocarray(out->conns, more, sizeof(*bigger));

    if (!bigger)
      return false;
    out->conns = bigger;
    *room = more;
  }
  out->conns[out->count++] = *c;
  return true;
}

static void read_conns(struct target *t, uint64_t at, uint32_t n, struct inspect_process *out) {
  struct fl_conn *batch = aligned_alloc(_Alignof(struct fl_conn), BATCH * sizeof(*batch));
  size_t room = 0;

  for (uint32_t i = 0; batch && i < n; i += BATCH) {
    uint32_t m = n - i < BATCH ? n - i : BATCH;

    if (!read_memory(t, at + (uint64_t)i * sizeof(*batch), batch, m * sizeof(*batch)))
      break;
    for (uint32_t k = 0; k < m; k++) {
      struct inspect_conn c;

      if (batch[k].used % 2 == 0 || batch[k].closed || !holds(&batch[k], t->own_pid))
        continue;
      convert(t, &batch[k], &c);
      if (!append(out, &room, &c))
        break;
    }
  }
  free(batch);
}

enum inspect_result inspect_process(pid_t pid, struct inspect_process *out) {
  struct target t = {.pid = pid, .mem = -1};
  enum inspect_result result;
  struct fl_arena *header;
  uint64_t start, bytes;

  *out = (struct inspect_process){.pid = pid};
  result = find_arena(pid, &start, &bytes);
  if (result != INSPECT_OK)
    return result;
  header = malloc(sizeof(*header));
  if (!header)
    return INSPECT_DENIED;
  read_name(pid, out->name, sizeof(out->name));
  t.own_pid = read_own_pid(pid);
  if (!read_memory(&t, start, header, 1))
    result = INSPECT_DENIED;
  else if (!read_header(&t, start, bytes, header))
    result = INSPECT_FOREIGN;
  else
    read_conns(&t, start + header->conn_offset, header->used_high, out);
  if (t.mem >= 0)
    close(t.mem);
  free(header);
  return result;
}
