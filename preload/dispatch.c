/* SPDX-License-Identifier: MIT */
/*
 * preload/dispatch.c - a system call by its number: the way from syscall(), from libc's own inside and from a program's
 * own instructions to the hooks. What the hooks answer with errno, this answers as the kernel does; errno itself is
 * left alone.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/auxv.h>

#include "dispatch.h"
#include "epoll.h"
#include "export.h"
#include "io.h"
#include "process.h"
#include "raw.h"
#include "real.h"
#include "registry/sys.h"
#include "sandbox.h"
#include "trampoline/emit.h"
#include "trampoline/numbers.h"
#include "trampoline/tramp.h"

#define KERNEL_SIGSET 8

static bool known(long fd) { return fl_entry((int)fd) != 0; }

/* Signal masks of another size are the kernel's to refuse. */
static bool mask_fits(long mask, long size) { return !mask || size == KERNEL_SIGSET; }

/* pselect6's last argument: the mask and its size. */
static bool six_fits(long six) {
  const long *pair = (const long *)six;

  return !six || (fl_addr_readable(pair, 2 * sizeof *pair) && mask_fits(pair[0], pair[1]));
}

/* Does the call, whose first argument is ours if that is what counts, concern us? Otherwise it is made where it stands.
 */
static bool concerned(long nr, const long *a) {
  switch (nr) {
  case __NR_socket:
  case __NR_connect:
  case __NR_accept:
  case __NR_accept4:
  case __NR_close_range:
#ifdef __NR_epoll_create
  case __NR_epoll_create:
#endif
  case __NR_epoll_create1: return true;
#ifdef __NR_dup2
  case __NR_dup2:
#endif
  case __NR_dup3: return known(a[0]) || known(a[1]);
  case __NR_splice:
  case __NR_epoll_ctl: return known(a[0]) || known(a[2]);
  case __NR_sendmsg:
  case __NR_sendmmsg: return true; /* descriptors may be passed through any socket */
#ifdef __NR_poll
  case __NR_poll:
#endif
  case __NR_ppoll:
    return fl_poll_concerned((const struct pollfd *)a[0], (nfds_t)a[1]) && (nr != __NR_ppoll || mask_fits(a[3], a[4]));
#ifdef __NR_select
  case __NR_select:
#endif
  case __NR_pselect6:
    return fl_select_concerned((int)a[0], (const fd_set *)a[1], (const fd_set *)a[2], (const fd_set *)a[3]) &&
           (nr != __NR_pselect6 || six_fits(a[5]));
  case __NR_epoll_pwait:
  case __NR_epoll_pwait2: return mask_fits(a[4], a[5]);
  case __NR_prctl:
  case __NR_seccomp: fl_sandbox_before(nr, a); return false;
  }
  return fl_class_of(nr) == FL_CLASS_FD;
}

/* ppoll and pselect6 as the kernel has them write back what is left of the time. */
struct left {
  struct timespec *timeout, asked;
  uint64_t begin;
};
static const struct timespec *left_begin(struct left *l, long timeout) {
  l->timeout = (struct timespec *)timeout;
  if (!timeout)
    return NULL;
  l->asked = *l->timeout;
  l->begin = fl_now();
  return &l->asked;
}
static void left_end(const struct left *l) {
  if (!l->timeout || l->asked.tv_sec < 0 || l->asked.tv_nsec < 0 || l->asked.tv_nsec > 999999999)
    return;
  uint64_t gone = fl_ticks_to_ns(fl_now() - l->begin);
  struct timespec t = {(time_t)(gone / 1000000000u), (long)(gone % 1000000000u)};
  t.tv_sec = l->asked.tv_sec - t.tv_sec;
  t.tv_nsec = l->asked.tv_nsec - t.tv_nsec;
  if (t.tv_nsec < 0) {
    t.tv_nsec += 1000000000;
    t.tv_sec--;
  }
  *l->timeout = t.tv_sec < 0 ? (struct timespec){0} : t;
}

static long timed_poll(const long *a) {
  struct left l;

  if (a[2] && !fl_addr_readable((void *)a[2], sizeof(struct timespec))) {
    errno = EFAULT;
    return -1;
  }
  int r = ppoll((struct pollfd *)a[0], (nfds_t)a[1], left_begin(&l, a[2]), (const sigset_t *)a[3]);
  left_end(&l);
  return r;
}

