/* SPDX-License-Identifier: MIT */
/* tools/stat.c - `fastlocal stat`: the connections of running programs, as a table or as JSON. */
#include <argp.h>
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "inspect.h"
#include "overview.h"
#include "registry/host.h"
#include "text.h"

struct arguments {
  bool json, all;
  const char *host; /* the daemon's socket: one row for each process, of all containers */
  pid_t *pids;      /* NULL: every process */
  size_t npids;
};

/* What was found, and how much was not. */
struct findings {
  struct inspect_process *processes; /* those with the library */
  size_t count, room;
  unsigned denied, foreign;
  bool failed; /* a process that was asked for cannot be shown */
};

/* ---- collecting ---- */

static void *must(void *p) {
  if (!p) {
    fputs("fastlocal stat: out of memory\n", stderr);
    exit(EXIT_FAILURE);
  }
  return p;
}

static int by_fd(const void *a, const void *b) {
  const struct inspect_conn *x = a, *y = b;

  return x->fd != y->fd ? (x->fd > y->fd) - (x->fd < y->fd)
                        : (x->local.port > y->local.port) - (x->local.port < y->local.port);
}

static int by_pid(const void *a, const void *b) {
  const struct inspect_process *x = a, *y = b;

  return (x->pid > y->pid) - (x->pid < y->pid);
}

static enum inspect_result look_at(struct findings *f, pid_t pid) {
  struct inspect_process p;
  enum inspect_result result = inspect_process(pid, &p);

  if (result != INSPECT_OK) {
    free(p.conns);
    f->denied += result == INSPECT_DENIED;
    f->foreign += result == INSPECT_FOREIGN;
    return result;
  }
  if (p.count > 0)
    qsort(p.conns, p.count, sizeof(p.conns[0]), by_fd);
  if (f->count == f->room) {
    f->room = f->room ? f->room * 2 : 16;
    f->processes = must(reallocarray(f->processes, f->room, sizeof(p)));
  }
  f->processes[f->count++] = p;
  return result;
}

static void look_at_chosen(struct findings *f, const struct arguments *args) {
  static const char *const complaints[] = {
      [INSPECT_NONE] = "does not use fastlocal",
      [INSPECT_FOREIGN] = "uses another version of fastlocal",
      [INSPECT_DENIED] = "may not be read by this user",
      [INSPECT_GONE] = "no such process",
  };

  for (size_t i = 0; i < args->npids; i++) {
    enum inspect_result result = look_at(f, args->pids[i]);

    if (result == INSPECT_OK)
      continue;
    fprintf(stderr, "fastlocal stat: %d: %s\n", (int)args->pids[i], complaints[result]);
    f->failed = true;
  }
}

static void look_at_all(struct findings *f) {
  DIR *proc = opendir("/proc");
  struct dirent *entry;

  if (!proc) {
    fprintf(stderr, "fastlocal stat: /proc: %s\n", strerror(errno));
    f->failed = true;
    return;
  }
  while ((entry = readdir(proc)))
    if (isdigit((unsigned char)entry->d_name[0]))
      look_at(f, (pid_t)strtol(entry->d_name, NULL, 10));
  closedir(proc);
}

/* ---- texts ---- */

static void format_address(const struct inspect_address *a, char *out, size_t size) {
  char text[INET6_ADDRSTRLEN];

  if (a->port == 0) {
    snprintf(out, size, "-");
  } else if (IN6_IS_ADDR_V4MAPPED(&a->addr)) {
    inet_ntop(AF_INET, &a->addr.s6_addr[12], text, sizeof(text));
    snprintf(out, size, "%s:%u", text, a->port);
  } else {
    inet_ntop(AF_INET6, &a->addr, text, sizeof(text));
    snprintf(out, size, "[%s]:%u", text, a->port);
  }
}

/* ---- the table ---- */

enum column { PROCESS, FD, LOCAL, REMOTE, PHASE, TX, RX, TX_RING, TX_TCP, RX_RING, RX_TCP, WHY, COLUMNS };

static const char *const titles[COLUMNS] = {"PROCESS", "FD",      "LOCAL",  "REMOTE",  "STATE",  "TX",
                                            "RX",      "TX-RING", "TX-TCP", "RX-RING", "RX-TCP", "WHY TCP"};

#define CELL_BYTES 96

typedef char cells[COLUMNS][CELL_BYTES];

static void fill_row(cells row, const struct inspect_process *p, const struct inspect_conn *c) {
  for (int i = 0; i < COLUMNS; i++)
    snprintf(row[i], CELL_BYTES, "-");
  snprintf(row[PROCESS], CELL_BYTES, "%s(%d)", p->name, (int)p->pid);
  if (!c) { /* the library is there, and no connection */
    row[WHY][0] = '\0';
    return;
  }
  if (c->fd >= 0)
    snprintf(row[FD], CELL_BYTES, "%d", c->fd);
  format_address(&c->local, row[LOCAL], CELL_BYTES);
  format_address(&c->remote, row[REMOTE], CELL_BYTES);
  snprintf(row[PHASE], CELL_BYTES, "%s", c->phase);
  snprintf(row[TX], CELL_BYTES, "%s", c->tx.state);
  snprintf(row[RX], CELL_BYTES, "%s", c->rx.state);
  format_bytes(c->tx.ring.bytes, row[TX_RING], CELL_BYTES);
  format_bytes(c->tx.kernel.bytes, row[TX_TCP], CELL_BYTES);
  format_bytes(c->rx.ring.bytes, row[RX_RING], CELL_BYTES);
  format_bytes(c->rx.kernel.bytes, row[RX_TCP], CELL_BYTES);
  snprintf(row[WHY], CELL_BYTES, "%s", c->why);
}

