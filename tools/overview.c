/* SPDX-License-Identifier: MIT */
/* tools/overview.c - see overview.h. */
#include "overview.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"
#include "inspect.h"

#define ID_DIGITS 64
#define ID_SHOWN 12

/* Somebody chose it, and it goes to a terminal. */
static void printable(char *text) {
  for (; *text; text++)
    if (*text < ' ' || *text > '~')
      *text = '?';
}

void container_name(const char *cgroup, char out[CONTAINER_MAX]) {
  size_t run = 0;

  for (const char *p = cgroup; *p; p++) {
    run = isxdigit((unsigned char)*p) ? run + 1 : 0;
    if (run == ID_DIGITS) {
      snprintf(out, CONTAINER_MAX, "%.*s", ID_SHOWN, p + 1 - ID_DIGITS);
      return;
    }
  }
  const char *slash = strrchr(cgroup, '/');
  const char *last = slash ? slash + 1 : cgroup;
  snprintf(out, CONTAINER_MAX, "%s", *last ? last : "-");
  printable(out);
}

/* As fastlocald reads it: the path of "0::/path", or of one of the old hierarchies where that says more. */
void container_of(pid_t pid, char out[CONTAINER_MAX]) {
  char path[64], *line = NULL;
  size_t size = 0;

  snprintf(out, CONTAINER_MAX, "-");
  snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
  FILE *f = fopen(path, "re");
  while (f && getline(&line, &size, f) > 0) {
    char *second = strchr(line, ':'), *at = second ? strchr(second + 1, ':') : NULL;
    if (!at)
      continue;
    at++;
    at[strcspn(at, "\n")] = '\0';
    if (strcmp(at, "/") != 0 && (strcmp(out, "-") == 0 || line[0] == '0'))
      container_name(at, out);
  }
  free(line);
  if (f)
    fclose(f);
}

static struct overview_row *add(struct overview *o, size_t *room, pid_t pid) {
  if (o->count == *room) {
    size_t more = *room ? *room * 2 : 64;
    struct overview_row *rows = reallocarray(o->rows, more, sizeof(*rows));
    if (!rows)
      return NULL;
    o->rows = rows;
    *room = more;
  }
  o->rows[o->count] = (struct overview_row){.pid = pid, .name = "?", .container = "-"};
  return &o->rows[o->count++];
}

static void sum(struct overview_row *row, const struct inspect_process *p) {
  row->readable = true;
  row->connections = p->count;
  for (size_t i = 0; i < p->count; i++) {
    const struct inspect_conn *c = &p->conns[i];
    row->paired += strcmp(c->phase, "paired") == 0;
    row->ring_bytes += c->tx.ring.bytes + c->rx.ring.bytes;
    row->tcp_bytes += c->tx.kernel.bytes + c->rx.kernel.bytes;
  }
}

/* Every process that this user may read. */
static bool look_around(struct overview *o, size_t *room) {
  DIR *proc = opendir("/proc");
  struct dirent *entry;
  bool ok = proc;

  while (ok && (entry = readdir(proc))) {
    struct inspect_process p = {0};
    if (!isdigit((unsigned char)entry->d_name[0]))
      continue;
    pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
    if (inspect_process(pid, &p) == INSPECT_OK) {
      struct overview_row *row = add(o, room, pid);
      ok = row;
      if (row) {
        snprintf(row->name, sizeof(row->name), "%s", p.name);
        container_of(pid, row->container);
        sum(row, &p);
      }
    }
    free(p.conns);
  }
  if (proc)
    closedir(proc);
  return ok;
}

static int by_pid(const void *a, const void *b) {
  const struct overview_row *x = a, *y = b;

  return (x->pid > y->pid) - (x->pid < y->pid);
}

/* Its name, also of a process whose memory is not ours to read. */
static void name_of(pid_t pid, char *name, size_t size) {
  char path[64];

  snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
  FILE *f = fopen(path, "re");
  if (f && fgets(name, (int)size, f))
    name[strcspn(name, "\n")] = '\0';
  if (f)
    fclose(f);
  printable(name);
}

/* What the daemon says, to the rows that are there (the first `known`, by pid) or in new ones. A process that has
 * forked may be connected twice. */
static bool ask_daemon(struct overview *o, size_t *room, const char *socket) {
  struct host_process *list;
  size_t n, known = o->count;
  bool ok = true;

  o->daemon = host_list(socket, &list, &n);
  for (size_t i = 0; i < n && ok; i++) {
    const struct overview_row key = {.pid = list[i].pid};
    struct overview_row *row =
        key.pid > 0 && known > 0 ? bsearch(&key, o->rows, known, sizeof(*o->rows), by_pid) : NULL;
    if (!row && (row = add(o, room, key.pid)) != NULL) {
      container_name(list[i].cgroup, row->container);
      if (key.pid > 0)
        name_of(key.pid, row->name, sizeof(row->name));
    }
    ok = row;
    if (!row)
      break;
    row->registered = true;
    row->waiting += list[i].waiting;
    row->pairs += list[i].pairs;
    row->refused += list[i].refused;
  }
  host_free(list, n);
  return ok;
}

bool overview_collect(const char *socket, struct overview *out) {
  size_t room = 0;

  *out = (struct overview){0};
  bool ok = look_around(out, &room);
  if (out->count > 0)
    qsort(out->rows, out->count, sizeof(*out->rows), by_pid);
  ok = ok && ask_daemon(out, &room, socket);
  if (out->count > 0)
    qsort(out->rows, out->count, sizeof(*out->rows), by_pid);
  return ok;
}

void overview_free(struct overview *o) {
  free(o->rows);
  *o = (struct overview){0};
}

void overview_explain(const char *command, const char *socket, const struct overview *o) {
  if (o->daemon < 0)
    fprintf(stderr, "%s: fastlocald cannot be asked, so only processes that this user may read are shown: %s: %s\n",
            command, socket, strerror(-o->daemon));
}
