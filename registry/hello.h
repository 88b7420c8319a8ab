/* SPDX-License-Identifier: MIT */
/*
 * registry/hello.h - the one message of a rendezvous: "I am the other end of your connection, and here is our segment".
 * Private to the registry.
 */
#pragma once

#include "registry/embedded.h"

/* Creates a sealed memfd with an initialised segment, and maps it. Returns the memfd, which is the caller's to close as
 * out->seg is to unmap; or -errno. */
int fl_segment_create(uint32_t ring_size, struct fl_pairing *out);

/* Unmaps and forgets. */
void fl_pairing_drop(struct fl_pairing *p);

/* Sends the message of r's side with the memfd. 0 or -errno. */
int fl_hello_send(int fd, const struct fl_rdv *r, int memfd);

/*
 * Receives the message of r's other side and maps the segment that came with it. 0; -EAGAIN: nothing has come yet;
 * -EMFILE, -ENOMEM, -ENOBUFS: this process has no room for it; any other -errno: the visitor is not to be trusted.
 * Nothing is held but *out, and that only after 0.
 */
int fl_hello_receive(int fd, const struct fl_rdv *r, struct fl_pairing *out);
