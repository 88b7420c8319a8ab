/* SPDX-License-Identifier: MIT */
/* Every type of option: what is accepted, and every way to be wrong. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdio.h>
#include <string.h>

#include "preload/options.h"

static unsigned option(const char *name) {
  for (unsigned i = 0; i < fl_option_count; i++)
    if (strcmp(fl_option_table[i].name, name) == 0)
      return i;
  cr_assert_fail("no option %s", name);
  return 0;
}

static struct fl_options o;
static char err[512];

static int set(const char *name, const char *text) {
  err[0] = '\0';
  return fl_option_set(&o, option(name), text, err, sizeof(err));
}

static void presets(void) {
  for (unsigned i = 0; i < fl_option_count; i++)
    cr_assert_eq(fl_option_set(&o, i, "", err, sizeof(err)), 0, "%s", err);
}

TestSuite(values, .init = presets);

Test(values, the_table_is_in_the_order_of_the_file_and_knows_the_variables) {
  cr_expect_str_eq(fl_option_table[0].name, "disable");
  cr_expect_str_eq(fl_option_table[0].env, "FASTLOCAL_DISABLE");
  cr_expect_str_eq(fl_option_table[option("spin_us")].env, "FASTLOCAL_SPIN_US");
  cr_expect_str_eq(fl_option_table[option("registry")].env, "FASTLOCAL_REGISTRY");
}

Test(values, an_empty_text_is_the_preset) {
  cr_assert_eq(set("ring", "1M"), 0);
  cr_assert_eq(set("disable", "1"), 0);
  cr_assert_eq(set("transport", "tcp"), 0);
  cr_assert_eq(set("stats", "/tmp/x"), 0);
  cr_assert_eq(set("log", "debug:/tmp/x"), 0);
  presets();
  cr_expect_eq(o.ring, 4u << 20);
  cr_expect_not(o.disable);
  cr_expect_eq(o.transport, FL_TRANSPORT_AUTO);
  cr_expect_str_eq(o.stats, "");
  cr_expect_str_eq(o.registry, "/run/fastlocal/registry.sock");
  cr_expect_eq(o.log_level, FL_LOG_NONE);
  cr_expect_str_eq(o.log_file, "");
  cr_expect_eq(o.spin_us, 50);
  cr_expect_not(o.spin_fixed);
  cr_expect_eq(o.tramp, FL_TRAMP_AUTO);
  cr_expect_eq(o.nports, 0);
}

Test(values, good_values) {
  cr_expect_eq(set("disable", "1"), 0);
  cr_expect(o.disable);
  cr_expect_eq(set("disable", "0"), 0);
  cr_expect_not(o.disable);

  const char *transports[] = {"auto", "shm", "unix", "tcp"};
  for (int i = 0; i < 4; i++) {
    cr_expect_eq(set("transport", transports[i]), 0);
    cr_expect_eq(o.transport, i);
  }
  const char *tramps[] = {"auto", "off", "libc", "all", "audit"};
  for (int i = 0; i < 5; i++) {
    cr_expect_eq(set("tramp", tramps[i]), 0);
    cr_expect_eq(o.tramp, i);
  }

  cr_expect_eq(set("ring", "16384"), 0);
  cr_expect_eq(o.ring, 16384);
  cr_expect_eq(set("ring", "64M"), 0);
  cr_expect_eq(o.ring, 64u << 20);
  cr_expect_eq(set("pair_after", "1"), 0);
  cr_expect_eq(o.pair_after, 1);
  cr_expect_eq(set("pair_after", "1000000"), 0);
  cr_expect_eq(o.pair_after, 1000000);
  cr_expect(o.pair_fixed);
  cr_expect_eq(set("pair_after", "auto"), 0);
  cr_expect_eq(o.pair_after, 8);
  cr_expect_not(o.pair_fixed);
  cr_expect_eq(set("spin_us", "0"), 0);
  cr_expect_eq(o.spin_us, 0);
  cr_expect_eq(set("spin_us", "10000"), 0);
  cr_expect_eq(o.spin_us, 10000);
  cr_expect(o.spin_fixed);
  cr_expect_eq(set("spin_us", "auto"), 0);
  cr_expect_eq(o.spin_us, 50);
  cr_expect_not(o.spin_fixed, "an adapting spin replaces a fixed one");

  cr_expect_eq(set("log", "info"), 0);
  cr_expect_eq(o.log_level, FL_LOG_INFO);
  cr_expect_eq(set("log", "debug:/tmp/a:b.%p"), 0);
  cr_expect_eq(o.log_level, FL_LOG_DEBUG);
  cr_expect_str_eq(o.log_file, "/tmp/a:b.%p");
  cr_expect_eq(set("log", "error"), 0);
  cr_expect_str_eq(o.log_file, "", "a level alone is standard error again");
}

Test(values, ports_are_ports_ranges_and_denials) {
  cr_assert_eq(set("ports", "6379,8000-8099,!8080"), 0);
  cr_assert_eq(o.nports, 3);
  cr_expect_eq(o.ports[0].first, 6379);
  cr_expect_eq(o.ports[0].last, 6379);
  cr_expect_not(o.ports[0].deny);
  cr_expect_eq(o.ports[1].first, 8000);
  cr_expect_eq(o.ports[1].last, 8099);
  cr_expect(o.ports[2].deny);
}

Test(values, a_list_of_ports_may_have_as_many_elements_as_there_is_room_for) {
  char list[512] = "";

  for (int i = 0; i < FL_PORT_RANGES; i++)
    snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%d", i ? "," : "", i + 1);
  cr_expect_eq(set("ports", list), 0, "%s", err);
  cr_expect_eq(o.nports, FL_PORT_RANGES);
  snprintf(list + strlen(list), sizeof(list) - strlen(list), ",99");
  cr_expect_eq(set("ports", list), -1);
}

Test(values, paths_up_to_the_size_of_the_field) {
  char path[300];

  memset(path, 'x', sizeof(path));
  path[107] = '\0';
  cr_expect_eq(set("registry", path), 0);
  cr_expect_str_eq(o.registry, path);
  path[107] = 'x';
  path[108] = '\0';
  cr_expect_eq(set("registry", path), -1);
  cr_expect_not_null(strstr(err, "at most 107 bytes"), "%s", err);
  path[108] = 'x';
  path[255] = '\0';
  cr_expect_eq(set("stats", path), 0);
  path[255] = 'x';
  path[256] = '\0';
  cr_expect_eq(set("stats", path), -1);
}

struct bad {
  char name[16], text[48], allowed[48]; /* no pointers: criterion copies parameters between processes */
};

