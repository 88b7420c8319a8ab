/* SPDX-License-Identifier: MIT */
/*
 * tests/fuzz/kernel.h - a kernel that the fuzzer plays: the registry is built with fault points, so that every system
 * call of it comes here. Descriptors and mappings are counted: what is left over is a leak.
 */
#pragma once

#include "input.h"
#include "registry/embedded.h"

/* Begins a new input. `t` is the connection that honest answers are about; `peer_cookie` the cookie of the other end.
 */
void kernel_begin(struct input *in, const struct fl_tuple *t, uint64_t peer_cookie);
int kernel_open_fds(void);
int kernel_mappings(void);
/* Opens a descriptor, as an application would. */
int kernel_fd(void);
/* What honest peers send, instead of the hello of a rendezvous: n bytes, 128 at most, with so many descriptors. */
void kernel_message(const void *message, size_t n, int fds);
/* Closes a descriptor, for code that calls libc. */
int kernel_close(int fd);
/* 0, or a negative errno that some call can give. */
long kernel_trouble(void);
/* The last visitor's message was exactly right, and its memfd as well. */
bool kernel_visitor_honest(void);
bool kernel_visitor_honest_memfd(void); /* the memfd alone */
