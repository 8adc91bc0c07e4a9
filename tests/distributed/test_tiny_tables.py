"""Tables and shards of one row: trained, saved and moved as all others are."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from dat_rec.data.dataset import Dataset
from dat_rec.sharding_rules import SHARDING_TYPES
from tests.distributed.exactness import Case, run_cases, run_references
from tests.distributed.moves import load_all, save_all
from tests.distributed.ranks import run_ranks
from tests.distributed.test_exactness import EXACT, difference

BY_ROW = ("row_wise", "table_row_wise", "grid_shard")
WORLDS = (1, 2, 3)
OPTIMIZERS = {"rowwise_adagrad": 2 * EXACT, "adagrad": 1e-3}
"""Largest difference of a parameter. A row that stands for all sums every example's gradient, which
ranks add up in another order. Adagrad divides each column by its own root: a gradient as
small as its eps, 1e-8, makes a step that float32's rounding changes."""
ONE_ROW = ("category", "brand")


def cases(optimizer: str, world: int) -> Mapping[str, Case]:
    """By sharding type, every table pinned to it but those with too few rows for it."""
    found = {}
    for kind in SHARDING_TYPES:
        alone = kind in BY_ROW and world > 1
        others = tuple(f"{table}=table_wise" for table in ONE_ROW) if alone else ()
        pins = (*others, f"*={kind},min_partition:4")
        found[kind] = Case(pins=pins, optimizer=optimizer)
    return found


def test_the_world_has_tables_of_one_row(tiny_tables: Dataset) -> None:
    rows = {feature.table: feature.rows for feature in tiny_tables.schema.features}
    assert rows == {"user": 41, "item": 31, "category": 1, "brand": 1, "vip": 3}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_tables_of_one_row_train_as_on_one_process(optimizer: str, tiny_tables: Dataset) -> None:
    reference = run_ranks(run_references, 1, tiny_tables, [Case(optimizer=optimizer)])[0][0]
    for world in WORLDS:
        named = cases(optimizer, world)
        for outcomes in run_ranks(run_cases, world, tiny_tables, list(named.values())):
            for kind, outcome in zip(named, outcomes, strict=True):
                types = {row["table"]: row["sharding_type"] for row in outcome.plan}
                assert types["vip"] == kind
                found = difference(outcome, reference)
                assert found.loss <= EXACT, (kind, world, found)
                assert found.parameters <= OPTIMIZERS[optimizer], (kind, world, found)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_their_checkpoints_load_bit_for_bit_on_any_number_of_ranks(
    optimizer: str, tiny_tables: Dataset, tmp_path: Path
) -> None:
    for world in WORLDS:
        named = {f"{kind}-{world}": case for kind, case in cases(optimizer, world).items()}
        run_ranks(save_all, world, tiny_tables, tmp_path, named)
    found = {}
    for world in WORLDS:
        for verdicts in run_ranks(load_all, world, tiny_tables, tmp_path, cases(optimizer, world)):
            for (source, kind), verdict in verdicts.items():
                if verdict != "exact":
                    found[source, kind, world] = verdict
    assert found == {}
