/* SPDX-License-Identifier: MIT */
/*
 * preload/aio.c - POSIX aio. libc's threads read and write with calls that pass through no symbol, so a connection that
 * is given to them goes to TCP for good, and what lies unread in its ring is asked back from the other end first.
 */
#include <aio.h>

#include "export.h"
#include "io.h"
#include "log.h"
#include "process.h"
#include "real.h"

static struct {
  __typeof__(&aio_read) aio_read;
  __typeof__(&aio_write) aio_write;
  __typeof__(&lio_listio) lio_listio;
#ifdef __GLIBC__ /* elsewhere these are other words for the same functions */
  __typeof__(&aio_read64) aio_read64;
  __typeof__(&aio_write64) aio_write64;
  __typeof__(&lio_listio64) lio_listio64;
#endif
} extra;

static void given(int fd) {
  struct fl_conn *c = fl_conn_of(fd);

  if (!c)
    return;
  fl_conn_pin(c, FL_WHY_AIO);
  if (!fl_hand_over(c, fd))
    fl_log(FL_LOG_WARN, "descriptor %d: unread bytes are not seen by aio", fd);
}

#define EXTRA(name) (extra.name ? extra.name : (__typeof__(&name))fl_real_one((void **)&extra.name, #name))

#define ONE(name, type) \
  FL_EXPORT int name(struct type *cb) { \
    given(cb->aio_fildes); \
    return EXTRA(name)(cb); \
  }
ONE(aio_read, aiocb)
ONE(aio_write, aiocb)
#ifdef __GLIBC__
ONE(aio_read64, aiocb64)
ONE(aio_write64, aiocb64)
#endif

#ifdef __GLIBC__
#define ELEMENT(type) struct type *const
#else
#define ELEMENT(type) struct type *restrict const
#endif
#define LIST(name, type) \
  FL_EXPORT int name(int mode, ELEMENT(type) *restrict list, int n, struct sigevent *restrict event) { \
    for (int i = 0; i < n; i++) \
      if (list[i] && list[i]->aio_lio_opcode != LIO_NOP) \
        given(list[i]->aio_fildes); \
    return EXTRA(name)(mode, list, n, event); \
  }
LIST(lio_listio, aiocb)
#ifdef __GLIBC__
LIST(lio_listio64, aiocb64)
#endif
