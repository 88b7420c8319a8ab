#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# A connection while its process forks, execs, starts helpers and ends: the same as on plain TCP, and on the rings again as
# soon as one process is left to hold it. The programs are in tests/process/.

load lib

setup_file() {
  local name
  need cc
  chmod a+rx "$BATS_FILE_TMPDIR"
  for name in far forks execs helpers ends hammer closes handover stdio fault jumps alone sandbox rearm; do
    cc -std=gnu11 -D_GNU_SOURCE -O1 -g -pthread -o "$BATS_FILE_TMPDIR/$name" "$REPOSITORY/tests/process/$name.c"
  done
}

run_program() { # PROGRAM ARGUMENT...
  client "$BATS_FILE_TMPDIR/$1" "${@:2}"
}

# PROGRAM ARGUMENT...: the output is what it is on plain TCP.
same() {
  mode both
  same_as_tcp run_program "$@"
}

# The same, and the connection was on its rings after the other process had gone: nearly all bytes of these programs come
# then, to readers that do not sleep. (Without the rings the share is below 0.1 %; with them how much it is depends on the
# machine.)
same_on_rings() {
  same "$@"
  assert_ring_share far 3
}

# WAY with|without PEER, see tests/process/handover.c: the unread bytes lie in a ring, and reach their new reader.
hand_over() { client "$BATS_FILE_TMPDIR/handover" "$@" | sort; }
handed_over() {
  mode both
  options FASTLOCAL_SPIN_US=2000 "FASTLOCAL_LOG=info:$T/library.log"
  same_as_tcp hand_over "$@"
  [[ -z $LIBRARY ]] || grep -q 'is handed over, [1-9][0-9]* unread' "$T/library.log" || fail "nothing was unread"
}

@test "fork: both use the connection in turn, the child exits, the parent is on the ring" { same_on_rings forks turns fork; }
@test "_Fork: both use the connection in turn" { same_on_rings forks turns _Fork; }
@test "forkpty: both use the connection in turn" { same_on_rings forks turns forkpty; }
@test "clone, which no handler sees: both use the connection in turn" { same_on_rings forks turns clone; }
@test "fork into a new pid namespace: both use the connection in turn" {
  ((EUID == 0)) || skip "needs root to make a pid namespace"
  same forks turns newpid
}
@test "fork: the parent closes, the child is on the ring" { same_on_rings forks child fork; }
@test "_Fork: the parent closes, the child is on the ring" { same_on_rings forks child _Fork; }
@test "clone: the parent closes, the child is on the ring" { same_on_rings forks child clone; }
@test "fork: the child closes and lives on, the parent is on the ring" { same_on_rings forks parent fork; }
@test "_Fork: the child closes and lives on, the parent is on the ring" { same_on_rings forks parent _Fork; }
@test "clone: the child closes and lives on, the parent is on the ring" { same_on_rings forks parent clone; }
@test "fork: the child receives what the parent sends" { same forks split fork; }
@test "_Fork: the child receives what the parent sends" { same forks split _Fork; }
@test "fork: the child is killed, the parent is on the ring" { same_on_rings forks killed fork; }
@test "fork: a grandchild and a child come and go" { same_on_rings forks nested; }
@test "daemon with an open connection: the daemon is on the ring" { same_on_rings forks daemon; }
@test "forks that fail leave the connection on the ring" {
  ((EUID == 0)) || skip "needs root to become a user with no processes left"
  same_on_rings forks failed
}
@test "a server that forks for every connection" { same_on_rings forks per-connection; }
@test "a server whose children accept" { same_on_rings forks prefork; }

@test "exec: every function of the family gives arguments and environment on" { same execs arguments; }
@test "exec: the new program, with the library, goes on with the connection" { same execs inherit with; }
@test "exec: the new program, without the library, goes on with the connection" { same execs inherit without; }
@test "exec: a child's program with the library uses the connection, then the parent" { same execs lend with; }
@test "exec: a child's program without the library uses the connection, then the parent" { same execs lend without; }
@test "exec that fails leaves the connection on the ring" { same_on_rings execs failed; }
@test "exec closes a connection with all bytes read" { same execs cloexec read; }
@test "exec closes a connection with bytes unread" { same execs cloexec unread; }
@test "exec in a child closes its descriptor, the parent is on the ring while the child lives" {
  same_on_rings execs cloexec-child
}
@test "vfork and exec of a program that does not use the connection" { same_on_rings execs vfork-idle; }
@test "vfork: the connection becomes a program's output" { same execs vfork-output; }
@test "vfork: the child closes its copy of a young connection, the parent goes on" { same execs vfork-close young; }
@test "vfork: the child closes its copy of a paired connection, the parent is on the ring" {
  same_on_rings execs vfork-close old
}

