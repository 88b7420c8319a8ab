/* SPDX-License-Identifier: MIT */
/*
 * tests/trampoline/inside.cc - what happens to a thread while a call on a connection, made inside of libc or by an instruction of
 * its own, is being answered: cancellation, signals, jumps, children. `inside NAME`; each makes a pair of connected sockets,
 * talks until the library may have put it onto its rings, and checks. Exit status 0: as on plain TCP.
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>
#include <string>

extern "C" {
#include "raw_calls.h"
}

#define WARM 200

static int ends[2]; /* both in this process: `near`, on which the tests block, and `far` */

static void check(bool ok, const char *what) {
  if (!ok)
    errx(1, "%s", what);
}

static void connect_pair() {
  sockaddr_in at{};
  socklen_t len = sizeof at;
  int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);

  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  check(bind(listener, (sockaddr *)&at, sizeof at) == 0 && listen(listener, 1) == 0 && getsockname(listener, (sockaddr *)&at, &len) == 0,
        "listen");
  ends[1] = socket(AF_INET, SOCK_STREAM, 0);
  check(connect(ends[1], (sockaddr *)&at, sizeof at) == 0, "connect");
  ends[0] = accept(listener, nullptr, nullptr);
  close(listener);
  for (int fd : ends)
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  for (int i = 0; i < WARM; i++) {
    char c = 'w';
    check(write(ends[0], &c, 1) == 1 && read(ends[1], &c, 1) == 1 && write(ends[1], &c, 1) == 1 && read(ends[0], &c, 1) == 1, "warm");
  }
}

/* ---- cancellation ---- */

static std::atomic<int> destroyed, cleaned;
struct Destroyed {
  ~Destroyed() { destroyed++; }
};
static void clean(void *) { cleaned++; }
static FILE *stream;
static std::atomic<bool> blocked;

static void *in_fgets(void *) {
  Destroyed d;
  char line[64];
  pthread_cleanup_push(clean, nullptr);
  blocked = true;
  while (fgets(line, sizeof line, stream)) {
  }
  pthread_cleanup_pop(0);
  return nullptr;
}

static void *in_read(void *) {
  Destroyed d;
  char c;
  pthread_cleanup_push(clean, nullptr);
  blocked = true;
  while (read(ends[0], &c, 1) > 0) {
  }
  pthread_cleanup_pop(0);
  return nullptr;
}

static void *in_recv(void *) {
  Destroyed d;

  char c;
  pthread_cleanup_push(clean, nullptr);
  blocked = true;
  if (recv(ends[0], &c, 1, 0) > 0)
    recv(ends[0], &c, 1, 0);
  pthread_cleanup_pop(0);
  return nullptr;
}

static void cancel(void *(*f)(void *), int times) {
  for (int i = 1; i <= times; i++) {
    pthread_t t;
    void *r;
    blocked = false;
    check(pthread_create(&t, nullptr, f, nullptr) == 0, "pthread_create");
    while (!blocked)
      sched_yield();
    usleep(i % 3 * 200); /* in the spin, or asleep */
    pthread_cancel(t);
    pthread_join(t, &r);
    check(r == PTHREAD_CANCELED, "it was cancelled");
    check(cleaned == i, "cleanup handlers ran");
    check(destroyed == i, "destructors ran");
  }
  /* and the connection is whole */
  char c = 'x';
  check(write(ends[1], &c, 1) == 1 && read(ends[0], &c, 1) == 1 && c == 'x', "the connection is whole");
  check(write(ends[0], &c, 1) == 1 && read(ends[1], &c, 1) == 1, "in both directions");
}

static void cancel_fgets() {
  stream = fdopen(dup(ends[0]), "r");
  setvbuf(stream, nullptr, _IONBF, 0);
  cancel(in_fgets, 50);
}
static void cancel_read() { cancel(in_read, 50); }
static void cancel_recv() { cancel(in_recv, 50); }

