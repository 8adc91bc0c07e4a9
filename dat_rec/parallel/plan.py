"""A model, rules and a cluster in, a sharding plan out: which rank holds which part of which table.

One planner call covers all EmbeddingBagCollections, so that their tables are balanced
together. The same inputs give the same plan in every process.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from torch import nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
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
    CacheParams,
    EmbeddingModuleShardingPlan,
    EnumerableShardingSpec,
    ModuleSharder,
    ShardingPlan,
)
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from dat_rec.errors import UserError
from dat_rec.parallel.hardware import Cost, Way, read_cluster, topology_bandwidths
from dat_rec.parallel.plan_estimate import PlanEstimate
from dat_rec.parallel.plan_memory import StorageEstimator
from dat_rec.parallel.plan_time import TimeEstimator
from dat_rec.parallel.process_group import Place
from dat_rec.table_rules import (
    BY_COLUMN,
    KERNELS,
    SHARDING_TYPES,
    ShardingType,
    TableRule,
    check_patterns,
    parse_rule,
    rule_for,
)

MEMORY_RESERVE = 0.15
"""Share of each device's memory that is left to towers, activations and the batch."""

MOST_PLACEMENTS = 80_000
"""Most combinations of a grid search, times the ranks that each is placed on."""


@dataclass(frozen=True)
class ShardingOptions:
    """What a run's configuration says of planning and sharding."""

    batch_size: int
    """Examples a batch on each rank."""
    table_lr: float
    optimizer: Literal["rowwise_adagrad", "adagrad"] = "rowwise_adagrad"
    sharding_types: tuple[ShardingType, ...] = ("table_wise", "row_wise", "table_row_wise")
    """What the planner may choose from where no rule says so; on one rank always table_wise."""
    pins: tuple[str, ...] = ()
    """Rules of ``dat_rec.table_rules``."""
    memory_gb: float = 0.0
    """GiB of each rank; 0: what the device has."""
    comms: Literal["fp32", "fp16", "bf16"] = "fp32"
    sharding_group_size: int = 0
    """Ranks that share one copy of the tables; 0: all."""
    topology: Path | None = None
    """File of ``read_cluster`` with the cluster's bandwidths and costs; None: TorchRec's own."""


class Sharder(EmbeddingBagCollectionSharder):  # type: ignore[misc]  # TorchRec ships no types
    """TorchRec's sharder, with every type and kernel that works; the rules choose among them."""

    def sharding_types(self, compute_device_type: str) -> list[str]:  # noqa: ARG002
        """All of them; TorchRec hides the row-wise ones on CPU, where they work."""
        return list(SHARDING_TYPES)

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        """Dense for data-parallel tables, and the fused ones for all others."""
        if sharding_type == "data_parallel":
            return ["dense"]
        uvm = ["fused_uvm", "fused_uvm_caching"] if compute_device_type == "cuda" else []
        return ["fused", *uvm]


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
    place: Place,
    options: ShardingOptions,
    sharder: Sharder,
    estimate: PlanEstimate | None = None,
) -> ShardingPlan:
    """Plan where the tables go on the cluster that this process is part of.

    Args:
        model: its EmbeddingBagCollections may be on the meta device.
        pooling_factors: mean number of values in a bag, by feature; 1 where absent.
        place: this process's place.
        options: what may be chosen.
        sharder: that will shard the model.
        estimate: takes what the planner expects of the plan.

    Raises:
        UserError: as ``plan_on``; or the topology file is bad, or another device's.
    """
    bandwidths, costs = _measured(place, options.topology)
    topology = _topology(place, options.sharding_group_size or place.world_size, bandwidths)
    return plan_on(topology, model, pooling_factors, options, sharder, estimate, costs)


def _measured(place: Place, path: Path | None) -> tuple[Mapping[str, float], Mapping[Way, Cost]]:
    """Bandwidths and costs."""
    if path is None:
        return {}, {}
    hardware = read_cluster(path).hardware
    if hardware.device != place.device.type:
        raise UserError(
            f"--topology {path}: of {hardware.device}, and this run is on {place.device.type}: "
            "name one of such hosts, or leave it out"
        )
    return hardware.bandwidths, hardware.costs


