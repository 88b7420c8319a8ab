/* SPDX-License-Identifier: MIT */
/* What the library writes: log lines and the statistics of a process. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "preload/conn.h"
#include "preload/log.h"
#include "preload/stats.h"

/* ---- in place of conn.c: at most one live connection ---- */

static struct fl_conn *live;
static bool only_holder = true;
static bool vfork_child;

static int32_t wiped; /* always: whoever asks for the pid gets the true one */
struct fl_self fl_self = {.wiped = &wiped};
void fl_self_forked(void) { fl_self.pid = getpid(); }
bool fl_in_vfork_child(void) { return vfork_child; }
bool fl_conn_holders_purge(struct fl_conn *c) { return only_holder; }
void fl_conn_each(void (*f)(struct fl_conn *c, struct fl_local *l, void *arg), void *arg) {
  if (live)
    f(live, NULL, arg);
}

/* ---- files ---- */

static char folder[64], file[128], text[4096];

static void make_folder(void) {
  strcpy(folder, "/tmp/fastlocal-test-XXXXXX");
  cr_assert_not_null(mkdtemp(folder));
  snprintf(file, sizeof(file), "%s/out", folder);
}

static void remove_folder(void) {
  char command[128];

  snprintf(command, sizeof(command), "rm -r '%s'", folder);
  cr_expect_eq(system(command), 0);
}

/* The file's contents, "" if there is none. */
static const char *contents(const char *path) {
  int fd = open(path, O_RDONLY);
  ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);

  if (fd >= 0)
    close(fd);
  cr_assert_geq(n, 0);
  text[n] = '\0';
  return text;
}

static unsigned lines(const char *s) {
  unsigned n = 0;

  for (; *s; s++)
    n += *s == '\n';
  return n;
}

/* ---- the log ---- */

static void log_to_file(void) {
  make_folder();
  fl_options.log_level = FL_LOG_INFO;
  snprintf(fl_options.log_file, sizeof(fl_options.log_file), "%s", file);
}

TestSuite(log, .init = log_to_file, .fini = remove_folder);

Test(log, a_line_has_time_program_pid_and_level) {
  int year, month, day, hour, minute, second, ms, pid, end = 0;
  char program[64], level[16];
  fl_log(FL_LOG_WARN, "%d bottles", 3);
  cr_assert_eq(sscanf(contents(file), "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ %63[^[][%d] fastlocal %15[a-z]: 3 bottles\n%n",
                      &year, &month, &day, &hour, &minute, &second, &ms, program, &pid, level, &end),
               10, "%s", text);
  cr_expect_eq(text[end], '\0');
  cr_expect_eq(pid, getpid());
  cr_expect_str_eq(level, "warn");
  struct tm said = {.tm_year = year - 1900, .tm_mon = month - 1, .tm_mday = day};
  cr_expect_lt(labs(timegm(&said) + hour * 3600 + minute * 60 + second - time(NULL)), 5);
}

Test(log, lines_are_appended_to_a_private_file_and_no_descriptor_stays) {
  struct stat st;
  int before = dup(0);

  close(before);
  fl_log(FL_LOG_INFO, "one");
  fl_log(FL_LOG_INFO, "two");
  fl_log(FL_LOG_DEBUG, "not wanted");
  cr_expect_eq(lines(contents(file)), 2);
  cr_assert_eq(stat(file, &st), 0);
  cr_expect_eq(st.st_mode & 0777, 0600);
  int after = dup(0);
  cr_expect_eq(after, before);
  close(after);
}

Test(log, errno_survives) {
  snprintf(fl_options.log_file, sizeof(fl_options.log_file), "%s/no/such/folder", folder);
  errno = ERANGE;
  fl_log(FL_LOG_INFO, "lost");
  cr_expect_eq(errno, ERANGE);
}

Test(log, percent_p_is_the_pid) {
  char wanted[256];

  snprintf(fl_options.log_file, sizeof(fl_options.log_file), "%s/%%p.%%p%%", folder);
  snprintf(wanted, sizeof(wanted), "%s/%d.%d%%", folder, getpid(), getpid());
  fl_log(FL_LOG_INFO, "here");
  cr_expect_eq(lines(contents(wanted)), 1);
}

Test(log, a_symbolic_link_is_not_followed) {
  char target[256];

  snprintf(target, sizeof(target), "%s/target", folder);
  cr_assert_eq(symlink(target, file), 0);
  fl_log(FL_LOG_INFO, "lost");
  cr_expect_eq(access(target, F_OK), -1);
}

Test(log, a_fifo_without_a_reader_does_not_block, .timeout = 10) {
  cr_assert_eq(mkfifo(file, 0600), 0);
  fl_log(FL_LOG_INFO, "lost");
}

