/* SPDX-License-Identifier: MIT */
/* registry/hello.c - the message of a rendezvous, and the memfd that it carries. */
#include "registry/hello.h"

#include <string.h>

#include "registry/sys.h"
#include "shmring/fault.h"

void fl_hello_fill(struct fl_hello *h, const struct fl_rdv *r) {
  const struct fl_tuple *t = &r->tuple;

  *h = (struct fl_hello){
      .magic = FL_HELLO_MAGIC,
      .version = FL_HELLO_VERSION,
      .ring_size = r->ring_size,
      .local_cookie = t->cookie,
      .remote_cookie = r->peer_cookie,
      .local = t->local,
      .remote = t->remote,
      .local_port = t->local_port,
      .remote_port = t->remote_port,
  };
}

static int check_hello(const struct fl_hello *h, const struct fl_rdv *r) {
  const struct fl_tuple *t = &r->tuple;

  if (h->magic != FL_HELLO_MAGIC || h->zero != 0)
    return -EBADMSG;
  if (h->version != FL_HELLO_VERSION)
    return -EPROTO;
  if (!fl_ring_size_valid(h->ring_size))
    return -EBADMSG;
  if (memcmp(&h->local, &t->remote, sizeof(h->local)) != 0 || memcmp(&h->remote, &t->local, sizeof(h->remote)) != 0 ||
      h->local_port != t->remote_port || h->remote_port != t->local_port)
    return -EADDRNOTAVAIL;
  /* Another incarnation of these addresses, or a forked copy of this very end. */
  if (h->local_cookie != r->peer_cookie || h->remote_cookie != t->cookie)
    return -ESTALE;
  return 0;
}

int fl_hello_send(int fd, const struct fl_rdv *r, int memfd) {
  struct fl_hello h;

  fl_hello_fill(&h, r);
  return fl_message_send(fd, &h, sizeof(h), memfd);
}

int fl_hello_receive(int fd, const struct fl_rdv *r, struct fl_pairing *out) {
  struct fl_hello h = {0};
  int fds[FL_MESSAGE_FDS], count;
  int rc = fl_message_receive(fd, &h, sizeof(h), fds, &count);

  *out = (struct fl_pairing){0};
  if (rc == 0 && count != 1)
    rc = -EBADMSG;
  if (rc == 0)
    rc = check_hello(&h, r);
  if (rc == 0)
    rc = fl_segment_open(fds[0], h.ring_size, out);
  for (int i = 0; i < count; i++)
    fl_sys_close(fds[i]);
  FL_FAULT(hello_message);
  if (rc == 0)
    out->end = 1;
  return rc;
}
