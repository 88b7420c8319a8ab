/* SPDX-License-Identifier: MIT */
/* preload/options.h - what the environment asks for; see options.def for the list. */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum fl_transport { FL_TRANSPORT_AUTO, FL_TRANSPORT_SHM, FL_TRANSPORT_UNIX, FL_TRANSPORT_TCP };
enum fl_tramp { FL_TRAMP_AUTO, FL_TRAMP_OFF, FL_TRAMP_LIBC, FL_TRAMP_ALL, FL_TRAMP_AUDIT };
enum fl_level { FL_LOG_NONE, FL_LOG_ERROR, FL_LOG_WARN, FL_LOG_INFO, FL_LOG_DEBUG };

#define FL_PORT_RANGES 32

struct fl_port_range {
  uint16_t first, last; /* host byte order, inclusive */
  bool deny;
};

struct fl_options {
  bool disable;
  int transport;
  char registry[108];
  struct fl_port_range ports[FL_PORT_RANGES];
  unsigned nports;
  uint32_t spin_us;
  bool spin_fixed;     /* given as a number: not to be adapted */
  uint32_t pair_after; /* messages */
  bool pair_fixed;     /* given as a number: not to be adapted */
  uint32_t ring;       /* bytes */
  uint32_t memory;     /* megabytes */
  int log_level;
  char log_file[256];
  int tramp;
  char stats[256];
};

/* In the order of options.def. */
struct fl_option {
  const char *name; /* "spin_us" */
  const char *env;  /* "FASTLOCAL_SPIN_US" */
  const char *preset;
  const char *values;
  const char *help;
};
extern const struct fl_option fl_option_table[];
extern const unsigned fl_option_count;

extern __attribute__((visibility("hidden"))) struct fl_options fl_options;

/* Sets option i of o from text; 0, or -1 and a message in err. Used by the library and by the command. No allocation.
 */
int fl_option_set(struct fl_options *o, unsigned i, const char *text, char *err, size_t errsize);

/*
 * Fills fl_options with presets and the environment. Returns 0, or -1 with a message about the first bad value in err:
 * the library then passes everything through. Values are read with getenv semantics from environ; secure-execution
 * programs (AT_SECURE) ignore the variables that name files.
 */
int fl_options_load(char *err, size_t errsize);

/* Do the port lists allow a connection between these two ports (host byte order)? */
bool fl_ports_allowed(const struct fl_options *o, uint16_t a, uint16_t b);
