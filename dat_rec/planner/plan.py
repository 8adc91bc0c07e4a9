"""A model, rules and a cluster in, a sharding plan out: which rank holds which part of which table.

One planner call covers all EmbeddingBagCollections, so that their tables are balanced
together. The same inputs give the same plan in every process.
"""

import logging
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from torch import nn
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.proposers import (
    GreedyProposer,
    GridSearchProposer,
    UniformProposer,
)
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    ParameterConstraints,
    PlannerError,
    Proposer,
    ShardingOption,
)
from torchrec.distributed.types import (
    EmbeddingModuleShardingPlan,
    EnumerableShardingSpec,
    ModuleSharder,
    ShardingPlan,
)
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from dat_rec.dist.rank_context import RankContext
from dat_rec.errors import UserError
from dat_rec.planner.constraints import planner_constraints, table_rules
from dat_rec.planner.estimate import PlanEstimate
from dat_rec.planner.hardware import Cost, Way, read_cluster, topology_bandwidths, usual_costs
from dat_rec.planner.memory import StorageEstimator
from dat_rec.planner.step_time import TimeEstimator
from dat_rec.sharding.options import ShardingOptions
from dat_rec.sharding.shard import Sharder, ranks_together
from dat_rec.table_rules import KERNELS, SHARDING_TYPES

MEMORY_RESERVE = 0.15
"""Share of each device's memory that is left to towers, activations and the batch."""

MOST_PLACEMENTS = 80_000
"""Most combinations of a grid search, times the ranks that each is placed on."""


class _Enumerator(EmbeddingEnumerator):  # type: ignore[misc]  # TorchRec ships no types
    """TorchRec's, which lists types and kernels in an order that changes with every process.

    (It takes them from a set of strings.) Among equally good plans the first one wins, so that
    without an order of ours a restarted run could get another plan, and other bits.
    """

    def _filter_sharding_types(self, *arguments: Any) -> list[str]:
        return sorted(super()._filter_sharding_types(*arguments), key=SHARDING_TYPES.index)

    def _filter_compute_kernels(self, *arguments: Any) -> list[str]:
        return sorted(super()._filter_compute_kernels(*arguments), key=KERNELS.index)


class DoesNotFitError(UserError):
    """No plan fits the memory that there is."""

    def __init__(self, message: str, smallest: Sequence[ShardingOption]) -> None:
        super().__init__(message)
        self.smallest = tuple(smallest)
        """Of each table, the way of sharding that takes the least memory in all."""


def make_plan(
    model: nn.Module,
    pooling_factors: dict[str, float],
    context: RankContext,
    options: ShardingOptions,
    estimate: PlanEstimate | None = None,
) -> ShardingPlan:
    """Plan where the tables go on the cluster that this process is part of.

    Args:
        model: its EmbeddingBagCollections may be on the meta device.
        pooling_factors: mean number of values in a bag, by feature; 1 where absent.
        context: this rank's.
        options: what may be chosen.
        estimate: takes what the planner expects of the plan.

    Raises:
        UserError: as ``plan_on``; or the topology file is bad, or another device's.
    """
    bandwidths, costs = _measured(context, options.topology)
    topology = _topology(context, options.sharding_group_size or context.world_size, bandwidths)
    return plan_on(topology, model, pooling_factors, options, estimate, costs)


def _measured(
    context: RankContext, path: Path | None
) -> tuple[Mapping[str, float], Mapping[Way, Cost]]:
    """Bandwidths and costs."""
    if path is None:
        return {}, usual_costs(context.device.type)
    hardware = read_cluster(path).hardware
    if hardware.device != context.device.type:
        raise UserError(
            f"--topology {path}: of {hardware.device}, and this run is on {context.device.type}: "
            "name one of such hosts, or leave it out"
        )
    return hardware.bandwidths, hardware.costs


def plan_on(
    topology: Topology,
    model: nn.Module,
    pooling_factors: dict[str, float],
    options: ShardingOptions,
    estimate: PlanEstimate | None = None,
    costs: Mapping[Way, Cost] | None = None,
) -> ShardingPlan:
    """Plan where the tables go on any cluster, this process's or one that is only described.

    Args:
        topology: of the ranks that share one copy of the tables.
        model: its EmbeddingBagCollections may be on the meta device.
        pooling_factors: mean number of values in a bag, by feature; 1 where absent.
        options: what may be chosen.
        estimate: takes what the planner expects of the plan.
        costs: as measured on such a cluster.

    Raises:
        DoesNotFitError: no plan fits the devices' memory.
        UserError: a type or kernel does not work there, or a rule names no table (the same on
            every rank).
    """
    enumerator, constraints = _enumerator(topology, model, pooling_factors, options, costs)
    if estimate is not None:
        estimate.costs = costs
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=options.batch_size,
        constraints=constraints,
        enumerator=enumerator,
        storage_reservation=FixedPercentageStorageReservation(MEMORY_RESERVE),
        proposer=_proposers(topology.world_size),
        stats=[] if estimate is None else [estimate],
        debug=False,
    )
    try:
        with _without_warning_of_copies():
            return planner.plan(model, [cast(ModuleSharder[nn.Module], Sharder())])
    except PlannerError as error:
        reason = textwrap.shorten(str(error), 300, placeholder=" …")
        on_gpu = topology.compute_device == "cuda"
        storage = topology.devices[0].storage
        given = storage.hbm if on_gpu else storage.ddr
        raise DoesNotFitError(
            f"no sharding plan fits {topology.world_size} × {topology.compute_device} of "
            f"{given / 2**30:.3g} GiB each: {reason}: use more ranks, raise "
            "--memory-gb if there is more, allow other types or kernels, or lower "
            "--model.embedding-dim or --batch-size",
            _smallest(enumerator.last_stored_search_space or (), on_gpu=on_gpu),
        ) from error


