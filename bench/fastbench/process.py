# SPDX-License-Identifier: MIT
"""Child processes that cannot outlive their point: each has a time limit, a process group and a dead man's switch."""

import ctypes
import os
import select
import signal
import socket
import subprocess
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
TCP_LISTEN = "0A"
UNIX_ACCEPTING = 0x10000

_libc = ctypes.CDLL(None, use_errno=True)
_next_port = 20000 + os.getpid() % 8000


class PointFailed(Exception):
    """A program hung, failed, or said something that we do not understand."""


def free_port():
    """A TCP port below the ephemeral range that nobody has: clients of a running benchmark cannot take it meanwhile."""
    global _next_port
    for _ in range(4000):
        _next_port = 20000 + (_next_port + 1 - 20000) % 12000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", _next_port))
                return _next_port
            except OSError:
                continue
    raise PointFailed("no free port")


def _listens(address):
    if isinstance(address, int):
        wanted = f":{address:04X}"
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(wanted) and fields[3] == TCP_LISTEN:
                return True
        return False
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if len(fields) == 8 and fields[7] == address and int(fields[3], 16) & UNIX_ACCEPTING:
            return True
    return False


def _tail(path):
    text = Path(path).read_text(errors="replace").strip()
    return " | ".join(text.splitlines()[-3:])[-400:]


class Child:
    """One process of a point. Its output goes to files, so it never blocks on a pipe that nobody reads."""

    def __init__(self, argv, env, log, user=None, cwd=None, cgroup=None):
        self.argv = [str(a) for a in argv]
        self.name = Path(self.argv[0]).name
        self.out_path, self.err_path = f"{log}.out", f"{log}.err"
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            try:
                self.process = subprocess.Popen(
                    self.argv, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=cwd,
                    start_new_session=True, preexec_fn=self._in_child,
                    **({"user": user, "group": user, "extra_groups": []} if user else {}))
            except OSError as error:
                raise PointFailed(f"{self.name}: {error}") from error
        if cgroup:
            cgroup.procs.write_text(str(self.pid))

    @staticmethod
    def _in_child():
        # If the driver itself is killed, so is every program that it started.
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)

    @property
    def pid(self):
        return self.process.pid

    def output(self):
        return Path(self.out_path).read_text(errors="replace")

    def errors(self):
        return Path(self.err_path).read_text(errors="replace")

    def failure(self, what):
        return PointFailed(f"{self.name}: {what}: {_tail(self.err_path) or _tail(self.out_path)}".rstrip(": "))

    def wait_until(self, ready, what, seconds=10):
        """Waits until ready() is true. The process must live so long."""
        deadline = time.monotonic() + seconds
        while True:
            result = ready()
            if result:
                return result
            if self.process.poll() is not None:
                raise self.failure(f"ended with {self.process.returncode} before it was {what}")
            if time.monotonic() > deadline:
                raise self.failure(f"not {what} after {seconds} s")
            time.sleep(0.005)

    def wait_listening(self, *addresses):
        self.wait_until(lambda: all(_listens(a) for a in addresses), "listening")

    def wait_ready_line(self):
        """The address that a server of ours printed."""
        def address():
            words = self.output().split(None, 2)
            return words[1] if len(words) >= 2 and words[0] == "ready" and "\n" in self.output() else None
        return self.wait_until(address, "ready")

    def wait_end(self, seconds):
        """Waits for a good end, and returns the output."""
        self._wait_pid(seconds)
        if self.process.poll() is None:
            raise self.failure(f"hung: no end after {seconds:.0f} s")
        if self.process.returncode != 0:
            raise self.failure(f"ended with {self.process.returncode}")
        return self.output()

    def _wait_pid(self, seconds):
        # Popen.wait with a timeout polls with growing naps; a pidfd wakes us at once.
        if self.process.poll() is not None:
            return
        pidfd = os.pidfd_open(self.pid)
        try:
            select.select([pidfd], [], [], seconds)
        finally:
            os.close(pidfd)
        self.process.poll()

    def stop(self, stop_signal, seconds=10):
        """Orderly end. The signal is repeated once a second: one that lands just before a sleep is lost."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            self.process.send_signal(stop_signal)
            self._wait_pid(1)
        if self.process.poll() is None:
            raise self.failure(f"hung: did not stop within {seconds} s of {signal.Signals(stop_signal).name}")
        if self.process.returncode != 0:
            raise self.failure(f"stopped with {self.process.returncode}")

    def kill(self):
        """Ends the whole process group, whatever state it is in."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self.process.wait()
