"""Which ranks share a host, and which GPU each of them has.

Every rank reports its host, its GPUs and what its launcher says. From all reports each rank works
out the same layout, since not every launcher sets LOCAL_RANK and LOCAL_WORLD_SIZE. Reports that
contradict one another are refused on every rank in the same words; TorchRec would guess, or fail
with an index of its own.
"""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from dat_rec.config import Device
from dat_rec.dist.launcher import local_rank_and_world_size
from dat_rec.errors import SharedError

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class RankReport:
    """What one rank reports to the others."""

    host: str
    """Its host's name."""
    boot_id: str
    """Differs between hosts that bear one name."""
    local_rank: int | None
    """LOCAL_RANK; None if its launcher does not set it."""
    local_world_size: int | None
    """LOCAL_WORLD_SIZE; None if its launcher does not set it."""
    device: Device
    """The command's ``--device``."""
    gpus: tuple[str, ...]
    """UUIDs of the GPUs that torch can use, in torch's order."""

    @property
    def kind(self) -> str:
        """The kind of device that it trains on, ``cuda`` or ``cpu``."""
        return ("cuda" if self.gpus else "cpu") if self.device == "auto" else self.device


@dataclass(frozen=True)
class RankLayout:
    """Where one rank stands on its host."""

    local_rank: int
    local_world_size: int
    device: torch.device


def boot_id() -> str:
    """Return the id of the running kernel; empty where there is none."""
    return BOOT_ID.read_text("ascii").strip() if BOOT_ID.exists() else ""


def own_report(device: Device) -> RankReport:
    """Return what this rank reports to the others.

    Raises:
        UserError: the environment contradicts itself.
    """
    local_rank, local_world_size = local_rank_and_world_size()
    usable = device != "cpu" and torch.cuda.is_available()
    gpus = tuple(
        str(torch.cuda.get_device_properties(number).uuid)
        for number in range(torch.cuda.device_count() if usable else 0)
    )
    return RankReport(platform.node(), boot_id(), local_rank, local_world_size, device, gpus)


def exchange_reports(
    own: RankReport, store: dist.Store, rank: int, world_size: int, timeout: timedelta
) -> list[RankReport]:
    """Return all ranks' reports, by rank; through the store, before there is a process group."""
    if world_size == 1:
        return [own]
    keys = [f"report/{each}" for each in range(world_size)]
    store.set(keys[rank], json.dumps(asdict(own)))
    store.wait(keys, timeout)
    found = [RankReport(**json.loads(text)) for text in store.multi_get(keys)]
    return [replace(one, gpus=tuple(one.gpus)) for one in found]


def rank_layout(reports: Sequence[RankReport], rank: int) -> RankLayout:
    """Return where ``rank`` stands.

    Args:
        reports: of every rank, by rank.
        rank: this process's.

    Raises:
        SharedError: the reports contradict one another, or there are too few GPUs; on every rank.
    """
    _check_devices(reports)
    given = [one.local_world_size for one in reports if one.local_world_size is not None]
    size = given[0] if len(given) == len(reports) else _ranks_of_each_host(reports)
    _check_local_ranks(reports, size)
    _check_hosts(reports, size)
    _check_gpus(reports, size)
    local_rank = rank % size
    on_gpu = reports[rank].kind == "cuda"
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    return RankLayout(local_rank, size, device)


def _check_devices(reports: Sequence[RankReport]) -> None:
    """Refuse ranks without the GPU that they were told to use, or on other kinds of devices."""
    for one in reports:
        if one.device == "cuda" and not one.gpus:
            raise SharedError(
                f"--device cuda: torch can use no GPU on {one.host}: run `dat-rec doctor` there, "
                "or pass --device cpu"
            )
    first = reports[0]
    for number, one in enumerate(reports):
        if one.kind != first.kind:
            raise SharedError(
                f"rank 0 ({first.host}) is on {first.kind}, and rank {number} "
                f"({one.host}) on {one.kind}: run `dat-rec doctor` there, or pass "
                "--device cpu on all"
            )


def _ranks_of_each_host(reports: Sequence[RankReport]) -> int:
    """How many each host has, where no launcher says it."""
    hosts: dict[tuple[str, str], int] = {}
    for one in reports:
        hosts[one.host, one.boot_id] = hosts.get((one.host, one.boot_id), 0) + 1
    least, most = min(hosts, key=lambda name: hosts[name]), max(hosts, key=lambda name: hosts[name])
    if hosts[least] != hosts[most]:
        raise SharedError(
            f"{most[0]} has {hosts[most]} ranks, and {least[0]} {hosts[least]}: start as many on "
            "each host"
        )
    return hosts[most]


def _check_hosts(reports: Sequence[RankReport], size: int) -> None:
    """Refuse ranks of one host that do not follow one another."""
    for number, one in enumerate(reports):
        first = reports[number - number % size]
        if (one.host, one.boot_id) != (first.host, first.boot_id):
            raise SharedError(
                f"rank {number - number % size} is on {first.host}, and rank {number} on "
                f"{one.host}, where hosts have {size} ranks each: those of a host must follow one "
                "another, as by srun --distribution=block"
            )


def _check_local_ranks(reports: Sequence[RankReport], size: int) -> None:
    """Refuse what launchers set if it is not ``size`` ranks a host, one host after the other."""
    cure = "start torchrun with the same --nproc-per-node on each host"
    for number, one in enumerate(reports):
        if one.local_world_size not in (None, size):
            raise SharedError(
                f"environment: LOCAL_WORLD_SIZE is {one.local_world_size} on rank {number} "
                f"({one.host}), where each host has {size}: {cure}"
            )
        if one.local_rank not in (None, number % size):
            raise SharedError(
                f"environment: LOCAL_RANK is {one.local_rank} on rank {number} ({one.host}), and "
                f"with {size} ranks on each host it must be {number % size}: {cure}"
            )
    if len(reports) % size:
        raise SharedError(
            f"environment: LOCAL_WORLD_SIZE {size} does not divide WORLD_SIZE {len(reports)}: "
            f"{cure}"
        )


def _check_gpus(reports: Sequence[RankReport], size: int) -> None:
    """Refuse hosts with fewer GPUs than ranks, and ranks that would share a GPU."""
    taken: dict[str, int] = {}
    for number, one in enumerate(reports):
        if one.kind == "cpu":
            continue
        if len(one.gpus) < size:
            raise SharedError(
                f"{one.host} has {size} ranks, and torch sees {len(one.gpus)} "
                f"GPU{'s' if len(one.gpus) != 1 else ''} there: start as many ranks on each host "
                "as it has GPUs, let each see all of them (srun --gpu-bind=none), or pass --device "
                "cpu"
            )
        first = taken.setdefault(one.gpus[number % size], number)
        if first != number:
            raise SharedError(
                f"ranks {first} and {number} both take GPU {number % size} of {one.host}: start "
                "torchrun once on each host, or pass --device cpu"
            )
