"""A sharding plan as a row for each table: what a run saves, compares and shows."""

from typing import Any, cast

from torchrec.distributed.types import (
    EmbeddingModuleShardingPlan,
    EnumerableShardingSpec,
    ShardingPlan,
)


def plan_to_json(plan: ShardingPlan) -> list[dict[str, Any]]:
    """Return a row for each table: module, table, sharding type, kernel, shards.

    A shard is its rank, first row and column (offsets), and rows and columns (sizes). A
    data-parallel table has no shards but stands whole on each of ``ranks``.
    """
    rows: list[dict[str, Any]] = []
    for module, module_plan in plan.plan.items():
        for table, sharding in cast(EmbeddingModuleShardingPlan, module_plan).items():
            spec = cast(EnumerableShardingSpec | None, sharding.sharding_spec)
            shards = [
                {
                    "rank": shard.placement.rank() if shard.placement else None,
                    "offsets": list(shard.shard_offsets),
                    "sizes": list(shard.shard_sizes),
                }
                for shard in (spec.shards if spec is not None else ())
            ]
            rows.append(
                {
                    "module": module,
                    "table": table,
                    "sharding_type": sharding.sharding_type,
                    "compute_kernel": sharding.compute_kernel,
                    "ranks": list(sharding.ranks or ()),
                    "shards": shards,
                }
            )
    return rows


def plan_to_text(plan: list[dict[str, Any]]) -> str:
    """Return the rows of ``plan_to_json`` as an aligned table."""
    lines = [f"{'table':<28}{'type':<20}{'kernel':<10}{'rows × dim':>18}  on ranks"]
    for row in plan:
        ends = [
            [offset + size for offset, size in zip(s["offsets"], s["sizes"], strict=True)]
            for s in row["shards"]
        ]
        size = " × ".join(str(max(end[axis] for end in ends)) for axis in (0, 1)) if ends else "all"
        ranks = ", ".join(map(str, [s["rank"] for s in row["shards"]] or row["ranks"]))
        lines.append(
            f"{row['table']:<28}{row['sharding_type']:<20}{row['compute_kernel']:<10}"
            f"{size:>18}  {ranks}"
        )
    return "\n".join(lines)
