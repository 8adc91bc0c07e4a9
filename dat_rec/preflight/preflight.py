"""Find out what is wrong with the cluster before hours are spent on it.

Every rank calls ``preflight``. Rank 0 judges what all have found, and all get its report. A file
beside this one stands for each question: ``rank_facts`` and ``rank_checks``, ``shared_folder``,
``clocks``, ``bandwidth``.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from dat_rec.dist.agree import all_gather_object, broadcast_from_rank_0
from dat_rec.dist.rank_context import RankContext
from dat_rec.errors import RankError, SharedError
from dat_rec.preflight.bandwidth import Bandwidth, bandwidths, check_bandwidth, rate_text
from dat_rec.preflight.clocks import check_clocks, clock_offsets, milliseconds
from dat_rec.preflight.rank_checks import (
    INTERFACE_CURE,
    check_gpus,
    check_interfaces,
    check_memory,
    check_ranks,
    check_versions,
    ranks_text,
)
from dat_rec.preflight.rank_facts import RankFacts, first_of_each_host, named_apart, own_facts
from dat_rec.preflight.report import Check, Report
from dat_rec.preflight.shared_folder import SharedFolder, check_folder, try_folder


@dataclass(frozen=True)
class Preflight:
    """The judgement, the same on all ranks."""

    report: Report
    line: str
    """One line that tells it where nothing is a problem."""


@dataclass(frozen=True)
class _Found:
    """What all ranks have found."""

    facts: list[RankFacts]
    """The facts of every rank, by rank."""
    shared: SharedFolder | None
    """None if no folder was tried."""
    offsets: dict[int, float]
    """Seconds that a clock is ahead of rank 0's, by rank; known to rank 0."""
    bandwidths: list[dict[str, Bandwidth]]
    """By rank and kind of message; empty on a single rank."""
    seconds: float
    """That it took."""


def preflight(context: RankContext, out: Path | None) -> Preflight:
    """Look at all ranks and what is between them, in a second or two. Collective.

    Args:
        context: this process's.
        out: the run's folder, there or not; None to try no folder.

    Raises:
        RankError: gloo cannot connect the ranks.
    """
    group = _connected(context)
    found = _look(context, out, group)
    judged: list[Any] = [None]
    if context.is_rank_zero:
        judged = [Preflight(Report(tuple(_checks(found))), _line(found))]
    dist.broadcast_object_list(judged, group=group)
    result: Preflight = judged[0]
    return result


def require(context: RankContext, out: Path) -> str:
    """Refuse to train on a cluster with a problem. Collective.

    Returns:
        The line that tells that all is well.

    Raises:
        SharedError: names the first problem, and its cure.
    """
    found = preflight(context, out)
    problems = list(found.report.problems())
    if problems:
        first = problems[0]
        others = f" ({len(problems) - 1} more: dat-rec doctor --cluster)" if problems[1:] else ""
        raise SharedError(
            f"preflight: {first.name}: {first.found}: {first.cure}, or train with "
            f"--no-preflight{others}"
        )
    return found.line


def _connected(context: RankContext) -> dist.ProcessGroup:
    try:
        return context.own_group()
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise RankError(f"gloo cannot connect the ranks ({reason}): {INTERFACE_CURE}") from error


def _look(context: RankContext, out: Path | None, group: dist.ProcessGroup) -> _Found:
    begin = time.perf_counter()
    dist.barrier(group=group)
    facts = named_apart(all_gather_object(own_facts(context), group))
    speakers = first_of_each_host(facts)
    # Whether to try a folder, and which, is rank 0's word.
    folder = broadcast_from_rank_0(out)
    shared = try_folder(folder, speakers) if folder is not None else None
    offsets = clock_offsets(speakers, group)
    alone = context.world_size == 1
    rates = [] if alone else all_gather_object(bandwidths(context), group)
    return _Found(facts, shared, offsets, rates, time.perf_counter() - begin)


def _checks(found: _Found) -> Iterator[Check]:
    yield check_ranks(found.facts)
    yield from check_versions(found.facts)
    yield from check_folder(found.shared, found.facts)
    yield check_clocks({found.facts[rank].host: ahead for rank, ahead in found.offsets.items()})
    yield from check_interfaces(found.facts)
    yield check_gpus(found.facts)
    yield from check_memory(found.facts)
    yield from check_bandwidth(found.bandwidths)


def _line(found: _Found) -> str:
    parts = [ranks_text(found.facts), "same versions"]
    if found.shared is not None:
        parts.append("shared folder")
    if found.offsets:
        parts.append(f"clocks within {milliseconds(max(found.offsets.values(), key=abs))}")
    kinds = found.bandwidths[0] if found.bandwidths else ()
    parts += [f"{kind} {rate_text(found.bandwidths, kind)}" for kind in kinds]
    return f"preflight: {', '.join(parts)} ({found.seconds:.1f} s)"
