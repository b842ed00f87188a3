"""How many processor cores this process may compute on."""

from __future__ import annotations

import math
import os
from pathlib import Path

_SYSTEM = Path("/sys")


def compute_cores() -> int:
    """Return the number of physical cores that this process may use: never less than 1.

    Counts each core once however many hardware threads it has, because both threads of a core share one
    multiplier array, and honours CPU affinity and the CPU quota of a container.
    """
    linux = hasattr(os, "sched_getaffinity")
    allowed = os.sched_getaffinity(0) if linux else set(range(os.cpu_count() or 1))
    cores = {_siblings(cpu) for cpu in allowed}
    quota = _quota()
    return max(1, len(cores) if quota is None else min(len(cores), quota))


def _siblings(cpu: int) -> str:
    path = _SYSTEM / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    try:
        return path.read_text().strip()
    except OSError:
        return str(cpu)


def _quota() -> int | None:
    """Return the whole cores that the control group (version 2) grants, rounded up; ``None`` if unlimited."""
    try:
        granted, period = (_SYSTEM / "fs/cgroup/cpu.max").read_text().split()
        return None if granted == "max" else math.ceil(int(granted) / int(period))
    except (OSError, ValueError):
        return None
