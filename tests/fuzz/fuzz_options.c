/* SPDX-License-Identifier: MIT */
/* tests/fuzz/fuzz_options.c - every option's parser on any text, as fl_options_load calls them. */
#include "input.h"
#include "preload/options.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct fl_options o;
  char err[200];

  if (size < 1 || size > 4096)
    return 0;
  char *text = malloc(size); /* exactly as long as it is, for the sanitizer */
  MUST(text);
  memcpy(text, data + 1, size - 1);
  text[size - 1] = '\0';
  memset(err, 'x', sizeof err);
  int rc = fl_option_set(&o, data[0] % fl_option_count, text, err, sizeof err);
  MUST(rc == 0 || rc == -1);
  if (rc != 0) {
    MUST(memchr(err, '\0', sizeof err));
    for (const char *p = err; *p; p++)
      MUST(*p >= ' ' && *p != 127);
  }
  MUST(o.nports <= FL_PORT_RANGES);
  fl_ports_allowed(&o, 80, 8080);
  MUST(memchr(o.registry, '\0', sizeof o.registry) && memchr(o.log_file, '\0', sizeof o.log_file) &&
       memchr(o.stats, '\0', sizeof o.stats));
  free(text);
  return 0;
}
