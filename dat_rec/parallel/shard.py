"""A model in, the same model sharded over all ranks out, with the plan that says how.

One planner call covers all EmbeddingBagCollections, so that their tables are balanced
together. Sharding stands here alone: the model knows nothing of ranks.
"""

import fnmatch
from collections.abc import Sequence
from typing import Any, cast

from torch import nn
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints, PlannerError
from torchrec.distributed.types import (
    EmbeddingModuleShardingPlan,
    EnumerableShardingSpec,
    ModuleSharder,
    ShardingPlan,
    ShardingType,
)
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

from dat_rec.errors import UserError
from dat_rec.parallel.process_group import Place

MEMORY_RESERVE = 0.15
"""Share of each device's memory that is left to towers, activations and the batch."""


class Sharder(EmbeddingBagCollectionSharder):  # type: ignore[misc]  # TorchRec ships no types
    """TorchRec's sharder, which on CPU would hide the row-wise types from the planner."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """The sharding types that the planner may choose from."""
        types = [ShardingType.TABLE_WISE, ShardingType.ROW_WISE]
        if compute_device_type != "cpu":
            types.append(ShardingType.TABLE_ROW_WISE)
        return [kind.value for kind in types]


def shard(
    model: nn.Module,
    pooling_factors: dict[str, float],
    place: Place,
    batch_size: int,
    table_lr: float,
    sharding_types: Sequence[str],
    pins: Sequence[str] = (),
) -> tuple[DistributedModelParallel, ShardingPlan]:
    """Plan and shard ``model``'s tables; they learn by RowWiseAdagrad, fused into backward.

    Args:
        model: its EmbeddingBagCollections may be on the meta device.
        pooling_factors: mean number of values in a bag, by feature; 1 where absent.
        place: this process's place.
        batch_size: examples a batch on each rank.
        table_lr: learning rate of the tables.
        sharding_types: what the planner may choose from.
        pins: TABLE=TYPE, for the tables whose name fits the pattern; the first that fits.

    Raises:
        UserError: no plan fits the devices' memory, a type does not work on these devices, or
            a pin names no table (the same on every rank).
    """
    for module in model.modules():
        if isinstance(module, EmbeddingBagCollection):
            # A fresh dict each time: TorchRec changes it in place.
            options = {"lr": table_lr, "eps": 1e-8}
            apply_optimizer_in_backward(RowWiseAdagrad, module.parameters(), options)
    sharders = [cast(ModuleSharder[nn.Module], Sharder())]
    allowed = _allowed_types(model, place, sharding_types, pins)
    topology = Topology(
        world_size=place.world_size,
        local_world_size=place.local_world_size,
        compute_device=place.device.type,
    )
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=batch_size,
        constraints=_constraints(model, pooling_factors, allowed),
        storage_reservation=FixedPercentageStorageReservation(MEMORY_RESERVE),
        debug=False,
    )
    try:
        # Every rank plans by itself from the same inputs: a failure then comes to all
        # ranks at once, where a broadcast would leave the others waiting.
        plan = planner.plan(model, sharders)
    except PlannerError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"no sharding plan fits {place.world_size} × {place.device.type}: {reason}: use more "
            "ranks, or lower --model.embedding-dim or --batch-size"
        ) from error
    sharded = DistributedModelParallel(
        model, device=place.device, plan=plan, sharders=sharders, init_parameters=True
    )
    return sharded, plan


def _tables(model: nn.Module) -> list[EmbeddingBagConfig]:
    return [
        config
        for module in model.modules()
        if isinstance(module, EmbeddingBagCollection)
        for config in module.embedding_bag_configs()
    ]


def _allowed_types(
    model: nn.Module, place: Place, sharding_types: Sequence[str], pins: Sequence[str]
) -> dict[str, list[str]]:
    """What the planner may choose from, by table."""
    names = [table.name for table in _tables(model)]
    wanted = {name: list(sharding_types) for name in names}
    for pin in reversed(pins):
        pattern, _, kind = pin.partition("=")
        fitting = fnmatch.filter(names, pattern)
        if not fitting:
            raise UserError(f"--pin {pin}: no such table: there are {', '.join(names)}")
        wanted |= {name: [kind] for name in fitting}
    if place.world_size == 1:
        # Splitting rows over one rank would only add an exchange with itself.
        return {name: [ShardingType.TABLE_WISE.value] for name in names}
    working = Sharder().sharding_types(place.device.type)
    for name, kinds in wanted.items():
        wanted[name] = [kind for kind in kinds if kind in working]
        if not wanted[name]:
            raise UserError(
                f"table {name}: sharding type {', '.join(kinds)} does not work on "
                f"{place.device.type}: take one of {', '.join(working)} (--sharding-types, --pin)"
            )
    return wanted


def _constraints(
    model: nn.Module, pooling_factors: dict[str, float], allowed: dict[str, list[str]]
) -> dict[str, ParameterConstraints]:
    return {
        table.name: ParameterConstraints(
            sharding_types=allowed[table.name],
            compute_kernels=[EmbeddingComputeKernel.FUSED.value],
            pooling_factors=[pooling_factors.get(name, 1.0) for name in table.feature_names],
        )
        for table in _tables(model)
    }


def plan_to_json(plan: ShardingPlan) -> list[dict[str, Any]]:
    """The plan, a row for each table: module, table, sharding type, kernel, shards.

    A shard is its rank, first row and column (offsets), and rows and columns (sizes).
    """
    rows: list[dict[str, Any]] = []
    for module, module_plan in plan.plan.items():
        for table, sharding in cast(EmbeddingModuleShardingPlan, module_plan).items():
            spec = cast(EnumerableShardingSpec, sharding.sharding_spec)
            shards = [
                {
                    "rank": shard.placement.rank() if shard.placement else None,
                    "offsets": list(shard.shard_offsets),
                    "sizes": list(shard.shard_sizes),
                }
                for shard in spec.shards
            ]
            rows.append(
                {
                    "module": module,
                    "table": table,
                    "sharding_type": sharding.sharding_type,
                    "compute_kernel": sharding.compute_kernel,
                    "shards": shards,
                }
            )
    return rows


def plan_to_text(plan: list[dict[str, Any]]) -> str:
    """The plan of ``plan_to_json`` as an aligned table."""
    lines = [f"{'table':<28}{'type':<16}{'kernel':<10}{'rows × dim':>18}  on ranks"]
    for row in plan:
        ends = [
            [offset + size for offset, size in zip(s["offsets"], s["sizes"], strict=True)]
            for s in row["shards"]
        ]
        size = " × ".join(str(max(end[axis] for end in ends)) for axis in (0, 1))
        ranks = ", ".join(str(s["rank"]) for s in row["shards"])
        lines.append(
            f"{row['table']:<28}{row['sharding_type']:<16}{row['compute_kernel']:<10}"
            f"{size:>18}  {ranks}"
        )
    return "\n".join(lines)
