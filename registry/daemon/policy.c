/* SPDX-License-Identifier: MIT */
/* registry/daemon/policy.c - see policy.h. */
#include "policy.h"

#include <fnmatch.h>
#include <libconfig.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "preload/options.h"

struct rule {
  bool allow, same_user, same_cgroup, ports_given;
  uid_t *users; /* both ends; NULL: any */
  unsigned nusers;
  char **cgroups; /* patterns, both ends; NULL: any */
  unsigned ncgroups;
  struct fl_options ports; /* only its list of ports is used */
};

struct policy {
  struct limits limits;
  struct rule *rules; /* the first that fits decides */
  unsigned nrules;
  bool compares;
};

static const struct limits preset = {
    .clients = 4096, .waiting = 8192, .pairs = 16384, .memory = 16ull << 30, .rate = 20000};

/* Where a reader is, and what it found wrong first. */
struct reader {
  const char *path;
  char *err;
  unsigned errsize;
  bool failed;
};

static void complain(struct reader *r, unsigned line, const char *format, ...) {
  va_list args;
  int n;

  if (r->failed)
    return;
  r->failed = true;
  n = snprintf(r->err, r->errsize, "%s:%u: ", r->path, line);
  va_start(args, format);
  if (n > 0 && (unsigned)n < r->errsize)
    vsnprintf(r->err + n, r->errsize - (unsigned)n, format, args);
  va_end(args);
}

static void wrong(struct reader *r, const config_setting_t *s, const char *must) {
  complain(r, config_setting_source_line(s), "%s must be %s", config_setting_name(s) ? config_setting_name(s) : "this",
           must);
}

static void *must(void *p) {
  if (!p) {
    fputs("fastlocald: out of memory\n", stderr);
    exit(EXIT_FAILURE);
  }
  return p;
}

/* ---- values ---- */

static uint64_t whole_number(struct reader *r, const config_setting_t *s, uint64_t max) {
  int type = config_setting_type(s);
  long long n = type == CONFIG_TYPE_INT || type == CONFIG_TYPE_INT64 ? config_setting_get_int64(s) : -1;

  if (n < 1 || (uint64_t)n > max)
    complain(r, config_setting_source_line(s), "%s must be a whole number from 1 to %llu", config_setting_name(s),
             (unsigned long long)max);
  return (uint64_t)n;
}

static uid_t user(struct reader *r, const config_setting_t *s) {
  const char *name = config_setting_get_string(s);
  const struct passwd *pw;

  if (config_setting_type(s) == CONFIG_TYPE_INT && config_setting_get_int(s) >= 0)
    return (uid_t)config_setting_get_int(s);
  pw = name ? getpwnam(name) : NULL;
  if (!pw) {
    complain(r, config_setting_source_line(s), "users must be names that this system knows, or numbers");
    return 0;
  }
  return pw->pw_uid;
}

static bool is_list(struct reader *r, const config_setting_t *s) {
  if ((config_setting_is_array(s) || config_setting_is_list(s)) && config_setting_length(s) > 0)
    return true;
  wrong(r, s, "a list, [ ... ], that is not empty");
  return false;
}

static void read_users(struct reader *r, struct rule *rule, const config_setting_t *s) {
  if (!is_list(r, s))
    return;
  rule->users = must(calloc((size_t)config_setting_length(s), sizeof(rule->users[0])));
  for (int i = 0; i < config_setting_length(s); i++)
    rule->users[rule->nusers++] = user(r, config_setting_get_elem(s, (unsigned)i));
}

static void read_cgroups(struct reader *r, struct rule *rule, const config_setting_t *s) {
  if (!is_list(r, s))
    return;
  rule->cgroups = must(calloc((size_t)config_setting_length(s), sizeof(rule->cgroups[0])));
  for (int i = 0; i < config_setting_length(s); i++) {
    const char *pattern = config_setting_get_string_elem(s, i);
    if (!pattern || pattern[0] != '/') {
      wrong(r, s, "paths below the cgroup root, with * and ? as in file names");
      return;
    }
    rule->cgroups[rule->ncgroups++] = must(strdup(pattern));
  }
}

