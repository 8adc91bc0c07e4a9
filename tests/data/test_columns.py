"""Columns against plain Python lists, and what is refused at the door."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from dat_rec.data.columns import BadIds, Column, read_columns
from dat_rec.data.schema import Feature
from dat_rec.data.stream.batch import to_kjt
from dat_rec.errors import UserError

BAGS = [[3, 1], [], [2], [4, 4, 1], []]
TAGS = Feature("tags", "item", "tags", 5, multi_valued=True)
KIND = Feature("kind", "item", "kind", 5)


def read(
    array: pa.Array, feature: Feature = KIND, where: str = "here", bad_ids: BadIds | None = None
) -> Column:
    table = pa.table({feature.name: array})
    return read_columns(table, [feature], where, bad_ids)[feature.name]


def ragged(bags: list[list[int]], width: str = "int32") -> pa.Array:
    return pa.array(bags, pa.list_(pa.type_for_alias(width)))


def bags_of(column: Column) -> list[list[int]]:
    assert column.offsets is not None
    ends = zip(column.offsets[:-1], column.offsets[1:], strict=True)
    return [column.values[start:stop].tolist() for start, stop in ends]


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [3, 3, 0], [4], [], [1, 4]])
def test_take_picks_whole_bags(rows: list[int]) -> None:
    taken = read(ragged(BAGS), TAGS).take(np.array(rows, np.int64))
    assert bags_of(taken) == [BAGS[row] for row in rows]


def test_slice_equals_take() -> None:
    assert bags_of(read(ragged(BAGS), TAGS).slice(1, 4)) == BAGS[1:4]


def test_chunked_and_sliced_tables_read_alike() -> None:
    array = ragged(BAGS)
    joined = pa.chunked_array([array.slice(1, 2), array.slice(3), array.slice(0, 1)])
    assert bags_of(read(joined, TAGS)) == [BAGS[1], BAGS[2], BAGS[3], BAGS[4], BAGS[0]]


def test_kjt_holds_every_bag_and_empty_ones_for_absent_keys() -> None:
    columns = {"tags": read(ragged(BAGS), TAGS), "kind": Column(np.arange(5), None)}
    tensor = to_kjt(columns, ["kind", "absent", "tags"], 5)
    found = tensor.to_dict()
    assert found["kind"].to_dense()[2].tolist() == [2]
    assert [bag.tolist() for bag in found["tags"].to_dense()] == BAGS
    assert found["absent"].lengths().tolist() == [0] * 5


FAR = [
    pa.array([1, 5], pa.int32()),
    pa.array([4, -1], pa.int8()),
    pa.array([0, -(2**63)], pa.int64()),
    pa.array([3, 2**63 - 1], pa.int64()),
    pa.array([3, 2**63], pa.uint64()),
    pa.array([2, 2**64 - 1], pa.uint64()),
    pa.array([2, 2**64 - 2, 1, 255, 4], pa.uint64()),
]
"""The second value is the first that is outside a table of 5 rows."""


@pytest.mark.parametrize("array", FAR)
def test_ids_are_refused_by_their_value_and_row(array: pa.Array) -> None:
    bad = array[1].as_py()
    wanted = rf"'kind', row 1 \(from 0\), holds id {bad}, outside its table of 5 rows"
    with pytest.raises(UserError, match=wanted):
        read(array)


@pytest.mark.parametrize("array", FAR)
def test_ids_are_made_unknown_and_counted(
    array: pa.Array, capsys: pytest.CaptureFixture[str]
) -> None:
    bad_ids = BadIds("unknown", says=set())
    ids = array.to_pylist()
    for where in ("a", "a", "b"):
        column = read(array, KIND, where, bad_ids)
        assert column.values.dtype == np.int64
        assert column.values.tolist() == [i if i in range(5) else 0 for i in ids]
    assert bad_ids.counts == {"kind": 2 * sum(i not in range(5) for i in ids)}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"a: column 'kind', row 1 (from 0), holds id {ids[1]}, outside")


@pytest.mark.parametrize("size", [pa.int8(), pa.uint8()])
def test_a_type_narrower_than_its_table_reads_right(size: pa.DataType) -> None:
    large = replace(KIND, rows=70_000)
    assert read(pa.array([7, 100], size), large).values.tolist() == [7, 100]
    with pytest.raises(UserError, match="id -100, outside its table of 70000 rows"):
        read(pa.array([7, -100], pa.int8()), large)


def test_bad_ids_in_bags_keep_their_place() -> None:
    array = ragged([[], [3, 1], [], [5, 2, -1], [4]], "int64")
    with pytest.raises(UserError, match=r"'tags', row 2 \(from 0\), holds id 5"):
        read(array.slice(1), TAGS)
    bad_ids = BadIds("unknown")
    assert bags_of(read(array, TAGS, "a", bad_ids)) == [[], [3, 1], [], [0, 2, 0], [4]]
    large = pa.array([[1], [2**63]], pa.large_list(pa.uint64()))
    assert bags_of(read(large, TAGS, "b", bad_ids)) == [[1], [0]]
    assert bad_ids.counts == {"tags": 3}


@pytest.mark.parametrize(
    ("array", "feature", "message"),
    [
        (pa.array([1, None]), KIND, "nulls"),
        (pa.array([1.0, 2.0]), KIND, "not an integer"),
        (pa.array([[1]]), KIND, "not an integer"),
        (pa.array([1]), TAGS, "not a list of integers"),
        (pa.array([[1, None]]), TAGS, "nulls"),
        (pa.array([[1, 7]]), TAGS, "id 7, outside its table of 5 rows"),
        (pa.array([None, [1]]), TAGS, "nulls"),
    ],
)
def test_malformed_columns_are_refused(array: pa.Array, feature: Feature, message: str) -> None:
    policy = "refuse" if "outside" in message else "unknown"
    with pytest.raises(UserError, match=message) as raised:
        read(array, feature, "part-00000.parquet", BadIds(policy))
    assert "part-00000.parquet" in str(raised.value)
    assert feature.name in str(raised.value)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(UserError, match="column 'kind' is missing"):
        read_columns(pa.table({"other": [1]}), [KIND], "here")
