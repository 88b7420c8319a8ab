/* SPDX-License-Identifier: MIT */
/*
 * tests/shmring/check.h - Criterion, or under ThreadSanitizer the few of its macros that these tests use: Criterion's
 * arena wants an address range that the sanitizer has taken. There the tests run one after another in one process.
 */
#pragma once

#if !defined(__SANITIZE_THREAD__)
#include <criterion/criterion.h>
#else
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct check {
  const char *suite, *name;
  void (*run)(void), (*init)(void), (*fini)(void); /* run is NULL for a suite */
};
static struct check checks[64];
static unsigned check_count;

static inline void check_add(struct check c) {
  if (check_count == sizeof checks / sizeof *checks)
    abort();
  checks[check_count++] = c;
}

#define TestSuite(s, ...) \
  __attribute__((constructor)) static void check_suite_##s(void) { \
    check_add((struct check){.suite = #s, __VA_ARGS__}); \
  }
#define Test(s, n) \
  static void check_##s##_##n(void); \
  __attribute__((constructor)) static void check_add_##s##_##n(void) { \
    check_add((struct check){.suite = #s, .name = #n, .run = check_##s##_##n}); \
  } \
  static void check_##s##_##n(void)

#define cr_assert(what, ...) \
  do { \
    if (!(what)) { \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what); \
      abort(); \
    } \
  } while (0)
#define cr_assert_not(what) cr_assert(!(what))
#define cr_assert_eq(a, b, ...) cr_assert((a) == (b))

int main(void) {
  for (unsigned i = 0; i < check_count; i++) {
    const struct check *suite = NULL, *c = &checks[i];

    if (!c->run)
      continue;
    for (unsigned j = 0; j < check_count; j++)
      if (!checks[j].run && strcmp(checks[j].suite, c->suite) == 0)
        suite = &checks[j];
    fprintf(stderr, "%s::%s\n", c->suite, c->name);
    if (suite && suite->init)
      suite->init();
    c->run();
    if (suite && suite->fini)
      suite->fini();
  }
  return 0;
}
#endif
