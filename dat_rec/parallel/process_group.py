"""Start and stop the process group; know this process's place in it.

Under torchrun (or any launcher that sets RANK, WORLD_SIZE, …) the group is that of the
launcher; otherwise this process makes a group of one.
"""

import ctypes
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from dat_rec.errors import UserError


@dataclass(frozen=True)
class Place:
    """Where this process stands."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0


def _from_environment() -> tuple[int, int, int, int]:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    defaults = (0, 1, 0, 1)
    try:
        rank, world, local_rank, local_world = (
            int(os.environ.get(name, default))
            for name, default in zip(names, defaults, strict=True)
        )
    except ValueError as error:
        raise UserError(
            f"environment: one of {', '.join(names)} is no integer ({error})"
        ) from error
    if not 0 <= rank < world or not 0 <= local_rank < local_world:
        raise UserError(
            f"environment: RANK {rank} of WORLD_SIZE {world}, LOCAL_RANK {local_rank} of "
            f"LOCAL_WORLD_SIZE {local_world} contradict one another: start with torchrun"
        )
    return rank, world, local_rank, local_world


@contextmanager
def process_group(timeout_s: int) -> Iterator[Place]:
    """Join the process group for the block's duration.

    Args:
        timeout_s: seconds without an answer after which the other ranks are given up
            (the default of gloo, 30 minutes, looks like a hang).

    Raises:
        UserError: the launcher's environment contradicts itself.
    """
    rank, world_size, local_rank, local_world_size = _from_environment()
    if torch.cuda.is_available():
        device, backend = torch.device("cuda", local_rank), "nccl"
        torch.cuda.set_device(device)
    else:
        device, backend = torch.device("cpu"), "gloo"
        _keep_freed_memory()
    timeout = timedelta(seconds=timeout_s)
    with tempfile.TemporaryDirectory(prefix="dat_rec-") as folder:
        if "MASTER_ADDR" in os.environ and "WORLD_SIZE" in os.environ:
            try:
                dist.init_process_group(backend, timeout=timeout)
            except (ValueError, OSError, dist.DistError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(
                    f"environment: the ranks cannot meet at {os.environ['MASTER_ADDR']}:"
                    f"{os.environ.get('MASTER_PORT')} ({reason}): start with torchrun"
                ) from error
        elif world_size == 1:
            store = dist.FileStore(str(Path(folder) / "store"), 1)
            dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
        else:
            raise UserError("environment: WORLD_SIZE without MASTER_ADDR: start with torchrun")
        try:
            yield Place(rank, world_size, local_rank, local_world_size, device)
        finally:
            dist.destroy_process_group()


def _keep_freed_memory() -> None:
    """Tell glibc to keep large freed buffers for the next step.

    By default it maps and unmaps the softmax's buffers in every step, and the page faults
    cost more than the step's arithmetic (benchmarks/LOG.md). Elsewhere nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**28)
