/* SPDX-License-Identifier: MIT */
/* preload/stats.c - totals of a process, written at exit. */
#include "stats.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "conn.h"
#include "log.h"
#include "registry/sys.h"

enum lane { TX_RING, TX_KERNEL, RX_RING, RX_KERNEL, LANES };

/* Of closed connections. Relaxed everywhere: they are sums, and nothing else is inferred from them. */
static struct {
  _Atomic uint64_t connections, paired;
  struct fl_count lane[LANES];
  atomic_flag written;
} totals = {.written = ATOMIC_FLAG_INIT};

struct sum {
  uint64_t bytes[LANES], messages[LANES];
};

static const struct fl_count *count_of(const struct fl_conn *c, enum lane lane) {
  switch (lane) {
  case TX_RING: return &c->tx_ring;
  case TX_KERNEL: return &c->tx_kernel;
  case RX_RING: return &c->rx_ring;
  default: return &c->rx_kernel;
  }
}

static void add_count(struct sum *sum, enum lane lane, const struct fl_count *k) {
  sum->bytes[lane] += atomic_load_explicit(&k->bytes, memory_order_relaxed);
  sum->messages[lane] += atomic_load_explicit(&k->messages, memory_order_relaxed);
}

void fl_stats_conn_opened(void) { atomic_fetch_add_explicit(&totals.connections, 1, memory_order_relaxed); }

void fl_stats_conn_paired(void) { atomic_fetch_add_explicit(&totals.paired, 1, memory_order_relaxed); }

static void add_closed(enum lane lane, const struct fl_count *k) {
  uint64_t bytes = atomic_load_explicit(&k->bytes, memory_order_relaxed);
  uint64_t messages = atomic_load_explicit(&k->messages, memory_order_relaxed);

  if (bytes == 0 && messages == 0)
    return;
  atomic_fetch_add_explicit(&totals.lane[lane].bytes, bytes, memory_order_relaxed);
  atomic_fetch_add_explicit(&totals.lane[lane].messages, messages, memory_order_relaxed);
}

void fl_stats_conn_closed(const struct fl_conn *c) {
  for (enum lane i = 0; i < LANES; i++)
    add_closed(i, count_of(c, i));
}

void fl_stats_conn(const struct fl_conn *c, uint64_t *bytes, uint64_t *messages) {
  struct sum sum = {0};

  *bytes = *messages = 0;
  for (enum lane i = 0; i < LANES; i++) {
    add_count(&sum, i, count_of(c, i));
    *bytes += sum.bytes[i];
    *messages += sum.messages[i];
  }
}

void fl_stats_reset_child(void) {
  atomic_store_explicit(&totals.connections, 0, memory_order_relaxed);
  atomic_store_explicit(&totals.paired, 0, memory_order_relaxed);
  for (int i = 0; i < LANES; i++) {
    atomic_store_explicit(&totals.lane[i].bytes, 0, memory_order_relaxed);
    atomic_store_explicit(&totals.lane[i].messages, 0, memory_order_relaxed);
  }
  atomic_flag_clear_explicit(&totals.written, memory_order_relaxed);
}

/* ---- JSON ---- */

/* Length of the valid UTF-8 sequence of more than one byte at s, 0 if there is none. */
static size_t utf8_sequence(const unsigned char *s) {
  unsigned char lo = 0x80, hi = 0xbf;
  size_t n;

  if (*s < 0xc2 || *s > 0xf4)
    return 0;
  n = *s < 0xe0 ? 2 : *s < 0xf0 ? 3 : 4;
  /* The second byte's range excludes overlong forms, surrogates and what is beyond U+10FFFF (RFC 3629, section 4). */
  if (*s == 0xe0)
    lo = 0xa0;
  else if (*s == 0xed)
    hi = 0x9f;
  else if (*s == 0xf0)
    lo = 0x90;
  else if (*s == 0xf4)
    hi = 0x8f;
  for (size_t i = 1; i < n; i++, lo = 0x80, hi = 0xbf)
    if (s[i] < lo || s[i] > hi)
      return 0;
  return n;
}

