/* SPDX-License-Identifier: MIT */
/* registry/daemon/prove.c - see prove.h. */
#include "prove.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "prove_record.h"

#define RECORDS \
  16 /* room in one read; more than one is only there if a socket of an earlier question stayed behind \
      */

/* The compiled prove.bpf.c, put into the program by the linker. */
extern const char program_begin[] __asm__("_binary_registry_prove_bpf_o_start");
extern const char program_end[] __asm__("_binary_registry_prove_bpf_o_end");

static struct bpf_object *object; /* they live as long as the daemon */
static struct bpf_link *iterators;
static int map = -1;
static uint64_t questions;

/* libbpf explains at length, on standard error: that is for whoever debugs it. */
static int silent(enum libbpf_print_level level, const char *format, va_list args) {
  return getenv("FASTLOCALD_DEBUG_BPF") ? vfprintf(stderr, format, args) : 0;
}

static int load(void) {
  size_t size = (size_t)(program_end - program_begin);
  void *copy = malloc(size); /* aligned, which the symbols are not */
  union bpf_iter_link_info info = {0};
  LIBBPF_OPTS(bpf_iter_attach_opts, options, .link_info = &info, .link_info_len = sizeof(info));
  int rc;

  if (!copy)
    return -ENOMEM;
  memcpy(copy, program_begin, size);
  object = bpf_object__open_mem(copy, size, NULL);
  free(copy);
  if (!object)
    return -errno;
  rc = bpf_object__load(object);
  if (rc < 0)
    return rc;
  map = bpf_object__find_map_fd_by_name(object, "asked");
  info.map.map_fd = (unsigned)map;
  iterators = bpf_program__attach_iter(bpf_object__find_program_by_name(object, "read_sequences"), &options);
  return iterators ? 0 : -errno;
}

int prove_init(char *err, unsigned errsize) {
  libbpf_set_print(silent);
  int rc = load();

  if (rc < 0)
    snprintf(err, errsize, "sequence numbers cannot be read (%s): needs CAP_BPF and CAP_PERFMON, and a kernel with BTF",
             strerror(-rc));
  return rc;
}

int prove_read(int fd, struct proof *out) {
  struct prove_record r[RECORDS];
  uint64_t id = ++questions;
  int iterator, rc = -ENOENT;
  ssize_t n;

  if (bpf_map_update_elem(map, &fd, &id, BPF_ANY) < 0)
    return -errno;
  iterator = bpf_iter_create(bpf_link__fd(iterators));
  n = iterator < 0 ? -1 : read(iterator, r, sizeof(r));
  if (n < 0)
    rc = -errno;
  for (ssize_t i = 0; i < n / (ssize_t)sizeof(r[0]); i++) {
    if (r[i].id != id)
      continue;
    *out = (struct proof){.sent_from = r[i].sent_from, .received_from = r[i].received_from};
    rc = 0;
  }
  if (iterator >= 0)
    close(iterator);
  bpf_map_delete_elem(map, &fd);
  return rc;
}
