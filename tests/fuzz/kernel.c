/* SPDX-License-Identifier: MIT */
/* tests/fuzz/kernel.c - see kernel.h. Half of the answers are what an honest kernel and an honest peer would say. */
#include "kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "registry/hello.h"
#include "shmring/fault.h"

#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif

#define FDS 256
#define MAPPINGS 16

static struct input *in;
static struct fl_tuple tuple;
static uint64_t peer;
static bool open_fds[FDS];
static struct {
  void *at;
  size_t len;
} mapped[MAPPINGS];
static bool honest_hello, honest_memfd;
static struct {
  unsigned char bytes[128];
  size_t n; /* 0: the hello of a rendezvous */
  int fds;
} message;
static uint32_t hello_ring;
static struct fl_tuple asked; /* the socket that the last request was for */
static uint32_t asked_seq;

void kernel_begin(struct input *input, const struct fl_tuple *t, uint64_t peer_cookie) {
  in = input;
  tuple = *t;
  peer = peer_cookie;
  memset(open_fds, 0, sizeof open_fds);
  for (int i = 0; i < MAPPINGS; i++)
    if (mapped[i].at)
      free(mapped[i].at);
  memset(mapped, 0, sizeof mapped);
  honest_hello = honest_memfd = false;
  hello_ring = 0;
  message.n = 0;
  asked = *t;
  asked_seq = 0;
}

int kernel_open_fds(void) {
  int n = 0;

  for (int i = 0; i < FDS; i++)
    n += open_fds[i];
  return n;
}

int kernel_mappings(void) {
  int n = 0;

  for (int i = 0; i < MAPPINGS; i++)
    n += mapped[i].at != NULL;
  return n;
}

bool kernel_visitor_honest(void) { return honest_hello && honest_memfd; }

bool kernel_visitor_honest_memfd(void) { return honest_memfd; }

static int fd_from(int lowest) {
  for (int i = lowest; i < FDS; i++)
    if (!open_fds[i]) {
      open_fds[i] = true;
      return i;
    }
  return -EMFILE;
}

int kernel_fd(void) { return fd_from(3); }

long kernel_trouble(void) {
  static const int errors[] = {EAGAIN,       EMFILE,     ENFILE,     ENOMEM, ENOBUFS, EACCES, EPERM,      EINTR,
                               ECONNREFUSED, EADDRINUSE, ECONNRESET, EPIPE,  EINVAL,  ENOENT, EOPNOTSUPP, ECONNABORTED};
  uint8_t v = take8(in);

  return v < 192 ? 0 : -errors[v % (sizeof errors / sizeof errors[0])];
}

/* ---- sock_diag ---- */

static long netlink_request(const void *bytes, size_t len) {
  struct {
    struct nlmsghdr nlh;
    struct inet_diag_req_v2 req;
  } q;

  MUST(len == sizeof q);
  memcpy(&q, bytes, sizeof q);
  asked_seq = q.nlh.nlmsg_seq;
  bool own = q.req.id.idiag_sport == tuple.local_port && q.req.id.idiag_dport == tuple.remote_port;
  asked = tuple;
  if (!own) {
    asked.local = tuple.remote;
    asked.local_port = tuple.remote_port;
    asked.remote = tuple.local;
    asked.remote_port = tuple.local_port;
  }
  return (long)len;
}

static void address(__be32 out[4], const struct in6_addr *a) {
  memset(out, 0, 16);
  if (tuple.v4)
    memcpy(out, &a->s6_addr[12], 4);
  else
    memcpy(out, a, 16);
}

static long netlink_answer(void *bytes, size_t room, struct sockaddr_nl *from) {
  struct {
    struct nlmsghdr nlh;
    struct inet_diag_msg m;
  } a = {.nlh = {.nlmsg_len = sizeof a, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_seq = asked_seq},
         .m = {.idiag_family = tuple.v4 ? AF_INET : AF_INET6, .idiag_state = TCP_ESTABLISHED, .idiag_inode = 77}};
  unsigned char raw[600];
  uint8_t how = take8(in);
  size_t len;

  from->nl_pid = how & 0x40 ? take32(in) : 0;
  a.m.id.idiag_sport = asked.local_port;
  a.m.id.idiag_dport = asked.remote_port;
  address(a.m.id.idiag_src, &asked.local);
  address(a.m.id.idiag_dst, &asked.remote);
  a.m.id.idiag_cookie[0] = (uint32_t)peer;
  a.m.id.idiag_cookie[1] = (uint32_t)(peer >> 32);
  if (how & 0x80) { /* anything */
    len = take16(in) % sizeof raw;
    take(in, raw, len);
    if ((how & 1) && len >= sizeof(struct nlmsghdr))
      ((struct nlmsghdr *)raw)->nlmsg_seq = asked_seq;
    memcpy(bytes, raw, len < room ? len : room);
    return (long)(len < room ? len : room);
  }
  for (; how & 7; how--) /* some bytes are different */
    ((unsigned char *)&a)[take8(in) % sizeof a] = take8(in);
  len = how & 8 ? take8(in) % (sizeof a + 1) : sizeof a;
  memcpy(bytes, &a, len < room ? len : room);
  return (long)(len < room ? len : room);
}