static void print_row(const char *const row[COLUMNS], const int width[COLUMNS]) {
  for (int i = 0; i < COLUMNS; i++) {
    bool number = i == FD || (i >= TX_RING && i <= RX_TCP);

    if (i == WHY)
      printf("%s%s\n", *row[i] ? "  " : "", row[i]); /* no blanks at the end of a line */
    else
      printf("%s%*s", i ? "  " : "", number ? width[i] : -width[i], row[i]);
  }
}

static void print_table(const struct findings *f, bool all) {
  int width[COLUMNS];
  size_t rows = 0, n = 0;
  cells *table;

  for (size_t i = 0; i < f->count; i++)
    rows += f->processes[i].count ? f->processes[i].count : all;
  table = must(calloc(rows + 1, sizeof(*table)));
  for (size_t i = 0; i < f->count; i++) {
    const struct inspect_process *p = &f->processes[i];

    for (size_t k = 0; k < p->count; k++)
      fill_row(table[n++], p, &p->conns[k]);
    if (p->count == 0 && all)
      fill_row(table[n++], p, NULL);
  }

  for (int i = 0; i < COLUMNS; i++) {
    width[i] = (int)strlen(titles[i]);
    for (size_t k = 0; k < rows; k++)
      if ((int)strlen(table[k][i]) > width[i])
        width[i] = (int)strlen(table[k][i]);
  }
  print_row(titles, width);
  for (size_t k = 0; k < rows; k++) {
    const char *row[COLUMNS];

    for (int i = 0; i < COLUMNS; i++)
      row[i] = table[k][i];
    print_row(row, width);
  }
  free(table);
}

/* ---- JSON ---- */

static json_t *count_json(const struct inspect_count *k) {
  return json_pack("{s:I, s:I}", "bytes", (json_int_t)k->bytes, "messages", (json_int_t)k->messages);
}

static json_t *lane_json(const struct inspect_lane *l) {
  return json_pack("{s:s, s:I, s:o, s:o}", "state", l->state, "queued", (json_int_t)l->queued, "ring",
                   count_json(&l->ring), "kernel", count_json(&l->kernel));
}

static json_t *address_json(const struct inspect_address *a) {
  char text[INET6_ADDRSTRLEN];

  if (a->port == 0)
    return json_null();
  if (IN6_IS_ADDR_V4MAPPED(&a->addr))
    inet_ntop(AF_INET, &a->addr.s6_addr[12], text, sizeof(text));
  else
    inet_ntop(AF_INET6, &a->addr, text, sizeof(text));
  return json_pack("{s:s, s:i}", "address", text, "port", (int)a->port);
}

static json_t *conn_json(const struct inspect_conn *c) {
  return json_pack("{s:i, s:o, s:o, s:s, s:b, s:s, s:I, s:o, s:o}", "fd", c->fd, "local", address_json(&c->local),
                   "remote", address_json(&c->remote), "state", c->phase, "usable", (int)c->usable, "why", c->why,
                   "ring", (json_int_t)c->ring_size, "tx", lane_json(&c->tx), "rx", lane_json(&c->rx));
}

static void print_json(const struct findings *f, bool all) {
  json_t *processes = must(json_array()), *root;

  for (size_t i = 0; i < f->count; i++) {
    const struct inspect_process *p = &f->processes[i];
    json_t *conns = must(json_array());

    for (size_t k = 0; k < p->count; k++)
      json_array_append_new(conns, conn_json(&p->conns[k]));
    if (p->count > 0 || all)
      json_array_append_new(processes,
                            json_pack("{s:i, s:s, s:o}", "pid", (int)p->pid, "program", p->name, "connections", conns));
    else
      json_decref(conns);
  }
  root = must(json_pack("{s:o, s:i, s:i}", "processes", processes, "unreadable", (int)f->denied, "other_version",
                        (int)f->foreign));
  json_dumpf(root, stdout, JSON_INDENT(2));
  putchar('\n');
  json_decref(root);
}

/* ---- all containers ---- */

static json_t *overview_json(const struct overview_row *r) {
  json_t *row = must(json_pack("{s:i, s:s, s:s}", "pid", (int)r->pid, "program", r->name, "container", r->container));

  if (r->readable)
    json_object_update_new(row, json_pack("{s:I, s:I, s:I, s:I}", "connections", (json_int_t)r->connections, "paired",
                                          (json_int_t)r->paired, "ring_bytes", (json_int_t)r->ring_bytes, "tcp_bytes",
                                          (json_int_t)r->tcp_bytes));
  if (r->registered)
    json_object_set_new(
        row, "registry",
        json_pack("{s:i, s:i, s:i}", "waiting", (int)r->waiting, "pairs", (int)r->pairs, "refused", (int)r->refused));
  return row;
}