/* A call by an instruction of the program's own is no cancellation point. */
static void *in_inline_read(void *) {
  char c;
  blocked = true;
  long n = raw_call(SYS_read, ends[0], (long)&c, 1, 0, 0, 0);
  return (void *)(n == 1 && c == 'y' ? 7L : 8L);
}
static void not_cancelled_inline() {
  for (int i = 0; i < 20; i++) {
    pthread_t t;
    void *r;
    blocked = false;
    pthread_create(&t, nullptr, in_inline_read, nullptr);
    while (!blocked)
      sched_yield();
    usleep(i % 3 * 300);
    pthread_cancel(t);
    usleep(200);
    check(write(ends[1], "y", 1) == 1, "write");
    pthread_join(t, &r);
    check(r == (void *)7L, "the call ended with its byte");
  }
}

/* ---- signals ---- */

static std::atomic<int> handled;
static sigjmp_buf out_of_it;
static bool jump;

static void handler(int) {
  char c = 's';
  int saved = errno;
  handled++;
  /* its own calls, by every way */
  if (raw_call(SYS_write, ends[0], (long)&c, 1, 0, 0, 0) != 1)
    _exit(99);
  errno = saved;
  if (jump)
    siglongjmp(out_of_it, 1);
}

static pthread_t main_thread;
static bool restarts;
static std::atomic<bool> returned; /* from the call, or jumped out of it */
static int delay_us;

/* A handler that runs just before the call begins, or, with the library, between its waiting and its sleep, does not
 * interrupt it; so there is another. */
static void *interrupt_(void *) {
  char c;

  usleep((useconds_t)delay_us);
  do {
    pthread_kill(main_thread, SIGUSR1);
    check(read(ends[1], &c, 1) == 1 && c == 's', "what the handler sent");
    for (int k = 0; k < 50 && !returned && !restarts; k++)
      usleep(1000);
  } while (!returned && !restarts);
  check(write(ends[1], "t", 1) == 1, "write");
  return nullptr;
}

static void signals(int flags, bool jumps, bool inline_) {
  struct sigaction sa {};
  static char small_stack[16384]; /* what the kernel's frame of this processor needs, and a little */
  stack_t ss{};
  ss.ss_sp = small_stack;
  ss.ss_size = sizeof small_stack;
  check(sigaltstack(&ss, nullptr) == 0, "sigaltstack");
  sa.sa_handler = handler;
  sa.sa_flags = flags | SA_ONSTACK;
  sigaction(SIGUSR1, &sa, nullptr);
  main_thread = pthread_self();
  jump = jumps;
  restarts = flags & SA_RESTART;
  for (int i = 1; i <= 20; i++) {
    pthread_t t;
    char c;
    returned = false;
    delay_us = i % 2 ? 300 : 6000; /* in the spin, or asleep */
    pthread_create(&t, nullptr, interrupt_, nullptr);
    if (sigsetjmp(out_of_it, 1) == 0) {
      errno = 0;
      long n = inline_ ? raw_call(SYS_read, ends[0], (long)&c, 1, 0, 0, 0) : (long)fread(&c, 1, 1, stream);
      returned = true;
      check(!jumps, "it was left by a jump");
      if (flags & SA_RESTART) {
        check(n == 1 && c == 't', "restarted");
      } else {
        check(inline_ ? n == -EINTR : n == 0 && errno == EINTR, "interrupted");
        if (!inline_)
          clearerr(stream);
      }
    }
    returned = true;
    if (!(flags & SA_RESTART)) {
      while (read(ends[0], &c, 1) < 0 && errno == EINTR) {
      }
      check(c == 't', "the byte is still there");
    }
    pthread_join(t, nullptr);
    check(handled >= i, "handled");
  }
}

static void open_stream() {
  stream = fdopen(dup(ends[0]), "r");
  setvbuf(stream, nullptr, _IONBF, 0);
}
static void signal_restarts() { signals(SA_RESTART, false, true); }
static void signal_interrupts() { signals(0, false, true); }
static void signal_restarts_stdio() {
  open_stream();
  signals(SA_RESTART, false, false);
}
static void signal_interrupts_stdio() {
  open_stream();
  signals(0, false, false);
}
static void signal_jumps() { signals(0, true, true); }

