/* SPDX-License-Identifier: MIT */
/* tools/doctor.h - the checks of `fastlocal doctor`. Each looks at one thing that acceleration needs, by doing what the
 * library would do, and reports at least one verdict. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

enum verdict { FINE, WARNING, BAD };

/* One line: the verdict, what it is about, and in plain words what is so and what to do. */
void report(enum verdict v, const char *about, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* ---- doctor_system.c ---- */

void check_options(void);
void check_memory(void);
void check_descriptors(void);
void check_identity(void);
void check_calls(void);
/* library: its path, or NULL for the one that belongs to this command. It must load, be of this version, and pair two
 * processes here. */
void check_library(const char *library);

/* ---- doctor_host.c ---- */

void check_registry(const char *socket);
/* Why connections of these processes, or of all that may be read, are on TCP. */
void check_peers(const pid_t *pids, size_t count);

/* A connected pair of TCP sockets on 127.0.0.1; false: none is to be had. */
bool tcp_ends(int ends[2]);
