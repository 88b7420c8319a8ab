/* SPDX-License-Identifier: MIT */
/* tools/main.c - the `fastlocal` command: finds the subcommand and hands over. */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"

const char *argp_program_version = "fastlocal " FL_VERSION;

static const struct command {
  const char *name;
  const char *help; /* NULL: not shown */
  int (*run)(int argc, char **argv);
} commands[] = {
    {"run", "Run a program with its local TCP connections accelerated", cmd_run},
    {"stat", "Show the connections of running programs, lane by lane", cmd_stat},
    {"top", "Show what programs move now, process by process, in all containers", cmd_top},
    {"doctor", "Say what keeps programs here from being accelerated", cmd_doctor},
    {"probe", NULL, cmd_probe},     /* what doctor runs with the library */
    {"options", NULL, cmd_options}, /* for docs/options.md */
};

#define NCOMMANDS (sizeof(commands) / sizeof(commands[0]))

static int run_command(const struct command *c, int argc, char **argv) {
  static char name[64];

  /* What argp shows in front of messages and in the usage line. */
  snprintf(name, sizeof(name), "fastlocal %s", c->name);
  argv[0] = name;
  return c->run(argc, argv);
}

/* The first word that is no option is the command; everything from there on is the command's. */
static error_t parse(int key, char *arg, struct argp_state *state) {
  switch (key) {
  case ARGP_KEY_ARG:
    for (size_t i = 0; i < NCOMMANDS; i++) {
      if (strcmp(arg, commands[i].name) == 0) {
        int first = state->next - 1;

        exit(run_command(&commands[i], state->argc - first, state->argv + first));
      }
    }
    argp_error(state, "unknown command '%s'", arg);
    return EINVAL;
  case ARGP_KEY_NO_ARGS: argp_usage(state); return EINVAL;
  default: return ARGP_ERR_UNKNOWN;
  }
}

/* The list of commands, between the description and the options. */
static char *filter(int key, const char *text, void *input) {
  char *out = NULL;
  size_t size = 0;
  FILE *f;

  if (key != ARGP_KEY_HELP_POST_DOC || !(f = open_memstream(&out, &size)))
    return (char *)text;
  fputs("Commands:\n", f);
  for (size_t i = 0; i < NCOMMANDS; i++)
    if (commands[i].help)
      fprintf(f, "  %-6s %s\n", commands[i].name, commands[i].help);
  fprintf(f, "\n%s", text);
  fclose(f);
  return out;
}

int main(int argc, char **argv) {
  static const struct argp argp = {
      .parser = parse,
      .args_doc = "COMMAND [ARGUMENT...]",
      .doc = "fastlocal moves the bytes of TCP connections between programs on one host through shared memory."
             "\v'fastlocal COMMAND --help' explains a command.",
      .help_filter = filter,
  };

  argp_err_exit_status = EXIT_USAGE;
  argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, NULL);
  return EXIT_SUCCESS;
}
