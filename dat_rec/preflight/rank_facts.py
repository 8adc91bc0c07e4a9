"""What one rank knows of itself and its host, gathered so that the ranks can be compared."""

import hashlib
import os
import platform
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

import dat_rec
from dat_rec.dist.rank_context import RankContext
from dat_rec.dist.rank_layout import boot_id
from dat_rec.preflight.gloo_address import listening_address
from dat_rec.preflight.this_machine import free_shared_memory
from dat_rec.versions import STACK, version_of


@dataclass(frozen=True)
class RankFacts:
    """What one rank tells the others before a run."""

    rank: int
    host: str
    """Its host's name; with the number of its torchrun where several bear the same name."""
    group: int
    """The number of its torchrun."""
    network: str
    """The same for ranks that share network interfaces (a kernel, and a namespace of it)."""
    versions: dict[str, str]
    """Version by package."""
    address: str
    """The address by which gloo lets other ranks reach it; empty if it cannot be told."""
    name_address: str
    """The address that its host's name stands for there; empty if the name is unknown."""
    local_world_size: int
    device: str
    """``cpu`` or ``cuda``."""
    gpus: tuple[str, ...]
    """Models of its host's GPUs."""
    free_bytes: int
    """Memory of its host that is available now."""
    free_shm_bytes: int | None
    """Free bytes of its host's /dev/shm; None if there is none."""


def own_facts(context: RankContext) -> RankFacts:
    """Return this rank's facts; its process group must have been used, so that gloo listens."""
    on_gpu = context.device.type == "cuda"
    gpus = range(torch.cuda.device_count() if on_gpu else 0)
    return RankFacts(
        rank=context.rank,
        host=platform.node(),
        group=int(os.environ.get("GROUP_RANK", "0")),
        network=_network(),
        versions=versions(),
        address=listening_address(),
        name_address=_name_address(),
        local_world_size=context.local_world_size,
        device=context.device.type,
        gpus=tuple(torch.cuda.get_device_name(gpu) for gpu in gpus),
        free_bytes=_free_memory(),
        free_shm_bytes=free_shared_memory(),
    )


def versions() -> dict[str, str]:
    """Return the version by package of what decides a run's numbers or its files."""
    names = (*STACK, "numpy", "pyarrow")
    found = {name: version for name in names if (version := version_of(name)) is not None}
    source = f"{dat_rec.__version__}, source {source_digest()[:12]}"
    return {"python": platform.python_version(), **found, "dat_rec": source}


@cache
def source_digest() -> str:
    """Return the SHA-256 of this package's own source files and their names, in hexadecimal."""
    folder = Path(dat_rec.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def named_apart(facts: Sequence[RankFacts]) -> list[RankFacts]:
    """Return the facts with hosts that bear one name told apart by their torchrun's number."""
    groups: dict[str, set[int]] = {}
    for one in facts:
        groups.setdefault(one.host, set()).add(one.group)
    return [
        replace(one, host=f"{one.host}/{one.group}") if len(groups[one.host]) > 1 else one
        for one in facts
    ]


def first_of_each_host(facts: Iterable[RankFacts]) -> list[int]:
    """Return the lowest rank of each host, ascending."""
    first: dict[str, int] = {}
    for one in facts:
        first.setdefault(one.host, one.rank)
    return sorted(first.values())


def _network() -> str:
    return f"{boot_id() or platform.node()}:{Path('/proc/self/ns/net').stat().st_ino}"


def _name_address() -> str:
    try:
        return socket.gethostbyname(platform.node())
    except OSError:
        return ""


def _free_memory() -> int:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024
