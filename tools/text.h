/* SPDX-License-Identifier: MIT */
/* tools/text.h - numbers as people read them. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* At most four digits: 999, 1.2K, 345M. */
void format_bytes(uint64_t bytes, char *out, size_t size);
