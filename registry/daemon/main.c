/* SPDX-License-Identifier: MIT */
/* registry/daemon/main.c - fastlocald, the registry of the host: start, loop, end. */
#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "daemon.h"
#include "say.h"

#define BACKLOG 4096
#define EVENTS 64
#define POLICY_FILE "/etc/fastlocal/fastlocald.conf"

const char *argp_program_version = "fastlocald " FL_VERSION;

struct daemon d = {.epoll = -1, .listener = -1};

struct arguments {
  const char *socket, *policy, *metrics;
  bool policy_given, check;
};

uint64_t now_ns(void) {
  struct timespec t;

  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- command line ---- */

static error_t parse(int key, char *arg, struct argp_state *state) {
  struct arguments *a = state->input;

  switch (key) {
  case 's': a->socket = arg; return 0;
  case 'p':
    a->policy = arg;
    a->policy_given = true;
    return 0;
  case 'm': a->metrics = arg; return 0;
  case 'c': a->check = true; return 0;
  case ARGP_KEY_ARG: argp_usage(state); return EINVAL;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp_option options[] = {
    {"socket", 's', "PATH", 0, "Where to listen, unless systemd passes a socket [" FL_HOST_SOCKET "]", 0},
    {"policy", 'p', "FILE", 0, "Who may pair, and limits [" POLICY_FILE ", if it exists]", 0},
    {"metrics", 'm', "PATH", 0, "Give counters, as Prometheus reads them, to the user's processes that connect here",
     0},
    {"check", 'c', NULL, 0, "Check the policy file and end", 0},
    {0},
};

/* ---- policy ---- */

/* NULL: it was said why. */
static struct policy *load_policy(const struct arguments *a) {
  char err[512];
  struct policy *p;

  if (!a->policy_given && access(a->policy, F_OK) < 0 && errno == ENOENT)
    return policy_default();
  p = policy_load(a->policy, err, sizeof(err));
  if (!p)
    say(SD_ERR, "%s", err);
  return p;
}

static void reload_policy(const struct arguments *a) {
  struct policy *p = load_policy(a);

  if (!p) {
    say(SD_ERR, "the policy stays as it was");
    return;
  }
  policy_free(d.policy);
  d.policy = p;
  for (struct owner *o = d.owners; o; o = o->hh.next)
    o->warned = false;
  say(SD_NOTICE, "policy reloaded; connections that are paired stay so");
}

/* ---- listening ---- */

/* A socket that nobody listens on is a remainder of a daemon that was killed; a file of another kind is left alone. */
static bool remove_stale(const struct sockaddr_un *addr, int type) {
  int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  struct stat st;
  bool stale = fd >= 0 && lstat(addr->sun_path, &st) == 0 && S_ISSOCK(st.st_mode) &&
               connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 && errno == ECONNREFUSED;

  if (fd >= 0)
    close(fd);
  return stale && unlink(addr->sun_path) == 0;
}

static void make_parent(const char *path) {
  char dir[sizeof(((struct sockaddr_un *)0)->sun_path)];
  char *slash;

  snprintf(dir, sizeof(dir), "%s", path);
  slash = strrchr(dir, '/');
  if (!slash || slash == dir)
    return;
  *slash = '\0';
  mkdir(dir, 0755); /* where it is needed and cannot be made, bind will say so */
}

static int listen_at(const char *path, int type, mode_t mode) {
  struct sockaddr_un addr = {.sun_family = AF_UNIX};
  int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const struct sockaddr *sa = (const struct sockaddr *)&addr;

  if (strlen(path) >= sizeof(addr.sun_path) || fd < 0) {
    say(SD_ERR, "%s: %s", path, strerror(fd < 0 ? errno : ENAMETOOLONG));
    return -1;
  }
  memcpy(addr.sun_path, path, strlen(path) + 1);
  make_parent(path);
  if ((bind(fd, sa, sizeof(addr)) < 0 &&
       (errno != EADDRINUSE || !remove_stale(&addr, type) || bind(fd, sa, sizeof(addr)) < 0)) ||
      chmod(path, mode) < 0 || listen(fd, BACKLOG) < 0) {
    say(SD_ERR, "%s: %s", path, strerror(errno));
    return -1;
  }
  return fd;
}

/* The socket that systemd passed, or -1 if it passed none, or -2 and it was said why not. */
static int passed_socket(void) {
  int n = sd_listen_fds(1);

  if (n <= 0)
    return -1;
  if (n > 1 || sd_is_socket_unix(SD_LISTEN_FDS_START, SOCK_SEQPACKET, 1, NULL, 0) <= 0) {
    say(SD_ERR, "systemd must pass exactly one listening socket, with ListenSequentialPacket=");
    return -2;
  }
  fcntl(SD_LISTEN_FDS_START, F_SETFL, O_NONBLOCK);
  return SD_LISTEN_FDS_START;
}

static void more_descriptors(void) {
  struct rlimit r;

  if (getrlimit(RLIMIT_NOFILE, &r) == 0) {
    r.rlim_cur = r.rlim_max;
    setrlimit(RLIMIT_NOFILE, &r);
  }
}

/* ---- the loop ---- */

/* In the events' data, beside clients: the listener is NULL. */
static char signals_mark;

static int open_signals(void) {
  struct epoll_event e = {.events = EPOLLIN, .data.ptr = &signals_mark};
  sigset_t set;
  int fd;

  sigemptyset(&set);
  sigaddset(&set, SIGHUP);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigprocmask(SIG_BLOCK, &set, NULL);
  fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  return fd < 0 || epoll_ctl(d.epoll, EPOLL_CTL_ADD, fd, &e) < 0 ? -1 : fd;
}

/* False: the end. */
static bool take_signal(int fd, const struct arguments *a) {
  struct signalfd_siginfo info;

  while (read(fd, &info, sizeof(info)) == sizeof(info)) {
    if (info.ssi_signo != SIGHUP)
      return false;
    sd_notify(0, "RELOADING=1");
    reload_policy(a);
    sd_notify(0, "READY=1");
  }
  return true;
}

static int earlier(int a, int b) { return a < 0 ? b : b < 0 || a < b ? a : b; }

/* A client may go while others of the same batch are served, but never one that comes later in it: only its own turn
 * ends a client. */
static void run(int signals, const struct arguments *a) {
  struct epoll_event events[EVENTS];

  for (;;) {
    uint64_t now = now_ns();
    int timeout = match_expire(now);
    clients_resume(now);
    timeout = earlier(timeout, clients_timeout());
    int n = epoll_wait(d.epoll, events, EVENTS, 0);
    if (n == 0) {
      closing_guard(false);
      n = epoll_wait(d.epoll, events, EVENTS, timeout);
    }
    closing_guard(true);
    for (int i = 0; i < n; i++) {
      if (events[i].data.ptr == NULL)
        clients_accept();
      else if (events[i].data.ptr == &signals_mark) {
        if (!take_signal(signals, a))
          return;
      } else if (!metrics_ready(events[i].data.ptr))
        client_ready(events[i].data.ptr);
    }
  }
}

int main(int argc, char **argv) {
  static const struct argp argp = {
      options,
      parse,
      NULL,
      "Introduces the ends of TCP connections between containers of this host to each other, for fastlocal."
      "\vSIGHUP reads the policy file again. See docs/registry.md.",
      NULL,
      NULL,
      NULL};
  struct arguments a = {.socket = FL_HOST_SOCKET, .policy = POLICY_FILE};
  struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
  char err[256];
  int signals;

  argp_parse(&argp, argc, argv, 0, NULL, &a);
  d.policy = load_policy(&a);
  if (!d.policy)
    return EXIT_FAILURE;
  if (a.check)
    return EXIT_SUCCESS;
  if (prove_init(err, sizeof(err)) < 0) {
    d.compares = policy_compares(d.policy);
    say(d.compares ? SD_WARNING : SD_ERR, "%s", err);
    if (!d.compares) {
      say(SD_ERR, "refusing to match connections by less (without_proof in the policy)");
      return EXIT_FAILURE;
    }
  }
  more_descriptors();
  bool own = (d.listener = passed_socket()) == -1;
  if (own)
    d.listener = listen_at(a.socket, SOCK_SEQPACKET, 0666);
  if (d.listener < 0)
    return EXIT_FAILURE;
  d.epoll = epoll_create1(EPOLL_CLOEXEC);
  signals = open_signals();
  if (signals < 0 || epoll_ctl(d.epoll, EPOLL_CTL_ADD, d.listener, &e) < 0) {
    say(SD_ERR, "epoll: %s", strerror(errno));
    return EXIT_FAILURE;
  }
  d.listening = true;
  int metrics = a.metrics ? listen_at(a.metrics, SOCK_STREAM, 0600) : -1;
  if (a.metrics && (metrics < 0 || !metrics_open(metrics)))
    return EXIT_FAILURE;
  if (d.compares)
    say(SD_WARNING, "connections are matched by addresses and counts of bytes, which is no proof; behind address "
                    "translation none is");
  else
    say(SD_INFO, "connections are matched by their sequence numbers");
  sd_notify(0, "READY=1");
  run(signals, &a);
  sd_notify(0, "STOPPING=1");
  if (own)
    unlink(a.socket);
  if (a.metrics)
    unlink(a.metrics);
  clients_close_all();
  policy_free(d.policy);
  return EXIT_SUCCESS;
}
