"""How many cores this process may use: fewer than the machine has, in a container or under `taskset`."""

import math
import os
from pathlib import Path

#: Where Linux shows control groups (version 2), and which of them a process is in.
CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cores() -> int:
    """The processors that this process may run on, or what its control group's quota is worth, rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, quota(CGROUPS, MEMBERSHIP))))


def quota(cgroups: Path, membership: Path) -> float:
    """Processors' worth of time that the control group and those above it leave; infinite without a limit.

    Each group's `cpu.max` holds microseconds of processor time, or `max`, and the period that they are for
    (Linux, Documentation/admin-guide/cgroup-v2.rst).
    """
    least = math.inf
    try:
        entries = membership.read_text().splitlines()
    except OSError:
        return least
    name = next((line.removeprefix("0::/") for line in entries if line.startswith("0::/")), "")
    for group in [cgroups / name, *(cgroups / name).parents]:
        if cgroups not in (group, *group.parents):
            break
        try:
            share, period = (group / "cpu.max").read_text().split()
            least = min(least, int(share) / int(period))
        except (OSError, ValueError):  # no limit here: no such file, or `max`
            continue
    return least
