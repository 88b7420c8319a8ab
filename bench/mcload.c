/* SPDX-License-Identifier: MIT */
/*
 * bench/mcload.c - a memcached text-protocol client: stores one value, then gets it over all its connections.
 * Debian has no memcached load generator that also speaks AF_UNIX.
 */
#include <argp.h>
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "load.h"
#include "process.h"
#include "sockets.h"

struct arguments {
  struct load load;
  unsigned long size;
};

static const struct argp_option options[] = {
    {"size", 's', "BYTES", 0, "Length of the value (100)", 0},
    {0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state) {
  struct arguments *a = state->input;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->load; return 0;
  case 's': a->size = process_parse_number(arg); return 0;
  case ARGP_KEY_ARG:
    if (state->arg_num > 0)
      argp_usage(state);
    a->load.address = arg;
    return 0;
  case ARGP_KEY_END:
    if (a->load.address == NULL)
      argp_usage(state);
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp_child children[] = {{.argp = &load_argp}, {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse_option,
    .args_doc = "ADDRESS",
    .doc = "Gets one value from a memcached.\vADDRESS is a port of 127.0.0.1 or a path that begins with '/'.",
    .children = children,
};

/* HEADER, the value, TAIL in one buffer. */
static char *frame(const char *header, const char *value, const char *tail, size_t *len) {
  char *text;
  int n = asprintf(&text, "%s\r\n%s\r\n%s", header, value, tail);
  if (n < 0)
    err(1, "asprintf");
  *len = (size_t)n;
  return text;
}

static void store(const char *address, const char *value) {
  static const char stored[] = "STORED\r\n";
  char header[64], reply[sizeof stored - 1];
  snprintf(header, sizeof header, "set key 0 0 %zu", strlen(value));
  size_t len;
  char *request = frame(header, value, "", &len);
  int fd = sock_connect(address, false);
  if (!sock_write_full(fd, request, len) || !sock_read_full(fd, reply, sizeof reply) ||
      memcmp(reply, stored, sizeof reply) != 0)
    errx(1, "memcached did not store the value");
  close(fd);
  free(request);
}

int main(int argc, char **argv) {
  struct arguments a = {.load = {LOAD_DEFAULTS}, .size = 100};
  argp_parse(&argp, argc, argv, 0, NULL, &a);

  char *value = malloc(a.size + 1);
  memset(value, 'v', a.size);
  value[a.size] = '\0';
  store(a.load.address, value);

  char header[64];
  snprintf(header, sizeof header, "VALUE key 0 %lu", a.size);
  char *expected = frame(header, value, "END\r\n", &a.load.expected_len);
  a.load.request = "get key\r\n";
  a.load.request_len = strlen(a.load.request);
  a.load.expected = expected;
  load_run(&a.load);
  free(expected);
  free(value);
  return 0;
}