/* ---- streams ---- */

static void *wait_for_end(void *) {
  while (!returned)
    usleep(1000);
  return nullptr;
}

static void stream_beside_threads() {
  pthread_t t;
  char line[16];

  pthread_create(&t, nullptr, wait_for_end, nullptr);
  FILE *in = fdopen(dup(ends[0]), "r"), *out = fdopen(ends[1], "w");
  for (int i = 0; i < 1000; i++)
    check(fprintf(out, "%d\n", i) > 0 && fflush(out) == 0 && fgets(line, sizeof line, in) && atoi(line) == i, "a line");
  returned = true;
  pthread_join(t, nullptr);
  fclose(in);
  fclose(out);
}

/* How much of its stack a handler needs: the kernel's frame is there, and little else. */
static unsigned char painted[65536] __attribute__((aligned(64)));
static long depth;

static void on_small_stack(int) {
  char c = 'd', here;
  size_t untouched = 0;

  memset(painted, 0xa5, (size_t)(&here - (char *)painted) - 256); /* below this frame and what memset needs */
  check(raw_call(SYS_write, ends[0], (long)&c, 1, 0, 0, 0) == 1 && raw_call(SYS_read, ends[1], (long)&c, 1, 0, 0, 0) == 1 && c == 'd',
        "calls on a small stack");
  while (painted[untouched] == 0xa5)
    untouched++;
  depth = &here - (char *)painted - (long)untouched;
}

static void small_stack() {
  struct sigaction sa {};
  stack_t ss{};

  ss.ss_sp = painted;
  ss.ss_size = sizeof painted;
  check(sigaltstack(&ss, nullptr) == 0, "sigaltstack");
  sa.sa_handler = on_small_stack;
  sa.sa_flags = SA_ONSTACK;
  sigaction(SIGUSR1, &sa, nullptr);
  for (int i = 0; i < 50; i++) {
    raise(SIGUSR1);
    check(depth < 6144, ("a handler's calls need " + std::to_string(depth) + " bytes of its stack").c_str());
  }
  if (getenv("DEPTH"))
    printf("%ld bytes\n", depth);
}

/* ---- children ---- */

static void still_whole() {
  for (int i = 0; i < 100; i++) {
    char c = (char)i;
    check(raw_call(SYS_write, ends[0], (long)&c, 1, 0, 0, 0) == 1 && read(ends[1], &c, 1) == 1 && c == (char)i, "the parent's connection is whole");
    check(write(ends[1], &c, 1) == 1 && raw_call(SYS_read, ends[0], (long)&c, 1, 0, 0, 0) == 1 && c == (char)i, "in both directions");
  }
}

static void child_vfork() {
  for (int i = 0; i < 10; i++) {
    pid_t pid = vfork();
    if (pid == 0) {
      raw_call(SYS_close, ends[0], 0, 0, 0, 0, 0);
      raw_call(SYS_dup2, ends[1], 0, 0, 0, 0, 0);
      execl("/bin/true", "true", (char *)nullptr);
      _exit(1);
    }
    int status;
    check(waitpid(pid, &status, 0) == pid && status == 0, "vfork");
    still_whole();
  }
}

static int clone_body(void *) {
  raw_call(SYS_close, ends[0], 0, 0, 0, 0, 0);
  raw_call(SYS_close, ends[1], 0, 0, 0, 0, 0);
  raw_call(SYS_exit_group, 0, 0, 0, 0, 0, 0);
  return 0;
}
static void child_clone() {
  for (int i = 0; i < 10; i++) {
    static char stack[65536] __attribute__((aligned(16)));
    int status;
    pid_t pid = clone(clone_body, stack + sizeof stack, SIGCHLD, nullptr);
    check(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0, "clone");
    still_whole();
  }
}

