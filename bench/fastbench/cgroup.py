# SPDX-License-Identifier: MIT
"""A cgroup that may use a share of a processor, as containers have it (version 2, or version 1's cpu controller)."""

import os
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PERIOD_US = 100_000


def _version_1():
    return (ROOT / "cpu" / "cpu.cfs_quota_us").exists()


def why_not():
    """Why no quota can be set here, or None."""
    if _version_1():
        return None if os.access(ROOT / "cpu", os.W_OK) else "no right to make a cgroup"
    controllers = ROOT / "cgroup.subtree_control"
    if not controllers.exists() or "cpu" not in controllers.read_text().split():
        return "the cpu controller of cgroups is not available"
    return None if os.access(ROOT, os.W_OK) else "no right to make a cgroup"


class CpuQuota:
    """One cgroup. A process joins it when its pid is written to `procs`."""

    def __init__(self, name, cpus):
        quota = int(cpus * PERIOD_US)
        self.path = (ROOT / "cpu" if _version_1() else ROOT) / name
        self.path.mkdir()
        self.procs = self.path / "cgroup.procs"
        if _version_1():
            (self.path / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (self.path / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (self.path / "cpu.max").write_text(f"{quota} {PERIOD_US}")

    def remove(self):
        """All of its processes must have ended; the kernel notices that a moment later."""
        for _ in range(100):
            try:
                self.path.rmdir()
                return
            except OSError:
                time.sleep(0.01)
