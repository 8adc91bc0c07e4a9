"""Dense features as prepare writes them: values as they were, mean and scale of what is trained."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.dataset import Dataset
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.schema import Schema
from dat_rec.data.sources.parquet_log import ParquetLog
from dat_rec.data.validate.validate import validate
from dat_rec.errors import UserError
from tests.data.sources.prepared import digest, own, refused
from tests.dense_log import (
    DENSE,
    ITEMS,
    SHELF,
    TRAINED_ITEMS,
    of_rows,
    prepare_dense,
    write_dense_log,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare_dense(tmp_path_factory.mktemp("dense"))


def test_values_stand_in_the_tables_as_they_were(made: Dataset) -> None:
    for name in DENSE:
        file = "users" if name in ("face", "since") else "items"
        column = pq.read_table(made.folder / f"{file}.parquet")[name]
        found = [None if v is None else list(np.ravel(v)) for v in column.to_pylist()]
        expected = of_rows(made, name)
        for row, value in enumerate(found):
            assert (value is None) == np.isnan(expected[row]).all(), (name, row)
            if value is not None:
                np.testing.assert_array_equal(value, expected[row])
    assert validate(made.folder) == []


def test_examples_do_not_repeat_them(made: Dataset) -> None:
    names = pq.read_schema(made.folder / made.schema.example_files[0].path).names
    assert not set(names) & set(DENSE)
    assert SHELF in names


def test_mean_and_scale_are_those_of_trained_users_and_items(made: Dataset) -> None:
    assert made.schema.trained_items == TRAINED_ITEMS < made.schema.items == ITEMS
    assert [one.name for one in made.schema.dense] == ["face", "since", "text", "price"]
    for one in made.schema.dense:
        table = "user" if one.side == "query" else "item"
        known = of_rows(made, one.name)[: made.schema.feature(table).rows - 1]
        known = known[~np.isnan(known[:, 0])]
        mean = known.mean() if one.kind == "number" else 0.0
        assert one.mean == pytest.approx(mean, rel=1e-12), one.name
        scale = known.std() if one.kind == "number" else np.sqrt((known**2).mean())
        assert one.scale == pytest.approx(scale, rel=1e-9), one.name
        assert one.width == known.shape[1]


def with_prices(folder: Path, prices: list[float]) -> ParquetLog:
    options = write_dense_log(folder)
    table = pq.read_table(options["items"])
    pq.write_table(table.set_column(3, "price", pa.array(prices)), options["items"])
    return own(folder, **options)


@pytest.mark.parametrize("price", [7.5, 0.1, 0.0, 1e15 + 0.3])
def test_a_number_that_is_always_the_same_has_the_scale_1(price: float, tmp_path: Path) -> None:
    """Also where the mean is no more than near it, by rounding."""
    prepare(with_prices(tmp_path, [price] * TRAINED_ITEMS + [5.0] * (ITEMS - TRAINED_ITEMS)))
    (found,) = (one for one in Schema.load(tmp_path / "out").dense if one.name == "price")
    assert found.mean == pytest.approx(price, rel=1e-14)
    assert found.scale == 1.0


def test_numbers_whose_squares_are_infinite_are_refused(tmp_path: Path) -> None:
    prices = [1e200 * item for item in range(ITEMS)]
    refused(with_prices(tmp_path, prices), "--dense price: its values are too large")


def test_neither_threads_nor_memory_change_a_bit(made: Dataset, tmp_path: Path) -> None:
    again = prepare_dense(tmp_path, threads=1, memory_limit="300MB")
    # The inputs' paths stand nowhere in a dataset.
    assert digest(again.folder) == digest(made.folder)


def test_without_them_the_dataset_says_nothing_of_them(made: Dataset, tmp_path: Path) -> None:
    plain = {"item_features": (), "user_features": (), "dense": ()}
    without = prepare_dense(tmp_path, **plain)
    assert "dense" not in json.loads((without.folder / "schema.json").read_text())
    same = ["examples/part-00000.parquet", "seen.parquet", "test.parquet"]
    ours, theirs = digest(without.folder), digest(made.folder)
    assert all(ours[name] == theirs[name] for name in same)


def test_a_reader_that_knows_none_refuses_them(made: Dataset, tmp_path: Path) -> None:
    """Schema.load of earlier releases has no such field, and takes no field that it does not know.

    Here it is another one that nobody knows.
    """
    value = json.loads((made.folder / "schema.json").read_text())
    (tmp_path / "schema.json").write_text(json.dumps(value | {"denser": value["dense"]}))
    with pytest.raises(UserError, match="denser"):
        Schema.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "item"}, "a name stands twice"),
        ({"name": "train_count"}, "the name is reserved"),
        ({"name": "a.b"}, "the name is reserved"),
        ({"kind": "number"}, "width is 5, and a number's is 1"),
        ({"width": 0}, "width"),
        ({"scale": 0.0}, "scale"),
        ({"kind": "text"}, "kind"),
    ],
)
def test_a_schema_that_contradicts_itself_is_refused(
    change: dict[str, object], words: str, made: Dataset, tmp_path: Path
) -> None:
    dense = [replace(one, **change) if one.name == "text" else one for one in made.schema.dense]  # type: ignore[arg-type]
    replace(made.schema, dense=tuple(dense)).save(tmp_path)
    with pytest.raises(UserError, match=words):
        Schema.load(tmp_path)