static void read_ports(struct reader *r, struct rule *rule, const config_setting_t *s) {
  const char *text = config_setting_get_string(s);
  char why[256] = "";

  rule->ports_given = true;
  for (unsigned i = 0; i < fl_option_count; i++)
    if (strcmp(fl_option_table[i].name, "ports") == 0 && text && *text &&
        fl_option_set(&rule->ports, i, text, why, sizeof(why)) == 0)
      return;
  wrong(r, s, "a text like \"6379,8000-8099,!8080\", as FASTLOCAL_PORTS");
}

static void read_same(struct reader *r, struct rule *rule, const config_setting_t *s) {
  const char *what = config_setting_get_string(s);

  rule->same_user = what && strcmp(what, "user") == 0;
  rule->same_cgroup = what && strcmp(what, "cgroup") == 0;
  if (!rule->same_user && !rule->same_cgroup)
    wrong(r, s, "\"user\" or \"cgroup\"");
}

static void read_action(struct reader *r, struct rule *rule, const config_setting_t *s) {
  const char *what = config_setting_get_string(s);

  rule->allow = what && strcmp(what, "allow") == 0;
  if (!rule->allow && (!what || strcmp(what, "deny") != 0))
    wrong(r, s, "\"allow\" or \"deny\"");
}

/* ---- groups of values ---- */

static void read_rule(struct reader *r, struct rule *rule, const config_setting_t *s) {
  static const struct {
    const char *name;
    void (*read)(struct reader *r, struct rule *rule, const config_setting_t *s);
  } settings[] = {{"action", read_action},
                  {"users", read_users},
                  {"cgroups", read_cgroups},
                  {"ports", read_ports},
                  {"same", read_same}};
  const size_t count = sizeof(settings) / sizeof(settings[0]);

  if (!config_setting_is_group(s)) {
    wrong(r, s, "a rule, { action = ...; }");
    return;
  }
  if (!config_setting_get_member(s, "action"))
    complain(r, config_setting_source_line(s), "a rule needs an action");
  for (int i = 0; i < config_setting_length(s); i++) {
    const config_setting_t *member = config_setting_get_elem(s, (unsigned)i);
    size_t k = 0;
    while (k < count && strcmp(config_setting_name(member), settings[k].name) != 0)
      k++;
    if (k == count)
      complain(r, config_setting_source_line(member), "a rule has no %s", config_setting_name(member));
    else
      settings[k].read(r, rule, member);
  }
}

static void read_rules(struct reader *r, struct policy *p, const config_setting_t *s) {
  if (!config_setting_is_list(s)) {
    wrong(r, s, "a list of rules, ( { ... }, ... )");
    return;
  }
  free(p->rules); /* the preset one, which holds nothing */
  p->nrules = 0;
  p->rules = must(calloc((size_t)config_setting_length(s) + 1, sizeof(p->rules[0])));
  for (int i = 0; i < config_setting_length(s); i++)
    read_rule(r, &p->rules[p->nrules++], config_setting_get_elem(s, (unsigned)i));
}

static void read_limits(struct reader *r, struct policy *p, const config_setting_t *s) {
  if (!config_setting_is_group(s)) {
    wrong(r, s, "a group, { name = number; ... }");
    return;
  }
  for (int i = 0; i < config_setting_length(s); i++) {
    const config_setting_t *m = config_setting_get_elem(s, (unsigned)i);
    const char *name = config_setting_name(m);

    if (strcmp(name, "clients") == 0)
      p->limits.clients = (uint32_t)whole_number(r, m, 1000000);
    else if (strcmp(name, "waiting") == 0)
      p->limits.waiting = (uint32_t)whole_number(r, m, 1000000);
    else if (strcmp(name, "pairs") == 0)
      p->limits.pairs = (uint32_t)whole_number(r, m, 1000000);
    else if (strcmp(name, "memory_mb") == 0)
      p->limits.memory = whole_number(r, m, 1u << 30) << 20;
    else if (strcmp(name, "messages_per_second") == 0)
      p->limits.rate = (uint32_t)whole_number(r, m, 1000000);
    else
      complain(r, config_setting_source_line(m), "there is no limit %s", name);
  }
}

