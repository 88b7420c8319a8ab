/* SPDX-License-Identifier: MIT */
/*
 * bench/process.h - clocks, processor and end of a benchmark process.
 */
#ifndef BENCH_PROCESS_H
#define BENCH_PROCESS_H

#include <signal.h>
#include <stdint.h>

/* Set by SIGTERM and SIGINT; calls that sleep return EINTR then. */
extern volatile sig_atomic_t process_stopping;

/* Orderly end on SIGTERM and SIGINT, and no death by SIGPIPE. */
void process_handle_signals(void);

/* Binds this process to one CPU; a negative number leaves it free. */
void process_pin(int cpu);

/* As many as the system allows. */
void process_many_descriptors(void);

/* Monotonic time. */
uint64_t process_now_ns(void);

/* User and system time that this process has used. */
double process_cpu_seconds(void);

/* Parsers of argp values: end the program on nonsense. */
double process_parse_seconds(const char *text);
unsigned long process_parse_number(const char *text);

#endif
