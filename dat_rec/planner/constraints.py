"""Constraints: what the planner may do with each table, by the rules of ``--pin`` and the cluster.

What would fail in a kernel, or silently be something else, is refused here.
"""

from collections.abc import Sequence

from torchrec.distributed.planner import Topology
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import CacheParams
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig

from dat_rec.errors import UserError
from dat_rec.sharding_rules import (
    BY_COLUMN,
    ShardingRule,
    ShardingType,
    check_patterns,
    parse_rule,
    rule_for,
)


def rules_by_table(
    tables: Sequence[EmbeddingBagConfig],
    topology: Topology,
    pins: Sequence[str],
    sharding_types: Sequence[ShardingType],
) -> dict[str, ShardingRule]:
    """Return the rule of each table, by name; all its types and kernels work there.

    Args:
        tables: those of all EmbeddingBagCollections.
        topology: the cluster.
        pins: texts of rules; the first one that fits a table's name counts.
        sharding_types: the types for tables that no rule names.

    Raises:
        UserError: a pin fits no table, or cannot be kept.
    """
    given = [parse_rule(pin) for pin in pins]
    check_patterns(given, [table.name for table in tables])
    # Splitting tables over one rank would only add an exchange with itself.
    usual: tuple[ShardingType, ...] = (
        ("table_wise",) if topology.world_size == 1 else tuple(sharding_types)
    )
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
        rules[table.name] = ShardingRule(
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
    """Whether a rank's shard would have no rows: blocks of equal height run out before the ranks.

    FBGEMM's CPU backward then reads beyond its arrays ("more than 2B rows", or worse).
    """
    by_host = {"table_row_wise", "grid_shard"}
    ranks = topology.local_world_size if kind in by_host else topology.world_size
    height = -(-table.num_embeddings // ranks)
    by_row = kind == "row_wise" or kind in by_host
    return by_row and height * (ranks - 1) >= table.num_embeddings


def _check_rule(table: EmbeddingBagConfig, rule: ShardingRule, *, on_cpu: bool) -> None:
    """Refuse types, kernels and widths that do not go together for this table."""
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


def planner_constraints(
    table: EmbeddingBagConfig, rule: ShardingRule, pooling_factors: dict[str, float]
) -> ParameterConstraints:
    """Return TorchRec's constraints for a table.

    Args:
        table: as configured.
        rule: of ``rules_by_table``.
        pooling_factors: mean number of values in a bag, by feature; 1 where absent.
    """
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
    """Return the feature of a key, which has a number behind it where it is that of negatives."""
    return key.partition("@")[0]


def _half(dim: int) -> int:
    """Return the minimum multiple of 4 that divides ``dim`` and is at least half of it."""
    return next((w for w in range(4, dim, 4) if dim % w == 0 and w * 2 >= dim), dim)