Test(log, long_and_odd_messages_are_still_one_line) {
  char huge[5000];

  memset(huge, 'x', sizeof(huge) - 1);
  huge[sizeof(huge) - 1] = '\0';
  fl_log(FL_LOG_INFO, "%s", huge);
  cr_expect_eq(lines(contents(file)), 1);
  cr_expect_eq(strlen(text), 1024 - 1);
  cr_assert_eq(unlink(file), 0);
  fl_log(FL_LOG_INFO, "a\nb\033c");
  cr_expect_not_null(strstr(contents(file), ": a?b?c\n"));
}

Test(log, a_bad_value_is_told_once_at_any_level) {
  fl_options.log_level = FL_LOG_NONE;
  fl_log_bad_value("FASTLOCAL_RING=3: must be 4");
  fl_log_bad_value("FASTLOCAL_RING=3: must be 4");
  cr_expect_eq(lines(contents(file)), 1);
  cr_expect_not_null(strstr(text, "FASTLOCAL_RING=3: must be 4"));
}

Test(log, without_a_file_lines_go_to_standard_error) {
  int fd = open(file, O_WRONLY | O_CREAT, 0600);

  cr_assert_eq(dup2(fd, STDERR_FILENO), STDERR_FILENO);
  fl_options.log_file[0] = '\0';
  fl_log(FL_LOG_INFO, "here");
  cr_expect_eq(lines(contents(file)), 1);
}

Test(log, a_broken_pipe_at_standard_error_does_not_kill) {
  int fds[2];
  sigset_t pending;

  cr_assert_eq(pipe(fds), 0);
  close(fds[0]);
  cr_assert_eq(dup2(fds[1], STDERR_FILENO), STDERR_FILENO);
  fl_options.log_file[0] = '\0';
  signal(SIGPIPE, SIG_DFL);
  fl_log(FL_LOG_INFO, "lost");
  cr_assert_eq(sigpending(&pending), 0);
  cr_expect_not(sigismember(&pending, SIGPIPE));
}

Test(log, a_connection_at_descriptor_2_gets_no_log_line) {
  int s = socket(AF_INET, SOCK_DGRAM, 0);
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof(a);
  char byte;

  cr_assert_eq(bind(s, (struct sockaddr *)&a, len), 0);
  cr_assert_eq(getsockname(s, (struct sockaddr *)&a, &len), 0);
  cr_assert_eq(connect(s, (struct sockaddr *)&a, len), 0); /* to itself */
  int saved = dup(STDERR_FILENO);
  dup2(s, STDERR_FILENO);
  fl_options.log_file[0] = '\0';
  fl_log(FL_LOG_ERROR, "lost");
  dup2(saved, STDERR_FILENO);
  cr_expect_eq(recv(s, &byte, 1, MSG_DONTWAIT), -1);
}

/* ---- statistics ---- */

static void stats_to_file(void) {
  make_folder();
  snprintf(fl_options.stats, sizeof(fl_options.stats), "%s", file);
}

/* A connection with n bytes in n/10 messages on the sending ring, and so on by lane. */
static struct fl_conn *conn(uint64_t tx_ring, uint64_t tx_kernel, uint64_t rx_ring, uint64_t rx_kernel) {
  struct fl_conn *c = aligned_alloc(_Alignof(struct fl_conn), sizeof(*c));

  memset(c, 0, sizeof(*c));
  c->tx_ring.bytes = tx_ring;
  c->tx_ring.messages = tx_ring / 10;
  c->tx_kernel.bytes = tx_kernel;
  c->rx_ring.bytes = rx_ring;
  c->rx_kernel.bytes = rx_kernel;
  c->rx_kernel.messages = rx_kernel / 10;
  return c;
}

static json_t *written(void) {
  json_error_t e;
  json_t *j = json_loads(contents(file), 0, &e);

  cr_assert_not_null(j, "%s in '%s'", e.text, text);
  cr_assert_eq(lines(text), 1);
  return j;
}

static json_int_t number(const json_t *j, const char *dir, const char *lane, const char *what) {
  return json_integer_value(json_object_get(json_object_get(json_object_get(j, dir), lane), what));
}

TestSuite(stats, .init = stats_to_file, .fini = remove_folder);

Test(stats, closed_and_live_connections_are_added_up) {
  fl_stats_conn_opened();
  fl_stats_conn_opened();
  fl_stats_conn_paired();
  fl_stats_conn_closed(conn(100, 20, 3000, 40));
  live = conn(1, 2, 3, UINT64_C(1) << 40);
  fl_stats_write();

  json_t *j = written();
  cr_expect_eq(json_integer_value(json_object_get(j, "pid")), getpid());
  cr_expect_str_eq(json_string_value(json_object_get(j, "program")), program_invocation_short_name);
  cr_expect_eq(json_integer_value(json_object_get(j, "connections")), 2);
  cr_expect_eq(json_integer_value(json_object_get(j, "paired")), 1);
  cr_expect_eq(number(j, "tx", "ring", "bytes"), 101);
  cr_expect_eq(number(j, "tx", "ring", "messages"), 10);
  cr_expect_eq(number(j, "tx", "kernel", "bytes"), 22);
  cr_expect_eq(number(j, "tx", "unix", "bytes"), 0);
  cr_expect_eq(number(j, "rx", "ring", "bytes"), 3003);
  cr_expect_eq(number(j, "rx", "kernel", "bytes"), 40 + (INT64_C(1) << 40));
  json_decref(j);
}