def plan_on(
    topology: Topology,
    model: nn.Module,
    pooling_factors: dict[str, float],
    options: ShardingOptions,
    sharder: Sharder,
    estimate: PlanEstimate | None = None,
    costs: Mapping[Way, Cost] | None = None,
) -> ShardingPlan:
    """Plan where the tables go on any cluster, this process's or one that is only described.

    Args:
        topology: of the ranks that share one copy of the tables.
        model: its EmbeddingBagCollections may be on the meta device.
        pooling_factors: mean number of values in a bag, by feature; 1 where absent.
        options: what may be chosen.
        sharder: that will shard the model.
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
        return planner.plan(model, [cast(ModuleSharder[nn.Module], sharder)])
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
    rules = _rules(tables, topology, options)
    constraints = {
        table.name: _constraints(table, rules[table.name], pooling_factors) for table in tables
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


def _topology(place: Place, group: int, bandwidths: Mapping[str, float]) -> Topology:
    on_gpu = place.device.type == "cuda"
    return Topology(
        world_size=group,
        local_world_size=min(place.local_world_size, group),
        compute_device=place.device.type,
        # TorchRec's own guesses are 32 GB a GPU, and 128 GB of host memory for each rank.
        hbm_cap=place.memory_bytes if on_gpu else None,
        ddr_cap=place.host_memory_bytes if on_gpu else place.memory_bytes,
        **topology_bandwidths(bandwidths),
    )


def _rules(
    tables: Sequence[EmbeddingBagConfig], topology: Topology, options: ShardingOptions
) -> dict[str, TableRule]:
    """By table, its types and kernels, all of which work there."""
    given = [parse_rule(pin) for pin in options.pins]
    check_patterns(given, [table.name for table in tables])
    # Splitting tables over one rank would only add an exchange with itself.
    usual = ("table_wise",) if topology.world_size == 1 else options.sharding_types
    rules = {}
    for table in tables:
        rule = rule_for(table.name, given)
        wanted: tuple[ShardingType, ...] = rule.sharding_types or usual
        types = tuple(kind for kind in wanted if not _leaves_empty(table, kind, topology))
        if not types and not rule.sharding_types:
            types = ("table_wise",)
        if not types:
            raise UserError(
                f"table {table.name}: its {table.num_embeddings} rows, cut by {wanted[0]}, would "
                f"leave one of {topology.world_size} ranks without any, which FBGEMM does not "
                "survive: pin it to table_wise or data_parallel, before the pattern that names it "
                "now"
            )
        kernels = rule.kernels or ("fused",)
        rules[table.name] = TableRule(
            rule.pattern,
            types,
            kernels,
            rule.min_partition,
            rule.pooling_factor,
            rule.cache_load_factor,
        )
        _check_rule(table, rules[table.name], on_cpu=topology.compute_device == "cpu")
    return rules


def _leaves_empty(table: EmbeddingBagConfig, kind: ShardingType, topology: Topology) -> bool:
    """Whether a rank's part would have no rows: blocks of equal height run out before the ranks.

    FBGEMM's CPU backward then reads beyond its arrays ("more than 2B rows", or worse).
    """
    by_host = {"table_row_wise", "grid_shard"}
    ranks = topology.local_world_size if kind in by_host else topology.world_size
    height = -(-table.num_embeddings // ranks)
    by_row = kind == "row_wise" or kind in by_host
    return by_row and height * (ranks - 1) >= table.num_embeddings


def _check_rule(table: EmbeddingBagConfig, rule: TableRule, *, on_cpu: bool) -> None:
    name, types = table.name, set(rule.sharding_types)
    if on_cpu and (uvm := sorted(kernel for kernel in rule.kernels if "uvm" in kernel)):
        raise UserError(
            f"table {name}: the kernel {uvm[0]} needs a GPU: on CPU every table lies in host "
            "memory, and TorchRec would silently use fused: pin it to fused"
        )
    if table.data_type == DataType.FP16 and "data_parallel" in types:
        raise UserError(
            f"table {name}: float16 weights need the kernel fused, and data_parallel tables have "
            "dense: pin it to another type, or leave it out of --model.fp16-tables"
        )
    if "dense" in rule.kernels and (others := types - {"data_parallel"}):
        raise UserError(
            f"table {name}: the kernel dense is that of data_parallel tables, and TorchRec's "
            f"planner refuses it for {', '.join(sorted(others))}: pin it to data_parallel, or to "
            "fused"
        )
    width = rule.min_partition
    if width is not None and types & BY_COLUMN and table.embedding_dim % width:
        raise UserError(
            f"table {name}: min_partition:{width} does not divide its {table.embedding_dim} "
            "columns: choose a divisor that is a multiple of 4"
        )
    if types - {"data_parallel"} and table.embedding_dim % 4:
        raise UserError(
            f"table {name}: {table.embedding_dim} columns: FBGEMM's fused kernels want multiples "
            "of 4, in parts of a table too: choose such an --model.embedding-dim (of augmented "
            "vectors --model.output-dim), or pin the table to data_parallel"
        )


def _constraints(
    table: EmbeddingBagConfig, rule: TableRule, pooling_factors: dict[str, float]
) -> ParameterConstraints:
    kernels = list(rule.kernels)
    if "data_parallel" in rule.sharding_types and "dense" not in kernels:
        kernels.append("dense")
    factors = [
        rule.pooling_factor or pooling_factors.get(name) or pooling_factors.get(_feature(name), 1.0)
        for name in table.feature_names
    ]
    by_column = bool(set(rule.sharding_types) & BY_COLUMN)
    cache = rule.cache_load_factor
    return ParameterConstraints(
        sharding_types=list(rule.sharding_types),
        compute_kernels=kernels,
        # TorchRec's own is 128 columns.
        min_partition=(rule.min_partition or _half(table.embedding_dim)) if by_column else None,
        pooling_factors=factors,
        cache_params=None if cache is None else CacheParams(load_factor=cache),
    )


def _feature(key: str) -> str:
    """The feature of a key, which has a number behind it where it is negatives'."""
    return key.partition("@")[0]


def _half(dim: int) -> int:
    """The least width, at least half of ``dim``, that divides it and is a multiple of 4."""
    return next((w for w in range(4, dim, 4) if dim % w == 0 and w * 2 >= dim), dim)
