"""The estimated cost of a plan: memory and time of each rank, and of each table on each rank.

TorchRec's planner hands the plan that it has chosen to ``PlanEstimate.log``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torchrec.distributed.planner import Topology
from torchrec.distributed.planner.types import Shard, ShardingOption, Stats

from dat_rec.planner.hardware import Cost, CostKind
from dat_rec.planner.memory_cost import memory_shares, state_bytes, weight_bytes
from dat_rec.planner.time_cost import own_work, time_ms


@dataclass(frozen=True)
class RankEstimate:
    """Memory and time of a step, for a rank's shards of all tables, or of one table."""

    device_bytes: int = 0
    """GPU memory for weights, optimizer state, and a step's inputs and outputs; 0 on CPU."""
    host_bytes: int = 0
    """The same in host memory."""
    step_ms: float = 0.0
    """Milliseconds of a step's lookups, updates and messages, without the ids' exchange, which
    runs beside the step before. By the bandwidths that the planner was given, or TorchRec's own."""
    weights_bytes: int = 0
    """GPU memory for weights; on CPU host memory."""
    state_bytes: int = 0
    """Memory for the optimizer's state, in the same place."""
    forward_ms: float = 0.0
    """Milliseconds of lookups. ``step_ms`` is the sum of this, the four that follow, and
    ``own_ms``. With measured costs it holds all that a rank's shards take."""
    output_ms: float = 0.0
    """Milliseconds of pooled embeddings on their way to the ranks whose examples they are."""
    backward_ms: float = 0.0
    """Milliseconds of gradients of rows, and their update."""
    gradient_ms: float = 0.0
    """Milliseconds of gradients of pooled embeddings on their way back."""
    prefetch_ms: float = 0.0
    """Milliseconds of rows on their way into the GPU's cache."""
    input_ms: float = 0.0
    """Milliseconds of ids on their way to the ranks that hold their rows; not in ``step_ms``."""
    own_ms: float = 0.0
    """Milliseconds that the rank's own examples take under any plan; 0 without measured costs."""

    def __add__(self, other: "RankEstimate") -> "RankEstimate":
        """Return the sum of both, field by field."""
        names = [one.name for one in fields(RankEstimate)]
        return RankEstimate(*(getattr(self, name) + getattr(other, name) for name in names))


class PlanEstimate(Stats):  # type: ignore[misc]  # TorchRec ships no types
    """The estimated cost of a plan, filled by the planner, and so on rank 0 alone."""

    def __init__(self) -> None:
        self.ranks: dict[int, RankEstimate] = {}
        """By rank; with copies of the tables (2D parallelism) the ranks of one copy."""
        self.tables: dict[tuple[str, int], RankEstimate] = {}
        """By table and rank; shards of one table on one rank together."""
        self.costs: Mapping[CostKind, Cost] | None = None
        """Measured costs; None where there are none."""

    def log(
        self, *_: Any, topology: Topology, best_plan: Sequence[ShardingOption], **__: Any
    ) -> None:
        """Take the plan that the planner has chosen; called by the planner."""
        on_gpu = topology.compute_device == "cuda"
        self.ranks, self.tables = {}, {}
        for option in best_plan:
            for shard in option.shards:
                if shard.rank is None or shard.storage is None or shard.perf is None:
                    continue  # of a plan that does not fit, which is refused
                one = _estimate(option, shard, on_gpu=on_gpu)
                key = (option.name, shard.rank)
                self.tables[key] = self.tables.get(key, RankEstimate()) + one
                self.ranks[shard.rank] = self.ranks.get(shard.rank, RankEstimate()) + one
        if self.costs:
            cost = self.costs["every_rank"]
            own = sum(time_ms(own_work(option), cost) for option in best_plan)
            for rank in range(topology.world_size):
                one = self.ranks.get(rank, RankEstimate())
                self.ranks[rank] = one + RankEstimate(step_ms=own, own_ms=own)
        self.ranks = dict(sorted(self.ranks.items()))


def _estimate(option: ShardingOption, shard: Shard, *, on_gpu: bool) -> RankEstimate:
    """Return memory and time of one shard, by TorchRec's own estimators or ours in their place."""
    device_share, host_share = memory_shares(option, on_gpu=on_gpu)
    share, perf = device_share if on_gpu else host_share, shard.perf
    return RankEstimate(
        device_bytes=shard.storage.hbm,
        host_bytes=shard.storage.ddr,
        step_ms=perf.total,
        weights_bytes=int(share * weight_bytes(option, shard)),
        state_bytes=int(share * state_bytes(option, shard)),
        forward_ms=perf.fwd_compute,
        output_ms=perf.fwd_comms,
        backward_ms=perf.bwd_compute,
        gradient_ms=perf.bwd_comms,
        prefetch_ms=perf.prefetch_compute,
        input_ms=perf.input_dist_comms,
    )
