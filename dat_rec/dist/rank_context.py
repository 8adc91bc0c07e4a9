"""What one process knows about itself among the ranks: its number, its device, its memory."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist

from dat_rec.dist.agree import patient_group
from dat_rec.dist.failure_report import FailureReporter


@dataclass(frozen=True)
class RankContext:
    """Rank, world size, device and memory of this process, while its process group lives."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device
    memory_bytes: int
    """Memory of the device for this rank: a GPU's, or this rank's share of the host's. The minimum
    over all ranks."""
    host_memory_bytes: int
    """This rank's share of the host's memory. The minimum over all ranks."""
    timeout: timedelta
    """How long another rank may leave a collective unanswered before it is given up."""
    launchers: tuple[str, ...] = ()
    """The torchrun processes that started the ranks; they survive a restart of the ranks."""
    failure_reporter: FailureReporter = field(default_factory=FailureReporter)
    """Writes what this rank knows about a failure that ends it."""

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process is rank 0, which writes and prints for all."""
        return self.rank == 0

    def own_group(self, *, patient: bool = False) -> dist.ProcessGroup:
        """Make another gloo group of all ranks, whose messages do not mix with training's.

        Args:
            patient: without a timeout, for ranks that wait while one works on a disk.
        """
        if patient:
            return patient_group(self.timeout)
        # Without it gloo would wait for half an hour, whatever the default group's timeout.
        return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=self.timeout))
