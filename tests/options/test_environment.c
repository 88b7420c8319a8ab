/* SPDX-License-Identifier: MIT */
/* Options from the environment, and what the list of ports allows. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "preload/options.h"

static char err[512];

static void clean(void) {
  for (unsigned i = 0; i < fl_option_count; i++)
    unsetenv(fl_option_table[i].env);
}

TestSuite(environment, .init = clean);

Test(environment, without_variables_everything_is_preset) {
  cr_assert_eq(fl_options_load(err, sizeof(err)), 0);
  cr_expect_eq(fl_options.ring, 4u << 20);
  cr_expect_eq(fl_options.spin_us, 50);
  cr_expect_eq(fl_options.pair_after, 8);
  cr_expect_not(fl_options.pair_fixed);
  cr_expect_not(fl_options.spin_fixed);
  cr_expect_not(fl_options.disable);
}

Test(environment, an_empty_environment_pointer_is_no_environment) {
  environ = NULL;
  cr_assert_eq(fl_options_load(err, sizeof(err)), 0);
  cr_expect_eq(fl_options.ring, 4u << 20);
}

Test(environment, variables_are_read_and_empty_ones_are_presets) {
  setenv("FASTLOCAL_RING", "1M", 1);
  setenv("FASTLOCAL_SPIN_US", "", 1);
  setenv("FASTLOCAL_STATS", "/tmp/stats", 1);
  setenv("FASTLOCAL_SPIN", "rubbish", 1); /* the beginning of a name is another variable */
  setenv("FASTLOCAL_SPIN_US_", "rubbish", 1);
  cr_assert_eq(fl_options_load(err, sizeof(err)), 0, "%s", err);
  cr_expect_eq(fl_options.ring, 1u << 20);
  cr_expect_eq(fl_options.spin_us, 50);
  cr_expect_str_eq(fl_options.stats, "/tmp/stats");
}

Test(environment, the_first_definition_counts) {
  char *env[] = {(char *)"FASTLOCAL_RING=1M", (char *)"FASTLOCAL_RING=2M", NULL};

  environ = env;
  cr_assert_eq(fl_options_load(err, sizeof(err)), 0);
  cr_expect_eq(fl_options.ring, 1u << 20);
}

Test(environment, loading_again_forgets_what_was) {
  setenv("FASTLOCAL_PORTS", "80", 1);
  cr_assert_eq(fl_options_load(err, sizeof(err)), 0);
  clean();
  cr_assert_eq(fl_options_load(err, sizeof(err)), 0);
  cr_expect_eq(fl_options.nports, 0);
}

Test(environment, a_bad_value_disables_and_the_first_one_is_told) {
  setenv("FASTLOCAL_RING", "3", 1);
  setenv("FASTLOCAL_SPIN_US", "soon", 1); /* comes before ring in options.def */
  cr_assert_eq(fl_options_load(err, sizeof(err)), -1);
  cr_expect(fl_options.disable);
  cr_expect_not_null(strstr(err, "FASTLOCAL_SPIN_US=soon"), "%s", err);
}

Test(environment, the_log_file_is_known_after_a_bad_value_too) {
  setenv("FASTLOCAL_TRANSPORT", "pigeon", 1);
  setenv("FASTLOCAL_LOG", "error:/tmp/log", 1);
  cr_assert_eq(fl_options_load(err, sizeof(err)), -1);
  cr_expect_str_eq(fl_options.log_file, "/tmp/log");
}

/* ---- ports ---- */

static void ports(const char *list) {
  setenv("FASTLOCAL_PORTS", list, 1);
  cr_assert_eq(fl_options_load(err, sizeof(err)), 0, "%s", err);
}

Test(environment, no_list_of_ports_allows_all) {
  ports("");
  cr_expect(fl_ports_allowed(&fl_options, 1, 65535));
}

Test(environment, an_allowed_port_is_allowed_at_either_end_and_nothing_else_is) {
  ports("6379,8000-8099");
  cr_expect(fl_ports_allowed(&fl_options, 6379, 40000));
  cr_expect(fl_ports_allowed(&fl_options, 40000, 6379));
  cr_expect(fl_ports_allowed(&fl_options, 8000, 1));
  cr_expect(fl_ports_allowed(&fl_options, 1, 8099));
  cr_expect_not(fl_ports_allowed(&fl_options, 8100, 7999));
  cr_expect_not(fl_ports_allowed(&fl_options, 40000, 6380));
}

Test(environment, a_denied_port_leaves_the_others) {
  ports("!8080");
  cr_expect_not(fl_ports_allowed(&fl_options, 8080, 40000));
  cr_expect_not(fl_ports_allowed(&fl_options, 40000, 8080));
  cr_expect(fl_ports_allowed(&fl_options, 40000, 8081));
}

Test(environment, a_denial_wins_wherever_it_stands) {
  ports("8000-8099,!8080");
  cr_expect_not(fl_ports_allowed(&fl_options, 8080, 8000));
  cr_expect(fl_ports_allowed(&fl_options, 8081, 1));
  ports("!8080,8000-8099");
  cr_expect_not(fl_ports_allowed(&fl_options, 8000, 8080));
}
