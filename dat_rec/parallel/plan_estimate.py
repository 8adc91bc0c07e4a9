"""What TorchRec's planner expects of the plan that it has chosen: memory and time of each rank."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torchrec.distributed.planner.types import ShardingOption, Stats


@dataclass(frozen=True)
class RankEstimate:
    """Of one rank's parts of all tables."""

    device_bytes: int = 0
    """On the GPU; 0 on CPU. Weights, optimizer state, and a step's inputs and outputs."""
    host_bytes: int = 0
    """The same in host memory."""
    step_ms: float = 0.0
    """Of a step's lookups, updates and messages, with bandwidths that TorchRec assumes."""


class PlanEstimate(Stats):  # type: ignore[misc]  # TorchRec ships no types
    """Filled by the planner, and so on the first rank alone."""

    def __init__(self) -> None:
        self.ranks: dict[int, RankEstimate] = {}
        """By rank; with copies of the tables (2D parallelism) of one copy."""

    def log(self, *_: Any, best_plan: Sequence[ShardingOption], **__: Any) -> None:
        """Called by the planner with the plan that it has chosen."""
        found: dict[int, RankEstimate] = {}
        for shard in (shard for option in best_plan for shard in option.shards):
            if shard.rank is None or shard.storage is None or shard.perf is None:
                continue  # of a plan that does not fit, which is refused
            before = found.get(shard.rank, RankEstimate())
            found[shard.rank] = RankEstimate(
                before.device_bytes + shard.storage.hbm,
                before.host_bytes + shard.storage.ddr,
                before.step_ms + shard.perf.total,
            )
        self.ranks = dict(sorted(found.items()))
