"""A process group in, what is wrong with the cluster out, before hours are spent on it.

Every rank calls ``preflight``; the first one judges what all have found, and all get its report.
"""

import os
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist

from dat_rec.dist.agree import broadcast_from_rank_0
from dat_rec.dist.rank_context import RankContext
from dat_rec.errors import RankError, SharedError
from dat_rec.preflight.host_facts import SHM, Facts, own_facts
from dat_rec.preflight.measures import (
    Bandwidth,
    SharedFolder,
    bandwidths,
    check_shared,
    clock_offsets,
)
from dat_rec.preflight.report import Check, Level, Report
from dat_rec.versions import INSTALL

GROUP = "cluster"
NOTED_OFFSET_S, WORST_OFFSET_S = 1.0, 60.0
"""Of two hosts' clocks: what is worth a word, and what confuses logs, files and time-outs."""
LEAST_MEMORY = LEAST_SHM = 2**30
INTERFACE_CURE = (
    "export GLOO_SOCKET_IFNAME=NAME (and NCCL_SOCKET_IFNAME with GPUs), where `ip -br address` "
    "shows the cluster's network"
)


@dataclass(frozen=True)
class Preflight:
    """What came of it, the same on all ranks."""

    report: Report
    line: str
    """The whole of it in one line, when all is well."""


def preflight(context: RankContext, out: Path | None) -> Preflight:
    """Look at all ranks and what is between them; takes a second or two.

    Args:
        context: this process's.
        out: the run's folder, which need not be there; without it no folder is tried.
    """
    begin = time.perf_counter()
    group = _connected(context)
    gathered: list[Any] = [None] * context.world_size
    dist.barrier(group=group)
    dist.all_gather_object(gathered, own_facts(context), group=group)
    facts = named_apart(gathered)
    speakers = first_of_each_host(facts)
    # Whether to try a folder, and which, is rank 0's word.
    wanted = broadcast_from_rank_0(out)
    shared = check_shared(wanted, speakers) if wanted is not None else None
    offsets = clock_offsets(speakers, group)
    rates = [bandwidths(context)] if context.world_size > 1 else []
    all_rates: list[Any] = [None] * context.world_size
    dist.all_gather_object(all_rates, rates, group=group)
    seconds = time.perf_counter() - begin
    found: list[Any] = [None]
    if context.is_rank_zero:
        measured = [rate for (rate,) in all_rates] if context.world_size > 1 else []
        checks = (
            check_ranks(facts),
            *check_versions(facts),
            *check_folder(shared, facts),
            check_clocks({facts[rank].host: offset for rank, offset in offsets.items()}),
            *check_interfaces(facts),
            check_gpus(facts),
            *check_memory(facts),
            *check_bandwidth(measured),
        )
        found = [Preflight(Report(checks), _line(facts, shared, offsets, measured, seconds))]
    dist.broadcast_object_list(found, group=group)
    result: Preflight = found[0]
    return result


def _connected(context: RankContext) -> dist.ProcessGroup:
    try:
        return context.own_group()
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise RankError(f"gloo cannot connect the ranks ({reason}): {INTERFACE_CURE}") from error


def require(context: RankContext, out: Path) -> str:
    """Refuse to train on a cluster with a problem; gives the line that says that all is well.

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


def named_apart(facts: Sequence[Facts]) -> list[Facts]:
    """The same, with hosts that bear one name told apart by their torchrun's number."""
    groups: dict[str, set[int]] = {}
    for one in facts:
        groups.setdefault(one.host, set()).add(one.group)
    return [
        replace(one, host=f"{one.host}/{one.group}") if len(groups[one.host]) > 1 else one
        for one in facts
    ]


def first_of_each_host(facts: Iterable[Facts]) -> list[int]:
    """The lowest rank of each host."""
    first: dict[str, int] = {}
    for one in facts:
        first.setdefault(one.host, one.rank)
    return sorted(first.values())


