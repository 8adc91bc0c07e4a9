"""How fast messages travel between ranks, and whether they arrive as they were sent."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from dat_rec.dist.rank_context import RankContext
from dat_rec.preflight.report import CLUSTER, Check

BUFFER_BYTES = {"cpu": 8 << 20, "cuda": 64 << 20}
MAX_REPEATS = 5
BUDGET_S = 0.8
"""Seconds for the repeats of one kind of message; a slow network gets fewer of them."""
MODULUS = 1021
"""The numbers that are sent lie below it, so that their sums stay exact in float32."""


@dataclass(frozen=True)
class Bandwidth:
    """What one rank measured for one kind of message."""

    bytes_per_s: float
    """Bytes that each rank sends in a second, when all do."""
    right: bool
    """Whether what arrived at this rank is what was sent."""


def bandwidths(context: RankContext) -> dict[str, Bandwidth]:
    """Measure all-reduce and all-to-all over the backend that trains. Collective.

    In a ring's all-reduce each of n ranks sends 2 (n - 1) / n of the buffer, in an all-to-all
    (n - 1) / n. Whole numbers below 2^24 are exact in float32, in whatever order they are added.

    Returns:
        This rank's bandwidth by kind of message.
    """
    ranks, rank = context.world_size, context.rank
    numbers = BUFFER_BYTES[context.device.type] // 4 // ranks * ranks
    base = torch.arange(numbers, device=context.device, dtype=torch.float32) % MODULUS
    sent = base + rank
    part = torch.arange(ranks, device=context.device).repeat_interleave(numbers // ranks)
    buffer = torch.empty_like(sent)

    def all_reduce() -> None:
        dist.all_reduce(buffer)

    def all_to_all() -> None:
        dist.all_to_all_single(buffer, sent)

    # From rank q came its part for this rank: the values at this rank's position, and q.
    own = base.view(ranks, -1)[rank].repeat(ranks)
    expected = {
        "all-reduce": base * ranks + ranks * (ranks - 1) / 2,
        "all-to-all": own + part,
    }
    share = {"all-reduce": 2 * (ranks - 1) / ranks, "all-to-all": (ranks - 1) / ranks}
    found = {}
    for name, message in (("all-reduce", all_reduce), ("all-to-all", all_to_all)):
        buffer.copy_(sent)
        first_s = _seconds(message, context)
        right = torch.equal(buffer, expected[name])
        repeats: list[Any] = [max(1, min(MAX_REPEATS, int(BUDGET_S / first_s)))]
        dist.broadcast_object_list(repeats)
        seconds = []
        for _ in range(repeats[0]):
            buffer.copy_(sent)
            seconds.append(_seconds(message, context))
        rate = numbers * 4 * share[name] / statistics.median(seconds)
        found[name] = Bandwidth(rate, right)
    return found


def _seconds(message: Callable[[], None], context: RankContext) -> float:
    dist.barrier()
    begin = time.perf_counter()
    message()
    if context.device.type == "cuda":
        torch.cuda.synchronize(context.device)
    return time.perf_counter() - begin


def check_bandwidth(measured: Sequence[dict[str, Bandwidth]]) -> Iterable[Check]:
    """Judge whether messages arrived, and tell their rate.

    Args:
        measured: of every rank, by kind of message.
    """
    for name in measured[0] if measured else ():
        wrong = [rank for rank, one in enumerate(measured) if not one[name].right]
        if wrong:
            found = f"rank {wrong[0]} got other numbers than were sent"
            cure = "test this host's memory and network card; leave it out until then"
            yield Check(CLUSTER, name, "problem", found, cure)
        else:
            yield Check(CLUSTER, name, "ok", f"{rate_text(measured, name)} sent by each rank")


def rate_text(measured: Sequence[dict[str, Bandwidth]], name: str) -> str:
    """Return the median rate over ranks, as in ``1.2 GB/s``."""
    rate = statistics.median(one[name].bytes_per_s for one in measured)
    return f"{rate / 1e9:.2g} GB/s" if rate >= 1e8 else f"{rate / 1e6:.2g} MB/s"
