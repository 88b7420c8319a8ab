/* SPDX-License-Identifier: MIT */
/*
 * registry/hello.h - the one message of a rendezvous: "I am the other end of your connection, and here is our segment".
 * Private to the registry.
 */
#pragma once

#include "registry/message.h"

#define FL_HELLO_MAGIC 0x6f6c6c65686c66ull /* "flhello" */
#define FL_HELLO_VERSION 1u

/* As the sender sees the connection: its own end is "local". The layout is the same for every process of a host. */
struct fl_hello {
  uint64_t magic;
  uint32_t version;
  uint32_t ring_size;
  uint64_t local_cookie, remote_cookie;
  struct in6_addr local, remote;
  uint16_t local_port, remote_port; /* network byte order */
  uint32_t zero;
};
_Static_assert(sizeof(struct fl_hello) == 72, "no padding: the struct is sent as it is");

/* What r's side has to say. */
void fl_hello_fill(struct fl_hello *h, const struct fl_rdv *r);

/* Sends that, with the memfd. 0 or -errno. */
int fl_hello_send(int fd, const struct fl_rdv *r, int memfd);

/*
 * Receives the message of r's other side and maps the segment that came with it. 0; -EAGAIN: nothing has come yet;
 * -EMFILE, -ENOMEM, -ENOBUFS: this process has no room for it; any other -errno: the visitor is not to be trusted.
 * Nothing is held but *out, and that only after 0.
 */
int fl_hello_receive(int fd, const struct fl_rdv *r, struct fl_pairing *out);