/* ---- the visitor's message ---- */

void kernel_message(const void *bytes, size_t n, int fds) {
  memcpy(message.bytes, bytes, n);
  message.n = n;
  message.fds = fds;
}

static void honest_message(void) {
  struct fl_hello h = {.magic = FL_HELLO_MAGIC,
                       .version = FL_HELLO_VERSION,
                       .ring_size = FL_RING_MIN,
                       .local_cookie = peer,
                       .remote_cookie = tuple.cookie,
                       .local = tuple.remote,
                       .remote = tuple.local,
                       .local_port = tuple.remote_port,
                       .remote_port = tuple.local_port};

  kernel_message(&h, sizeof h, 1);
}

/* Of a hello only: any valid size of the rings is as good. */
static bool is_right(const unsigned char *bytes) {
  struct fl_hello h, right;

  memcpy(&h, bytes, sizeof h);
  memcpy(&right, message.bytes, sizeof right);
  hello_ring = h.ring_size;
  h.ring_size = right.ring_size;
  return memcmp(&h, &right, sizeof h) == 0 && fl_ring_size_valid(hello_ring);
}

static long receive_message(struct msghdr *msg) {
  unsigned char bytes[128] = {0};
  bool hello = message.n == 0;
  if (hello)
    honest_message();
  uint8_t how = take8(in), fds = how & 0x10 ? take8(in) % 7 : (uint8_t)message.fds;
  size_t len = message.n, room = msg->msg_iov[0].iov_len;
  struct cmsghdr *c = msg->msg_control;

  MUST(msg->msg_iovlen == 1);
  memcpy(bytes, message.bytes, message.n);
  for (int i = how & 7; i > 0; i--) {
    size_t at = take8(in) % message.n;
    bytes[at] = take8(in);
  }
  if (how & 0x10)
    len = take8(in) % sizeof bytes;
  if (hello) {
    honest_hello = is_right(bytes) && len == message.n && fds == 1;
    message.n = 0;
  } else {
    hello_ring = FL_RING_MIN;
  }
  msg->msg_flags = len > room ? MSG_TRUNC : 0;
  memcpy(msg->msg_iov[0].iov_base, bytes, len < room ? len : room);
  /* as many descriptors as there is room for */
  int *list = (int *)CMSG_DATA(c);
  int n = 0;
  while (n < fds && CMSG_LEN((size_t)(n + 1) * sizeof(int)) <= msg->msg_controllen) {
    int fd = fd_from(3);
    if (fd < 0)
      break;
    list[n++] = fd;
  }
  if (n < fds)
    msg->msg_flags |= MSG_CTRUNC;
  c->cmsg_level = how & 0x20 && n == 0 ? SOL_SOCKET + 1 : SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN((size_t)n * sizeof(int));
  msg->msg_controllen = n ? CMSG_SPACE((size_t)n * sizeof(int)) : 0;
  return (long)(len < room ? len : room);
}

/* ---- memory ---- */

static long map(size_t len) {
  void *at;
  int i = 0;

  while (i < MAPPINGS && mapped[i].at)
    i++;
  if (i == MAPPINGS || len > 1u << 22)
    return -ENOMEM;
  at = aligned_alloc(FL_PAGE, (len + FL_PAGE - 1) & ~(size_t)(FL_PAGE - 1));
  MUST(at && len >= FL_PAGE);
  mapped[i].at = at;
  mapped[i].len = len;
  uint8_t how = take8(in);
  uint32_t ring = fl_ring_size_valid(fl_segment_page(len)) ? (uint32_t)fl_segment_page(len) : 0;
  size_t bytes = ring ? fl_segment_bytes(ring) : FL_PAGE;
  memset((char *)at + fl_segment_page(bytes), 0, FL_PAGE);
  struct fl_segment *seg = ring ? fl_segment_init(at, ring) : fl_segment_at(at, FL_PAGE);
  for (int k = how < 128 ? 0 : how & 15; k > 0; k--) {
    size_t where = take8(in) % 24; /* magic, version, size */
    uint8_t v = take8(in);
    ((unsigned char *)seg)[where] = v;
  }
  honest_memfd &= seg->magic == FL_SEGMENT_MAGIC && seg->version == FL_SEGMENT_VERSION && seg->ring_size == hello_ring;
  return (long)at;
}

static long unmap(void *at, size_t len) {
  for (int i = 0; i < MAPPINGS; i++)
    if (mapped[i].at == at && mapped[i].len == len) {
      free(at);
      mapped[i].at = NULL;
      return 0;
    }
  MUST(!"a mapping that is there");
  return -EINVAL;
}

/* ---- the calls ---- */

