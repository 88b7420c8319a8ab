/* SPDX-License-Identifier: MIT */
/* tools/commands.h - the subcommands of `fastlocal`. Each has one file, parses its own arguments and returns the exit
 * status; argv[0] is "fastlocal NAME". */
#pragma once

#define EXIT_USAGE 2 /* bad arguments or option values */

int cmd_run(int argc, char **argv);
int cmd_stat(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_probe(int argc, char **argv);
int cmd_options(int argc, char **argv);
