"""How far the hosts' clocks are apart: a second is worth a word, a minute confuses everything."""

import time
from collections.abc import Sequence

import torch
import torch.distributed as dist

from dat_rec.preflight.report import CLUSTER, Check, Level

ROUND_TRIPS = 5
NOTE_S = 1.0
"""Seconds between two hosts' clocks from which on the report notes it."""
PROBLEM_S = 60.0
"""Seconds between two hosts' clocks that confuse logs, files and timeouts."""


def clock_offsets(ranks: Sequence[int], group: dist.ProcessGroup) -> dict[int, float]:
    """Measure by how many seconds other clocks are ahead of rank 0's. Collective.

    The shortest of ``ROUND_TRIPS`` counts, and half of it bounds the error.

    Args:
        ranks: one rank of each host.
        group: of all ranks on CPU.

    Returns:
        Seconds by rank on rank 0, an empty dict on the others.
    """
    rank = dist.get_rank()
    offsets: dict[int, float] = {}
    for other in ranks:
        if other == 0 or rank not in (0, other):
            continue
        trips = []
        for _ in range(ROUND_TRIPS):
            there = torch.zeros((), dtype=torch.float64)
            if rank == 0:
                begin = time.time()
                dist.send(there, other, group=group)
                dist.recv(there, other, group=group)
                end = time.time()
                trips.append((end - begin, there.item() - (begin + end) / 2))
            else:
                dist.recv(there, 0, group=group)
                there.fill_(time.time())
                dist.send(there, 0, group=group)
        if trips:
            offsets[other] = min(trips)[1]
    return offsets


def check_clocks(offsets: dict[str, float]) -> Check:
    """Judge the offsets.

    Args:
        offsets: seconds ahead of the first host's, by host.
    """
    if not offsets:
        return Check(CLUSTER, "clocks", "ok", "one host")
    host, worst = max(offsets.items(), key=lambda one: abs(one[1]))
    if abs(worst) <= NOTE_S:
        return Check(CLUSTER, "clocks", "ok", f"within {milliseconds(worst)}")
    level: Level = "problem" if abs(worst) > PROBLEM_S else "note"
    side = "ahead of" if worst > 0 else "behind"
    found = f"{host} is {abs(worst):.1f} s {side} the first host"
    return Check(CLUSTER, "clocks", level, found, f"timedatectl set-ntp true, on {host}")


def milliseconds(seconds: float) -> str:
    """Return the text of an offset, as in ``0.3 ms``."""
    return f"{max(0.1, abs(seconds) * 1e3):.1f} ms"