static void overview_row(const struct overview_row *r) {
  char process[32], ring[16] = "-", tcp[16] = "-";

  snprintf(process, sizeof(process), "%.15s(%d)", r->name, (int)r->pid);
  if (r->readable) {
    format_bytes(r->ring_bytes, ring, sizeof(ring));
    format_bytes(r->tcp_bytes, tcp, sizeof(tcp));
    printf("%-24s %-14.14s %8zu %8zu %8s %8s", process, r->container, r->connections, r->paired, ring, tcp);
  } else {
    printf("%-24s %-14.14s %8s %8s %8s %8s", process, r->container, "-", "-", ring, tcp);
  }
  if (r->registered)
    printf(" %8u %8u %8u\n", r->pairs, r->waiting, r->refused);
  else
    printf(" %8s %8s %8s\n", "-", "-", "-");
}

static int show_host(const char *command, const struct arguments *args) {
  struct overview o;

  if (!overview_collect(args->host, &o))
    return EXIT_FAILURE;
  if (args->json) {
    json_t *rows = must(json_array());
    for (size_t i = 0; i < o.count; i++)
      json_array_append_new(rows, overview_json(&o.rows[i]));
    json_t *root = must(json_pack("{s:o, s:b}", "processes", rows, "registry", o.daemon == 0));
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
  } else {
    printf("%-24s %-14s %8s %8s %8s %8s %8s %8s %8s\n", "PROCESS", "CONTAINER", "CONNS", "PAIRED", "RING", "TCP",
           "BY-HOST", "WAITING", "REFUSED");
    for (size_t i = 0; i < o.count; i++)
      overview_row(&o.rows[i]);
  }
  overview_explain(command, args->host, &o);
  overview_free(&o);
  return fflush(stdout) != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* ---- command ---- */

static error_t parse(int key, char *arg, struct argp_state *state) {
  struct arguments *args = state->input;
  char *end;
  long pid;

  switch (key) {
  case 'j': args->json = true; return 0;
  case 'a': args->all = true; return 0;
  case 'h': args->host = arg ? arg : FL_HOST_METRICS; return 0;
  case ARGP_KEY_ARG:
    errno = 0;
    pid = strtol(arg, &end, 10);
    if (!isdigit((unsigned char)*arg) || *end != '\0' || errno != 0 || pid <= 0 || pid > INT32_MAX)
      argp_error(state, "'%s' is not a process id", arg);
    args->pids = must(reallocarray(args->pids, args->npids + 1, sizeof(pid_t)));
    args->pids[args->npids++] = (pid_t)pid;
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static void report_missing(const struct findings *f) {
  if (f->denied > 0)
    fprintf(stderr, "%u other process%s could not be read (no permission).\n", f->denied, f->denied == 1 ? "" : "es");
  if (f->foreign > 0)
    fprintf(stderr, "%u process%s another version of fastlocal.\n", f->foreign, f->foreign == 1 ? " uses" : "es use");
}

int cmd_stat(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"json", 'j', NULL, 0, "Print JSON", 0},
      {"all", 'a', NULL, 0, "Also show processes that have the library and no connection", 0},
      {"host", 'h', "SOCKET", OPTION_ARG_OPTIONAL,
       "One row for each process, of all containers, with what fastlocald knows; SOCKET is where it gives its metrics "
       "[" FL_HOST_METRICS "]",
       0},
      {0},
  };
  static const struct argp argp = {
      .options = options,
      .parser = parse,
      .args_doc = "[PID...]",
      .doc =
          "Shows the TCP connections of programs that run with fastlocal: all that this user may see, or those of the "
          "given processes."
          "\vSTATE is young (not looked at yet), seeking (the other end is looked for), paired (rings are there) or "
          "tcp (for "
          "good). TX and RX say what the receiver of that direction does now: watching (bytes travel by the ring), "
          "native "
          "(it sleeps in the kernel, bytes travel by TCP). A process that inherited a connection shows it as well.",
  };
  struct arguments args = {0};
  struct findings f = {0};

  argp_parse(&argp, argc, argv, 0, NULL, &args);
  if (args.host)
    return show_host(argv[0], &args);
  if (args.npids > 0)
    look_at_chosen(&f, &args);
  else
    look_at_all(&f);
  if (f.count > 0)
    qsort(f.processes, f.count, sizeof(f.processes[0]), by_pid);
  if (args.json)
    print_json(&f, args.all);
  else if (f.count > 0 || args.npids == 0)
    print_table(&f, args.all);
  if (!args.json && args.npids == 0)
    report_missing(&f);

  for (size_t i = 0; i < f.count; i++)
    free(f.processes[i].conns);
  free(f.processes);
  free(args.pids);
  return f.failed || fflush(stdout) != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