@test "unread bytes: exec, with the library, the peer waits in recv" { handed_over exec with waits; }
@test "unread bytes: exec, without the library, the peer waits in recv" { handed_over exec without waits; }
@test "unread bytes: exec, the peer waits in poll" { handed_over exec without polls; }
@test "unread bytes: exec, the peer waits in select" { handed_over exec with selects; }
@test "unread bytes: exec, the peer waits in epoll_wait" { handed_over exec without epolls; }
@test "unread bytes: exec, the peer sends more later" { handed_over exec without later; }
@test "unread bytes: exec, the peer closes later" { handed_over exec without closes-later; }
@test "unread bytes: exec, the peer exits later" { handed_over exec with exits-later; }
@test "unread bytes: exec, the peer shuts down later" { handed_over exec without shuts-later; }
@test "unread bytes: exec fails, and succeeds" { handed_over failed without waits; }
@test "unread bytes: a child's program reads them, its parent goes on" { handed_over child without waits; }
@test "unread bytes: some are read here, the rest by a child's program" { handed_over half with polls; }
@test "unread bytes: vfork, the connection becomes a program's input" { handed_over vfork without waits; }
@test "unread bytes: posix_spawn, the connection becomes a program's input" { handed_over spawn with epolls; }
@test "unread bytes: the descriptor is passed to a process with the library" { handed_over pass with waits; }
@test "unread bytes: the descriptor is passed to a process without the library" { handed_over pass without later; }
@test "unread bytes: the descriptor is passed and kept" { handed_over keep without waits; }

# The peer cannot send them again: they go with the descriptor, into a program that has the library.
@test "unread bytes: exec, the peer has shut down" { handed_over exec with ends; }
@test "unread bytes: exec, the peer has closed" { handed_over exec with closes; }
@test "unread bytes: a child's program reads what a peer has left that exited" { handed_over child with exits; }
@test "unread bytes: vfork, the peer has closed" { handed_over vfork with closes; }
@test "unread bytes: exec fails, and succeeds, the peer has exited" { handed_over failed with exits; }
@test "unread bytes: exec, with others behind them in TCP's buffer" { handed_over kernel with later; }

@test "stdio: lines that lie unread before fdopen, and later ones" { same stdio read; }
@test "stdio: all kinds of output" { same stdio write; }
@test "stdio: a conversation over two streams stays on the ring" { same_on_rings stdio both; }
@test "stdio: one stream for both directions" { same stdio update; }
@test "stdio: what is refused" { same stdio modes; }
@test "stdio: a nonblocking descriptor" { same stdio nonblock; }
@test "stdio: exit writes what is buffered" { same stdio exit; }
@test "stdio: the connection becomes standard input and output" { same stdio inout; }

@test "more turns between the lanes than a ring can note" { same alone lanes; }
@test "the process may not write files" { same alone fsize; }
no_files() { (ulimit -f 0 && run_program alone fsize) | cat; }
@test "the program may not write files from its start on" {
  mode both
  same_as_tcp no_files
  grep -q 'went on' "$T/library.txt"
}
few_addresses() { (ulimit -v 160000 && run_program alone memory); }
@test "the program may not have many addresses" {
  mode both
  same_as_tcp few_addresses
}
@test "the process waits, and may have no descriptor more than it waits for" { same alone nofile; }

@test "descriptors in messages that nobody asked for are not kept" { same alone mail; }
@test "more iovecs than one call of ours takes" { same alone pieces; }
@test "a connection is accepted as standard input" { same alone stdin; }
@test "a socket with two descriptors is disconnected and connected again" { same alone again; }
@test "a connection was in an epoll set before it was one" { same alone early; }
@test "close_range with CLOSE_RANGE_UNSHARE" { same alone range; }
@test "a helper leaves O_NONBLOCK behind" { same alone flags; }
@test "a descriptor is passed with bytes unread, and its old holder peeks" { same alone passed; }