ParameterizedTestParameters(values, bad_values) {
  static struct bad bad[] = {
      {"disable", "2", "0 or 1"},
      {"disable", "yes", "0 or 1"},
      {"disable", "1 ", "0 or 1"},
      {"disable", "0|1", "0 or 1"},
      {"transport", "pigeon", "auto|shm|unix|tcp"},
      {"transport", "AUTO", "auto|shm|unix|tcp"},
      {"transport", "au", "auto|shm|unix|tcp"},
      {"transport", "autox", "auto|shm|unix|tcp"},
      {"transport", "auto|shm", "auto|shm|unix|tcp"},
      {"transport", "|", "auto|shm|unix|tcp"},
      {"tramp", "on", "auto|off|libc|all|audit"},
      {"ring", "0", "16K to 64M"},
      {"ring", "8K", "16K to 64M"},
      {"ring", "128M", "16K to 64M"},
      {"ring", "100K", "power of two"},
      {"ring", "256KB", "K or M"},
      {"ring", "256k", "K or M"},
      {"ring", "K", "power of two"},
      {"ring", "-256K", "power of two"},
      {"ring", "+256K", "power of two"},
      {"ring", " 256K", "power of two"},
      {"ring", "0x40000", "power of two"},
      {"ring", "4294967296", "power of two"},
      {"ring", "18446744073709568000", "power of two"}, /* 2^64 + 16K */
      {"ring", "4194304K", "power of two"},             /* 2^32 */
      {"ring", "4294967295M", "power of two"},
      {"pair_after", "0", "1 to 1000000"},
      {"pair_after", "1000001", "1 to 1000000"},
      {"pair_after", "8 ", "1 to 1000000"},
      {"spin_us", "10001", "0 to 10000"},
      {"spin_us", "-1", "0 to 10000"},
      {"spin_us", "Auto", "auto, or"},
      {"spin_us", "50us", "0 to 10000"},
      {"spin_us", "1.5", "0 to 10000"},
      {"spin_us", "4294967297", "0 to 10000"},
      {"spin_us", "18446744073709551617", "0 to 10000"},
      {"ports", "0", "1 to 65535"},
      {"ports", "65536", "1 to 65535"},
      {"ports", "http", "1 to 65535"},
      {"ports", "90-80", "1 to 65535"},
      {"ports", "80-", "1 to 65535"},
      {"ports", "-80", "1 to 65535"},
      {"ports", "1-2-3", "1 to 65535"},
      {"ports", "80,", "1 to 65535"},
      {"ports", ",80", "1 to 65535"},
      {"ports", "80,,81", "1 to 65535"},
      {"ports", "80 81", "1 to 65535"},
      {"ports", "80, 81", "1 to 65535"},
      {"ports", "!", "1 to 65535"},
      {"ports", "!!80", "1 to 65535"},
      {"ports", "4294967376", "1 to 65535"}, /* 2^32 + 80 */
      {"log", "loud", "none, error, warn, info or debug"},
      {"log", "5", "none, error, warn, info or debug"},
      {"log", "debug:", "file name"},
      {"log", ":/tmp/x", "none, error, warn, info or debug"},
      {"log", "debug /tmp/x", "none, error, warn, info or debug"},
  };
  return cr_make_param_array(struct bad, bad, sizeof(bad) / sizeof(bad[0]));
}

