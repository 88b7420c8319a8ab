/* SPDX-License-Identifier: MIT */
/* tests/trampoline/elf_file.h - maps the segments of an ELF file as the loader would, without running or relocating it.
 */
#pragma once

#include <link.h>
#include <stdbool.h>

/* The mapping stays until the process ends. */
bool elf_file_map(const char *path, struct dl_phdr_info *info);
