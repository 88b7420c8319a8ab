/* SPDX-License-Identifier: MIT */
/* tools/describe.c - `fastlocal options --markdown`: the table that scripts/gen-options puts into docs/options.md. */
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "preload/options.h"

/* '|' separates cells, also between backquotes. */
static void cell(const char *text) {
  for (; *text != '\0'; text++) {
    if (*text == '|')
      putchar('\\');
    putchar(*text);
  }
}

static void row(const struct fl_option *opt) {
  printf("| `%s` | `--", opt->env);
  for (const char *p = opt->name; *p != '\0'; p++)
    putchar(*p == '_' ? '-' : *p);
  printf("` | `");
  cell(opt->values);
  if (*opt->preset != '\0')
    printf("` | `%s` | ", opt->preset);
  else
    printf("` | (none) | ");
  cell(opt->help);
  puts(" |");
}

int cmd_options(int argc, char **argv) {
  if (argc != 2 || strcmp(argv[1], "--markdown") != 0) {
    fprintf(stderr, "usage: %s --markdown\n", argv[0]);
    return EXIT_USAGE;
  }
  puts("| Variable | `fastlocal run` | Values | Preset | Meaning |");
  puts("| --- | --- | --- | --- | --- |");
  for (unsigned i = 0; i < fl_option_count; i++)
    row(&fl_option_table[i]);
  return 0;
}