size_t fl_stats_quote(char *out, size_t size, const char *s) {
  const unsigned char *p = (const unsigned char *)s;
  size_t len = 0;

  out[len++] = '"';
  while (*p != '\0') {
    char piece[8];
    size_t n, taken = 1;

    if (*p == '"' || *p == '\\') {
      n = (size_t)snprintf(piece, sizeof(piece), "\\%c", *p);
    } else if (*p < ' ' || *p == 0x7f) {
      n = (size_t)snprintf(piece, sizeof(piece), "\\u%04x", (unsigned)*p);
    } else if (*p < 0x80) {
      piece[0] = (char)*p;
      n = 1;
    } else if ((n = utf8_sequence(p)) > 0) {
      memcpy(piece, p, n);
      taken = n;
    } else {
      n = (size_t)snprintf(piece, sizeof(piece), "\\ufffd");
    }
    if (len + n + 2 > size) /* the quote and the NUL */
      break;
    memcpy(out + len, piece, n);
    len += n;
    p += taken;
  }
  out[len++] = '"';
  out[len] = '\0';
  return len;
}

/* ---- writing ---- */

static void add_live(struct fl_conn *c, struct fl_local *l, void *arg) {
  if (!fl_conn_holders_purge(c))
    return; /* another process holds it as well, and will report it */
  for (enum lane i = 0; i < LANES; i++)
    add_count(arg, i, count_of(c, i));
}

static int format_lanes(char *out, size_t size, const char *name, const struct sum *sum, enum lane ring,
                        enum lane kernel) {
  return snprintf(out, size,
                  "\"%s\":{\"ring\":{\"bytes\":%llu,\"messages\":%llu},\"unix\":{\"bytes\":0,\"messages\":0},"
                  "\"kernel\":{\"bytes\":%llu,\"messages\":%llu}}",
                  name, (unsigned long long)sum->bytes[ring], (unsigned long long)sum->messages[ring],
                  (unsigned long long)sum->bytes[kernel], (unsigned long long)sum->messages[kernel]);
}

static void append_totals(void) {
  char quoted[512], tx[256], rx[256], line[1280];
  struct sum sum = {0};
  uint64_t connections = atomic_load_explicit(&totals.connections, memory_order_relaxed), any = connections;
  int n;

  for (enum lane i = 0; i < LANES; i++)
    add_count(&sum, i, &totals.lane[i]);
  fl_conn_each(add_live, &sum);
  for (int i = 0; i < LANES; i++)
    any |= sum.bytes[i];
  if (any == 0)
    return; /* a shell's little helper: nothing to say */

  fl_stats_quote(quoted, sizeof(quoted), fl_log_program());
  format_lanes(tx, sizeof(tx), "tx", &sum, TX_RING, TX_KERNEL);
  format_lanes(rx, sizeof(rx), "rx", &sum, RX_RING, RX_KERNEL);
  n = snprintf(line, sizeof(line), "{\"pid\":%d,\"program\":%s,\"connections\":%llu,\"paired\":%llu,%s,%s}\n", fl_pid(),
               quoted, (unsigned long long)connections,
               (unsigned long long)atomic_load_explicit(&totals.paired, memory_order_relaxed), tx, rx);
  if (n < 0 || (size_t)n >= sizeof(line))
    return;
  n = fl_log_append(fl_options.stats, line, (size_t)n);
  if (n < 0)
    fl_log(FL_LOG_WARN, "cannot append to %s: error %d", fl_options.stats, -n);
}

void fl_stats_write(void) {
  int saved = errno;

  /* A vfork child that exits runs on its parent's memory, and has nothing to report of its own. */
  if (fl_options.stats[0] == '\0' || fl_in_vfork_child())
    return;
  if (!atomic_flag_test_and_set_explicit(&totals.written, memory_order_relaxed))
    append_totals();
  errno = saved;
}
