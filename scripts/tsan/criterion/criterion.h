/* SPDX-License-Identifier: MIT */
/*
 * scripts/tsan/criterion/criterion.h - the part of Criterion that our tests use, for builds with ThreadSanitizer: the
 * arena of the real one wants addresses that the sanitizer has taken. scripts/test puts this folder in front of the
 * system's include files for that build only.
 *
 * As with Criterion each test runs in a process of its own, one after another, and the last line of output tells how
 * many passed. Arguments are ignored. Define every test file's tests in one or several source files; the runner is in
 * each and linked once.
 */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct criterion_test_params {
  size_t size;
  void *params;
  size_t length;
  void (*cleanup)(struct criterion_test_params *);
};

struct tsan_options {
  void (*init)(void), (*fini)(void);
  double timeout;
  int signal, exit_code;
  bool disabled;
  const char *description;
};

struct tsan_test {
  const char *suite, *name; /* name is NULL for a suite */
  void (*run)(void *param);
  struct criterion_test_params (*params)(void); /* NULL: run once, with NULL */
  struct tsan_options options;
  struct tsan_test *next;
};

#define TSAN_SKIPPED 77

extern struct tsan_test *tsan_tests; /* in reverse order */
extern int tsan_failures;            /* of this process */
void tsan_add(struct tsan_test *t);
void tsan_stop(int status) __attribute__((noreturn));
int main(int argc, char **argv);

__attribute__((weak)) struct tsan_test *tsan_tests;
__attribute__((weak)) int tsan_failures;

__attribute__((weak)) void tsan_add(struct tsan_test *t) {
  t->next = tsan_tests;
  tsan_tests = t;
}

__attribute__((weak)) void tsan_stop(int status) {
  fflush(NULL);
  _exit(status);
}

/* In a child: the fixture of the suite, then the test's own, then the test. */
__attribute__((weak)) void tsan_child(const struct tsan_test *suite, const struct tsan_test *t, void *param);
__attribute__((weak)) void tsan_child(const struct tsan_test *suite, const struct tsan_test *t, void *param) {
  double timeout = t->options.timeout > 0 ? t->options.timeout : suite ? suite->options.timeout : 0;

  if (timeout > 0)
    alarm((unsigned)(timeout * 10) + 1); /* the sanitizer is slow */
  if (suite && suite->options.init)
    suite->options.init();
  if (t->options.init)
    t->options.init();
  t->run(param);
  if (t->options.fini)
    t->options.fini();
  if (suite && suite->options.fini)
    suite->options.fini();
  tsan_stop(tsan_failures ? 1 : 0);
}

/* True if it ended as it should. */
__attribute__((weak)) bool tsan_once(const struct tsan_test *suite, const struct tsan_test *t, void *param,
                                     bool *skipped);
__attribute__((weak)) bool tsan_once(const struct tsan_test *suite, const struct tsan_test *t, void *param,
                                     bool *skipped) {
  int status, code, sig;

  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0)
    tsan_child(suite, t, param);
  if (pid < 0 || waitpid(pid, &status, 0) != pid)
    abort();
  code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  sig = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  if ((*skipped = code == TSAN_SKIPPED))
    return true;
  if (t->options.signal ? sig == t->options.signal : code == t->options.exit_code)
    return true;
  fprintf(stderr, "[FAIL] %s::%s: %s %d\n", t->suite, t->name, sig ? "signal" : "status", sig ? sig : code);
  return false;
}

__attribute__((weak)) int main(int argc, char **argv) {
  unsigned tested = 0, passed = 0, skips = 0;

  for (struct tsan_test *t = tsan_tests; t; t = t->next) {
    struct criterion_test_params params = {.length = 1};
    const struct tsan_test *suite = tsan_tests;
    bool ok = true, skipped = false;

    if (!t->name || t->options.disabled)
      continue;
    while (suite && (suite->name || strcmp(suite->suite, t->suite) != 0))
      suite = suite->next;
    if (t->params)
      params = t->params();
    for (size_t i = 0; i < params.length; i++)
      ok &= tsan_once(suite, t, params.params ? (char *)params.params + i * params.size : NULL, &skipped);
    skips += skipped;
    tested += !skipped;
    passed += ok && !skipped;
  }
  fprintf(stderr, "[====] Synthesis: Tested: %u | Passing: %u | Failing: %u | Crashing: 0 (skipped: %u)\n", tested,
          passed, tested - passed, skips);
  return tested == passed ? 0 : 1;
}

#define TSAN_REGISTER(s, n, string, function, list, ...) \
  __attribute__((constructor)) static void tsan_register_##s##_##n(void) { \
    static struct tsan_test t = { \
        .suite = #s, .name = string, .run = function, .params = list, .options = {__VA_ARGS__}}; \
    tsan_add(&t); \
  }

