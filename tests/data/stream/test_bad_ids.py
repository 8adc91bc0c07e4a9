"""Prepared datasets with ids outside their tables: refused by place, or trained as unknown."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dat_rec.data.columns import total_bad_ids
from dat_rec.data.dataset import Dataset
from dat_rec.data.schema import ExampleFile
from dat_rec.data.stream.prefetch import Prefetcher
from dat_rec.data.stream.reader import ExampleReader
from dat_rec.data.stream.reader_options import ReaderOptions
from dat_rec.errors import UserError

OPTIONS = ReaderOptions(global_batch=100, epochs=2, seed=3, negatives=1, lanes=2)
UNKNOWN = replace(OPTIONS, bad_ids="unknown")
BAD = {
    "user": {0: 2**40, 750: -1, 751: -1},
    "history": {510: [1, -(2**63), 2, 10**9], 999: [-7]},
}
"""By column and row; each has its first bad id in row group 0 or 1 of 500 rows."""


def write(table: pa.Table, bad: dict[str, dict[int, object]], path: Path) -> None:
    """``table`` with the values of ``bad``, in row groups of 500."""
    for name, places in bad.items():
        values = table[name].to_pylist()
        for row, value in places.items():
            values[row] = value
        number = table.column_names.index(name)
        kind = table.schema.field(name).type
        if pa.types.is_list(kind):
            kind = pa.list_(pa.int64())
        elif pa.types.is_integer(kind):
            kind = pa.uint64() if 2**64 - 1 in places.values() else pa.int64()
        table = table.set_column(number, name, pa.array(values, kind))
    pq.write_table(table, path, row_group_size=500)


def spoilt(
    planted: Dataset, folder: Path, bad: dict[str, dict[int, object]], file: str = "examples"
) -> Dataset:
    """The planted world in one file of examples, with ``bad`` values in one of its files."""
    (folder / "examples").mkdir()
    examples = pq.read_table(planted.folder / "examples")
    write(examples, bad if file == "examples" else {}, folder / "examples/part-00000.parquet")
    for name in ("items", "users"):
        table = pq.read_table(planted.folder / f"{name}.parquet")
        write(table, bad if file == name else {}, folder / f"{name}.parquet")
    files = (ExampleFile("examples/part-00000.parquet", examples.num_rows),)
    replace(planted.schema, example_files=files).save(folder)
    return Dataset.open(folder)


@pytest.mark.parametrize("skip_repeats", [False, True])
@pytest.mark.parametrize(
    ("column", "row", "value"),
    [
        ("user", 750, -1),
        ("user", 1_999, 2**63 - 1),
        ("item", 1_200, 2**64 - 1),
        ("history", 510, [1, 10**9, -1]),
    ],
)
def test_the_first_bad_id_is_named_with_its_place_and_the_cure(
    column: str, row: int, value: object, skip_repeats: bool, planted: Dataset, tmp_path: Path
) -> None:
    dataset = spoilt(planted, tmp_path, {column: {row: value}})
    # At the door, by the files' metadata: before a batch is read.
    with pytest.raises(UserError) as raised:
        ExampleReader(dataset, replace(OPTIONS, skip_repeats=skip_repeats))
    bad = value[1] if isinstance(value, list) else value
    assert str(raised.value) == (
        f"{tmp_path}/examples/part-00000.parquet (row group {row // 500}): column {column!r}, "
        f"row {row % 500} (from 0), holds id {bad}, outside its table of "
        f"{dataset.schema.feature(column).rows} rows: prepare the dataset anew, or correct "
        "schema.json, or train the unknown row in its place with --examples.bad-ids unknown"
    )


def seen(dataset: Dataset) -> tuple[Counter[int], Counter[int]]:
    """How often each user, and each item of a history, comes in two epochs."""
    users, histories = Counter[int](), Counter[int]()
    for batch in ExampleReader(dataset, UNKNOWN):
        users.update(batch.features["user"].values().tolist())
        histories.update(batch.features["history"].values().tolist())
    return users, histories


def test_bad_ids_become_unknown_and_are_counted_once(
    planted: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = spoilt(planted, tmp_path, BAD)
    table = pq.read_table(tmp_path / "examples", columns=["user", "history"])
    users, histories = Counter[int](), Counter[int]()
    for row in table.to_pylist():
        users[row["user"] if 0 <= row["user"] < 2**40 else 0] += 2
        for item in row["history"]:
            histories[item if 0 <= item < 10**9 else 0] += 2
    assert seen(dataset) == (users, histories)
    capsys.readouterr()
    readers = [ExampleReader(dataset, UNKNOWN, rank, 2) for rank in range(2)]
    for reader in readers:
        assert total_bad_ids([reader.bad_ids]) == {}
        assert len(list(reader)) == reader.steps
    # In each epoch the ranks have read other rows.
    assert total_bad_ids([reader.bad_ids for reader in readers]) == {"user": 3, "history": 3}
    # One line for each feature, of rank 0 alone.
    lines = sorted(capsys.readouterr().err.splitlines(), key=lambda line: "'user'" in line)
    for name, line in zip(("history", "user"), lines, strict=True):
        assert f"column {name!r}, row " in line
        assert line.endswith("trained as unknown, as are all such ids")


@pytest.mark.parametrize("options", [OPTIONS, UNKNOWN])
@pytest.mark.parametrize("skip_repeats", [False, True])
@pytest.mark.parametrize("bad", [-1, 10**6])
def test_an_item_index_outside_the_catalogue_is_refused_always(
    options: ReaderOptions, skip_repeats: bool, bad: int, planted: Dataset, tmp_path: Path
) -> None:
    dataset = spoilt(planted, tmp_path, {"item_index": {620: bad}})
    with pytest.raises(UserError) as raised:
        list(ExampleReader(dataset, replace(options, skip_repeats=skip_repeats)))
    assert f"(row group 1): column 'item_index', row 120 (from 0), holds id {bad}, outside" in (
        str(raised.value)
    )
    assert "--examples.bad-ids" not in str(raised.value)


def test_the_catalogue_follows_the_same_policy(planted: Dataset, tmp_path: Path) -> None:
    dataset = spoilt(planted, tmp_path, {"category": {3: 99, 7: -2}}, "items")
    with pytest.raises(UserError, match=r"items.parquet: column 'category', row 3 .*bad-ids unkno"):
        ExampleReader(dataset, OPTIONS)
    reader = ExampleReader(dataset, UNKNOWN)
    assert total_bad_ids([reader.bad_ids] * 2) == {"category": 2}
    for batch in reader:
        items, category = batch.positives.first(batch.counts[0]).tensors()[:2]
        unknown = (items == 3) | (items == 7)
        assert not category[unknown].any()
        assert category[~unknown].all()
        negative = batch.negatives.first(batch.negative_counts[0]).category
        assert (batch.features["category@1"].values() == negative).all()
    assert total_bad_ids([reader.bad_ids] * 2) == {"category": 2}


@pytest.mark.parametrize("options", [OPTIONS, UNKNOWN])
def test_nulls_are_refused_always(options: ReaderOptions, planted: Dataset, tmp_path: Path) -> None:
    dataset = spoilt(planted, tmp_path, {"user": {5: None}})
    with pytest.raises(UserError, match="column 'user' holds nulls"):
        list(ExampleReader(dataset, options))


def test_a_repeat_column_that_is_no_truth_value_is_refused(
    planted: Dataset, tmp_path: Path
) -> None:
    dataset = spoilt(planted, tmp_path, {"repeat": {5: None}})
    with pytest.raises(UserError, match="column 'repeat' is not true or false"):
        ExampleReader(dataset, replace(OPTIONS, skip_repeats=True))


def without_statistics(dataset: Dataset) -> None:
    path = dataset.folder / "examples/part-00000.parquet"
    pq.write_table(pq.read_table(path), path, row_group_size=500, write_statistics=False)


def test_a_bad_id_in_a_file_without_statistics_is_refused_when_it_is_read(
    planted: Dataset, tmp_path: Path
) -> None:
    dataset = spoilt(planted, tmp_path, {"user": {750: -1}})
    without_statistics(dataset)
    batches = Prefetcher(iter(ExampleReader(dataset, OPTIONS)), torch.device("cpu"))
    with pytest.raises(UserError, match=r"\(row group 1\): column 'user', row 250 .* id -1"):
        list(batches)
    batches.close()


def test_a_null_within_a_list_is_refused_when_it_is_read(planted: Dataset, tmp_path: Path) -> None:
    dataset = spoilt(planted, tmp_path, {"history": {510: [1, None]}})
    for options in (OPTIONS, UNKNOWN):
        with pytest.raises(UserError, match=r"\(row group 1\): column 'history' holds nulls"):
            list(ExampleReader(dataset, options))


@pytest.mark.parametrize("options", [OPTIONS, UNKNOWN])
@pytest.mark.parametrize(
    ("column", "values", "what"),
    [
        ("user", pa.float64(), "is double, not an integer"),
        ("item", pa.list_(pa.int32()), "not an integer"),
        ("history", pa.int64(), "is int64, not a list of integers"),
        ("item_index", pa.string(), "is string, not an integer"),
    ],
)
def test_a_column_of_another_type_is_refused_at_the_door(
    column: str,
    values: pa.DataType,
    what: str,
    options: ReaderOptions,
    planted: Dataset,
    tmp_path: Path,
) -> None:
    dataset = spoilt(planted, tmp_path, {})
    path = tmp_path / "examples/part-00000.parquet"
    table = pq.read_table(path)
    made = pa.array([[]] * len(table) if pa.types.is_list(values) else [1] * len(table))
    at = table.column_names.index(column)
    pq.write_table(table.set_column(at, column, made.cast(values)), path)
    with pytest.raises(UserError, match=what):
        ExampleReader(dataset, options)
