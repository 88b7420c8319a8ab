/* SPDX-License-Identifier: MIT */
/* `fastlocal stat` reads what the library lays out, and believes nothing. Each test is the process that is read. */
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "preload/arena.h"
#include "tools/inspect.h"

static struct fl_arena *arena;
static struct fl_conn *conns;
static struct inspect_process found;

/* As arena.c does it. */
static void make_arena(void) {
  int fd = memfd_create(FL_ARENA_NAME, MFD_CLOEXEC);

  cr_assert_geq(fd, 0);
  cr_assert_eq(ftruncate(fd, FL_ARENA_BYTES), 0);
  arena = mmap(NULL, FL_ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  cr_assert_neq(arena, MAP_FAILED);
  close(fd);
  conns = (struct fl_conn *)((char *)arena + FL_ARENA_CONN_OFFSET);
  arena->version = FL_ARENA_VERSION;
  arena->conn_size = sizeof(struct fl_conn);
  arena->conn_offset = FL_ARENA_CONN_OFFSET;
  arena->conn_count = FL_CONNS;
  arena->magic = FL_ARENA_MAGIC;
}

static struct fl_conn *add_conn(uint32_t index) {
  struct fl_conn *c = &conns[index];

  c->used = 1;
  c->holder[0] = getpid();
  c->nholders = 1;
  c->reason = FL_WHY_YOUNG;
  c->fd_hint = -1;
  if (arena->used_high <= index)
    arena->used_high = index + 1;
  return c;
}

static struct fl_segment *pair(struct fl_conn *c, uint32_t ring_size) {
  void *base = mmap(NULL, fl_segment_bytes(ring_size), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

  cr_assert_neq(base, MAP_FAILED);
  struct fl_segment *seg = fl_segment_init(base, ring_size);
  fl_attach(seg, ring_size, 0, &c->tx, &c->rx);
  c->phase = FL_PAIRED;
  return seg;
}

static enum inspect_result look(void) { return inspect_process(getpid(), &found); }

Test(inspect, a_process_without_the_library_has_none) { cr_expect_eq(look(), INSPECT_NONE); }

Test(inspect, a_process_that_is_gone) {
  pid_t pid = fork();

  if (pid == 0)
    _exit(0);
  waitpid(pid, NULL, 0);
  cr_expect_eq(inspect_process(pid, &found), INSPECT_GONE);
}

TestSuite(arena, .init = make_arena);

Test(arena, an_empty_one_has_no_connections) {
  cr_expect_eq(look(), INSPECT_OK);
  cr_expect_eq(found.count, 0);
  cr_expect_gt(strlen(found.name), 0);
}

Test(arena, free_closed_and_foreign_connections_are_passed_over) {
  add_conn(0)->used = 0;
  add_conn(1)->used = 2;
  add_conn(2)->holder[0] = getppid();
  add_conn(3)->closed = 1;
  add_conn(200)->holder[0] = 0;
  conns[200].holder[FL_HOLDERS - 1] = getpid();
  cr_assert_eq(look(), INSPECT_OK);
  cr_expect_eq(found.count, 1);
}

Test(arena, a_young_connection) {
  struct fl_conn *c = add_conn(5);

  c->tx_kernel.bytes = 17;
  c->rx_kernel.messages = 2;
  cr_assert_eq(look(), INSPECT_OK);
  cr_assert_eq(found.count, 1);
  const struct inspect_conn *r = &found.conns[0];
  cr_expect_eq(r->pid, getpid());
  cr_expect_str_eq(r->phase, "young");
  cr_expect_str_eq(r->why, "too few messages yet");
  cr_expect_str_eq(r->tx.state, "-");
  cr_expect_eq(r->tx.kernel.bytes, 17);
  cr_expect_eq(r->rx.kernel.messages, 2);
  cr_expect_eq(r->local.port, 0);
}

Test(arena, a_paired_connection_and_the_states_of_its_lanes) {
  struct fl_conn *c = add_conn(0);
  struct iovec iov = {(void *)"hello", 5};
  struct fl_rx peer_rx;
  struct fl_tx peer_tx;
  size_t done;

  fl_attach(pair(c, FL_RING_MIN), FL_RING_MIN, 1, &peer_tx, &peer_rx);
  fl_rx_watch(&peer_rx);
  cr_assert_eq(fl_tx_push(&c->tx, &iov, 0, 5, 0, &done), FL_TX_OK);
  c->tuple = (struct fl_tuple){.local_port = htons(6379), .remote_port = htons(40000), .v4 = 1};

  cr_assert_eq(look(), INSPECT_OK);
  const struct inspect_conn *r = &found.conns[0];
  cr_expect_str_eq(r->phase, "paired");
  cr_expect(r->usable);
  cr_expect_str_eq(r->why, "");
  cr_expect_eq(r->ring_size, FL_RING_MIN);
  cr_expect_str_eq(r->tx.state, "watching");
  cr_expect_eq(r->tx.queued, 5);
  cr_expect_str_eq(r->rx.state, "native");
  cr_expect_eq(r->rx.queued, 0);
  cr_expect_eq(r->local.port, 6379);
  cr_expect_eq(r->remote.port, 40000);
}

Test(arena, why_a_paired_connection_is_on_tcp) {
  struct fl_conn *c = add_conn(0);

  pair(c, FL_RING_MIN);
  c->nholders = 2;
  cr_assert_eq(look(), INSPECT_OK);
  cr_expect_not(found.conns[0].usable);
  cr_expect_str_eq(found.conns[0].why, "held by more than one process");
  c->pin = FL_WHY_OOB;
  cr_assert_eq(look(), INSPECT_OK);
  cr_expect_str_eq(found.conns[0].why, "urgent data");
}

Test(arena, nonsense_is_shown_as_unknown) {
  struct fl_conn *c = add_conn(0);

  c->phase = 77;
  c->reason = 255;
  c->fd_hint = 1 << 30;
  c = add_conn(1);
  pair(c, FL_RING_MIN);
  c->tx.lane = (struct fl_lane *)0x10;
  c->rx.lane = (struct fl_lane *)UINTPTR_MAX;
  c->tx.mask = UINT64_MAX;
  cr_assert_eq(look(), INSPECT_OK);
  cr_assert_eq(found.count, 2);
  cr_expect_str_eq(found.conns[0].phase, "?");
  cr_expect_str_eq(found.conns[0].why, "?");
  cr_expect_str_eq(found.conns[1].tx.state, "?");
  cr_expect_str_eq(found.conns[1].rx.state, "?");
  cr_expect_eq(found.conns[1].ring_size, 0);
}

Test(arena, a_tail_beyond_the_head_is_nothing_queued) {
  struct fl_conn *c = add_conn(0);

  pair(c, FL_RING_MIN);
  c->rx.lane->tail = 1000;
  cr_assert_eq(look(), INSPECT_OK);
  cr_expect_eq(found.conns[0].rx.queued, 0);
}

Test(arena, other_versions_and_lies_about_the_layout_are_foreign) {
  const struct fl_arena good = *arena;

  arena->magic = 0;
  cr_expect_eq(look(), INSPECT_FOREIGN);
  *arena = good;
  arena->version = FL_ARENA_VERSION + 1;
  cr_expect_eq(look(), INSPECT_FOREIGN);
  *arena = good;
  arena->conn_size += 8;
  cr_expect_eq(look(), INSPECT_FOREIGN);
  *arena = good;
  arena->conn_offset = 0;
  cr_expect_eq(look(), INSPECT_FOREIGN);
  arena->conn_offset = UINT64_MAX;
  cr_expect_eq(look(), INSPECT_FOREIGN);
  *arena = good;
  arena->conn_count = UINT32_MAX;
  arena->used_high = UINT32_MAX;
  cr_expect_eq(look(), INSPECT_FOREIGN);
  *arena = good;
  arena->used_high = FL_CONNS + 1;
  cr_expect_eq(look(), INSPECT_FOREIGN);
  *arena = good;
  cr_expect_eq(look(), INSPECT_OK);
}

Test(arena, a_mapping_that_is_too_small_is_foreign) {
  munmap((char *)arena + 4096, FL_ARENA_BYTES - 4096);
  cr_expect_eq(look(), INSPECT_FOREIGN);
}

/* Before the addresses are in the table they come from the socket itself. */
static void young_addresses(int family, struct sockaddr *a, socklen_t len) {
  int listener = socket(family, SOCK_STREAM, 0), fd = socket(family, SOCK_STREAM, 0);
  in_port_t *port = family == AF_INET ? &((struct sockaddr_in *)a)->sin_port : &((struct sockaddr_in6 *)a)->sin6_port;

  cr_assert_eq(bind(listener, a, len), 0);
  cr_assert_eq(listen(listener, 1), 0);
  cr_assert_eq(getsockname(listener, a, &len), 0);
  cr_assert_eq(connect(fd, a, len), 0);
  add_conn(0)->fd_hint = fd;
  cr_assert_eq(look(), INSPECT_OK);
  cr_assert_eq(found.count, 1);
  cr_expect_eq(found.conns[0].remote.port, ntohs(*port));
  cr_expect_neq(found.conns[0].local.port, 0);
}

Test(arena, addresses_of_a_young_connection) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

  young_addresses(AF_INET, (struct sockaddr *)&a, sizeof(a));
  cr_expect(IN6_IS_ADDR_V4MAPPED(&found.conns[0].remote.addr));
  cr_expect_eq(memcmp(&found.conns[0].remote.addr.s6_addr[12], &a.sin_addr, 4), 0);
}

Test(arena, addresses_of_a_young_ipv6_connection) {
  struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};

  young_addresses(AF_INET6, (struct sockaddr *)&a, sizeof(a));
  cr_expect(IN6_IS_ADDR_LOOPBACK(&found.conns[0].remote.addr));
}