/* The message names variable, value and what is allowed; the option keeps its value. */
ParameterizedTest(struct bad *p, values, bad_values, .init = presets) {
  struct fl_options before = o;
  char start[128];

  cr_expect_eq(set(p->name, p->text), -1, "%s=%s is accepted", p->name, p->text);
  snprintf(start, sizeof(start), "%s=%s: must be ", fl_option_table[option(p->name)].env, p->text);
  cr_expect_eq(strncmp(err, start, strlen(start)), 0, "%s", err);
  cr_expect_not_null(strstr(err, p->allowed), "%s", err);
  cr_expect_arr_eq(&o, &before, sizeof(o));
}

Test(values, a_message_is_one_printable_line_of_bounded_length) {
  char huge[5000];

  cr_expect_eq(set("transport", "a\nb\033[2J\xff"), -1);
  cr_expect_not_null(strstr(err, "FASTLOCAL_TRANSPORT=a?b?[2J?: must"), "%s", err);
  memset(huge, 'x', sizeof(huge) - 1);
  huge[sizeof(huge) - 1] = '\0';
  cr_expect_eq(set("stats", huge), -1);
  cr_expect_lt(strlen(err), 256);
  cr_expect_not_null(strstr(err, "xxx...: must"), "%s", err);
  cr_expect_eq(set("log", huge), -1);
}

Test(values, a_small_or_absent_message_buffer_is_respected) {
  char tiny[8] = "1234567";

  cr_expect_eq(fl_option_set(&o, option("ring"), "x", NULL, 0), -1);
  cr_expect_eq(fl_option_set(&o, option("ring"), "x", tiny, 4), -1);
  cr_expect_str_eq(tiny, "FAS");
  cr_expect_str_eq(tiny + 4, "567");
}
