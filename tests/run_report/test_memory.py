"""Bytes of a plan, by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from dat_rec.config import ModelConfig, OptimizerConfig, preset
from dat_rec.data.dataset import Dataset
from dat_rec.run_report.memory import by_rank, planned_tables


def row(table: str, kind: str, *shards: tuple[int, int, int, int, int]) -> dict[str, Any]:
    """A row of plan.json; shards are (rank, first row, first column, rows, columns)."""
    made = [
        {"rank": rank, "offsets": [*at], "sizes": [*of]}
        for rank, *both in shards
        for at, of in [(both[:2], both[2:])]
    ]
    return {
        "module": "m",
        "table": table,
        "sharding_type": kind,
        "compute_kernel": "fused",
        "ranks": [0, 1],
        "shards": made,
    }


def test_each_rank_holds_its_shards_and_their_optimizers_state(planted: Dataset) -> None:
    users = planted.schema.feature("user").rows
    plan = [
        row("item", "table_wise", (1, 0, 0, 201, 32)),
        row("augmented_user", "row_wise", (0, 0, 0, 151, 16), (1, 151, 0, users - 151, 16)),
        row("user", "column_wise", (0, 0, 0, users, 16), (0, 0, 16, users, 16)),
        row("category", "data_parallel"),
    ]
    config = replace(
        preset("modern", planted.folder, Path("run")),
        model=ModelConfig(embedding_dim=32, output_dim=16, fp16_tables=("augmented_*",)),
    )
    tables = planned_tables(plan, planted.schema, config)
    categories = planted.schema.feature("category").rows
    assert [(one.rows, one.dim) for one in tables] == [
        (201, 32),
        (users, 16),
        (users, 32),
        (categories, 32),
    ]
    # float32 rows of 128 bytes, float16 rows of 32; a sum of 4 bytes for each row of each shard.
    first, second = by_rank(tables, 2)
    assert first.weights == 151 * 32 + users * 128 + categories * 128
    assert first.state == 4 * (151 + 2 * users + categories)
    assert second.weights == 201 * 128 + (users - 151) * 32 + categories * 128
    assert second.state == 4 * (201 + users - 151 + categories)
    assert sum(one.total for one in tables) == first.total + second.total
    adagrad = replace(config, optimizer=OptimizerConfig(table="adagrad"))
    (item, *_) = planned_tables(plan, planted.schema, adagrad)
    assert item.held[1] == (201 * 128, 201 * 128)
