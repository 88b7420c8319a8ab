/* SPDX-License-Identifier: MIT */
/* registry/daemon/say.h - one line on standard error, with the journal's priority in front where the journal reads
 * it. */
#pragma once

#include <systemd/sd-daemon.h>

/* priority: SD_ERR, SD_WARNING, SD_NOTICE or SD_INFO */
void say(const char *priority, const char *format, ...) __attribute__((format(printf, 2, 3)));
