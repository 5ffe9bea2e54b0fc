"""How many CPUs this process may use."""

import math
import os
from contextlib import suppress
from pathlib import Path


def usable_cpus(process: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs that this process may use: its affinity, and what its control groups (Linux) allow in time.

    Args:
        process: the file that names the groups of the process.
        mount: where the groups lie, of version 1 or 2.

    Returns:
        A quota of 1.5 CPUs counts as 2, so that none of it lies idle.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        groups = process.read_text().splitlines()
    except OSError:  # not Linux
        return count
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mount / controllers
        folder = root / path.strip("/")
        # Any group above may set a limit. A container sees its own at the root, under whatever name.
        for place in (folder, *folder.parents):
            if place.is_relative_to(root):
                count = min(count, _quota(place))
    return max(1, count)


def _quota(group: Path) -> int:
    """CPUs that a control group allows; very many where it sets no limit."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:  # -1 and "max": no limit
            return math.ceil(int(quota) / int(period))
    return 1 << 30
