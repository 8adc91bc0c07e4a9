"""The dense values of a batch against the files' rows, at any world and under id dropout."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dat_rec.data.dataset import Dataset
from dat_rec.data.stream.batch import Batch, negative_key
from dat_rec.data.stream.reader import ExampleReader
from dat_rec.data.stream.reader_options import ReaderOptions
from tests.dense_log import DENSE, of_rows, prepare_dense

OPTIONS = ReaderOptions(global_batch=100, epochs=1, seed=1, negatives=2)
SHARED = ReaderOptions(global_batch=100, epochs=1, seed=1, negatives=7, shared_negatives=7)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare_dense(tmp_path_factory.mktemp("dense"))


def expected(dataset: Dataset, name: str, rows: Sequence[int]) -> NDArray[np.float64]:
    """The values of rows of a file; none, which is −1, has no value."""
    values = of_rows(dataset, name)
    return np.concatenate([values, np.full((1, values.shape[1]), np.nan)])[list(rows)]


def check(dataset: Dataset, batch: Batch, rank: int, users: Sequence[int]) -> None:
    """Every value of a batch is that of its user or item."""
    own, negatives = batch.counts[rank], batch.negative_counts[rank]
    index = batch.positives.index[:own].tolist()
    drawn = batch.negatives.index[:negatives].tolist()
    shared = batch.features.stride() > len(batch.positives.index)
    rows = {"": index}
    if shared:
        padding = [-1] * (len(batch.positives.index) - own)
        rows = {"": [*index, *padding, *drawn]}
    else:
        size = len(batch.positives.index)
        of_each = range(len(batch.negatives.index) // size)
        rows |= {f"{number + 1}": drawn[number * size : (number + 1) * size] for number in of_each}
    wanted = {name: expected(dataset, name, [user - 1 for user in users]) for name in DENSE[2:]}
    for number, own_rows in rows.items():
        for name in DENSE[:2]:
            key = negative_key(name, int(number)) if number else name
            wanted[key] = expected(dataset, name, own_rows)
    assert batch.dense.keys() == wanted.keys()
    for key, values in wanted.items():
        np.testing.assert_array_equal(batch.dense[key].numpy(), values, err_msg=key)


def users_of(batch: Batch, rank: int) -> list[int]:
    return batch.features["user"].values()[: batch.counts[rank]].tolist()


@pytest.mark.parametrize("options", [OPTIONS, SHARED], ids=["own", "shared"])
@pytest.mark.parametrize("world", [1, 3])
def test_each_row_has_the_values_of_its_user_and_items(
    world: int, options: ReaderOptions, made: Dataset
) -> None:
    seen = 0
    for rank in range(world):
        for batch in ExampleReader(made, options, rank, world):
            check(made, batch, rank, users_of(batch, rank))
            seen += batch.counts[rank]
    assert seen == made.schema.examples


def test_id_dropout_hides_no_dense_value(made: Dataset) -> None:
    hidden = replace(OPTIONS, id_dropout=0.5)
    zeros = 0
    for plain, dropped in zip(
        ExampleReader(made, OPTIONS), ExampleReader(made, hidden), strict=True
    ):
        zeros += users_of(dropped, 0).count(0)
        for key, values in plain.dense.items():
            torch.testing.assert_close(dropped.dense[key], values, rtol=0, atol=0, equal_nan=True)
    assert zeros > made.schema.examples / 3


def test_a_batch_moves_with_its_dense_values(made: Dataset) -> None:
    batch = next(iter(ExampleReader(made, OPTIONS)))
    moved = batch.to(torch.device("meta"))
    assert {key: (one.shape, one.dtype) for key, one in moved.dense.items()} == {
        key: (one.shape, one.dtype) for key, one in batch.dense.items()
    }
    assert all(one.is_meta for one in moved.dense.values())


def test_without_dense_features_there_are_none(tmp_path: Path) -> None:
    without = prepare_dense(tmp_path, item_features=(), user_features=(), dense=())
    assert all(not batch.dense for batch in ExampleReader(without, OPTIONS))
