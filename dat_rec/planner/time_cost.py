"""The time that a shard takes in a step: TorchRec's estimate, or by costs measured on CPU.

TorchRec's formulas are a GPU's: bytes over bandwidth. On CPU a shard costs by the bag and by the
value as much as by the byte, an exchange copies and waits more than it sends, row-wise shards see
every bag of every rank, and the squares that column shards of RowWiseAdagrad exchange
(``dat_rec.sharding.rowwise_adagrad``) are in no formula. ``benchmarks/calibrate.py`` measures whole
steps instead, and fits for each kind of sharding

    ms = (bags · bag_ns + bags · D · 4 · bag_byte_ns
          + values · value_ns + values · D · e · value_byte_ns + rows · D · e · row_byte_ns) / 1e6

with a shard's bags and values of a step, its D columns, and e bytes a weight; rows count where
every rank holds the table and its gradient whole. What every rank does for its own examples under
any plan (ids sent, embeddings received, the model between) has costs of the same kind, by the bags
and values of that rank's examples. It moves no plan before another, and so the planner does not
see it; ``PlanEstimate`` adds it.
"""

from collections.abc import Mapping
from dataclasses import astuple
from math import prod
from typing import Any

from torchrec.distributed.planner.constants import DEFAULT_PERF_ESTIMATOR
from torchrec.distributed.planner.estimator import EmbeddingPerfEstimatorFactory
from torchrec.distributed.planner.types import (
    ParameterConstraints,
    Perf,
    Shard,
    ShardEstimator,
    ShardingOption,
    Topology,
)
from torchrec.optim import RowWiseAdagrad

from dat_rec.planner.hardware import Cost, CostKind

VECTOR_BYTES = 4
"""Bytes of each number of a pooled embedding."""


def cost_kind(option: ShardingOption) -> CostKind:
    """Return the kind of sharding whose measured costs a table's shards have."""
    kind = option.sharding_type
    if kind == "data_parallel":
        return "data_parallel"
    if kind in ("row_wise", "table_row_wise", "grid_shard"):
        return "row_wise"
    # With another optimizer a column shard is a table of fewer columns.
    by_column = kind in ("column_wise", "table_column_wise")
    classes = getattr(option.tensor, "_optimizer_classes", [])
    return "column_wise" if by_column and RowWiseAdagrad in classes else "table_wise"


def shard_work(option: ShardingOption, shard: Shard, topology: Topology) -> Cost:
    """Return what a shard has to do in a step: the factors of its costs, field by field."""
    features = len(option.input_lengths)
    ranks = 1 if option.sharding_type == "data_parallel" else topology.world_size
    rows, columns = shard.size
    bags = float(option.batch_size * ranks * features)
    # Where a table is cut by rows, each shard has its share of the values, but all bags.
    values = option.batch_size * ranks * sum(option.input_lengths) * rows / option.tensor.shape[0]
    row_bytes = columns * option.tensor.element_size()
    table_bytes = float(prod(shard.size)) * option.tensor.element_size()
    dense = option.sharding_type == "data_parallel"
    return Cost(
        bags,
        bags * columns * VECTOR_BYTES,
        values,
        values * row_bytes,
        table_bytes if dense else 0.0,
    )


def own_work(option: ShardingOption) -> Cost:
    """Return what a table's bags make every rank do under any plan."""
    bags = float(option.batch_size * len(option.input_lengths))
    values = float(option.batch_size * sum(option.input_lengths))
    columns = option.tensor.shape[1]
    row_bytes = columns * option.tensor.element_size()
    return Cost(bags, bags * columns * VECTOR_BYTES, values, values * row_bytes, 0.0)


def time_ms(work: Cost, cost: Cost) -> float:
    """Return the milliseconds of ``work``, factors in ``Cost``'s order, at ``cost``."""
    pairs = zip(astuple(work), astuple(cost), strict=True)
    return float(sum(a * b for a, b in pairs)) / 1e6


class TimeEstimator(ShardEstimator):  # type: ignore[misc]  # no types in TorchRec
    """TorchRec's estimator of time; with measured costs their time in its place, all as lookups."""

    def __init__(
        self,
        topology: Topology,
        constraints: dict[str, ParameterConstraints] | None = None,
        costs: Mapping[CostKind, Cost] | None = None,
    ) -> None:
        self._topology = topology
        self._costs = costs
        self._torchrec = EmbeddingPerfEstimatorFactory.create(
            DEFAULT_PERF_ESTIMATOR, topology=topology, constraints=constraints
        )

    def estimate(self, sharding_options: list[ShardingOption], *more: Any, **named: Any) -> None:
        """Set the time of every shard."""
        self._torchrec.estimate(sharding_options, *more, **named)
        if not self._costs:
            return
        for option in sharding_options:
            cost = self._costs[cost_kind(option)]
            for shard in option.shards:
                one = time_ms(shard_work(option, shard, self._topology), cost)
                shard.perf = Perf(one, 0.0, 0.0, 0.0)