@test "bad addresses: what the kernel says, and nothing is lost" { same_on_rings fault; }

@test "siglongjmp out of recv: the connection goes on" { same jumps recv; }
@test "siglongjmp out of poll" { same jumps poll; }
@test "siglongjmp out of select" { same jumps select; }
@test "siglongjmp out of epoll_wait" { same jumps epoll; }
@test "longjmp from a handler on a stack of its own" { same jumps long; }
@test "siglongjmp out of send" { same jumps send; }

@test "posix_spawn of a program that does not use the connection" { same_on_rings helpers spawn-idle; }
@test "posix_spawn: the connection is on TCP while the program lives, on the ring after it" {
  same_on_rings helpers spawn-live
}
@test "posix_spawn: the connection becomes a program's output" { same helpers spawn-output; }
@test "posix_spawn that fails leaves the connection on the ring" { same_on_rings helpers spawn-missing; }
@test "system: a command that does not use the connection" { same_on_rings helpers system-idle; }
@test "system: a command that writes to the connection" { same helpers system-output; }
@test "system: another thread uses one connection and closes another" { same_on_rings helpers system-thread; }
@test "popen: commands that do not use the connection" { same_on_rings helpers popen-idle; }

@test "_exit with all bytes read" { same ends _exit read; }
@test "_exit with unread bytes" { same ends _exit unread; }
@test "_Exit with unread bytes" { same ends _Exit unread; }
@test "exit with all bytes read" { same ends exit read; }
@test "exit with unread bytes" { same ends exit unread; }
@test "quick_exit with unread bytes" { same ends quick_exit unread; }
@test "return from main with unread bytes" { same ends return unread; }
@test "SIGKILL with unread bytes" { same ends kill unread; }
@test "_exit in another thread with unread bytes" { same ends thread unread; }
@test "_exit in a signal handler with unread bytes" { same ends handler unread; }
@test "close with all bytes read" { same ends close read; }
@test "close with unread bytes" { same ends close unread; }
@test "close with unread bytes after a helper has ended" { same ends helper unread; }
@test "a forked child ends with bytes unread, the parent reads them" { same ends child unread; }

@test "a thread closes a descriptor that another one closes or uses" { same closes "$(scaled 2000)"; }
@test "children come and go while threads send and receive" { same hammer "$(scaled 200)"; }

@test "seccomp by prctl: no call of ours meets the filter, unread bytes arrive" { same sandbox prctl; }
@test "seccomp by syscall(): no call of ours meets the filter, unread bytes arrive" { same sandbox syscall; }
@test "seccomp, strict: no call of ours meets it" { same sandbox strict; }
@test "seccomp: a question is no filter, the connection stays on the ring" { same_on_rings sandbox ask; }
@test "seccomp in a forked child: the parent is on the ring" { same_on_rings sandbox child; }
@test "seccomp after the other end closed: unread bytes are there" { same sandbox ended; }

# CMD...: what goes in front of the program
race_detector() {
  client "$@" "$BATS_FILE_TMPDIR/senders" 2>"$T/reports.txt" || fail "$(head -n 30 "$T/reports.txt")"
}

@test "two threads send at once: no race in the eyes of the thread sanitizer" {
  mode both
  cc -std=gnu11 -D_GNU_SOURCE -O1 -g -pthread -fsanitize=thread -o "$BATS_FILE_TMPDIR/senders" \
    "$REPOSITORY/tests/process/senders.c" || skip "no thread sanitizer"
  same_as_tcp race_detector setarch -R
}

@test "two threads send at once: no race in the eyes of helgrind" {
  need valgrind
  mode both
  cc -std=gnu11 -D_GNU_SOURCE -O1 -g -pthread -o "$BATS_FILE_TMPDIR/senders" "$REPOSITORY/tests/process/senders.c"
  same_as_tcp race_detector valgrind -q --tool=helgrind --error-exitcode=9
}

@test "a registration that is deleted and made again between two waits wakes the second" { same rearm; }