static long timed_select(const long *a) {
  struct left l;

  if (a[4] && !fl_addr_readable((void *)a[4], sizeof(struct timespec))) {
    errno = EFAULT;
    return -1;
  }
  int r = pselect((int)a[0], (fd_set *)a[1], (fd_set *)a[2], (fd_set *)a[3], left_begin(&l, a[4]),
                  a[5] ? *(const sigset_t **)a[5] : NULL);
  left_end(&l);
  return r;
}

/* The hook that stands for the number; -1 and errno. */
static long answer(long nr, const long *a) {
  int fd = (int)a[0];
  void *p = (void *)a[1];

  switch (nr) {
  case __NR_read: return read(fd, p, (size_t)a[2]);
  case __NR_readv: return readv(fd, p, (int)a[2]);
  case __NR_preadv2: return preadv2(fd, p, (int)a[2], a[3], (int)a[5]);
  case __NR_recvfrom: return recvfrom(fd, p, (size_t)a[2], (int)a[3], (struct sockaddr *)a[4], (socklen_t *)a[5]);
  case __NR_recvmsg: return recvmsg(fd, p, (int)a[2]);
  case __NR_recvmmsg: return recvmmsg(fd, p, (unsigned)a[2], (int)a[3], (struct timespec *)a[4]);
  case __NR_write: return write(fd, p, (size_t)a[2]);
  case __NR_writev: return writev(fd, p, (int)a[2]);
  case __NR_pwritev2: return pwritev2(fd, p, (int)a[2], a[3], (int)a[5]);
  case __NR_sendto: return sendto(fd, p, (size_t)a[2], (int)a[3], (const struct sockaddr *)a[4], (socklen_t)a[5]);
  case __NR_sendmsg: return sendmsg(fd, p, (int)a[2]);
  case __NR_sendmmsg: return sendmmsg(fd, p, (unsigned)a[2], (int)a[3]);
  case __NR_sendfile: return sendfile(fd, (int)a[1], (off_t *)a[2], (size_t)a[3]);
  case __NR_splice: return splice(fd, p, (int)a[2], (off64_t *)a[3], (size_t)a[4], (unsigned)a[5]);
  case __NR_socket: return socket(fd, (int)a[1], (int)a[2]);
  case __NR_connect: return connect(fd, p, (socklen_t)a[2]);
  case __NR_accept: return accept(fd, p, (socklen_t *)a[2]);
  case __NR_accept4: return accept4(fd, p, (socklen_t *)a[2], (int)a[3]);
  case __NR_shutdown: return shutdown(fd, (int)a[1]);
  case __NR_getsockopt: return getsockopt(fd, (int)a[1], (int)a[2], (void *)a[3], (socklen_t *)a[4]);
  case __NR_setsockopt: return setsockopt(fd, (int)a[1], (int)a[2], (const void *)a[3], (socklen_t)a[4]);
  case __NR_close: return close(fd);
  case __NR_close_range: return close_range((unsigned)a[0], (unsigned)a[1], (int)a[2]);
  case __NR_dup: return dup(fd);
  case __NR_dup3:
    if (fd == (int)a[1])
      break; /* the kernel refuses it */
    return dup3(fd, (int)a[1], (int)a[2]);
  case __NR_fcntl: return fcntl(fd, (int)a[1], a[2]);
  case __NR_ioctl: return ioctl(fd, (unsigned long)a[1], a[2]);
  case __NR_ppoll: return timed_poll(a);
  case __NR_pselect6: return timed_select(a);
  case __NR_epoll_create1: return epoll_create1(fd);
  case __NR_epoll_ctl: return epoll_ctl(fd, (int)a[1], (int)a[2], (struct epoll_event *)a[3]);
  case __NR_epoll_pwait: return epoll_pwait(fd, p, (int)a[2], (int)a[3], (const sigset_t *)a[4]);
  case __NR_epoll_pwait2: return epoll_pwait2(fd, p, (int)a[2], (const struct timespec *)a[3], (const sigset_t *)a[4]);
#ifdef __NR_dup2
  case __NR_dup2: return dup2(fd, (int)a[1]);
#endif
#ifdef __NR_poll
  case __NR_poll: return poll((struct pollfd *)a[0], (nfds_t)a[1], (int)a[2]);
#endif
#ifdef __NR_select
  case __NR_select: return select(fd, p, (fd_set *)a[2], (fd_set *)a[3], (struct timeval *)a[4]);
#endif
#ifdef __NR_epoll_create
  case __NR_epoll_create: return epoll_create(fd);
#endif
#ifdef __NR_epoll_wait
  case __NR_epoll_wait: return epoll_wait(fd, p, (int)a[2], (int)a[3]);
#endif
  }
  long r = fl_syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
  if (r < 0 && r > -4096) {
    errno = (int)-r;
    r = -1;
  }
  return r;
}