static void read_without_proof(struct reader *r, struct policy *p, const config_setting_t *s) {
  const char *what = config_setting_get_string(s);

  p->compares = what && strcmp(what, "compare") == 0;
  if (!p->compares && (!what || strcmp(what, "refuse") != 0))
    wrong(r, s, "\"refuse\" or \"compare\"");
}

static void read_all(struct reader *r, struct policy *p, const config_setting_t *root) {
  for (int i = 0; i < config_setting_length(root); i++) {
    const config_setting_t *s = config_setting_get_elem(root, (unsigned)i);

    if (strcmp(config_setting_name(s), "rules") == 0)
      read_rules(r, p, s);
    else if (strcmp(config_setting_name(s), "limits") == 0)
      read_limits(r, p, s);
    else if (strcmp(config_setting_name(s), "without_proof") == 0)
      read_without_proof(r, p, s);
    else
      complain(r, config_setting_source_line(s), "there is no setting %s", config_setting_name(s));
  }
}

/* ---- what policy.h offers ---- */

struct policy *policy_default(void) {
  struct policy *p = must(calloc(1, sizeof(*p)));

  p->limits = preset;
  p->rules = must(calloc(1, sizeof(p->rules[0])));
  p->rules[p->nrules++] = (struct rule){.allow = true, .same_user = true};
  return p;
}

struct policy *policy_load(const char *path, char *err, unsigned errsize) {
  struct reader r = {.path = path, .err = err, .errsize = errsize};
  struct policy *p = policy_default();
  config_t config;

  config_init(&config);
  if (!config_read_file(&config, path))
    complain(&r, (unsigned)config_error_line(&config), "%s",
             config_error_text(&config) ? config_error_text(&config) : "cannot be read");
  else
    read_all(&r, p, config_root_setting(&config));
  config_destroy(&config);
  if (!r.failed)
    return p;
  policy_free(p);
  return NULL;
}

void policy_free(struct policy *p) {
  for (unsigned i = 0; i < p->nrules; i++) {
    for (unsigned k = 0; k < p->rules[i].ncgroups; k++)
      free(p->rules[i].cgroups[k]);
    free(p->rules[i].cgroups);
    free(p->rules[i].users);
  }
  free(p->rules);
  free(p);
}

bool policy_compares(const struct policy *p) { return p->compares; }

const struct limits *policy_limits(const struct policy *p) { return &p->limits; }

static bool user_listed(const struct rule *rule, const struct identity *who) {
  if (!rule->users)
    return true;
  for (unsigned i = 0; who->uid_known && i < rule->nusers; i++)
    if (rule->users[i] == who->uid)
      return true;
  return false;
}

static bool cgroup_listed(const struct rule *rule, const struct identity *who) {
  if (!rule->cgroups)
    return true;
  for (unsigned i = 0; who->cgroup && i < rule->ncgroups; i++)
    if (fnmatch(rule->cgroups[i], who->cgroup, 0) == 0)
      return true;
  return false;
}

/* Does the rule speak of these two? A deny rule must not be escaped by what could not be found out, so there one end is
 * enough. */
static bool fits(const struct rule *rule, const struct party *a, const struct party *b) {
  bool users_a = user_listed(rule, a->who), users_b = user_listed(rule, b->who);
  bool cgroups_a = cgroup_listed(rule, a->who), cgroups_b = cgroup_listed(rule, b->who);

  if (rule->ports_given && !fl_ports_allowed(&rule->ports, a->local_port, a->remote_port) &&
      !fl_ports_allowed(&rule->ports, b->local_port, b->remote_port))
    return false;
  if (rule->same_user && (a->who->uid != b->who->uid || !a->who->uid_known || !b->who->uid_known))
    return false;
  if (rule->same_cgroup && (!a->who->cgroup || !b->who->cgroup || strcmp(a->who->cgroup, b->who->cgroup) != 0))
    return false;
  return rule->allow ? users_a && users_b && cgroups_a && cgroups_b : (users_a && cgroups_a) || (users_b && cgroups_b);
}

bool policy_allows(const struct policy *p, const struct party *a, const struct party *b) {
  for (unsigned i = 0; i < p->nrules; i++)
    if (fits(&p->rules[i], a, b))
      return p->rules[i].allow;
  return false;
}
