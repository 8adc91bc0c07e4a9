"""What launchers tell each rank in, where all of them stand and on which device out.

torchrun says everything. srun and Kubernetes' PyTorchJob say RANK and WORLD_SIZE alone: the ranks
then tell one another their hosts. What contradicts itself is refused before anything starts, on
every rank in the same words; TorchRec would guess, or fail with an index of its own.
"""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from dat_rec.config import Device
from dat_rec.errors import SharedError, UserError

BOOT = Path("/proc/sys/kernel/random/boot_id")
TASKS = {"SLURM_STEP_NUM_TASKS": "srun", "OMPI_COMM_WORLD_SIZE": "mpirun"}
"""Where launchers that set no RANK say how many processes they have started."""


@dataclass(frozen=True)
class Told:
    """What one rank tells the others."""

    host: str
    machine: str
    """Which tells apart hosts of one name."""
    local_rank: int | None
    """As its launcher says; None: it does not."""
    local_world_size: int | None
    device: Device
    """As the command says."""
    gpus: tuple[str, ...]
    """UUIDs of those that torch can use, in its order."""

    @property
    def kind(self) -> str:
        """Of its device: ``cuda`` or ``cpu``."""
        return ("cuda" if self.gpus else "cpu") if self.device == "auto" else self.device


@dataclass(frozen=True)
class Standing:
    """Of this process."""

    local_rank: int
    local_world_size: int
    device: torch.device


def rank_and_world_size() -> tuple[int, int]:
    """This process's rank and the number of ranks, by its environment; (0, 1) without a launcher.

    Raises:
        UserError: the environment contradicts itself.
    """
    rank, world = _number("RANK"), _number("WORLD_SIZE")
    if rank is None and world is None:
        for name, launcher in TASKS.items():
            if (tasks := _number(name) or 1) > 1:
                raise UserError(
                    f"environment: {launcher} has started {tasks} processes without RANK and "
                    "WORLD_SIZE, and each would be alone: start torchrun once on each host, or set "
                    "RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
                )
        return 0, 1
    if rank is None or world is None:
        there, missing = ("WORLD_SIZE", "RANK") if rank is None else ("RANK", "WORLD_SIZE")
        raise UserError(f"environment: {there} without {missing}: start with torchrun, or set both")
    if not 0 <= rank < world:
        raise UserError(
            f"environment: RANK {rank} of WORLD_SIZE {world} contradict one another: start with "
            "torchrun"
        )
    return rank, world


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    try:
        return None if text is None else int(text)
    except ValueError as error:
        raise UserError(
            f"environment: {name} is {text!r}, no integer: start with torchrun"
        ) from error


def own_words(device: Device) -> Told:
    """What this rank tells the others.

    Raises:
        UserError: the environment contradicts itself.
    """
    local_rank, local_world = _number("LOCAL_RANK"), _number("LOCAL_WORLD_SIZE")
    if local_rank is not None and local_world is not None and not 0 <= local_rank < local_world:
        raise UserError(
            f"environment: LOCAL_RANK {local_rank} of LOCAL_WORLD_SIZE {local_world} contradict "
            "one another: start with torchrun"
        )
    usable = device != "cpu" and torch.cuda.is_available()
    gpus = tuple(
        str(torch.cuda.get_device_properties(number).uuid)
        for number in range(torch.cuda.device_count() if usable else 0)
    )
    machine = BOOT.read_text("ascii").strip() if BOOT.exists() else ""
    return Told(platform.node(), machine, local_rank, local_world, device, gpus)


def exchange(
    told: Told, store: dist.Store, rank: int, world_size: int, timeout: timedelta
) -> list[Told]:
    """What all ranks tell, by rank."""
    if world_size == 1:
        return [told]
    keys = [f"told/{each}" for each in range(world_size)]
    store.set(keys[rank], json.dumps(asdict(told)))
    store.wait(keys, timeout)
    found = [Told(**json.loads(words)) for words in store.multi_get(keys)]
    return [replace(one, gpus=tuple(one.gpus)) for one in found]


def standing(told: Sequence[Told], rank: int) -> Standing:
    """Where ``rank`` stands.

    Args:
        told: by every rank.
        rank: this process's.

    Raises:
        SharedError: they contradict one another, or there are too few GPUs; on every rank.
    """
    _check_devices(told)
    said = [one.local_world_size for one in told if one.local_world_size is not None]
    size = said[0] if len(said) == len(told) else _ranks_of_a_host(told)
    _check_said(told, size)
    _check_hosts(told, size)
    _check_gpus(told, size)
    local_rank = rank % size
    device = torch.device("cuda", local_rank) if told[rank].kind == "cuda" else torch.device("cpu")
    return Standing(local_rank, size, device)


def _check_devices(told: Sequence[Told]) -> None:
    for one in told:
        if one.device == "cuda" and not one.gpus:
            raise SharedError(
                f"--device cuda: torch can use no GPU on {one.host}: run `dat-rec doctor` there, "
                "or pass --device cpu"
            )
    other = next((number for number, one in enumerate(told) if one.kind != told[0].kind), None)
    if other is not None:
        raise SharedError(
            f"rank 0 ({told[0].host}) is on {told[0].kind}, and rank {other} "
            f"({told[other].host}) on {told[other].kind}: run `dat-rec doctor` there, or pass "
            "--device cpu on all"
        )


def _ranks_of_a_host(told: Sequence[Told]) -> int:
    """How many each host has, where no launcher says it."""
    hosts: dict[tuple[str, str], int] = {}
    for one in told:
        hosts[one.host, one.machine] = hosts.get((one.host, one.machine), 0) + 1
    least, most = min(hosts, key=lambda name: hosts[name]), max(hosts, key=lambda name: hosts[name])
    if hosts[least] != hosts[most]:
        raise SharedError(
            f"{most[0]} has {hosts[most]} ranks, and {least[0]} {hosts[least]}: start as many on "
            "each host"
        )
    return hosts[most]


def _check_hosts(told: Sequence[Told], size: int) -> None:
    for number, one in enumerate(told):
        first = told[number - number % size]
        if (one.host, one.machine) != (first.host, first.machine):
            raise SharedError(
                f"rank {number - number % size} is on {first.host}, and rank {number} on "
                f"{one.host}, where hosts have {size} ranks each: those of a host must follow one "
                "another, as by srun --distribution=block"
            )


def _check_said(told: Sequence[Told], size: int) -> None:
    """What launchers say against ``size`` ranks on each host, one host's after the other's."""
    cure = "start torchrun with the same --nproc-per-node on each host"
    for number, one in enumerate(told):
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
    if len(told) % size:
        raise SharedError(
            f"environment: LOCAL_WORLD_SIZE {size} does not divide WORLD_SIZE {len(told)}: {cure}"
        )


def _check_gpus(told: Sequence[Told], size: int) -> None:
    taken: dict[str, int] = {}
    for number, one in enumerate(told):
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
