/* SPDX-License-Identifier: MIT */
/*
 * trampoline/object.h - loaded ELF objects, and where their functions begin and end.
 *
 * Everything is read from memory that the loader has mapped; nothing is believed that does not lie inside of the
 * object. No allocation; no descriptors but one for a moment in fl_object_go.
 */
#pragma once

#include <link.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FL_BUILD_ID_MAX 96u /* the GNU linker's has 20 bytes, Go's is a text of 83 */

struct fl_object {
  uintptr_t bias;           /* address in memory minus address in the file */
  uintptr_t low, high;      /* all that is mapped of it */
  uintptr_t text, text_end; /* its executable segment; the largest, if there are several */
  const uint8_t *unwind;    /* .eh_frame_hdr, NULL if it has none */
  size_t unwind_size;
  uint8_t build_id[FL_BUILD_ID_MAX];
  unsigned build_id_len; /* 0: none */
  const uint8_t *go;     /* Go's function table, NULL if it is no Go program */
  size_t go_size;
  char path[256]; /* "" for the main program; cut if longer: for people only */
};

struct fl_function {
  uintptr_t start, end;
  bool signal_frame; /* a signal's return: never to be touched */
  bool go;           /* Go's own code: its rules about stacks and registers apply */
};

/* False: not an object that can be patched (no executable segment, or one that cannot be read, or be written). */
bool fl_object_of(struct fl_object *o, const struct dl_phdr_info *info);

/* Does it need the shared object of that name (DT_NEEDED), and does it have that name itself (DT_SONAME)? */
bool fl_object_needs(const struct dl_phdr_info *info, const char *soname);
bool fl_object_named(const struct dl_phdr_info *info, const char *soname);

/*
 * Is the main program one of Go's? Then its function table, for fl_object_function. Reads the program's file
 * (/proc/self/exe), whose section headers `strip` and the Go linker leave in place. GO_UNKNOWN: a Go program of a
 * version whose table is not known.
 */
enum fl_go { FL_GO_NO, FL_GO_YES, FL_GO_UNKNOWN };
enum fl_go fl_object_go(struct fl_object *main_program, const char *file);

/* The function that holds pc, from Go's table or from the unwind table. False: there is none, or the table is not as
 * expected. */
bool fl_object_function(const struct fl_object *o, uintptr_t pc, struct fl_function *f);
