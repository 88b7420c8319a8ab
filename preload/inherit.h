/* SPDX-License-Identifier: MIT */
/* preload/inherit.h - unread bytes that go with a descriptor into the new program. Raw system calls only; errno is left
 * alone. */
#pragma once

#include "conn.h"

/* Before exec of process pid, in which fd survives: saves what c's ring holds. Returns the memfd, or -1 if it cannot
 * be. With `take` c has read it from then on; without, another holder of c can. *before is for fl_inherit_undo, if exec
 * fails. No locks held. */
int fl_inherit_save(struct fl_conn *c, int fd, int32_t pid, bool take, struct fl_rx *before);
void fl_inherit_undo(struct fl_conn *c, int memfd, const struct fl_rx *before);

/* As the library starts: takes what the program that this process was before has left. A few system calls. */
void fl_inherit_load(void);
