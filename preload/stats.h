/* SPDX-License-Identifier: MIT */
/*
 * preload/stats.h - the totals of FASTLOCAL_STATS: one JSON object per process, appended when it exits.
 *
 *     {"pid":N,"program":"redis-server","connections":N,"paired":N,
 *      "tx":{"ring":{"bytes":N,"messages":N},"unix":{"bytes":0,"messages":0},"kernel":{"bytes":N,"messages":N}},
 *      "rx":{ the same }}
 *
 * on one line. "connections" counts those that this process opened (connect, accept), "paired" those that it brought
 * onto rings. Bytes belong to connections, whose counters a fork family shares: a connection is reported as a whole,
 * once, by the process that is the only one left to hold it when it closes it or exits. No byte is ever counted twice;
 * those of a connection whose last holder is killed, or that two last holders leave at the same moment, are not
 * counted. A process that opened no connection and has no bytes to report writes nothing.
 *
 * All of them [any thread], without locks, allocation, or a trace in errno.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct fl_conn;

void fl_stats_conn_opened(void);
void fl_stats_conn_paired(void);

/* The counters of c will not change any more: called by its last holder only, once. */
void fl_stats_conn_closed(const struct fl_conn *c);

/* All that a connection has carried, on either lane and in either direction. [any thread] */
void fl_stats_conn(const struct fl_conn *c, uint64_t *bytes, uint64_t *messages);

/* Appends the object, the first time that it is called in this process. Does nothing without FASTLOCAL_STATS. */
void fl_stats_write(void);

/* In the child of a fork: its totals start at zero. */
void fl_stats_reset_child(void);

/*
 * Writes s as a JSON string with its quotes, cut where it does not fit; returns its length. size is at least 3. Bytes
 * that are not valid UTF-8 become U+FFFD. (Exposed for its test.)
 */
size_t fl_stats_quote(char *out, size_t size, const char *s);