struct answering {
  int saved, type;
  bool nocancel;
};

/* A thread that is cancelled inside runs its cleanup handlers with its flag as it was. */
static void answering_end(struct answering *s) {
  fl_raw_nocancel = s->nocancel;
  errno = s->saved;
}

/*
 * The site may be one of libc's cancellation points, between its enabling and disabling of asynchronous cancellation.
 * That is suspended here: the hooks hold locks, and allow it for their own calls. Any other site is no cancellation
 * point.
 */
static bool answered(struct fl_tramp_call *call) {
  struct answering s __attribute__((cleanup(answering_end))) = {
      .saved = errno, .type = PTHREAD_CANCEL_DEFERRED, .nocancel = fl_raw_nocancel};
  bool ours;

  if (!fl_raw_single())
    pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &s.type);
  fl_raw_nocancel = s.type == PTHREAD_CANCEL_DEFERRED;
  ours = concerned(call->number, call->arg);
  if (ours) {
    long r = answer(call->number, call->arg);
    call->number = r == -1 ? -errno : r;
  }
  if (s.type != PTHREAD_CANCEL_DEFERRED)
    pthread_setcanceltype(s.type, NULL);
  return ours;
}

/*
 * Threads that a program made by itself may have no thread pointer, or another one than libc's: then nothing here
 * works, not even errno. glibc's points to itself, twice. (Without rdfsbase it is read through the pointer, which a
 * thread without one does not survive; there such programs are on their own.)
 */
static bool libc_thread(void) {
#if defined(__x86_64__)
  static _Atomic int8_t readable; /* relaxed: every thread finds the same */
  uintptr_t self, base = 0, again;
  int8_t can = atomic_load_explicit(&readable, memory_order_relaxed);

  if (!can) {
    can = getauxval(AT_HWCAP2) & 2 ? 1 : -1;
    atomic_store_explicit(&readable, can, memory_order_relaxed);
  }
  if (can > 0) {
    __asm__ volatile("rdfsbase %0" : "=r"(base));
    if (base == 0)
      return false;
  }
  __asm__ volatile("movq %%fs:0, %0\n\tmovq %%fs:16, %1" : "=&r"(self), "=r"(again));
  return self == again && self != 0 && (can < 0 || self == base);
#else
  return true;
#endif
}

bool fl_tramp_call(struct fl_tramp_call *call) {
  if (!fl_fds || (call->site && (call->site->flags & FL_SITE_CAREFUL) && !libc_thread()))
    return false;
  if (call->number == __NR_exit_group)
    fl_process_exit();
  switch (fl_class_of(call->number)) {
  case FL_CLASS_NONE: return false;
  case FL_CLASS_FD:
    if (!known(call->arg[0]))
      return false;
    break;
  case FL_CLASS_ANY: break;
  }
  return answered(call);
}

/* From syscall_x86_64.S: syscall() with a number that matters. */
long fl_syscall_hook(long nr, long a, long b, long c, long d, long e, long f) {
  struct fl_tramp_call call = {nr, {a, b, c, d, e, f}, NULL};

  if (!fl_tramp_call(&call))
    call.number = fl_syscall6(nr, a, b, c, d, e, f);
  if ((unsigned long)call.number > -4096ul) {
    errno = (int)-call.number;
    return -1;
  }
  return call.number;
}

void *fl_syscall_real;
uint8_t fl_syscall_wanted[512];
_Static_assert(sizeof fl_syscall_wanted == FL_NUMBERS_END, "all numbers");

void fl_syscall_init(void) {
#define X(name, class) fl_syscall_wanted[__NR_##name] = 1;
  FL_NUMBERS(X)
#undef X
  fl_syscall_real = dlsym(RTLD_NEXT, "syscall");
}