@contextmanager
def _without_warning_of_copies() -> Iterator[None]:
    """TorchRec warns of each data-parallel table that it has no parts, as it should be."""

    def is_other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Sharding spec not found for ")

    root = logging.getLogger()
    root.addFilter(is_other)
    try:
        yield
    finally:
        root.removeFilter(is_other)


def _enumerator(
    topology: Topology,
    model: nn.Module,
    pooling_factors: dict[str, float],
    options: ShardingOptions,
    costs: Mapping[Way, Cost] | None,
) -> tuple[_Enumerator, dict[str, ParameterConstraints]]:
    """What lists the ways to shard each table, and what each may be."""
    tables = [
        config
        for module in model.modules()
        if isinstance(module, EmbeddingBagCollection)
        for config in module.embedding_bag_configs()
    ]
    rules = table_rules(tables, topology, options.pins, options.sharding_types)
    constraints = {
        table.name: planner_constraints(table, rules[table.name], pooling_factors)
        for table in tables
    }
    times = TimeEstimator(topology, constraints, costs)
    memory = StorageEstimator(topology, constraints)
    estimators = [times, memory]
    return _Enumerator(topology, options.batch_size, constraints, estimators), constraints


def as_planned(
    plan: ShardingPlan,
    topology: Topology,
    model: nn.Module,
    pooling_factors: dict[str, float],
    options: ShardingOptions,
    costs: Mapping[Way, Cost] | None = None,
) -> list[ShardingOption]:
    """What the planner expects of a plan, whoever made it: every table's parts, with their ranks.

    Args:
        plan: of this model; each table sharded as the planner could have.
        topology: as of ``plan_on``, and so are the others.
        model: as planned.
        pooling_factors: mean number of values in a bag, by feature; 1 where absent.
        options: with the sharding types that the plan has, and no rules.
        costs: as measured on such a cluster.
    """
    enumerator, _ = _enumerator(topology, model, pooling_factors, options, costs)
    chosen = []
    for option in enumerator.enumerate(model, [cast(ModuleSharder[nn.Module], Sharder())]):
        table = cast(EmbeddingModuleShardingPlan, plan.plan[option.path])[option.name]
        if (table.sharding_type, table.compute_kernel) != (
            option.sharding_type,
            option.compute_kernel,
        ):
            continue
        spec = cast(EnumerableShardingSpec | None, table.sharding_spec)
        placed = {
            tuple(part.shard_offsets): part.placement.rank() if part.placement else None
            for part in (spec.shards if spec is not None else ())
        }
        for number, shard in enumerate(option.shards):
            shard.rank = placed[tuple(shard.offset)] if placed else number
        chosen.append(option)
    return chosen


def _proposers(ranks: int) -> list[Proposer]:
    """TorchRec's own four; the grid, which tries every combination, only where that takes seconds.

    With its own limit of 10,000, seven tables on a hundred ranks would take it ten times as long
    as the other three, which find the same (benchmarks/LOG.md); beyond the limit it tries nothing.
    """
    return [
        GridSearchProposer(max_proposals=min(10_000, MOST_PLACEMENTS // ranks)),
        GreedyProposer(),
        GreedyProposer(use_depth=False),
        UniformProposer(),
    ]


def _smallest(found: Sequence[ShardingOption], *, on_gpu: bool) -> list[ShardingOption]:
    best: dict[str, ShardingOption] = {}
    for option in found:
        before = best.get(option.fqn)
        if before is None or _bytes(option, on_gpu) < _bytes(before, on_gpu):
            best[option.fqn] = option
    return list(best.values())


def _bytes(option: ShardingOption, on_gpu: bool) -> int:
    total = option.total_storage
    return int(total.hbm if on_gpu else total.ddr)


def _topology(context: RankContext, group: int, bandwidths: Mapping[str, float]) -> Topology:
    on_gpu = context.device.type == "cuda"
    return Topology(
        world_size=group,
        local_world_size=ranks_together(context, group),
        compute_device=context.device.type,
        # TorchRec's own guesses are 32 GB a GPU, and 128 GB of host memory for each rank.
        hbm_cap=context.memory_bytes if on_gpu else None,
        ddr_cap=context.host_memory_bytes if on_gpu else context.memory_bytes,
        **topology_bandwidths(bandwidths),
    )
