/* SPDX-License-Identifier: MIT */
/* tools/doctor.c - `fastlocal doctor`: says what keeps programs here, most often in a container, from being
 * accelerated. */
#include "doctor.h"

#include <argp.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "commands.h"
#include "preload/options.h"

static struct { unsigned warnings, bad; } found;

void report(enum verdict v, const char *about, const char *format, ...) {
  static const char *const words[] = {[FINE] = "ok", [WARNING] = "warning", [BAD] = "BAD"};
  va_list args;

  found.warnings += v == WARNING;
  found.bad += v == BAD;
  printf("%-8s %-12s ", words[v], about);
  va_start(args, format);
  vprintf(format, args);
  va_end(args);
  putchar('\n');
}

struct arguments {
  const char *library;
  pid_t *pids;
  size_t npids;
};

static error_t parse(int key, char *arg, struct argp_state *state) {
  struct arguments *a = state->input;
  char *end;
  long pid;

  switch (key) {
  case 'l': a->library = arg; return 0;
  case ARGP_KEY_ARG:
    pid = strtol(arg, &end, 10);
    if (end == arg || *end != '\0' || pid <= 0 || pid > INT32_MAX)
      argp_error(state, "'%s' is not a process id", arg);
    pid_t *more = reallocarray(a->pids, a->npids + 1, sizeof(*more));
    if (!more)
      return ENOMEM;
    a->pids = more;
    a->pids[a->npids++] = (pid_t)pid;
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

int cmd_doctor(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"library", 'l', "PATH", 0, "The library, instead of the one that belongs to this command", 0},
      {0},
  };
  static const struct argp argp = {
      .options = options,
      .parser = parse,
      .args_doc = "[PID...]",
      .doc =
          "Checks, where it runs, all that acceleration needs: run it inside of the container, as the user and with "
          "the "
          "environment of the program."
          "\vAt the end it says why connections of the given processes, or of all that this user may read, are on TCP. "
          "Exit status: 1 if something is BAD.",
  };
  struct arguments a = {0};

  argp_parse(&argp, argc, argv, 0, NULL, &a);
  setvbuf(stdout, NULL, _IOLBF, 0);
  check_options();
  check_calls();
  check_identity();
  check_memory();
  check_descriptors();
  check_library(a.library);
  check_registry(fl_options.registry);
  check_peers(a.pids, a.npids);
  printf("%u bad, %u warnings\n", found.bad, found.warnings);
  free(a.pids);
  return found.bad || fflush(stdout) != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
