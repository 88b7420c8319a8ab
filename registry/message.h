/* SPDX-License-Identifier: MIT */
/*
 * registry/message.h - one packet of fixed size on an AF_UNIX socket, perhaps with a descriptor, and segments as what
 * is passed that way. Raw system calls, never blocking. Private to the registry.
 */
#pragma once

#include "registry/embedded.h"

#define FL_MESSAGE_FDS 4 /* room for descriptors that somebody sends; more are the kernel's to close */

/* Sends `len` bytes as one packet, with a copy of descriptor `passed` unless that is -1. 0 or -errno. */
int fl_message_send(int fd, const void *data, size_t len, int passed);

/*
 * Receives one packet that should have exactly `len` bytes, with the descriptors that came with it, however wrong it
 * is: they are the caller's to close, whatever is returned. 0; -EAGAIN: nothing has come; -ECONNRESET: the other side
 * left; -EMFILE: this process has no room for the descriptors; -EBADMSG: another size, or too many descriptors; other
 * -errno.
 */
int fl_message_receive(int fd, void *data, size_t len, int fds[FL_MESSAGE_FDS], int *count);

/* Creates a sealed memfd with an initialised segment, and maps it. Returns the memfd, which is the caller's to close as
 * out->seg is to unmap; or -errno. */
int fl_segment_create(uint32_t ring_size, struct fl_pairing *out);

/*
 * Maps a descriptor of unknown kind if it is a memfd that cannot shrink and holds a segment with such rings. 0 and *out
 * (end is left 0), or -errno. The descriptor stays the caller's.
 */
int fl_segment_open(int memfd, uint32_t ring_size, struct fl_pairing *out);
