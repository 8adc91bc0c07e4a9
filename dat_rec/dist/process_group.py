"""Start and stop the process group; know this process's place in it.

Under torchrun (or any launcher that sets RANK, WORLD_SIZE, …) the group is that of the
launcher; otherwise this process makes a group of one.
"""

import ctypes
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from dat_rec.config import Device
from dat_rec.errors import RankError, UserError
from dat_rec.dist.agree import connect
from dat_rec.dist.fail_together import fail_together
from dat_rec.dist.failure_report import FailureReporter
from dat_rec.dist.launcher import (
    Standing,
    exchange,
    own_words,
    rank_and_world_size,
    standing,
)
from dat_rec.dist.rank_context import RankContext


@contextmanager
def process_group(
    timeout_s: int, memory_gb: float = 0.0, device: Device = "cpu"
) -> Iterator[RankContext]:
    """Join the process group for the block's duration; a failure on one rank ends all.

    Args:
        timeout_s: seconds without an answer after which the other ranks are given up
            (the default of gloo, 30 minutes, looks like a hang).
        memory_gb: GiB that each rank may use; 0: what there is.
        device: ``cuda``: each rank has the GPU of its number on its host; ``auto``: that, where
            torch can use GPUs.

    Raises:
        UserError: the launcher's environment contradicts itself, or there are too few GPUs.
        RankError: another rank failed or died, or under torchrun the ranks cannot meet.
    """
    rank, world_size = rank_and_world_size()
    told = own_words(device)
    timeout = timedelta(seconds=timeout_s)
    with tempfile.TemporaryDirectory(prefix="dat_rec-") as folder:
        # A launcher may keep one store over restarts: an attempt must not read an older one's.
        # (On several hosts it does not, and their counts of restarts differ.)
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        attempt = restarts if told.local_world_size == world_size else "0"
        store = dist.PrefixStore(attempt, _store(world_size, timeout, Path(folder)))
        try:
            stands = standing(exchange(told, store, rank, world_size, timeout), rank)
            backend = _prepare(stands, world_size)
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=world_size, timeout=timeout
            )
        except (ValueError, OSError, RuntimeError) as error:
            raise _cannot_meet(error) from error
        try:
            failure_reporter = FailureReporter()
            prefixed = dist.PrefixStore("dat_rec", store)
            with fail_together(prefixed, rank, world_size, timeout_s, failure_reporter):
                connect(timeout)
                memory = _memory(stands.device, stands.local_world_size, memory_gb)
                yield RankContext(
                    rank,
                    world_size,
                    stands.local_rank,
                    stands.local_world_size,
                    stands.device,
                    *memory,
                    timeout,
                    _launchers(),
                    failure_reporter,
                )
        finally:
            # After a failure this may wait for ranks that are gone; the process ends anyway.
            if world_size == 1 or sys.exc_info()[0] is None:
                dist.destroy_process_group()


def _prepare(stands: Standing, world_size: int) -> str:
    """Ready this process for its device; the backend of its process group."""
    if world_size > 1:
        # TorchRec looks here, and without them it takes every host for one of eight ranks.
        os.environ.setdefault("LOCAL_RANK", str(stands.local_rank))
        os.environ.setdefault("LOCAL_WORLD_SIZE", str(stands.local_world_size))
    if stands.device.type == "cuda":
        torch.cuda.set_device(stands.device)
        return "nccl"
    _keep_freed_memory()
    return "gloo"


def _launchers() -> tuple[str, ...]:
    """All ranks' torchrun processes: host, process, and when that began; none without torchrun."""
    own = ""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        parent = os.getppid()
        # The 22nd field, counted behind the name, which may hold anything.
        began = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
        own = f"{platform.node()}:{parent}:{began}"
    found: list[str] = [own] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return tuple(sorted(set(found) - {""}))


def _store(world_size: int, timeout: timedelta, folder: Path) -> dist.Store:
    """Where the ranks meet: the launcher's, or for a process alone one in ``folder``."""
    if "MASTER_ADDR" not in os.environ or "WORLD_SIZE" not in os.environ:
        if world_size == 1:
            return dist.FileStore(str(folder / "store"), 1)
        raise UserError("environment: WORLD_SIZE without MASTER_ADDR: start with torchrun")
    try:
        store: dist.Store = next(dist.rendezvous("env://", timeout=timeout))[0]
    except (ValueError, OSError, dist.DistError) as error:
        raise _cannot_meet(error) from error
    return store


def _cannot_meet(error: Exception) -> UserError | RankError:
    """Under torchrun, which a restart may mend: a host that was lost, a store that is gone."""
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return RankError(
            f"the ranks cannot meet at {address} ({reason}); where hosts have several networks, "
            "or take their own names for 127.0.1.1, set GLOO_SOCKET_IFNAME"
        )
    return UserError(
        f"environment: the ranks cannot meet at {address} ({reason}): start with torchrun"
    )


def _memory(device: torch.device, local_world_size: int, memory_gb: float) -> tuple[int, int]:
    """Bytes of the device and of the host for each rank: the least that any rank has."""
    host = _host_memory() // local_world_size
    there = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else host
    given = int(memory_gb * 2**30) if memory_gb else there
    sizes = torch.tensor([given, host], device=device)
    dist.all_reduce(sizes, dist.ReduceOp.MIN)
    own, host = sizes.tolist()
    return own, host


def _host_memory() -> int:
    """Bytes of this machine's memory, or of the container's share of it."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return min(total, int((Path("/sys/fs/cgroup") / file).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return total


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
