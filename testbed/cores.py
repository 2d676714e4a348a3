"""How many cores this process may use, on every system."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """The cores that this process may run on, at least 1: those of its affinity mask where the system has one (Linux;
    `taskset`, containers and batch systems set it), else all of the machine (macOS, Windows)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
