"""Start the process group of all ranks, give each rank its context, and stop the group.

Under torchrun, or any launcher that sets RANK and WORLD_SIZE, the group is that of the launcher.
Otherwise this process makes a group of one.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from dat_rec.config import Device
from dat_rec.dist.agree import connect
from dat_rec.dist.fail_together import fail_together
from dat_rec.dist.failure_report import FailureReporter
from dat_rec.dist.host_memory import host_memory_bytes, keep_freed_memory
from dat_rec.dist.launcher import rank_and_world_size, torchrun_process
from dat_rec.dist.rank_context import RankContext
from dat_rec.dist.rank_layout import RankLayout, exchange_reports, own_report, rank_layout
from dat_rec.dist.rendezvous import attempt_number, cannot_meet, rendezvous_store


@contextmanager
def process_group(
    timeout_s: int, memory_gb: float = 0.0, device: Device = "cpu"
) -> Iterator[RankContext]:
    """Join the process group for the block's duration; a failure on one rank ends all.

    Args:
        timeout_s: seconds without an answer after which another rank is given up. (The default
            of gloo, 30 minutes, looks like a hang.)
        memory_gb: GiB of memory that each rank may use; 0 for what there is.
        device: ``cuda`` gives each rank the GPU of its local rank; ``auto`` does so where torch
            can use GPUs, and else takes the CPU.

    Raises:
        UserError: the launcher's environment contradicts itself, or there are too few GPUs.
        RankError: another rank failed or died, or under torchrun the ranks cannot meet.
    """
    rank, world_size = rank_and_world_size()
    report = own_report(device)
    timeout = timedelta(seconds=timeout_s)
    with tempfile.TemporaryDirectory(prefix="dat_rec-") as folder:
        shared = rendezvous_store(world_size, timeout, Path(folder))
        store = dist.PrefixStore(attempt_number(report.local_world_size, world_size), shared)
        try:
            reports = exchange_reports(report, store, rank, world_size, timeout)
            layout = rank_layout(reports, rank)
            backend = _prepare_device(layout, world_size)
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=world_size, timeout=timeout
            )
        except (ValueError, OSError, RuntimeError) as error:
            raise cannot_meet(error) from error
        try:
            reporter = FailureReporter()
            watched = dist.PrefixStore("dat_rec", store)
            with fail_together(watched, rank, world_size, timeout_s, reporter):
                connect(timeout)
                memory_bytes, host_memory = _least_memory(layout, memory_gb)
                yield RankContext(
                    rank,
                    world_size,
                    layout.local_rank,
                    layout.local_world_size,
                    layout.device,
                    memory_bytes,
                    host_memory,
                    timeout,
                    _torchrun_processes(),
                    reporter,
                )
        finally:
            # After a failure this may wait for ranks that are gone; the process ends anyway.
            if world_size == 1 or sys.exc_info()[0] is None:
                dist.destroy_process_group()


def _prepare_device(layout: RankLayout, world_size: int) -> str:
    """Make this process ready for its device, and return the backend of the process group."""
    if world_size > 1:
        # TorchRec looks here, and without them it takes every host for one of eight ranks.
        os.environ.setdefault("LOCAL_RANK", str(layout.local_rank))
        os.environ.setdefault("LOCAL_WORLD_SIZE", str(layout.local_world_size))
    if layout.device.type == "cuda":
        torch.cuda.set_device(layout.device)
        return "nccl"
    keep_freed_memory()
    return "gloo"


def _torchrun_processes() -> tuple[str, ...]:
    """Return the torchrun processes of all ranks; none without torchrun."""
    own = torchrun_process()
    found: list[str] = [own] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return tuple(sorted(set(found) - {""}))


def _least_memory(layout: RankLayout, memory_gb: float) -> tuple[int, int]:
    """Return the bytes of the device and of the host for each rank, the minimum over all ranks."""
    device = layout.device
    host = host_memory_bytes() // layout.local_world_size
    there = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else host
    given = int(memory_gb * 2**30) if memory_gb else there
    sizes = torch.tensor([given, host], device=device)
    dist.all_reduce(sizes, dist.ReduceOp.MIN)
    device_bytes, host_bytes = sizes.tolist()
    return device_bytes, host_bytes