#define TestSuite(s, ...) TSAN_REGISTER(s, , NULL, NULL, NULL, __VA_ARGS__) _Static_assert(1, "")

#define Test(s, n, ...) \
  static void tsan_body_##s##_##n(void); \
  static void tsan_run_##s##_##n(void *param) { tsan_body_##s##_##n(); } \
  TSAN_REGISTER(s, n, #n, tsan_run_##s##_##n, NULL, __VA_ARGS__) \
  static void tsan_body_##s##_##n(void)

/* ---- assertions: cr_assert ends the test, cr_expect lets it go on; both take a printf format and its arguments ----
 */

#define TSAN_FAILED(fatal, what, ...) \
  do { \
    fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, what); \
    fprintf(stderr, " " __VA_ARGS__); \
    fputc('\n', stderr); \
    __atomic_store_n(&tsan_failures, 1, __ATOMIC_RELAXED); \
    if (fatal) \
      tsan_stop(1); \
  } while (0)
#define TSAN_CHECK(fatal, good, what, ...) \
  do { \
    if (!(good)) \
      TSAN_FAILED(fatal, what, __VA_ARGS__); \
  } while (0)

#define cr_fatal(...) TSAN_FAILED(1, "failed", __VA_ARGS__)
#define cr_assert_fail(...) TSAN_FAILED(1, "failed", __VA_ARGS__)
#define cr_expect_fail(...) TSAN_FAILED(0, "failed", __VA_ARGS__)
#define cr_skip_test(...) \
  do { \
    fprintf(stderr, " " __VA_ARGS__); \
    tsan_stop(TSAN_SKIPPED); \
  } while (0)
#define cr_skip(...) cr_skip_test(__VA_ARGS__)
#define cr_log_info(...) ((void)0)

#define cr_assert(c, ...) TSAN_CHECK(1, c, #c, __VA_ARGS__)
#define cr_expect(c, ...) TSAN_CHECK(0, c, #c, __VA_ARGS__)
#define cr_assert_not(c, ...) TSAN_CHECK(1, !(c), "not " #c, __VA_ARGS__)
#define cr_expect_not(c, ...) TSAN_CHECK(0, !(c), "not " #c, __VA_ARGS__)
#define cr_assert_null(c, ...) TSAN_CHECK(1, !(c), #c " is null", __VA_ARGS__)
#define cr_expect_null(c, ...) TSAN_CHECK(0, !(c), #c " is null", __VA_ARGS__)
#define cr_assert_not_null(c, ...) TSAN_CHECK(1, c, #c " is not null", __VA_ARGS__)
#define cr_expect_not_null(c, ...) TSAN_CHECK(0, c, #c " is not null", __VA_ARGS__)
#define cr_assert_eq(a, b, ...) TSAN_CHECK(1, (a) == (b), #a " == " #b, __VA_ARGS__)
#define cr_expect_eq(a, b, ...) TSAN_CHECK(0, (a) == (b), #a " == " #b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...) TSAN_CHECK(1, (a) != (b), #a " != " #b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...) TSAN_CHECK(0, (a) != (b), #a " != " #b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...) TSAN_CHECK(1, (a) < (b), #a " < " #b, __VA_ARGS__)
#define cr_expect_lt(a, b, ...) TSAN_CHECK(0, (a) < (b), #a " < " #b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...) TSAN_CHECK(1, (a) <= (b), #a " <= " #b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...) TSAN_CHECK(0, (a) <= (b), #a " <= " #b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...) TSAN_CHECK(1, (a) > (b), #a " > " #b, __VA_ARGS__)
#define cr_expect_gt(a, b, ...) TSAN_CHECK(0, (a) > (b), #a " > " #b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...) TSAN_CHECK(1, (a) >= (b), #a " >= " #b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...) TSAN_CHECK(0, (a) >= (b), #a " >= " #b, __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...) TSAN_CHECK(1, strcmp(a, b) == 0, #a " is " #b, __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...) TSAN_CHECK(0, strcmp(a, b) == 0, #a " is " #b, __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...) TSAN_CHECK(1, strcmp(a, b) != 0, #a " is not " #b, __VA_ARGS__)
#define cr_expect_str_neq(a, b, ...) TSAN_CHECK(0, strcmp(a, b) != 0, #a " is not " #b, __VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...) TSAN_CHECK(1, memcmp(a, b, n) == 0, #a " equals " #b, __VA_ARGS__)
#define cr_expect_arr_eq(a, b, n, ...) TSAN_CHECK(0, memcmp(a, b, n) == 0, #a " equals " #b, __VA_ARGS__)
