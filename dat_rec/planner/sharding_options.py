"""The sharding options of each table: every allowed type and kernel, with its memory and time.

TorchRec calls an option a ``ShardingOption``; its planner chooses one for each table.
"""

from collections.abc import Mapping
from typing import Any, cast

from torch import nn
from torchrec.distributed.planner import Topology
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.types import ParameterConstraints, ShardingOption
from torchrec.distributed.types import (
    EmbeddingModuleShardingPlan,
    EnumerableShardingSpec,
    ModuleSharder,
    ShardingPlan,
)
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from dat_rec.planner.constraints import planner_constraints, rules_by_table
from dat_rec.planner.hardware import Cost, CostKind
from dat_rec.planner.memory_cost import StorageEstimator
from dat_rec.planner.time_cost import TimeEstimator
from dat_rec.sharding.options import ShardingOptions
from dat_rec.sharding.shard import Sharder
from dat_rec.sharding_rules import KERNELS, SHARDING_TYPES


class OrderedEnumerator(EmbeddingEnumerator):  # type: ignore[misc]  # TorchRec ships no types
    """TorchRec's enumerator, with an order of types and kernels that is the same in every process.

    TorchRec takes them from a set of strings. Among equally good plans the first one wins, so that
    without an order of ours a restarted run could get another plan, and other bits.
    """

    def _filter_sharding_types(self, *arguments: Any) -> list[str]:
        return sorted(super()._filter_sharding_types(*arguments), key=SHARDING_TYPES.index)

    def _filter_compute_kernels(self, *arguments: Any) -> list[str]:
        return sorted(super()._filter_compute_kernels(*arguments), key=KERNELS.index)


def sharders() -> list[ModuleSharder[nn.Module]]:
    """Return the sharders for TorchRec's planner."""
    return [cast(ModuleSharder[nn.Module], Sharder())]


def options_and_constraints(
    topology: Topology,
    model: nn.Module,
    pooling_factors: dict[str, float],
    options: ShardingOptions,
    costs: Mapping[CostKind, Cost] | None,
) -> tuple[OrderedEnumerator, dict[str, ParameterConstraints]]:
    """Return what enumerates the sharding options, and each table's constraints by name.

    Args:
        topology: of the ranks that share one copy of the tables.
        model: its EmbeddingBagCollections may be on the meta device.
        pooling_factors: mean number of values in a bag, by feature; 1 where absent.
        options: what may be chosen.
        costs: as measured on such a cluster; None for TorchRec's formulas.

    Raises:
        UserError: as ``rules_by_table``.
    """
    tables = [
        config
        for module in model.modules()
        if isinstance(module, EmbeddingBagCollection)
        for config in module.embedding_bag_configs()
    ]
    rules = rules_by_table(tables, topology, options.pins, options.sharding_types)
    constraints = {
        table.name: planner_constraints(table, rules[table.name], pooling_factors)
        for table in tables
    }
    estimators = [
        TimeEstimator(topology, constraints, costs),
        StorageEstimator(topology, constraints),
    ]
    return OrderedEnumerator(topology, options.batch_size, constraints, estimators), constraints


def options_of_plan(
    plan: ShardingPlan,
    topology: Topology,
    model: nn.Module,
    pooling_factors: dict[str, float],
    options: ShardingOptions,
    costs: Mapping[CostKind, Cost] | None = None,
) -> list[ShardingOption]:
    """Return the option that a plan has chosen for each table, its shards with their ranks.

    It tells what the planner expects of a plan, whoever made it.

    Args:
        plan: of this model; each table sharded as the planner could have.
        topology: as of ``options_and_constraints``.
        model: as planned.
        pooling_factors: mean number of values in a bag, by feature; 1 where absent.
        options: with the sharding types that the plan has, and no rules.
        costs: as measured on such a cluster.
    """
    enumerator, _ = options_and_constraints(topology, model, pooling_factors, options, costs)
    chosen = []
    for option in enumerator.enumerate(model, sharders()):
        table = cast(EmbeddingModuleShardingPlan, plan.plan[option.path])[option.name]
        if (table.sharding_type, table.compute_kernel) != (
            option.sharding_type,
            option.compute_kernel,
        ):
            continue
        spec = cast(EnumerableShardingSpec | None, table.sharding_spec)
        ranks = {
            tuple(shard.shard_offsets): shard.placement.rank() if shard.placement else None
            for shard in (spec.shards if spec is not None else ())
        }
        for number, shard in enumerate(option.shards):
            shard.rank = ranks[tuple(shard.offset)] if ranks else number
        chosen.append(option)
    return chosen
