"""The memory of this host: how much there is, and how glibc treats what a step frees.

Standard library only, so that the doctor can ask where nothing else works.
"""

import ctypes
import os
from pathlib import Path


def host_memory_bytes() -> int:
    """Return the memory of this machine, or the container's limit if that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return min(total, int((Path("/sys/fs/cgroup") / file).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return total


def keep_freed_memory() -> None:
    """Tell glibc to keep large freed buffers for the next step; with another libc do nothing.

    By default it maps and unmaps the softmax's buffers in every step, and the page faults
    cost more than the step's arithmetic (benchmarks/LOG.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**28)
