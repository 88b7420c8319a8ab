/* SPDX-License-Identifier: MIT */
/* tests/conform/end.c - one end: a process that runs the cases which the runner names. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "conform.h"
#include "futex.h"

static struct selected *cases;
static uint32_t case_count;

static void list_cases(void) {
  struct selected s = {0};
  unsigned group = 0;
  uint32_t room = 0;

  while (next_case(&s, &group)) {
    if (case_count == room)
      cases = realloc(cases, (room = room ? room * 2 : 4096) * sizeof *cases);
    if (!cases)
      _exit(96);
    cases[case_count++] = s;
  }
}

static int listen_at(int family, int *port) {
  struct sockaddr_storage a = {0};
  socklen_t len = family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
  int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

  a.ss_family = (sa_family_t)family;
  if (family == AF_INET6)
    ((struct sockaddr_in6 *)&a)->sin6_addr = in6addr_loopback;
  else
    ((struct sockaddr_in *)&a)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd < 0 || bind(fd, (struct sockaddr *)&a, len) || listen(fd, 64) || getsockname(fd, (struct sockaddr *)&a, &len))
    return -1;
  *port = ntohs(family == AF_INET6 ? ((struct sockaddr_in6 *)&a)->sin6_port : ((struct sockaddr_in *)&a)->sin_port);
  return fd;
}

static void begin(void) {
  run.fd = -1;
  run.step = 0;
  run.put = run.got = 0;
  except_from_now(NULL);
  thread_is_me();
}

static void end(void) {
  close_fd();
  /* the lowest free number: nothing was left open */
  int lowest = fcntl(0, F_DUPFD, 3);
  note("next descriptor %d", lowest);
  close(lowest);
}

/* In a child: what becomes of it is part of what is seen. */
static void run_alone(const struct selected *s) {
  int status;
  pid_t pid = fork();

  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    begin();
    s->group->run(s->v);
    end();
    _exit(0);
  }
  if (pid < 0)
    _exit(95);
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
    ;
  run.shared->gone[run.me] = 1;
  futex_wake(&run.shared->turn);
  if (WIFEXITED(status))
    note("exit %d", WEXITSTATUS(status));
  else
    note("killed by %s", sigabbrev_np(WTERMSIG(status)));
}

static void run_case(const struct selected *s) {
  if (s->group->flags & ALONE) {
    run_alone(s);
    return;
  }
  begin();
  s->group->run(s->v);
  end();
}

int end_main(enum end me, const char *path) {
  int fd = open(path, O_RDWR | O_CLOEXEC);
  uint32_t seen = 0;

  if (fd < 0)
    return 94;
  run.me = me;
  run.path = path;
  run.shared = mmap(NULL, sizeof *run.shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  run.buf = mmap(NULL, BUF_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (run.shared == MAP_FAILED || run.buf == MAP_FAILED)
    return 94;
  close(fd);
  list_cases();
  if (me == SERVER)
    for (int i = 0; i < 2; i++)
      if ((run.listener[i] = listen_at(i ? AF_INET6 : AF_INET, &run.shared->port[i])) < 0)
        return 94;
  begin();
  for (;;) {
    /* release: the ports, the trace; pairs with the acquire in runner.c */
    atomic_fetch_add_explicit(&run.shared->done, 1, memory_order_release);
    futex_wake(&run.shared->done);
    uint32_t go;
    /* acquire: pairs with the release in runner.c; the case's number */
    while ((go = atomic_load_explicit(&run.shared->go, memory_order_acquire)) == seen)
      futex_wait(&run.shared->go, seen, 1000);
    seen = go;
    if (run.shared->selected >= case_count)
      return 0;
    run_case(&cases[run.shared->selected]);
  }
}
