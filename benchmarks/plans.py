"""Plans of one shape: made without ranks, estimated, and their steps timed in turn on N ranks.

The towers are small and the loss is the cheapest, so that tables take most of a step.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch.distributed.remote_device import _remote_device
from torchrec.distributed.planner.types import ShardingOption
from torchrec.distributed.types import (
    EmbeddingModuleShardingPlan,
    EnumerableShardingSpec,
    ShardingPlan,
)

from benchmarks.ranks import on_ranks
from benchmarks.record import peak_memory_mb
from benchmarks.shapes import Shape, build, stepper
from benchmarks.timing import interleaved
from dat_rec.config import Device, TrainConfig
from dat_rec.dist.process_group import process_group
from dat_rec.planner.cost_estimate import PlanEstimate
from dat_rec.planner.hardware import Cluster, Hardware
from dat_rec.planner.plan import plan_on
from dat_rec.planner.sharding_options import options_of_plan
from dat_rec.sharding.shard import fuse_optimizer
from dat_rec.sharding_rules import ShardingType
from dat_rec.training.build import sharding_options
from dat_rec.training.objective import TrainTask

TYPES: tuple[ShardingType, ...] = ("data_parallel", "table_wise", "row_wise", "column_wise")
"""Without those that need several hosts."""
BATCHES = 4
"""Batches in memory, used in turn."""
HOST_GB = 256
"""Memory of the described host: more than any plan here takes."""


@dataclasses.dataclass(frozen=True)
class Times:
    """Times of one plan's steps."""

    seconds: list[float]
    """A step; one figure a round, that of the slowest rank."""
    cpu_seconds: list[list[float]]
    """CPU time of each rank's process, one figure a step: what others do on the machine
    makes steps longer, and this hardly."""
    peak_memory_mb: float
    """Peak memory of the largest rank, with all plans of the shape alive."""

    @property
    def busiest(self) -> list[float]:
        """CPU seconds of the rank that has most to do."""
        return max(self.cpu_seconds, key=statistics.median)


def this_host(device: Device, ranks: int) -> Cluster:
    """Return this host as the planner knows hosts, with TorchRec's bandwidths."""
    memory_gb = None
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        memory_gb = torch.cuda.get_device_properties(0).total_memory / 2**30
    return Cluster(Hardware("here", device, memory_gb, HOST_GB), 1, ranks)


def config_of(shape: Shape, pins: tuple[str, ...] = ()) -> TrainConfig:
    """A two-tower model with binary cross entropy."""
    config = shape.config("two-tower", pin=pins, sharding_types=TYPES)
    return dataclasses.replace(config, loss=dataclasses.replace(config.loss, main="bce"))


class Planner:
    """The planner of one shape, for a cluster that is described."""

    def __init__(self, shape: Shape, world_size: int) -> None:
        self._shape, self._world_size = shape, world_size

    def plan(
        self,
        cluster: Cluster,
        pins: tuple[str, ...] = (),
        types: tuple[ShardingType, ...] = TYPES,
    ) -> ShardingPlan:
        """The planner's own choice, from ``types`` and what ``pins`` leave open."""
        config = dataclasses.replace(config_of(self._shape, pins), sharding_types=types)
        task = self._task(config)
        return plan_on(
            cluster.topology(),
            task,
            self._shape.pooling_factors(),
            sharding_options(config, self._batch),
            costs=cluster.hardware.costs,
        )

    def parts(self, plan: ShardingPlan, cluster: Cluster) -> list[ShardingOption]:
        """Every table of ``plan`` as the planner sees it, with estimates."""
        config = config_of(self._shape)
        return options_of_plan(
            plan,
            cluster.topology(),
            self._task(config),
            self._shape.pooling_factors(),
            sharding_options(config, self._batch),
            cluster.hardware.costs,
        )

    def step_ms(self, plan: ShardingPlan, cluster: Cluster) -> float:
        """What ``dat-rec plan`` would print as the step of the slowest rank's tables."""
        estimate = PlanEstimate()
        estimate.costs = cluster.hardware.costs
        estimate.log(topology=cluster.topology(), best_plan=self.parts(plan, cluster))
        return max(one.step_ms for one in estimate.ranks.values())

    @property
    def _batch(self) -> int:
        return self._shape.batch_size // self._world_size

    def _task(self, config: TrainConfig) -> TrainTask:
        schema = self._shape.schema()
        task = TrainTask(schema, config.model, config.loss, torch.device("meta"))
        fuse_optimizer(task, sharding_options(config, self._batch))
        return task


def on_one_rank(plan: ShardingPlan, device: str) -> ShardingPlan:
    """Return ``plan`` itself, with every shard moved to rank 0."""
    for module in plan.plan.values():
        for table in cast(EmbeddingModuleShardingPlan, module).values():
            table.ranks = [0]
            for part in cast(EnumerableShardingSpec, table.sharding_spec).shards:
                where = "cpu" if device == "cpu" else "cuda:0"
                part.placement = _remote_device(f"rank:0/{where}")
    return plan


def timed(
    shape: Shape,
    plans: Mapping[str, ShardingPlan],
    world_size: int,
    rounds: int,
    device: Device,
    warmup: int = 3,
) -> dict[str, Times]:
    """Steps of every plan, in turn, all alive in the same ranks."""
    found = on_ranks(world_size, _on_rank, shape, dict(plans), rounds, device, warmup)
    peak = max(memory for _, _, memory in found)
    walls, clocks = [one[0] for one in found], [one[1] for one in found]
    return {
        name: Times(
            [max(of) for of in zip(*(one[name] for one in walls), strict=True)],
            [one[name] for one in clocks],
            peak,
        )
        for name in plans
    }


def _on_rank(
    shape: Shape, plans: dict[str, ShardingPlan], rounds: int, device: Device, warmup: int
) -> tuple[dict[str, list[float]], dict[str, list[float]], float]:
    config = config_of(shape)
    with process_group(config.timeout_s, device=device) as context:
        steps: dict[str, Callable[[], Any]] = {}
        cpu: dict[str, list[float]] = {name: [] for name in plans}
        for name, plan in plans.items():
            built = build(shape, config, context, plan)
            steps[name] = _step(stepper(shape, built, context, BATCHES), cpu[name])
        times = interleaved(steps, rounds, warmup=warmup)
    cpu = {name: one[warmup:] for name, one in cpu.items()}
    return times, cpu, peak_memory_mb()


def _step(make: Callable[[], object], cpu: list[float]) -> Callable[[], None]:
    def step() -> None:
        begin = time.process_time()
        make()
        cpu.append(time.process_time() - begin)

    return step