static long get_option(const long args[6]) {
  socklen_t *len = (socklen_t *)args[4];
  uint8_t how = take8(in);
  struct ucred cred = {.pid = 1, .uid = how & 1 ? take32(in) : 0};
  uint64_t wide = how & 2 ? take64(in) : args[2] == SO_COOKIE ? tuple.cookie : tuple.netns;
  int narrow = how & 4                  ? (int)take32(in)
               : args[2] == SO_DOMAIN   ? AF_INET
               : args[2] == SO_TYPE     ? SOCK_STREAM
               : args[2] == SO_PROTOCOL ? IPPROTO_TCP
                                        : 0;
  const void *value = &narrow;
  size_t size = sizeof narrow;
  long rc = kernel_trouble();

  if (rc)
    return rc;
  if (args[2] == SO_PEERCRED) {
    value = &cred;
    size = sizeof cred;
  } else if (*len == sizeof wide) {
    value = &wide;
    size = sizeof wide;
  }
  if (size > *len)
    size = *len;
  memcpy((void *)args[3], value, size);
  *len = (socklen_t)size;
  return 0;
}

static long get_name(const long args[6]) {
  socklen_t *len = (socklen_t *)args[2];
  unsigned char a[128] = {0};
  size_t n = 16 + take8(in) % 13;
  long rc = kernel_trouble();

  take(in, a, n);
  if (take8(in) & 1)
    *(uint16_t *)a = take8(in) & 1 ? AF_INET : AF_INET6;
  memcpy((void *)args[1], a, n < *len ? n : *len);
  *len = (socklen_t)n;
  return rc;
}

static long read_file(void *buf, size_t room) {
  static const char *const files[] = {"65534\n", "         0          0 4294967295\n", "0 100000 65536\n", "", "x"};
  char text[64];
  uint8_t how = take8(in);
  size_t n;

  if (how < 200) {
    n = strlen(files[how % 5]);
    memcpy(text, files[how % 5], n);
  } else {
    n = how - 200;
    take(in, text, n);
  }
  if (n > room)
    n = room;
  memcpy(buf, text, n);
  return (long)n;
}

static bool is_open(long fd) { return fd >= 0 && fd < FDS && open_fds[fd]; }

int kernel_close(int fd) {
  MUST(is_open(fd)); /* closing what is not ours may close another thread's */
  open_fds[fd] = false;
  return 0;
}

static long fcntl_call(const long args[6]) {
  static const int seals[] = {F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW | F_SEAL_SEAL, 0};
  uint8_t how;

  switch (args[1]) {
  case F_GET_SEALS:
    how = take8(in);
    honest_memfd = how < 128 || (how != 255 && (seals[how & 3] & F_SEAL_SHRINK));
    return how < 128 ? seals[0] : how == 255 ? -EINVAL : seals[how & 3];
  case F_DUPFD_CLOEXEC: return take8(in) < 200 ? fd_from((int)args[2]) : -EMFILE;
  default: return kernel_trouble();
  }
}

static long call(long nr, const long args[6]) {
  long rc;

  switch (nr) {
  case __NR_socket:
  case __NR_openat:
  case __NR_memfd_create:
  case __NR_accept4:
    if (nr == __NR_memfd_create)
      hello_ring = 0;
    rc = kernel_trouble();
    return rc ? rc : fd_from(3);
  case __NR_close: return kernel_close((int)args[0]);
  case __NR_bind: rc = take8(in); return rc < 100 ? 0 : rc < 200 ? -EADDRINUSE : kernel_trouble();
  case __NR_getsockopt: return get_option(args);
  case __NR_getsockname:
  case __NR_getpeername: return get_name(args);
  case __NR_sendto: rc = kernel_trouble(); return rc ? rc : netlink_request((void *)args[1], (size_t)args[2]);
  case __NR_recvfrom:
    rc = kernel_trouble();
    return rc ? rc : netlink_answer((void *)args[1], (size_t)args[2], (struct sockaddr_nl *)args[4]);
  case __NR_sendmsg:
    rc = kernel_trouble();
    return rc ? rc : take8(in) < 250 ? (long)((struct msghdr *)args[1])->msg_iov[0].iov_len : (long)take8(in);
  case __NR_recvmsg: rc = kernel_trouble(); return rc ? rc : receive_message((struct msghdr *)args[1]);
  case __NR_fcntl: return fcntl_call(args);
  case __NR_lseek: {
    uint8_t how = take8(in);
    long right = (long)fl_segment_bytes(hello_ring), size = how < 128 ? right : how == 255 ? -ESPIPE : (long)take32(in);
    honest_memfd &= size == right;
    return size;
  }
  case __NR_mmap: rc = kernel_trouble(); return rc ? rc : map((size_t)args[1]);
  case __NR_munmap: return unmap((void *)args[0], (size_t)args[1]);
  case __NR_ppoll: return take8(in) < 200;
  case __NR_read: rc = kernel_trouble(); return rc ? rc : read_file((void *)args[1], (size_t)args[2]);
  case __NR_write: rc = kernel_trouble(); return rc ? rc : take8(in) < 250 ? args[2] : 0;
  default: return kernel_trouble();
  }
}

bool fl_fault_call(long nr, const long args[6], long *result) {
  *result = call(nr, args);
  return true;
}
