/* SPDX-License-Identifier: MIT */
/*
 * bench/sockets.h - the plain sockets API, a little shorter to call.
 *
 * An address is a path that begins with '/' (AF_UNIX) a TCP port of 127.0.0.1, or IPv4:PORT; port 0 means any free one.
 * Every function ends the program with a message where a benchmark could not go on.
 */
#ifndef BENCH_SOCKETS_H
#define BENCH_SOCKETS_H

#include <stdbool.h>
#include <stddef.h>

/* Listens on address, and prints "ready ADDRESS" with the port really bound. */
int sock_listen(const char *address);

/* Connects to address. TCP_NODELAY is set unless nagle. */
int sock_connect(const char *address, bool nagle);

/* Accepts one connection; -1 when a signal came. TCP_NODELAY is set unless nagle. */
int sock_accept(int listener, bool nagle);

void sock_set_nonblocking(int fd);

/* Moves exactly len bytes on a blocking socket; false on end of stream, reset, or a request to stop. */
bool sock_read_full(int fd, void *buf, size_t len);
bool sock_write_full(int fd, const void *buf, size_t len);

#endif
