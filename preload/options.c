/* SPDX-License-Identifier: MIT */
/*
 * preload/options.c - the values of options.def: one parser for each type, strict, with one message for every way to be
 * wrong. Runs in the library's constructor, before anything else of it is ready: no allocation, no stdio but snprintf.
 */
#include "options.h"

#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "shmring/lane.h"

#define SPIN_US_MAX 10000u
#define SPIN_US_AUTO 50u
#define PAIR_AFTER_AUTO 8u
#define COUNT_MAX 1000000u
#define SHOWN_VALUE 80 /* bytes of a bad value that a message repeats */

struct fl_options fl_options;

/* ---- the table, from options.def ---- */

/* The preprocessor cannot make capitals, but constant expressions can: character i of s, or the final NUL beyond it. */
#define NAME_MAX_LEN 16
#define AT(s, i) ((s)[(i) < sizeof(s) ? (i) : sizeof(s) - 1])
#define UPPER(c) ((c) >= 'a' && (c) <= 'z' ? (c) - 'a' + 'A' : (c))
#define UP(s, i) UPPER(AT(s, i))
#define UP4(s, i) UP(s, i), UP(s, (i) + 1), UP(s, (i) + 2), UP(s, (i) + 3)

#define FL_OPT(name, type, preset, values, help) \
  _Static_assert(sizeof(#name) <= NAME_MAX_LEN, "NAME_MAX_LEN holds every name"); \
  static const char env_##name[] = { \
      'F', 'A', 'S', 'T', 'L', 'O', 'C', 'A', 'L', '_', UP4(#name, 0), UP4(#name, 4), UP4(#name, 8), UP4(#name, 12), \
  };
#include "options.def"
#undef FL_OPT

const struct fl_option fl_option_table[] = {
#define FL_OPT(name, type, preset, values, help) {#name, env_##name, preset, values, help},
#include "options.def"
#undef FL_OPT
};
const unsigned fl_option_count = sizeof(fl_option_table) / sizeof(fl_option_table[0]);

/* ---- parsers: true and the value stored, or false and nothing changed ---- */

struct spec {
  bool (*parse)(struct fl_options *o, const struct spec *spec, const char *values, const char *text);
  size_t offset, size; /* of the field in struct fl_options */
  const char *allowed; /* ends a message: "must be ..."; NULL: one of the values, or the longest path */
  bool names_file;
};

static void *field(struct fl_options *o, const struct spec *spec) { return (char *)o + spec->offset; }

/* Takes decimal digits off *p. False: there are none, or the number does not fit. */
static bool take_number(const char **p, uint32_t max, uint32_t *out) {
  const char *s = *p;
  uint64_t n = 0;

  if (*s < '0' || *s > '9')
    return false;
  for (; *s >= '0' && *s <= '9'; s++) {
    n = n * 10 + (uint64_t)(*s - '0');
    if (n > max)
      return false;
  }
  *p = s;
  *out = (uint32_t)n;
  return true;
}

/* Which of the words "a|b|c" are the first `len` bytes of text? -1: none. */
static int find_word(const char *words, const char *text, size_t len) {
  for (int i = 0;; i++) {
    size_t n = strcspn(words, "|");

    if (n == len && memcmp(words, text, len) == 0)
      return i;
    if (words[n] == '\0')
      return -1;
    words += n + 1;
  }
}

static bool parse_bool(struct fl_options *o, const struct spec *spec, const char *values, const char *text) {
  int i = find_word(values, text, strlen(text));

  if (i < 0)
    return false;
  *(bool *)field(o, spec) = i == 1;
  return true;
}

static bool parse_choice(struct fl_options *o, const struct spec *spec, const char *values, const char *text) {
  int i = find_word(values, text, strlen(text));

  if (i < 0)
    return false;
  *(int *)field(o, spec) = i;
  return true;
}

static bool parse_size(struct fl_options *o, const struct spec *spec, const char *values, const char *text) {
  uint32_t n;
  unsigned shift = 0;

  if (!take_number(&text, UINT32_MAX, &n))
    return false;
  if (*text == 'K' || *text == 'M')
    shift = *text++ == 'K' ? 10 : 20;
  if (*text != '\0' || !fl_ring_size_valid((uint64_t)n << shift))
    return false;
  *(uint32_t *)field(o, spec) = n << shift;
  return true;
}

static bool parse_count(struct fl_options *o, const struct spec *spec, const char *values, const char *text) {
  uint32_t n;

  if (!take_number(&text, COUNT_MAX, &n) || *text != '\0' || n == 0)
    return false;
  *(uint32_t *)field(o, spec) = n;
  return true;
}

static bool parse_messages(struct fl_options *o, const struct spec *spec, const char *values, const char *text) {
  bool fixed = strcmp(text, "auto") != 0;

  if (fixed && !parse_count(o, spec, values, text))
    return false;
  o->pair_fixed = fixed;
  if (!fixed)
    *(uint32_t *)field(o, spec) = PAIR_AFTER_AUTO;
  return true;
}

static bool parse_usec(struct fl_options *o, const struct spec *spec, const char *values, const char *text) {
  bool fixed = strcmp(text, "auto") != 0;
  uint32_t n = SPIN_US_AUTO;

  if (fixed && (!take_number(&text, SPIN_US_MAX, &n) || *text != '\0'))
    return false;
  o->spin_fixed = fixed;
  *(uint32_t *)field(o, spec) = n;
  return true;
}

static bool parse_path(struct fl_options *o, const struct spec *spec, const char *values, const char *text) {
  size_t n = strlen(text);

  if (n >= spec->size)
    return false;
  memcpy(field(o, spec), text, n + 1);
  return true;
}

/* One of the comma-separated elements: [!]PORT[-PORT] */
static bool take_range(const char **p, struct fl_port_range *range) {
  const char *s = *p;
  uint32_t first, last;

  range->deny = *s == '!';
  if (range->deny)
    s++;
  if (!take_number(&s, UINT16_MAX, &first))
    return false;
  last = first;
  if (*s == '-') {
    s++;
    if (!take_number(&s, UINT16_MAX, &last))
      return false;
  }
  if (first == 0 || last < first)
    return false;
  range->first = (uint16_t)first;
  range->last = (uint16_t)last;
  *p = s;
  return true;
}

static bool parse_ports(struct fl_options *o, const struct spec *spec, const char *values, const char *text) {
  struct fl_port_range ranges[FL_PORT_RANGES];
  unsigned n = 0;

  while (*text != '\0') {
    if (n == FL_PORT_RANGES || !take_range(&text, &ranges[n++]))
      return false;
    if (*text == '\0')
      break;
    if (*text++ != ',' || *text == '\0') /* a comma stands between two elements */
      return false;
  }
  memcpy(o->ports, ranges, n * sizeof(ranges[0]));
  o->nports = n;
  return true;
}

static bool parse_log(struct fl_options *o, const struct spec *spec, const char *values, const char *text) {
  size_t n = strcspn(text, ":");
  const char *file = text[n] == ':' ? text + n + 1 : NULL;
  int level = find_word("none|error|warn|info|debug", text, n); /* in the order of enum fl_level */

  if (level < 0 || (file && (*file == '\0' || strlen(file) >= sizeof(o->log_file))))
    return false;
  o->log_level = level;
  o->log_file[0] = '\0';
  if (file)
    memcpy(o->log_file, file, strlen(file) + 1);
  return true;
}

#define STRING(x) #x
#define EXPAND(x) STRING(x)
#define FIELD(name) offsetof(struct fl_options, name), sizeof(((struct fl_options *)0)->name)

/* clang-format off */
#define SPEC_bool(name) {parse_bool, FIELD(name), "0 or 1", false}
#define SPEC_choice(name) {parse_choice, FIELD(name), NULL, false}
#define SPEC_size(name) {parse_size, FIELD(name), "a power of two from 16K to 64M, in bytes or with K or M", false}
#define SPEC_usec(name) {parse_usec, FIELD(name), "auto, or a whole number of microseconds from 0 to 10000", false}
#define SPEC_count(name) {parse_count, FIELD(name), "a whole number from 1 to 1000000", false}
#define SPEC_messages(name) {parse_messages, FIELD(name), "auto, or a whole number from 1 to 1000000", false}
#define SPEC_path(name) {parse_path, FIELD(name), NULL, true}
#define SPEC_ports(name) \
  {parse_ports, FIELD(name), \
   "at most " EXPAND(FL_PORT_RANGES) " ports (1 to 65535) or ranges, comma-separated, each with '!' in front to deny", \
   false}
#define SPEC_log(name) \
  {parse_log, FIELD(name##_file), \
   "none, error, warn, info or debug, perhaps followed by ':' and a file name of at most 255 bytes", true}
/* clang-format on */

static const struct spec specs[] = {
#define FL_OPT(name, type, preset, values, help) SPEC_##type(name),
#include "options.def"
#undef FL_OPT
};

/* ---- what options.h offers ---- */

/* A value comes from the user, and a message is one line of a log: nothing but printable ASCII goes through. */
static void make_printable(char *s) {
  for (; *s != '\0'; s++)
    if (*s < ' ' || *s > '~')
      *s = '?';
}

static void explain(unsigned i, const char *text, char *err, size_t errsize) {
  const struct fl_option *opt = &fl_option_table[i];
  const struct spec *spec = &specs[i];
  const char *dots = strlen(text) > SHOWN_VALUE ? "..." : "";

  if (errsize == 0)
    return;
  if (spec->allowed)
    snprintf(err, errsize, "%s=%.*s%s: must be %s", opt->env, SHOWN_VALUE, text, dots, spec->allowed);
  else if (spec->names_file)
    snprintf(err, errsize, "%s=%.*s%s: must be a path of at most %zu bytes", opt->env, SHOWN_VALUE, text, dots,
             spec->size - 1);
  else
    snprintf(err, errsize, "%s=%.*s%s: must be one of %s", opt->env, SHOWN_VALUE, text, dots, opt->values);
  make_printable(err);
}

int fl_option_set(struct fl_options *o, unsigned i, const char *text, char *err, size_t errsize) {
  const struct fl_option *opt = &fl_option_table[i];

  if (*text == '\0')
    text = opt->preset;
  if (specs[i].parse(o, &specs[i], opt->values, text))
    return 0;
  explain(i, text, err, errsize);
  return -1;
}

/* getenv, which other libraries interpose: the first definition counts. */
static const char *env_value(const char *name) {
  size_t n = strlen(name);

  for (char **e = environ; e && *e; e++)
    if (strncmp(*e, name, n) == 0 && (*e)[n] == '=')
      return *e + n + 1;
  return NULL;
}

int fl_options_load(char *err, size_t errsize) {
  bool secure = getauxval(AT_SECURE) != 0;
  int result = 0;

  memset(&fl_options, 0, sizeof(fl_options));
  /* The rest is read after a bad value too: the log file, to which the message goes, is among it. */
  for (unsigned i = 0; i < fl_option_count; i++) {
    const char *text = secure && specs[i].names_file ? NULL : env_value(fl_option_table[i].env);

    fl_option_set(&fl_options, i, "", NULL, 0);
    if (text && fl_option_set(&fl_options, i, text, err, result == 0 ? errsize : 0) != 0)
      result = -1;
  }
  if (result != 0)
    fl_options.disable = true;
  return result;
}

bool fl_ports_allowed(const struct fl_options *o, uint16_t a, uint16_t b) {
  bool any_allow = false, allowed = false;

  for (unsigned i = 0; i < o->nports; i++) {
    const struct fl_port_range *r = &o->ports[i];
    bool hit = (a >= r->first && a <= r->last) || (b >= r->first && b <= r->last);

    if (r->deny && hit)
      return false;
    any_allow |= !r->deny;
    allowed |= !r->deny && hit;
  }
  return allowed || !any_allow;
}
