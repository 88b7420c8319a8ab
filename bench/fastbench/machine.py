# SPDX-License-Identifier: MIT
"""Where and on what a run was made, and how much else went on there meanwhile."""

import os
import platform
import re
import resource
import subprocess
import time
from pathlib import Path


def output_of(*argv, cwd=None):
    try:
        result = subprocess.run(argv, capture_output=True, text=True, timeout=10, cwd=cwd, check=False)
        return result.stdout.strip() if result.returncode == 0 or argv[0] == "systemd-detect-virt" else ""
    except OSError:
        return ""


def cpu_model():
    match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match.group(1) if match else platform.machine()


def memory_gb():
    match = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return round(int(match.group(1)) / 1e6) if match else None


def library_version(source):
    match = re.search(r"version:\s*'([^']+)'", (source / "meson.build").read_text())
    return match.group(1) if match else "unknown"


def commit(source):
    # What changed since the commit matters only where it can change a figure.
    head = output_of("git", "rev-parse", "--short", "HEAD", cwd=source)
    dirty = output_of("git", "status", "--porcelain", "--", "preload", "shmring", "registry", "trampoline", "bench",
                      cwd=source)
    return (head or "unknown") + (" with uncommitted changes" if dirty else "")


def describe(source):
    os_release = Path("/etc/os-release").read_text()
    pretty = re.search(r'^PRETTY_NAME="?([^"\n]+)', os_release, re.MULTILINE)
    clock = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    return {
        "cpu": cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gb": memory_gb(),
        "kernel": f"{platform.system()} {platform.release()}",
        "system": pretty.group(1) if pretty else "",
        "virtualisation": output_of("systemd-detect-virt") or "unknown",
        "hypervisor": "yes" if re.search(r"\bhypervisor\b", Path("/proc/cpuinfo").read_text()) else "no",
        "clock": clock.read_text().strip() if clock.exists() else "",
        "libc": " ".join(platform.libc_ver()),
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "commit": commit(source),
        "version": library_version(source),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith("FASTLOCAL_")},
    }


class OtherLoad:
    """Measures what share of the machine others took while it was open: the noise that we know of."""

    def __init__(self):
        self.began = self._read()

    @staticmethod
    def _read():
        user, nice, system, idle, iowait, irq, softirq, steal, *_ = (
            int(f) / os.sysconf("SC_CLK_TCK") for f in Path("/proc/stat").read_text().split("\n")[0].split()[1:])
        ours = sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage,
                                                        (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
        busy = user + nice + system + irq + softirq
        return {"all": busy + idle + iowait + steal, "busy": busy, "steal": steal, "ours": ours}

    def percentages(self):
        now = self._read()
        delta = {k: now[k] - self.began[k] for k in now}
        total = delta["all"] or 1
        return {"others_percent": max(0, 100 * (delta["busy"] - delta["ours"]) / total),
                "steal_percent": 100 * delta["steal"] / total}