def check_ranks(facts: Sequence[Facts]) -> Check:
    """How many there are, and where."""
    if len(facts) == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        cure = "start it as training is: torchrun … -m dat_rec doctor --cluster, on every host"
        found = "1 rank: without torchrun this process is a group of one"
        return Check(GROUP, "ranks", "note", found, cure)
    return Check(GROUP, "ranks", "ok", _ranks_text(facts))


def _ranks_text(facts: Sequence[Facts]) -> str:
    hosts = len({one.host for one in facts})
    return f"{_count(len(facts), 'rank')} on {_count(hosts, 'host')}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def check_versions(facts: Sequence[Facts]) -> Iterable[Check]:
    """Whether all ranks run the same code."""
    ours = facts[0]
    names = dict.fromkeys(name for one in facts for name in one.versions)
    for name in names:
        here = ours.versions.get(name, "missing")
        other = next((one for one in facts if one.versions.get(name, "missing") != here), None)
        if other is None:
            yield Check(GROUP, name, "ok", here)
            continue
        there = other.versions.get(name, "missing")
        found = f"{there} on rank {other.rank} ({other.host}), {here} on rank 0 ({ours.host})"
        cure = "install the same on every host: "
        cure += "the same checkout of dat_rec" if name == "dat_rec" else INSTALL
        yield Check(GROUP, name, "problem", found, cure)


def check_folder(shared: SharedFolder | None, facts: Sequence[Facts]) -> Iterable[Check]:
    """Whether the run's folder is one, for all.

    Args:
        shared: nothing if it was not tried.
        facts: of every rank.
    """
    if shared is None:
        yield Check(GROUP, "folder", "note", "not tried", "pass --out RUN")
        return
    if shared.problem:
        found = f"rank {shared.rank} ({facts[shared.rank].host}) {shared.problem}"
        cure = "mount the same folder at this path on every host, with the right to write"
        yield Check(GROUP, "folder", "problem", found, cure)
    else:
        yield Check(GROUP, "folder", "ok", f"{shared.folder}: shared, and every host can write")


def check_clocks(offsets: dict[str, float]) -> Check:
    """Whether the hosts' clocks agree.

    Args:
        offsets: seconds ahead of the first host's, by host.
    """
    if not offsets:
        return Check(GROUP, "clocks", "ok", "one host")
    host, worst = max(offsets.items(), key=lambda one: abs(one[1]))
    if abs(worst) <= NOTED_OFFSET_S:
        return Check(GROUP, "clocks", "ok", f"within {_milliseconds(worst)}")
    level: Level = "problem" if abs(worst) > WORST_OFFSET_S else "note"
    side = "ahead of" if worst > 0 else "behind"
    found = f"{host} is {abs(worst):.1f} s {side} the first host"
    return Check(GROUP, "clocks", level, found, f"timedatectl set-ntp true, on {host}")


def _milliseconds(seconds: float) -> str:
    return f"{max(0.1, abs(seconds) * 1e3):.1f} ms"