Test(stats, they_are_written_once) {
  fl_stats_conn_opened();
  fl_stats_write();
  fl_stats_write();
  cr_expect_eq(lines(contents(file)), 1);
}

Test(stats, a_process_without_connections_writes_nothing) {
  fl_stats_write();
  cr_expect_eq(access(file, F_OK), -1);
}

Test(stats, without_a_file_nothing_happens) {
  fl_options.stats[0] = '\0';
  fl_stats_conn_opened();
  fl_stats_write();
  cr_expect_eq(access(file, F_OK), -1);
}

Test(stats, a_connection_that_another_process_holds_too_is_left_to_it) {
  fl_stats_conn_opened();
  live = conn(1, 2, 3, 4);
  only_holder = false;
  fl_stats_write();
  json_t *j = written();
  cr_expect_eq(json_integer_value(json_object_get(j, "connections")), 1);
  cr_expect_eq(number(j, "tx", "ring", "bytes"), 0);
  json_decref(j);
}

Test(stats, a_child_starts_at_zero_and_reports_what_it_inherited_and_was_left_with) {
  fl_stats_conn_opened();
  fl_stats_conn_closed(conn(100, 0, 0, 0));
  fl_stats_write();
  cr_assert_eq(unlink(file), 0);
  fl_stats_reset_child();
  fl_stats_write();
  cr_expect_eq(access(file, F_OK), -1);

  fl_stats_reset_child();
  live = conn(7, 0, 0, 0);
  fl_stats_write();
  json_t *j = written();
  cr_expect_eq(json_integer_value(json_object_get(j, "connections")), 0);
  cr_expect_eq(number(j, "tx", "ring", "bytes"), 7);
  json_decref(j);
}

Test(stats, a_vfork_child_leaves_its_parent_the_writing) {
  fl_stats_conn_opened();
  vfork_child = true;
  fl_stats_write();
  cr_expect_eq(access(file, F_OK), -1);
  vfork_child = false;
  fl_stats_write();
  cr_expect_eq(lines(contents(file)), 1);
}

/* ---- JSON strings ---- */

static const char *quote(const char *s) {
  static char out[64];

  cr_expect_eq(fl_stats_quote(out, sizeof(out), s), strlen(out));
  return out;
}

Test(json, plain_text_is_only_quoted) {
  cr_expect_str_eq(quote(""), "\"\"");
  cr_expect_str_eq(quote("redis-server"), "\"redis-server\"");
}

Test(json, quotes_backslashes_and_control_characters_are_escaped) {
  cr_expect_str_eq(quote("a\"b\\c"), "\"a\\\"b\\\\c\"");
  cr_expect_str_eq(quote("\n\t\x01\x7f"), "\"\\u000a\\u0009\\u0001\\u007f\"");
}

Test(json, utf8_stays_and_anything_else_is_replaced) {
  cr_expect_str_eq(quote("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"), "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"");
  cr_expect_str_eq(quote("\xff"), "\"\\ufffd\"");
  cr_expect_str_eq(quote("\xc3"), "\"\\ufffd\"", "cut short");
  cr_expect_str_eq(quote("\xc0\x80"), "\"\\ufffd\\ufffd\"", "overlong");
  cr_expect_str_eq(quote("\xed\xa0\x80"), "\"\\ufffd\\ufffd\\ufffd\"", "a surrogate");
  cr_expect_str_eq(quote("\xf4\x90\x80\x80"), "\"\\ufffd\\ufffd\\ufffd\\ufffd\"", "beyond Unicode");
}

Test(json, what_does_not_fit_is_cut_between_characters) {
  char out[8] = "#######";

  cr_expect_eq(fl_stats_quote(out, 3, "abc"), 2);
  cr_expect_str_eq(out, "\"\"");
  cr_expect_eq(fl_stats_quote(out, 5, "abc"), 4);
  cr_expect_str_eq(out, "\"ab\"");
  cr_expect_eq(fl_stats_quote(out, 5, "a\xe2\x82\xac"), 3);
  cr_expect_str_eq(out, "\"a\"");
  cr_expect_eq(fl_stats_quote(out, 7, "a\n"), 3);
  cr_expect_str_eq(out, "\"a\"");
}
