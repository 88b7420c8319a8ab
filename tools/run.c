/* SPDX-License-Identifier: MIT */
/* tools/run.c - `fastlocal run`: checks the options, puts them and the library into the environment, and becomes the
 * program. */
#include <argp.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "library.h"
#include "preload/options.h"

#define EXIT_CANNOT_EXEC 126
#define EXIT_NOT_FOUND 127

/* Above every printable character: no short options. */
#define KEY_OPTION 0x100 /* + index into fl_option_table */
#define KEY_LIBRARY 0x200
#define MAX_OPTIONS 32

struct run {
  const char *library;
  char **command;
};

/* ---- options ---- */

static void describe_options(struct argp_option *out) {
  for (unsigned i = 0; i < fl_option_count; i++) {
    const struct fl_option *opt = &fl_option_table[i];
    bool flag = strcmp(opt->values, "0|1") == 0;
    char *name = strdup(opt->name), *help = NULL;

    for (char *p = name; p && *p; p++)
      if (*p == '_')
        *p = '-';
    if (!name || asprintf(&help, "%s [%s]", opt->help, *opt->preset ? opt->preset : "none") < 0)
      exit(EXIT_FAILURE);
    *out++ = (struct argp_option){.name = name,
                                  .key = KEY_OPTION + (int)i,
                                  .arg = opt->values,
                                  .flags = flag ? OPTION_ARG_OPTIONAL : 0,
                                  .doc = help};
  }
  *out++ = (struct argp_option){.name = "library",
                                .key = KEY_LIBRARY,
                                .arg = "PATH",
                                .doc = "The library to load, instead of the one that belongs to this command",
                                .group = 1};
  *out = (struct argp_option){0};
}

static void set_option(struct argp_state *state, unsigned i, const char *text) {
  char err[512];

  if (fl_option_set(&fl_options, i, text, err, sizeof(err)) != 0)
    argp_failure(state, EXIT_USAGE, 0, "%s", err);
  if (setenv(fl_option_table[i].env, text, 1) != 0)
    argp_failure(state, EXIT_FAILURE, errno, "%s", fl_option_table[i].env);
}

static error_t parse(int key, char *arg, struct argp_state *state) {
  struct run *r = state->input;

  if (key >= KEY_OPTION && (unsigned)(key - KEY_OPTION) < fl_option_count) {
    set_option(state, (unsigned)(key - KEY_OPTION), arg ? arg : "1");
    return 0;
  }
  switch (key) {
  case KEY_LIBRARY: r->library = arg; return 0;
  case ARGP_KEY_ARG: /* the program; all that follows belongs to it */
    r->command = &state->argv[state->next - 1];
    state->next = state->argc;
    return 0;
  case ARGP_KEY_NO_ARGS: argp_error(state, "no program given"); return EINVAL;
  default: return ARGP_ERR_UNKNOWN;
  }
}

/* ---- the library ---- */

/* LD_PRELOAD is a list separated by spaces or colons; is the library in it already? */
static bool listed(const char *list, const char *library) {
  size_t len = strlen(library);

  for (const char *p = list; *p != '\0';) {
    size_t n = strcspn(p, ": ");

    if (n == len && memcmp(p, library, n) == 0)
      return true;
    p += n;
    p += strspn(p, ": ");
  }
  return false;
}

/* 0, or -1 and the reason has been printed. */
static int preload(const char *command, const char *wanted) {
  const char *old = getenv("LD_PRELOAD");
  char library[PATH_MAX], *list = NULL;

  if (wanted ? !realpath(wanted, library) || access(library, R_OK) != 0 : !library_find(library)) {
    if (wanted)
      fprintf(stderr, "%s: %s: %s\n", command, wanted, strerror(errno));
    else
      fprintf(stderr, "%s: libfastlocal.so is not where this command expects it; use --library=PATH\n", command);
    return -1;
  }
  if (strpbrk(library, ": ")) {
    fprintf(stderr, "%s: %s: LD_PRELOAD cannot hold a path with a space or a colon\n", command, library);
    return -1;
  }
  if (!old || *old == '\0')
    return setenv("LD_PRELOAD", library, 1);
  if (listed(old, library))
    return 0;
  if (asprintf(&list, "%s:%s", library, old) < 0 || setenv("LD_PRELOAD", list, 1) != 0) {
    fprintf(stderr, "%s: %s\n", command, strerror(errno));
    return -1;
  }
  free(list);
  return 0;
}

int cmd_run(int argc, char **argv) {
  static struct argp_option options[MAX_OPTIONS + 2];
  const struct argp argp = {
      .options = options,
      .parser = parse,
      .args_doc = "[--] PROGRAM [ARGUMENT...]",
      .doc = "Runs PROGRAM with fastlocal: its TCP connections to other such programs on this host carry their bytes "
             "through shared memory."
             "\vThe environment variable FASTLOCAL_NAME does the same as the option --name, which wins over it. Exit "
             "status: "
             "that of PROGRAM; 2 for bad options, 126 if PROGRAM cannot be run, 127 if it is not found.",
  };
  struct run r = {0};
  char err[512];
  int e;

  if (fl_option_count > MAX_OPTIONS)
    abort();
  describe_options(options);
  argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &r);

  /* What was in the environment before counts as well, and would otherwise fail out of sight. */
  if (fl_options_load(err, sizeof(err)) != 0) {
    fprintf(stderr, "%s: %s\n", argv[0], err);
    return EXIT_USAGE;
  }
  if (preload(argv[0], r.library) != 0)
    return EXIT_USAGE;

  execvp(r.command[0], r.command);
  e = errno;
  fprintf(stderr, "%s: %s: %s\n", argv[0], r.command[0], strerror(e));
  return e == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_EXEC;
}
