/* SPDX-License-Identifier: MIT */
/* tools/sockets.h - the addresses of a TCP socket of another process, from /proc alone. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "inspect.h"

/*
 * Looks up descriptor fd of pid in the tables of its network namespace. False: it is no connected TCP socket, or not
 * ours to see. The tables are read once per namespace and kept until another namespace is asked for.
 */
bool sockets_lookup(pid_t pid, int fd, struct inspect_address *local, struct inspect_address *remote);
