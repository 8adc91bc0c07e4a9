"""Judge what the ranks report of themselves: number, versions, network, GPUs and memory.

Each function takes the facts of every rank, by rank, and returns lines of the report.
"""

import os
from collections.abc import Iterable, Sequence

from dat_rec.preflight.rank_facts import RankFacts
from dat_rec.preflight.report import CLUSTER, Check, Level
from dat_rec.preflight.this_machine import check_shared_memory
from dat_rec.versions import INSTALL

MIN_MEMORY = 2**30
"""Free bytes for each rank, below which the report notes it."""
INTERFACE_CURE = (
    "export GLOO_SOCKET_IFNAME=NAME (and NCCL_SOCKET_IFNAME with GPUs), where `ip -br address` "
    "shows the cluster's network"
)


def check_ranks(facts: Sequence[RankFacts]) -> Check:
    """How many there are, and where."""
    if len(facts) == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        cure = "start it as training is: torchrun … -m dat_rec doctor --cluster, on every host"
        found = "1 rank: without torchrun this process is a group of one"
        return Check(CLUSTER, "ranks", "note", found, cure)
    return Check(CLUSTER, "ranks", "ok", ranks_text(facts))


def ranks_text(facts: Sequence[RankFacts]) -> str:
    """Return how many ranks there are, on how many hosts."""
    hosts = len({one.host for one in facts})
    return f"{_count(len(facts), 'rank')} on {_count(hosts, 'host')}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def check_versions(facts: Sequence[RankFacts]) -> Iterable[Check]:
    """Whether all ranks run the same code."""
    ours = facts[0]
    names = dict.fromkeys(name for one in facts for name in one.versions)
    for name in names:
        here = ours.versions.get(name, "missing")
        other = next((one for one in facts if one.versions.get(name, "missing") != here), None)
        if other is None:
            yield Check(CLUSTER, name, "ok", here)
            continue
        there = other.versions.get(name, "missing")
        found = f"{there} on rank {other.rank} ({other.host}), {here} on rank 0 ({ours.host})"
        cure = "install the same on every host: "
        cure += "the same checkout of dat_rec" if name == "dat_rec" else INSTALL
        yield Check(CLUSTER, name, "problem", found, cure)


def check_interfaces(facts: Sequence[RankFacts]) -> Iterable[Check]:
    """Whether every rank can be reached from other hosts, and by which address."""
    several = len({one.network for one in facts}) > 1
    addresses = dict.fromkeys(f"{one.address or 'unknown'} ({one.host})" for one in facts)
    lost = next((one for one in facts if _is_loopback(one.address)), None)
    if several and lost is not None:
        found = f"rank {lost.rank} ({lost.host}) is reached by {lost.address}, from itself alone"
        yield Check(CLUSTER, "interfaces", "problem", found, INTERFACE_CURE)
    else:
        yield Check(CLUSTER, "interfaces", "ok", "reached by " + ", ".join(addresses))
    debian = next((one for one in facts if one.name_address == "127.0.1.1"), None)
    if debian is not None:
        found = f"{debian.host} takes its own name for 127.0.1.1 (/etc/hosts)"
        cure = f"let it stand for the network's address there, or {INTERFACE_CURE}"
        yield Check(CLUSTER, "host name", "note", found, cure)


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def check_gpus(facts: Sequence[RankFacts]) -> Check:
    """Whether every rank has a GPU of its own, all of one model; none is as well."""
    if all(one.device == "cpu" for one in facts):
        return Check(CLUSTER, "gpus", "ok", "none: the ranks train on CPU")
    cure = "start as many ranks on each host as it has GPUs, on hosts with the same GPUs"
    for one in facts:
        if len(one.gpus) < one.local_world_size:
            found = f"{one.host} has {_count(len(one.gpus), 'GPU')} for {one.local_world_size}"
            return Check(CLUSTER, "gpus", "problem", f"{found} ranks", cure)
    models = {gpu: one for one in reversed(facts) for gpu in one.gpus}
    if len(models) > 1:
        found = ", ".join(f"{gpu} ({one.host})" for gpu, one in sorted(models.items()))
        return Check(CLUSTER, "gpus", "problem", f"of several models: {found}", cure)
    return Check(CLUSTER, "gpus", "ok", f"{len(facts[0].gpus)} on each host: {next(iter(models))}")


def check_memory(facts: Sequence[RankFacts]) -> Iterable[Check]:
    """Free memory for each rank, and shared memory."""
    least = min(facts, key=lambda one: one.free_bytes / one.local_world_size)
    free = least.free_bytes / least.local_world_size
    level: Level = "note" if free < MIN_MEMORY else "ok"
    found = f"{free / 2**30:.1f} GiB free for each rank, at least ({least.host})"
    cure = "ps -eo rss,args --sort=-rss | head" if level == "note" else None
    yield Check(CLUSTER, "memory", level, found, cure)
    least = min(facts, key=lambda one: one.free_shm_bytes or 0)
    yield check_shared_memory(CLUSTER, least.free_shm_bytes, least.host)
