"""Make the sharding plan: which rank holds which shard of which table.

One call of TorchRec's planner covers all EmbeddingBagCollections, so that their tables are balanced
together. It chooses one of each table's ``sharding_options`` by their costs (``time_cost``,
``memory_cost``), within ``constraints``. The same inputs give the same plan in every process.
"""

import textwrap
from collections.abc import Mapping, Sequence

from torch import nn
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.proposers import (
    GreedyProposer,
    GridSearchProposer,
    UniformProposer,
)
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError, Proposer, ShardingOption
from torchrec.distributed.types import ShardingPlan

from dat_rec.dist.rank_context import RankContext
from dat_rec.errors import UserError
from dat_rec.planner.cost_estimate import PlanEstimate
from dat_rec.planner.hardware import Cost, CostKind
from dat_rec.planner.log_filter import without_message
from dat_rec.planner.sharding_options import options_and_constraints, sharders
from dat_rec.planner.topology import measured_bandwidths_and_costs, topology_of_ranks
from dat_rec.sharding.options import ShardingOptions

MEMORY_RESERVE = 0.15
"""Share of each device's memory that is left to towers, activations and the batch."""
MAX_PLACEMENTS = 80_000
"""Maximum number of combinations of a grid search, times the ranks that each is placed on."""
NO_SHARDS = "Sharding spec not found for "
"""How TorchRec warns of each data-parallel table that it has no shards, as it should be."""


class DoesNotFitError(UserError):
    """No plan fits the memory that there is."""

    def __init__(self, message: str, smallest: Sequence[ShardingOption]) -> None:
        super().__init__(message)
        self.smallest = tuple(smallest)
        """For each table, the sharding option that takes the least memory in all."""


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
        estimate: takes the plan's estimated costs.

    Raises:
        UserError: as ``plan_on``; or the topology file is bad, or another device's.
    """
    bandwidths, costs = measured_bandwidths_and_costs(context.device.type, options.topology)
    group = options.sharding_group_size or context.world_size
    topology = topology_of_ranks(context, group, bandwidths)
    return plan_on(topology, model, pooling_factors, options, estimate, costs)


def plan_on(
    topology: Topology,
    model: nn.Module,
    pooling_factors: dict[str, float],
    options: ShardingOptions,
    estimate: PlanEstimate | None = None,
    costs: Mapping[CostKind, Cost] | None = None,
) -> ShardingPlan:
    """Plan where the tables go on any cluster, this process's or one that is only described.

    Args:
        topology: of the ranks that share one copy of the tables.
        model: its EmbeddingBagCollections may be on the meta device.
        pooling_factors: mean number of values in a bag, by feature; 1 where absent.
        options: what may be chosen.
        estimate: takes the plan's estimated costs.
        costs: as measured on such a cluster; None for TorchRec's formulas.

    Raises:
        DoesNotFitError: no plan fits the devices' memory.
        UserError: a type or kernel does not work there, or a rule names no table (the same on
            every rank).
    """
    enumerator, constraints = options_and_constraints(
        topology, model, pooling_factors, options, costs
    )
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
        with without_message(NO_SHARDS):
            return planner.plan(model, sharders())
    except PlannerError as error:
        on_gpu = topology.compute_device == "cuda"
        options_of_tables = enumerator.last_stored_search_space or ()
        raise DoesNotFitError(
            _does_not_fit(topology, error), _smallest(options_of_tables, on_gpu=on_gpu)
        ) from error


def _does_not_fit(topology: Topology, error: PlannerError) -> str:
    reason = textwrap.shorten(str(error), 300, placeholder=" …")
    storage = topology.devices[0].storage
    given = storage.hbm if topology.compute_device == "cuda" else storage.ddr
    return (
        f"no sharding plan fits {topology.world_size} × {topology.compute_device} of "
        f"{given / 2**30:.3g} GiB each: {reason}: use more ranks, raise "
        "--memory-gb if there is more, allow other types or kernels, or lower "
        "--model.embedding-dim or --batch-size"
    )


def _proposers(ranks: int) -> list[Proposer]:
    """Return TorchRec's own four; the grid, of all combinations, only where that takes seconds.

    With its own limit of 10,000, seven tables on a hundred ranks would take it ten times as long
    as the other three, which find the same (benchmarks/LOG.md); beyond the limit it tries nothing.
    """
    return [
        GridSearchProposer(max_proposals=min(10_000, MAX_PLACEMENTS // ranks)),
        GreedyProposer(),
        GreedyProposer(use_depth=False),
        UniformProposer(),
    ]


def _smallest(found: Sequence[ShardingOption], *, on_gpu: bool) -> list[ShardingOption]:
    """Return for each table the option that takes the least memory in all."""

    def size(option: ShardingOption) -> int:
        total = option.total_storage
        return int(total.hbm if on_gpu else total.ddr)

    best: dict[str, ShardingOption] = {}
    for option in found:
        if option.fqn not in best or size(option) < size(best[option.fqn]):
            best[option.fqn] = option
    return list(best.values())
