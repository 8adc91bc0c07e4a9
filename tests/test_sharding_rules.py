"""Rules for the planner: what a text stands for, which rule counts, what is refused."""

from dataclasses import replace

import pytest

from dat_rec.errors import UserError
from dat_rec.sharding_rules import (
    KERNELS,
    SHARDING_TYPES,
    ShardingRule,
    check_patterns,
    parse_rule,
    rule_for,
)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("item=row_wise", ShardingRule("item", ("row_wise",))),
        ("item=fused", ShardingRule("item", (), ("fused",))),
        (
            "augmented_*=column_wise,grid_shard,min_partition:8",
            ShardingRule("augmented_*", ("column_wise", "grid_shard"), (), 8),
        ),
        (
            "user=table_wise,fused_uvm_caching,cache_load_factor:0.2,pooling_factor:1.5",
            ShardingRule("user", ("table_wise",), ("fused_uvm_caching",), None, 1.5, 0.2),
        ),
        (
            "*=fused_uvm_caching,cache_load_factor:1",
            ShardingRule("*", (), ("fused_uvm_caching",), None, None, 1.0),
        ),
        ("item=min_partition:4", ShardingRule("item", min_partition=4)),
        ("[iu]*=data_parallel,dense", ShardingRule("[iu]*", ("data_parallel",), ("dense",))),
    ],
)
def test_a_text_stands_for_a_rule(text: str, rule: ShardingRule) -> None:
    assert parse_rule(text) == replace(rule, text=text)


def test_every_type_and_kernel_can_be_said() -> None:
    rule = parse_rule(f"item={','.join((*SHARDING_TYPES, *KERNELS))}")
    assert (rule.sharding_types, rule.kernels) == (SHARDING_TYPES, KERNELS)
    assert not set(SHARDING_TYPES) & set(KERNELS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *(
            (text, "write TABLE=TYPE, as in item=row_wise")
            for text in ("", "item", "item=", "=fused")
        ),
        *(
            (f"item={word}", f"{word!r} is none of data_")
            for word in ("rowwise", "Fused", " fused")
        ),
        ("item=row_wise,,fused", "'' is none of"),
        ("item=row_wise:4", "'row_wise:4' is none of"),
        *(
            (
                f"item=min_partition:{number}",
                f"min_partition is {number}: it must be a multiple of 4",
            )
            for number in ("2", "6", "4.5", "7")
        ),
        *(
            (
                f"item=fused_uvm_caching,{key}:{number}",
                f"{key}:{number}: it must be a number above 0",
            )
            for key in ("min_partition", "pooling_factor", "cache_load_factor")
            for number in ("0", "-1", "nan", "inf", "many", "")
        ),
        ("item=fused_uvm_caching,cache_load_factor:1.01", "cache_load_factor must lie in (0, 1]"),
        ("item=cache_load_factor:0.5", "needs the kernel fused_uvm_caching alone"),
        ("item=fused,fused_uvm_caching,cache_load_factor:0.5", "fused_uvm_caching alone"),
    ],
)
def test_a_bad_text_is_refused_with_itself(text: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_rule(text)
    assert str(raised.value).startswith(f"--pin {text}: ")
    assert message in str(raised.value)


def test_the_first_rule_that_fits_counts() -> None:
    rules = [
        parse_rule(text) for text in ("augmented_item=fused", "augmented_*=row_wise", "*=dense")
    ]
    assert rule_for("augmented_item", rules) is rules[0]
    assert rule_for("augmented_user", rules) is rules[1]
    assert rule_for("item", rules) is rules[2]
    assert rule_for("item", rules[:2]) == ShardingRule()
    assert rule_for("Augmented_item", rules[:2]) == ShardingRule()


def test_a_rule_that_fits_no_table_is_refused() -> None:
    tables = ["item", "user"]
    check_patterns([parse_rule("*=fused"), parse_rule("use?=dense")], tables)
    with pytest.raises(UserError, match="--pin items=fused: no such table: there are item, user"):
        check_patterns([parse_rule("item=fused"), parse_rule("items=fused")], tables)
