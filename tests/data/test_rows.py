"""What embedding rows stand for: by hand, beside what ``prepare`` wrote, and what is refused."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.dataset import Dataset
from dat_rec.data.rows import copy_rows, ids, keeps_counts, places, row_values
from dat_rec.errors import UserError
from tests.data.sources.prepared import error_of


def write(folder: Path, rows: object, values: object, name: str = "items") -> Path:
    columns = {"items": ("item", "item_id"), "users": ("user", "user_id")}.get(
        name, ("index", "value")
    )
    path = folder / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(zip(columns, (rows, values), strict=True))), path)
    return folder


def test_values_stand_in_the_order_of_their_rows(tmp_path: Path) -> None:
    """Shuffled in the file; ids of row 0 (not trained) stand for nothing."""
    places = [(0, "cold"), (3, "c"), (1, "a"), (0, "colder"), (2, "b")]
    random.Random(1).shuffle(places)
    rows, values = zip(*places, strict=True)
    write(tmp_path, rows, values)
    assert row_values(tmp_path, "item").to_pylist() == [None, "a", "b", "c"]


@pytest.mark.parametrize(
    "kind", [pa.int32(), pa.int64(), pa.uint64(), pa.string(), pa.large_string()]
)
def test_ids_that_are_numbers_read_as_the_same_text(kind: pa.DataType, tmp_path: Path) -> None:
    write(tmp_path, [2, 1], pa.array([7, 12], pa.int64()).cast(kind), "users")
    assert row_values(tmp_path, "user").to_pylist() == [None, "12", "7"]


def test_a_vocabulary_is_read_by_its_index(tmp_path: Path) -> None:
    write(tmp_path, [0, 2, 1], [None, "red", "blue"], "vocabularies/colour")
    assert row_values(tmp_path, "colour").to_pylist() == [None, "blue", "red"]


def test_a_table_without_known_rows_has_the_unknown_one(tmp_path: Path) -> None:
    write(tmp_path, pa.array([0], pa.int32()), ["x"])
    assert row_values(tmp_path, "item").to_pylist() == [None]
    write(tmp_path, pa.array([], pa.int32()), pa.array([], pa.string()))
    assert row_values(tmp_path, "item").to_pylist() == [None]


CURE = ": prepare the dataset anew, or train without --warm-start"


@pytest.mark.parametrize(
    ("rows", "values", "message"),
    [
        ([1, 3], ["a", "c"], "column 'item' does not count the rows from 1"),
        ([2, 3], ["b", "c"], "column 'item' does not count the rows from 1"),
        # As many as the greatest, though one stands twice and one is missing.
        ([1, 1, 3], ["a", "b", "c"], "column 'item' does not count the rows from 1"),
        ([1, 2, 2, 4], ["a", "b", "c", "d"], "column 'item' does not count the rows from 1"),
        ([-1, 1], ["a", "b"], "column 'item' does not count the rows from 1"),
        ([1, None], ["a", "b"], "column 'item' is int64, or holds nulls"),
        ([1.0, 2.0], ["a", "b"], "column 'item' is double, or holds nulls"),
        ([1, 2, 3], ["a", "b", "a"], "column 'item_id' holds 'a' twice"),
        ([1, 2], ["a", None], "column 'item_id' holds nulls"),
        ([1, 2], [1.0, 2.0], "column 'item_id' is double, not an integer or text"),
        ([1, 2], [float("nan"), float("nan")], "column 'item_id' is double, not an integer or"),
        ([1, 2], [True, False], "column 'item_id' is bool, not an integer or text"),
    ],
)
def test_rows_that_cannot_be_told_apart_are_refused(
    rows: list[object], values: list[object], message: str, tmp_path: Path
) -> None:
    write(tmp_path, rows, values)
    found = error_of(row_values, tmp_path, "item")
    assert found.startswith(f"{tmp_path}/items.parquet: {message}")
    assert found.endswith(CURE)


def test_a_value_may_stand_twice_where_it_has_no_row(tmp_path: Path) -> None:
    write(tmp_path, [0, 1, 0], ["x", "x", "x"])
    assert row_values(tmp_path, "item").to_pylist() == [None, "x"]


def test_a_missing_file_or_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"items\.parquet: cannot be read"):
        row_values(tmp_path, "item")
    pq.write_table(pa.table({"item": [1]}), tmp_path / "items.parquet")
    with pytest.raises(UserError, match=r"items\.parquet: column 'item_id' is missing"):
        row_values(tmp_path, "item")
    (tmp_path / "items.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"items\.parquet: cannot be read"):
        row_values(tmp_path, "item")


def test_a_copy_tells_the_same_as_the_dataset(planted: Dataset, tmp_path: Path) -> None:
    copy_rows(planted.folder, tmp_path)
    tables = {feature.table: feature.rows for feature in planted.schema.features}
    assert set(tables) == {"user", "item", "category"}
    for table, rows in tables.items():
        values = row_values(tmp_path, table)
        assert len(values) == rows
        assert values.equals(row_values(planted.folder, table))
    # What each row stands for, by the dataset's own columns.
    items = pq.read_table(planted.folder / "items.parquet", columns=["item", "item_id"])
    values = row_values(tmp_path, "item").to_pylist()
    for row, item in zip(*(items[name].to_pylist() for name in ("item", "item_id")), strict=True):
        assert row == 0 or values[row] == str(item)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.parquet"))
    assert names == ["items.parquet", "users.parquet", "vocabularies/category.parquet"]
    assert pq.read_schema(tmp_path / "items.parquet").names == ["item", "item_id", "train_count"]
    counts = pq.read_table(planted.folder / "items.parquet")["train_count"]
    assert pq.read_table(tmp_path / "items.parquet")["train_count"].equals(counts)
    assert keeps_counts(tmp_path)


def test_a_copy_of_a_malformed_dataset_is_refused(planted: Dataset, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "vocabularies").mkdir(parents=True)
    pq.write_table(pa.table({"value": ["a"]}), data / "vocabularies/colour.parquet")
    with pytest.raises(UserError, match=r"colour\.parquet: column 'index' is missing: prepare"):
        copy_rows(data, tmp_path / "rows")
    (data / "vocabularies/colour.parquet").write_bytes(b"rubbish that is no Parquet")
    with pytest.raises(UserError, match=r"colour\.parquet: cannot be read as Parquet"):
        copy_rows(data, tmp_path / "again")


def test_ids_are_told_of_every_row_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, [0, 2, 0, 1], pa.array([7, 12, 7, 3], pa.int32()))
    assert ids(tmp_path, "item").to_pylist() == ["7", "12", "7", "3"]
    write(tmp_path, [1], [0.5], "users")
    assert "column 'user_id' is double, not an integer or text: c" in error_of(
        ids, tmp_path, "user", "c"
    )


def test_places_are_those_of_the_same_text(tmp_path: Path) -> None:
    write(tmp_path, [0, 2, 1], ["none", "b", "a"])
    among = row_values(tmp_path, "item")
    values = pa.array(["b", None, "c", "a", "none", "b"], pa.large_string())
    assert places(values, among).tolist() == [2, -1, -1, 1, -1, 2]


def test_a_copy_of_an_older_release_has_no_counts(tmp_path: Path) -> None:
    assert not keeps_counts(tmp_path)
    write(tmp_path, [1], ["a"])
    assert not keeps_counts(tmp_path)
    (tmp_path / "items.parquet").write_bytes(b"rubbish that is no Parquet")
    with pytest.raises(UserError, match=r"items\.parquet: cannot be read as Parquet"):
        keeps_counts(tmp_path)
