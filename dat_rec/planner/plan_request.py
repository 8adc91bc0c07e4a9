"""A request for a plan and its result, for a cluster that need not be there.

The planner is training's own (``dat_rec.planner.plan.plan_on``). No process group, no GPU and no
memory for the tables is needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torchrec.distributed.planner.types import ShardingOption
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from dat_rec.planner.cost_estimate import PlanEstimate, RankEstimate
from dat_rec.planner.hardware import Cluster
from dat_rec.planner.plan import MEMORY_RESERVE, DoesNotFitError, plan_on
from dat_rec.planner.plan_table import plan_to_json
from dat_rec.sharding.options import ShardingOptions
from dat_rec.sharding.shard import fuse_optimizer


@dataclass(frozen=True)
class PlanRequest:
    """What is to be planned, and for which cluster."""

    model: Callable[[Sequence[str]], nn.Module]
    """Makes the model on the meta device. The tables whose names fit the patterns that it is given
    are float16."""
    pooling_factors: dict[str, float]
    """Mean number of values in a bag, by feature; 1 where absent."""
    cluster: Cluster
    options: ShardingOptions
    fp16_tables: tuple[str, ...] = ()
    """Patterns for ``model``."""
    towers_bytes: int = 0
    """Memory of each rank's towers, with gradients and Adam's moments."""

    @property
    def share_bytes(self) -> int:
        """The bytes of each rank's memory that tables may take."""
        given = self.cluster.memory_bytes
        return int(given * (1 - MEMORY_RESERVE)) if self.cluster.on_gpu else given


@dataclass(frozen=True)
class MemoryShortfall:
    """Why nothing fits: what is needed if each table is sharded so that it takes least memory."""

    device_bytes: int
    """Bytes that all ranks' GPUs must hold, or on CPU their memory."""
    host_bytes: int
    """Bytes that the hosts of GPUs must hold."""
    largest_bytes: int
    """Bytes of the largest shard."""
    largest_table: str
    """The table of that shard."""


@dataclass(frozen=True)
class PlanResult:
    """A plan with its estimated costs, or why there is none."""

    request: PlanRequest
    plan: tuple[dict[str, Any], ...] = ()
    """The rows of ``plan_to_json``."""
    estimate: PlanEstimate | None = None
    shortfall: MemoryShortfall | None = None
    """None if there is a plan."""

    @property
    def fits(self) -> bool:
        """Whether there is a plan."""
        return self.shortfall is None

    @property
    def lacks_host_memory(self) -> bool:
        """Whether the hosts of GPUs cannot hold what must lie there."""
        cluster = self.request.cluster
        there = cluster.host_bytes * cluster.world_size
        return cluster.on_gpu and self.shortfall is not None and self.shortfall.host_bytes > there

    def main_bytes(self) -> dict[int, int]:
        """Return bytes of GPU memory, or on CPU of memory, by rank; empty without a plan."""
        on_gpu = self.request.cluster.on_gpu
        return {rank: one.device_bytes if on_gpu else one.host_bytes for rank, one in self._ranks()}

    def times_ms(self) -> dict[int, float]:
        """Return milliseconds of a step by rank; empty without a plan."""
        return {rank: one.step_ms for rank, one in self._ranks()}

    def _ranks(self) -> list[tuple[int, RankEstimate]]:
        """All of them, those without tables too."""
        if self.estimate is None:
            return []
        found = self.estimate.ranks
        world = range(self.request.cluster.world_size)
        return [(rank, found.get(rank, RankEstimate())) for rank in world]


def find_plan(request: PlanRequest) -> PlanResult:
    """Plan where the tables go on the request's cluster.

    Raises:
        UserError: a rule or an option that cannot be kept.
    """
    model = request.model(request.fp16_tables)
    fuse_optimizer(model, request.options)
    estimate = PlanEstimate()
    try:
        plan = plan_on(
            request.cluster.topology(),
            model,
            request.pooling_factors,
            request.options,
            estimate,
            request.cluster.hardware.costs,
        )
    except DoesNotFitError as error:
        shortfall = _shortfall(error.smallest, on_gpu=request.cluster.on_gpu)
        return PlanResult(request, shortfall=shortfall)
    return PlanResult(request, tuple(plan_to_json(plan)), estimate)


def _shortfall(smallest: Sequence[ShardingOption], *, on_gpu: bool) -> MemoryShortfall:
    total = [option.total_storage for option in smallest]
    shards = [
        (shard.storage.hbm if on_gpu else shard.storage.ddr, option.name)
        for option in smallest
        for shard in option.shards
    ]
    largest, table = max(shards)
    return MemoryShortfall(
        sum(one.hbm if on_gpu else one.ddr for one in total),
        sum(one.ddr for one in total) if on_gpu else 0,
        largest,
        table,
    )


def towers_bytes(model: nn.Module) -> int:
    """Return the bytes of what is no table: weights, gradients, and Adam's two moments."""
    tables = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, EmbeddingBagCollection)
        for parameter in module.parameters()
    }
    dense = [p for p in model.parameters() if id(p) not in tables]
    return 4 * sum(parameter.numel() * parameter.element_size() for parameter in dense)
