"""A ``--pin`` text in, a rule out: what the planner may do with the tables that it names.

item=row_wise
'augmented_*=column_wise,grid_shard,min_partition:8'
user=table_wise,fused_uvm_caching,cache_load_factor:0.2,pooling_factor:1.5
"""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from dat_rec.errors import UserError

ShardingType = Literal[
    "data_parallel",
    "table_wise",
    "row_wise",
    "column_wise",
    "table_row_wise",
    "table_column_wise",
    "grid_shard",
]
Kernel = Literal["fused", "dense", "fused_uvm", "fused_uvm_caching"]
SHARDING_TYPES: tuple[ShardingType, ...] = get_args(ShardingType)
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
BY_COLUMN = frozenset({"column_wise", "table_column_wise", "grid_shard"})
"""Types that cut a row's columns apart."""


@dataclass(frozen=True)
class ShardingRule:
    """What the planner may do with some tables; None or empty: as without the rule."""

    pattern: str = "*"
    """Shell pattern over table names."""
    sharding_types: tuple[ShardingType, ...] = ()
    kernels: tuple[Kernel, ...] = ()
    min_partition: int | None = None
    """Columns of each part, where columns are cut; a multiple of 4, as FBGEMM wants."""
    pooling_factor: float | None = None
    """Mean number of values in a bag, in place of what the dataset has."""
    cache_load_factor: float | None = None
    """Share of a fused_uvm_caching table's rows that the GPU's cache holds."""
    text: str = ""
    """As it was written."""


def parse_rule(text: str) -> ShardingRule:
    """The rule that ``TABLE=WORD,…,KEY:VALUE,…`` stands for.

    Raises:
        UserError: names the word, and those that there are.
    """
    pattern, _, words = text.partition("=")
    if not pattern or not words:
        raise UserError(f"--pin {text}: write TABLE=TYPE, as in item=row_wise")
    types: list[ShardingType] = []
    kernels: list[Kernel] = []
    numbers: dict[str, float] = {}
    for word in words.split(","):
        key, _, value = word.partition(":")
        if word in SHARDING_TYPES:
            types.append(SHARDING_TYPES[SHARDING_TYPES.index(word)])
        elif word in KERNELS:
            kernels.append(KERNELS[KERNELS.index(word)])
        elif key in ("min_partition", "pooling_factor", "cache_load_factor"):
            numbers[key] = _number(text, key, value)
        else:
            raise UserError(
                f"--pin {text}: {word!r} is none of {', '.join((*SHARDING_TYPES, *KERNELS))}, "
                "min_partition:N, pooling_factor:X, cache_load_factor:X"
            )
    columns = numbers.get("min_partition")
    if columns is not None and (columns != int(columns) or columns % 4):
        raise UserError(f"--pin {text}: min_partition is {columns:g}: it must be a multiple of 4")
    if numbers.get("cache_load_factor", 1.0) > 1:
        raise UserError(f"--pin {text}: cache_load_factor must lie in (0, 1]")
    if "cache_load_factor" in numbers and set(kernels) != {"fused_uvm_caching"}:
        raise UserError(f"--pin {text}: cache_load_factor needs the kernel fused_uvm_caching alone")
    return ShardingRule(
        pattern,
        tuple(types),
        tuple(kernels),
        None if columns is None else int(columns),
        numbers.get("pooling_factor"),
        numbers.get("cache_load_factor"),
        text,
    )


def _number(text: str, key: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not 0 < number < float("inf"):
        raise UserError(f"--pin {text}: {key}:{value}: it must be a number above 0")
    return number


def rule_for(table: str, rules: Sequence[ShardingRule]) -> ShardingRule:
    """The first rule whose pattern fits ``table``; an empty one if none does."""
    fitting = (rule for rule in rules if fnmatch.fnmatchcase(table, rule.pattern))
    return next(fitting, ShardingRule())


def check_patterns(rules: Sequence[ShardingRule], tables: Sequence[str]) -> None:
    """Refuse a rule that fits no table.

    Raises:
        UserError: names the pattern, and the tables.
    """
    for rule in rules:
        if not fnmatch.filter(tables, rule.pattern):
            raise UserError(f"--pin {rule.text}: no such table: there are {', '.join(tables)}")
