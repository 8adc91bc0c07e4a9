"""Columns against plain Python lists, and what is refused at the door."""

import numpy as np
import pyarrow as pa
import pytest

from dat_rec.data.batch import to_kjt
from dat_rec.data.columns import Column, read_columns
from dat_rec.data.schema import Feature
from dat_rec.errors import UserError

BAGS = [[3, 1], [], [2], [4, 4, 1], []]
TAGS = Feature("tags", "item", "tags", 5, multi_valued=True)
KIND = Feature("kind", "item", "kind", 5)


def ragged(bags: list[list[int]]) -> Column:
    table = pa.table({"tags": pa.array(bags, pa.list_(pa.int32()))})
    return read_columns(table, [TAGS], "here")["tags"]


def bags_of(column: Column) -> list[list[int]]:
    assert column.offsets is not None
    ends = zip(column.offsets[:-1], column.offsets[1:], strict=True)
    return [column.values[start:stop].tolist() for start, stop in ends]


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [3, 3, 0], [4], [], [1, 4]])
def test_take_picks_whole_bags(rows: list[int]) -> None:
    taken = ragged(BAGS).take(np.array(rows, np.int64))
    assert bags_of(taken) == [BAGS[row] for row in rows]


def test_slice_equals_take() -> None:
    assert bags_of(ragged(BAGS).slice(1, 4)) == BAGS[1:4]


def test_chunked_and_sliced_tables_read_alike() -> None:
    table = pa.table({"tags": pa.array(BAGS, pa.list_(pa.int32()))})
    joined = pa.concat_tables([table.slice(1, 2), table.slice(3), table.slice(0, 1)])
    column = read_columns(joined, [TAGS], "here")["tags"]
    assert bags_of(column) == [BAGS[1], BAGS[2], BAGS[3], BAGS[4], BAGS[0]]


def test_kjt_holds_every_bag_and_empty_ones_for_absent_keys() -> None:
    columns = {"tags": ragged(BAGS), "kind": Column(np.arange(5), None)}
    tensor = to_kjt(columns, ["kind", "absent", "tags"], 5)
    found = tensor.to_dict()
    assert found["kind"].to_dense()[2].tolist() == [2]
    assert [bag.tolist() for bag in found["tags"].to_dense()] == BAGS
    assert found["absent"].lengths().tolist() == [0] * 5


@pytest.mark.parametrize(
    ("array", "feature", "message"),
    [
        (pa.array([1, -1]), KIND, "id -1, outside its table of 5 rows"),
        (pa.array([1, 5]), KIND, "id 5, outside its table of 5 rows"),
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
    with pytest.raises(UserError, match=message) as raised:
        read_columns(pa.table({feature.name: array}), [feature], "part-00000.parquet")
    assert "part-00000.parquet" in str(raised.value)
    assert feature.name in str(raised.value)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(UserError, match="column 'kind' is missing"):
        read_columns(pa.table({"other": [1]}), [KIND], "here")
