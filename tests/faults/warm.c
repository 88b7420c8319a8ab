/* SPDX-License-Identifier: MIT */
/* tests/faults/warm.c - a warm parent: it has the library loaded, so that an iteration costs it a fork. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "faults.h"

/* All of them: those that lost their parent come to us. */
static void reap(struct shared *s, int end) {
  int status;
  pid_t pid;

  while ((pid = wait(&status)) > 0 || (pid < 0 && errno == EINTR)) {
    if (pid < 0)
      continue;
    if (WIFSIGNALED(status)) {
      atomic_fetch_add(&s->deaths[end], 1);
      int n = WTERMSIG(status);
      if (n != SIGKILL && !(n == SIGALRM && s->plan.kind == KIND_CORRUPT && s->plan.end == end))
        fail(s, "end %d: process %d ended by signal %d, %s%s", end, pid, n, strsignal(n),
             WCOREDUMP(status) ? ", core dumped" : "");
    } else if (WEXITSTATUS(status) != 0) {
      fail(s, "end %d: process %d ended with status %d", end, pid, WEXITSTATUS(status));
    }
  }
}

void warm_run(struct shared *s, int end) {
  char go;

  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  inject_names();
  if (write(FD_REPORT, "", 1) != 1)
    _exit(1);
  while (read(FD_COMMAND, &go, 1) == 1) {
    pid_t pid = fork();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      end_run(s, end);
    }
    if (pid < 0)
      fail(s, "fork: %s", strerror(errno));
    reap(s, end);
    if (write(FD_REPORT, "", 1) != 1)
      break;
  }
  _exit(0);
}
