/* SPDX-License-Identifier: MIT */
/* tools/doctor_system.c - the checks of `fastlocal doctor` that concern this machine: the library, what the kernel lets
 * this process do, and how much it may have. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/netlink.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "commands.h"
#include "doctor.h"
#include "inspect.h"
#include "library.h"
#include "preload/options.h"
#include "registry/embedded.h"
#include "registry/message.h"

#define FEW_DESCRIPTORS 512u        /* preload/bell.c: fewer, and no bells are made */
#define LITTLE_MEMORY (16ull << 20) /* bytes that should be free for rings */
#define LITTLE_SPACE (256ull << 20) /* bytes of address space */

void check_options(void) {
  char err[512];

  if (fl_options_load(err, sizeof(err)) != 0)
    report(BAD, "options", "%s: the library passes everything through", err);
  else if (fl_options.disable)
    report(BAD, "options", "FASTLOCAL_DISABLE is set: the library passes everything through");
  else if (fl_options.transport == FL_TRANSPORT_TCP || fl_options.transport == FL_TRANSPORT_UNIX)
    report(BAD, "options", "FASTLOCAL_TRANSPORT does not allow shared memory");
  else if (fl_options.nports > 0)
    report(WARNING, "options", "FASTLOCAL_PORTS excludes some ports");
  else
    report(FINE, "options", "nothing in the environment turns the library off");
}

/* ---- what the kernel allows ---- */

static int try_memfd(void) {
  struct fl_pairing p;
  int fd = fl_segment_create(fl_options.ring, &p);

  if (fd < 0)
    return fd;
  fl_pairing_drop(&p);
  close(fd);
  return 0;
}

static int try_unix(void) {
  struct sockaddr_un any = {.sun_family = AF_UNIX};
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), e;

  if (fd < 0)
    return -errno;
  /* an abstract name of the kernel's choice */
  e = bind(fd, (struct sockaddr *)&any, sizeof(any.sun_family)) < 0 || listen(fd, 1) < 0 ? -errno : 0;
  close(fd);
  return e;
}

/* Does the kernel say who owns the other end of a connection? */
static int try_diag(void) {
  struct fl_tuple t;
  uint64_t inode;
  int ends[2], e;
  uid_t uid;

  if (!tcp_ends(ends))
    return -errno;
  e = fl_tuple_of(ends[0], &t);
  if (e == 0)
    e = fl_peer_lookup(&t, &uid, &inode);
  close(ends[0]);
  close(ends[1]);
  return e;
}

static int try_eventfd(void) {
  int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

  if (fd < 0)
    return -errno;
  close(fd);
  return 0;
}

/* Is a filter active? */
static bool filtered(void) {
  FILE *f = fopen("/proc/self/status", "re");
  char line[256];
  int mode = 0;

  while (f && fgets(line, sizeof(line), f))
    if (sscanf(line, "Seccomp: %d", &mode) == 1)
      break;
  if (f)
    fclose(f);
  return mode == 2;
}

void check_calls(void) {
  static const struct {
    const char *what;
    int (*attempt)(void);
    enum verdict if_not;
    const char *then;
  } calls[] = {
      {"shared memory (memfd_create, seals)", try_memfd, BAD, "everything stays on TCP"},
      {"AF_UNIX sockets", try_unix, BAD, "the ends cannot find each other"},
      {"asking who owns a TCP socket (AF_NETLINK, sock_diag)", try_diag, BAD,
       "ends in this network namespace cannot find each other"},
      {"eventfd", try_eventfd, WARNING, "receivers that sleep get their bytes over TCP"},
  };
  bool all = true;

  for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
    int e = calls[i].attempt();
    if (e >= 0)
      continue;
    all = false;
    report(calls[i].if_not, "seccomp", "%s: %s. %s, so %s", calls[i].what, strerror(-e),
           e == -ENOMEM || e == -EMFILE || e == -ENFILE || e == -ENOSPC ? "A limit is reached"
           : filtered() ? "A seccomp filter is active, and probably refuses it"
                        : "A security module, the container's settings or the kernel's refuse it",
           calls[i].then);
  }
  if (all)
    report(FINE, "seccomp", "%s all that the library needs of the kernel is allowed",
           filtered() ? "a filter is active, but" : "no filter is active, and");
}

void check_identity(void) {
  int e = fl_uid_names_one(geteuid());

  if (e < 0)
    report(BAD, "identity",
           "this user namespace does not map this user (uid %u): nobody can tell it from others, and it stays on TCP",
           (unsigned)geteuid());
  else
    report(FINE, "identity", "uid %u is one user", (unsigned)geteuid());
}

/* ---- how much ---- */

/* A number of bytes in a file; false if there is none ("max"). */
static bool read_bytes(const char *path, uint64_t *out) {
  FILE *f = fopen(path, "re");
  bool ok = f && fscanf(f, "%" SCNu64, out) == 1;

  if (f)
    fclose(f);
  return ok;
}

/* How much the memory cgroup leaves; false: no limit is to be seen. In a container its own group is the root of what it
 * sees. */