def check_interfaces(facts: Sequence[Facts]) -> Iterable[Check]:
    """Whether every rank can be reached from other hosts, and by which address."""
    several = len({one.network for one in facts}) > 1
    told = dict.fromkeys(f"{one.address or 'unknown'} ({one.host})" for one in facts)
    lost = next((one for one in facts if _is_loopback(one.address)), None)
    if several and lost is not None:
        found = f"rank {lost.rank} ({lost.host}) is reached by {lost.address}, from itself alone"
        yield Check(GROUP, "interfaces", "problem", found, INTERFACE_CURE)
    else:
        yield Check(GROUP, "interfaces", "ok", "reached by " + ", ".join(told))
    debian = next((one for one in facts if one.name_address == "127.0.1.1"), None)
    if debian is not None:
        found = f"{debian.host} takes its own name for 127.0.1.1 (/etc/hosts)"
        cure = f"let it stand for the network's address there, or {INTERFACE_CURE}"
        yield Check(GROUP, "host name", "note", found, cure)


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def check_gpus(facts: Sequence[Facts]) -> Check:
    """Whether every rank has a GPU of its own, all of one model; none is as well."""
    if all(one.device == "cpu" for one in facts):
        return Check(GROUP, "gpus", "ok", "none: the ranks train on CPU")
    cure = "start as many ranks on each host as it has GPUs, on hosts with the same GPUs"
    for one in facts:
        if len(one.gpus) < one.local_world_size:
            found = f"{one.host} has {_count(len(one.gpus), 'GPU')} for {one.local_world_size}"
            return Check(GROUP, "gpus", "problem", f"{found} ranks", cure)
    models = {gpu: one for one in reversed(facts) for gpu in one.gpus}
    if len(models) > 1:
        found = ", ".join(f"{gpu} ({one.host})" for gpu, one in sorted(models.items()))
        return Check(GROUP, "gpus", "problem", f"of several models: {found}", cure)
    return Check(GROUP, "gpus", "ok", f"{len(facts[0].gpus)} on each host: {next(iter(models))}")


def check_memory(facts: Sequence[Facts]) -> Iterable[Check]:
    """Free memory for each rank, and shared memory."""
    least = min(facts, key=lambda one: one.free_bytes / one.local_world_size)
    free = least.free_bytes / least.local_world_size
    level: Level = "note" if free < LEAST_MEMORY else "ok"
    found = f"{free / 2**30:.1f} GiB free for each rank, at least ({least.host})"
    cure = "ps -eo rss,args --sort=-rss | head" if level == "note" else None
    yield Check(GROUP, "memory", level, found, cure)
    least = min(facts, key=lambda one: one.free_shm_bytes or 0)
    if least.free_shm_bytes is None:
        cure = f"mount -t tmpfs tmpfs {SHM}"
        yield Check(GROUP, str(SHM), "note", f"missing on {least.host}", cure)
        return
    level = "note" if least.free_shm_bytes < LEAST_SHM else "ok"
    found = f"{least.free_shm_bytes / 2**30:.1f} GiB free, at least ({least.host})"
    cure = "in a container: docker run --shm-size=2g …" if level == "note" else None
    yield Check(GROUP, str(SHM), level, found, cure)


def check_bandwidth(measured: Sequence[dict[str, Bandwidth]]) -> Iterable[Check]:
    """What each rank sends in a second, and whether it arrives.

    Args:
        measured: of every rank, by kind of message.
    """
    for name in measured[0] if measured else ():
        wrong = [rank for rank, one in enumerate(measured) if not one[name].right]
        if wrong:
            found = f"rank {wrong[0]} got other numbers than were sent"
            cure = "test this host's memory and network card; leave it out until then"
            yield Check(GROUP, name, "problem", found, cure)
        else:
            yield Check(GROUP, name, "ok", f"{_rate(measured, name)} sent by each rank")


def _rate(measured: Sequence[dict[str, Bandwidth]], name: str) -> str:
    rate = statistics.median(one[name].bytes_per_s for one in measured)
    return f"{rate / 1e9:.2g} GB/s" if rate >= 1e8 else f"{rate / 1e6:.2g} MB/s"


def _line(
    facts: Sequence[Facts],
    shared: SharedFolder | None,
    offsets: dict[int, float],
    measured: Sequence[dict[str, Bandwidth]],
    seconds: float,
) -> str:
    parts = [_ranks_text(facts), "same versions"]
    if shared is not None:
        parts.append("shared folder")
    if offsets:
        parts.append(f"clocks within {_milliseconds(max(offsets.values(), key=abs))}")
    parts += [f"{name} {_rate(measured, name)}" for name in (measured[0] if measured else ())]
    return f"preflight: {', '.join(parts)} ({seconds:.1f} s)"