static void child_spawn() {
  for (int i = 0; i < 10; i++) {
    posix_spawn_file_actions_t a;
    pid_t pid;
    int status;
    char name[] = "true", *argv[] = {name, nullptr};
    posix_spawn_file_actions_init(&a);
    posix_spawn_file_actions_addclose(&a, ends[0]);
    posix_spawn_file_actions_adddup2(&a, ends[1], 0);
    check(posix_spawn(&pid, "/bin/true", &a, nullptr, argv, environ) == 0, "posix_spawn");
    check(waitpid(pid, &status, 0) == pid && status == 0, "it ran");
    posix_spawn_file_actions_destroy(&a);
    still_whole();
  }
}

/* ---- exceptions ---- */

static void thrower(int) { throw std::runtime_error("out of a read"); }

/* An exception may come out of an instruction of the call only, not out of one on the way there. */
static void *signal_main(void *) {
  char state = 'R';
  while (!blocked || state != 'S') {
    usleep(1000);
    FILE *f = fopen(("/proc/self/task/" + std::to_string(getpid()) + "/stat").c_str(), "r");
    check(f && fscanf(f, "%*d %*s %c", &state) == 1, "/proc");
    fclose(f);
  }
  pthread_kill(main_thread, SIGUSR2);
  return nullptr;
}

/* Only where the program is made for it (-fnon-call-exceptions): out of a handler that interrupts a call. */
static void exception_() {
  struct sigaction sa {};
  sa.sa_handler = thrower;
  sa.sa_flags = SA_NODEFER;
  sigaction(SIGUSR2, &sa, nullptr);
  main_thread = pthread_self();
  for (int i = 1; i <= 10; i++) {
    pthread_t t;
    char c;
    pthread_create(&t, nullptr, signal_main, nullptr);
    try {
      Destroyed d;
      blocked = true;
      (void)!read(ends[0], &c, 1);
      check(false, "an exception left the call");
    } catch (const std::runtime_error &) {
    }
    blocked = false;
    check(destroyed == i, "destructors ran");
    pthread_join(t, nullptr);
  }
  still_whole();
}

/* ---- vectors ---- */

static void vectors() {
  for (int i = 0; i < 100; i++) {
    double in[4] = {1.5 * i, 2.5, 3.5, 4.5}, out[4];
    char c = 'v';
    check(write(ends[1], &c, 1) == 1, "write");
    long n;
    __asm__ volatile("movupd %[a], %%xmm7\n\tmovupd %[b], %%xmm13\n\txorl %%eax, %%eax\n\tmovq %%rax, %%rax\n\tmovq %%rax, %%rax\n\tsyscall\n\t"
                     "movupd %%xmm7, %[x]\n\tmovupd %%xmm13, %[y]"
                     : "=&a"(n), [x] "=m"(out[0]), [y] "=m"(out[2])
                     : "D"((long)ends[0]), "S"(&c), "d"(1L), [a] "m"(in[0]), [b] "m"(in[2])
                     : "rcx", "r11", "xmm7", "xmm13", "memory");
    check(n == 1 && memcmp(in, out, sizeof in) == 0, "vector registers are kept");
  }
}

static const struct {
  const char *name;
  void (*f)();
} cases[] = {
    {"cancel-fgets", cancel_fgets},
    {"cancel-read", cancel_read},
    {"cancel-recv", cancel_recv},
    {"not-cancelled-inline", not_cancelled_inline},
    {"signal-restarts", signal_restarts},
    {"signal-interrupts", signal_interrupts},
    {"signal-restarts-stdio", signal_restarts_stdio},
    {"signal-interrupts-stdio", signal_interrupts_stdio},
    {"signal-jumps", signal_jumps},
    {"stream-beside-threads", stream_beside_threads},
    {"small-stack", small_stack},
    {"child-vfork", child_vfork},
    {"child-clone", child_clone},
    {"child-spawn", child_spawn},
    {"exception", exception_},
    {"vectors", vectors},
};

int main(int argc, char **argv) {
  if (argc == 1)
    for (const auto &c : cases)
      puts(c.name);
  for (const auto &c : cases)
    if (argc > 1 && strcmp(argv[1], c.name) == 0) {
      alarm(40);
      connect_pair();
      c.f();
      return 0;
    }
  return argc > 1 ? 2 : 0;
}
