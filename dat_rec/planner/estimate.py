"""What TorchRec's planner expects of the plan that it has chosen: memory and time of each rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torchrec.distributed.planner import Topology
from torchrec.distributed.planner.types import ShardingOption, Stats

from dat_rec.planner.hardware import Cost, Way
from dat_rec.planner.memory import shares, state_bytes, weight_bytes
from dat_rec.planner.step_time import own_work, time_ms


@dataclass(frozen=True)
class RankEstimate:
    """Of one rank's parts of all tables, or of one part."""

    device_bytes: int = 0
    """On the GPU; 0 on CPU. Weights, optimizer state, and a step's inputs and outputs."""
    host_bytes: int = 0
    """The same in host memory."""
    step_ms: float = 0.0
    """Of a step's lookups, updates and messages, but those of the ids, which travel beside the
    step before; with the bandwidths that the planner was given, or TorchRec's own."""
    weights_bytes: int = 0
    """On the GPU; without one, in host memory."""
    state_bytes: int = 0
    """The optimizer's, in the same memory."""
    forward_ms: float = 0.0
    """Lookups. The parts of ``step_ms`` are this and the four that follow, and ``own_ms``; with
    measured costs all that a rank's parts of tables take."""
    output_ms: float = 0.0
    """Pooled embeddings on their way to the ranks whose examples they are."""
    backward_ms: float = 0.0
    """Gradients of rows, and their update."""
    gradient_ms: float = 0.0
    """Gradients of pooled embeddings on their way back."""
    prefetch_ms: float = 0.0
    """Rows into the GPU's cache."""
    input_ms: float = 0.0
    """Ids on their way to the ranks that hold their rows; no part of ``step_ms``."""
    own_ms: float = 0.0
    """With measured costs, what the rank's own examples take whatever the plan; else 0."""

    def __add__(self, other: "RankEstimate") -> "RankEstimate":
        """Of both."""
        names = [one.name for one in fields(RankEstimate)]
        return RankEstimate(*(getattr(self, name) + getattr(other, name) for name in names))


class PlanEstimate(Stats):  # type: ignore[misc]  # TorchRec ships no types
    """Filled by the planner, and so on the first rank alone."""

    def __init__(self) -> None:
        self.ranks: dict[int, RankEstimate] = {}
        """By rank; with copies of the tables (2D parallelism) of one copy."""
        self.parts: dict[tuple[str, int], RankEstimate] = {}
        """By table and rank; parts of one table on one rank together."""
        self.costs: Mapping[Way, Cost] | None = None
        """As measured, where they were."""

    def log(
        self, *_: Any, topology: Topology, best_plan: Sequence[ShardingOption], **__: Any
    ) -> None:
        """Called by the planner with the plan that it has chosen."""
        on_gpu = topology.compute_device == "cuda"
        self.ranks, self.parts = {}, {}
        for option in best_plan:
            device, host = shares(option, on_gpu=on_gpu)
            for shard in option.shards:
                if shard.rank is None or shard.storage is None or shard.perf is None:
                    continue  # of a plan that does not fit, which is refused
                share, perf = device if on_gpu else host, shard.perf
                one = RankEstimate(
                    shard.storage.hbm,
                    shard.storage.ddr,
                    perf.total,
                    int(share * weight_bytes(option, shard)),
                    int(share * state_bytes(option, shard)),
                    perf.fwd_compute,
                    perf.fwd_comms,
                    perf.bwd_compute,
                    perf.bwd_comms,
                    perf.prefetch_compute,
                    perf.input_dist_comms,
                )
                key = (option.name, shard.rank)
                self.parts[key] = self.parts.get(key, RankEstimate()) + one
                self.ranks[shard.rank] = self.ranks.get(shard.rank, RankEstimate()) + one
        if self.costs:
            cost = self.costs["every_rank"]
            own = sum(time_ms(own_work(option), cost) for option in best_plan)
            for rank in range(topology.world_size):
                one = self.ranks.get(rank, RankEstimate())
                self.ranks[rank] = one + RankEstimate(step_ms=own, own_ms=own)
        self.ranks = dict(sorted(self.ranks.items()))