static bool memory_left(uint64_t *left) {
  static const char *const pairs[][2] = {
      {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
      {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"},
  };
  uint64_t limit, used;

  for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
    if (read_bytes(pairs[i][0], &limit) && limit < UINT64_C(1) << 60 && read_bytes(pairs[i][1], &used)) {
      *left = limit > used ? limit - used : 0;
      return true;
    }
  return false;
}

void check_memory(void) {
  struct rlimit space;
  uint64_t left = 0;
  bool limited = memory_left(&left);

  if (limited && left < LITTLE_MEMORY)
    report(WARNING, "memory",
           "the container may have only %" PRIu64
           " MB more. A connection's rings take up to 512 KB as they are used; if "
           "there is no room the kernel ends a process: raise the limit, or lower FASTLOCAL_RING",
           left >> 20);
  else if (getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur < LITTLE_SPACE)
    report(WARNING, "memory",
           "this process may have %" PRIu64
           " MB of address space (ulimit -v); the library takes 40, and half of one for each "
           "connection",
           (uint64_t)space.rlim_cur >> 20);
  else if (limited)
    report(FINE, "memory", "the container may have %" PRIu64 " MB more (the size of /dev/shm does not matter)",
           left >> 20);
  else
    report(FINE, "memory", "no limit is to be seen (the size of /dev/shm does not matter)");
}

void check_descriptors(void) {
  struct rlimit r;

  if (getrlimit(RLIMIT_NOFILE, &r) < 0)
    return;
  if (r.rlim_cur < FEW_DESCRIPTORS)
    report(WARNING, "descriptors",
           "this process may have only %" PRIu64
           " (ulimit -n): the library then makes no bells, and receivers that sleep get "
           "their bytes over TCP",
           (uint64_t)r.rlim_cur);
  else
    report(FINE, "descriptors", "%" PRIu64, (uint64_t)r.rlim_cur);
}

/* ---- the library ---- */

struct child {
  pid_t pid;
  int in, out; /* its standard input and output */
};

/* This command's `probe`, with the library. What the loader says goes to `complaints`. */
static bool start(struct child *c, const char *library, const char *role, const char *port, int complaints) {
  int in[2], out[2];

  if (pipe2(in, O_CLOEXEC) < 0)
    return false;
  if (pipe2(out, O_CLOEXEC) < 0) {
    close(in[0]);
    close(in[1]);
    return false;
  }
  c->pid = fork();
  if (c->pid == 0) {
    dup2(in[0], STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    dup2(complaints, STDERR_FILENO);
    setenv("LD_PRELOAD", library, 1);
    unsetenv("FASTLOCAL_PORTS"); /* the probe's port is any; the others have been looked at */
    unsetenv("FASTLOCAL_STATS");
    execl("/proc/self/exe", "fastlocal", "probe", role, port, (char *)NULL);
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  c->in = in[1];
  c->out = out[0];
  return c->pid > 0;
}

static void end(struct child *c) {
  close(c->in);
  close(c->out);
  if (c->pid <= 0)
    return;
  kill(c->pid, SIGKILL);
  waitpid(c->pid, NULL, 0);
}

/* A line of its output. */
static bool read_line(const struct child *c, char *line, size_t size) {
  size_t n = 0;

  while (n + 1 < size && read(c->out, line + n, 1) == 1 && line[n] != '\n')
    n++;
  line[n] = '\0';
  return n > 0;
}

/* The first line that was said, NULL if none. */
static const char *said(int complaints, char *line, size_t size) {
  ssize_t n = pread(complaints, line, size - 1, 0);

  if (n <= 0)
    return NULL;
  line[n] = '\0';
  line[strcspn(line, "\n")] = '\0';
  return line;
}

static void judge(const char *library, pid_t pid) {
  struct inspect_process p = {0};
  static const char about[] = "library";

  switch (inspect_process(pid, &p)) {
  case INSPECT_OK:
    if (p.count == 1 && strcmp(p.conns[0].phase, "paired") == 0)
      report(FINE, about, "%s loads, is of this version, and two processes on 127.0.0.1 pair", library);
    else if (p.count == 1)
      report(BAD, about, "%s loads, but two processes on 127.0.0.1 stay on TCP: %s", library,
             *p.conns[0].why ? p.conns[0].why : "they have not found each other");
    else
      report(BAD, about, "%s loads, but knows nothing of a connection on 127.0.0.1: is it turned off?", library);
    break;
  case INSPECT_FOREIGN:
    report(BAD, about,
           "%s is of another version than this command (" FL_VERSION
           "). Both ends need the same release, or their connections stay on TCP",
           library);
    break;
  case INSPECT_NONE:
    report(BAD, about, "%s loads, and does nothing: an option in the environment, or too little memory", library);
    break;
  case INSPECT_DENIED:
    report(WARNING, about, "%s loads; whether it works cannot be seen, as this user may not read its own processes",
           library);
    break;
  case INSPECT_GONE: report(BAD, about, "a process with %s does not live", library); break;
  }
  free(p.conns);
}

void check_library(const char *wanted) {
  char library[PATH_MAX], port[16], line[512];
  struct child server = {.in = -1, .out = -1}, talker = server;
  int complaints;

  if (wanted ? !realpath(wanted, library) || access(library, R_OK) < 0 : !library_find(library)) {
    report(BAD, "library", "%s: %s", wanted ? wanted : "libfastlocal.so",
           wanted ? strerror(errno) : "not beside this command; use --library=PATH");
    return;
  }
  FILE *f = tmpfile();
  complaints = f ? fileno(f) : -1;
  if (complaints < 0 || !start(&server, library, "serve", NULL, complaints) ||
      (read_line(&server, port, sizeof(port)) && !start(&talker, library, "talk", port, complaints))) {
    report(BAD, "library", "it could not be tried: %s", strerror(errno));
  } else {
    bool talked = talker.pid > 0 && read_line(&talker, line, sizeof(line));
    const char *complaint = said(complaints, line, sizeof(line));
    if (complaint)
      report(BAD, "library", "%s does not load here (another libc or processor, or one that is too old): %s", library,
             complaint);
    else if (!talked)
      report(BAD, "library", "a program with %s cannot talk to another on 127.0.0.1", library);
    else
      judge(library, server.pid);
  }
  end(&talker);
  end(&server);
  if (f)
    fclose(f);
}
