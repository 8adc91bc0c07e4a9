"""Dense columns of Parquet files, as another engine may write them, read or refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.dense import DenseColumn, concatenate, read_dense, read_dense_rows
from dat_rec.data.schema import DenseFeature
from dat_rec.errors import UserError

NUMBER = DenseFeature("x", "item", "number", 1, 0.0, 1.0)
VECTOR = DenseFeature("x", "item", "vector", 2, 0.0, 1.0)
NAN, INF = float("nan"), float("inf")
KINDS = [
    pa.list_(pa.float32()),
    pa.list_(pa.float64()),
    pa.large_list(pa.float16()),
    pa.list_(pa.float32(), 2),
]


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_every_type_of_list_are_read(kind: pa.DataType, tmp_path: Path) -> None:
    values = [[1.5, -2.0], None, [0.25, 4.0], [8.0, 0.5]]
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table({"x": pa.array(values, kind)}), path, row_group_size=3)
    for rows in (4, 3, 1):
        found = read_dense_rows(path, [VECTOR], rows)["x"]
        assert found.values.dtype == np.float32
        expected = [[NAN, NAN] if value is None else value for value in values[:rows]]
        np.testing.assert_array_equal(found.values, np.array(expected))
        assert found.lengths().tolist() == [value is not None for value in values[:rows]]
    with pytest.raises(UserError, match="4 rows, and 5 are needed"):
        read_dense_rows(path, [VECTOR], 5)
    sliced = read_dense(pa.table({"x": pa.array(values, kind)}).slice(1, 2), [VECTOR], "")["x"]
    np.testing.assert_array_equal(sliced.values, [[NAN, NAN], [0.25, 4.0]])


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64(), pa.int8(), pa.int64()])
def test_numbers_of_every_type_are_read(kind: pa.DataType) -> None:
    table = pa.table({"x": pa.array([3, None, -4], kind)})
    found = read_dense(table, [NUMBER], "")["x"]
    np.testing.assert_array_equal(found.values, [[3.0], [NAN], [-4.0]])


def test_a_number_keeps_the_digits_that_a_float32_has_not() -> None:
    times = pa.table({"x": pa.array([1_700_000_001, 1_700_000_002])})
    assert np.diff(read_dense(times, [NUMBER], "")["x"].values[:, 0]).tolist() == [1.0]


def test_rows_that_are_none_have_no_value() -> None:
    column = DenseColumn(np.array([[1.0, 2.0], [3.0, 4.0]], np.float32))
    found = column.take(np.array([1, -1, 0])).values
    np.testing.assert_array_equal(found, [[3, 4], [NAN, NAN], [1, 2]])
    np.testing.assert_array_equal(column.with_missing(1).values, [[1, 2], [3, 4], [NAN, NAN]])
    joined = concatenate([column, column.with_missing(0)])
    np.testing.assert_array_equal(joined.values, [[1, 2], [3, 4]] * 2)
    np.testing.assert_array_equal(column.values, [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("feature", "array", "words"),
    [
        (NUMBER, pa.array([1.0, INF]), r"f: row 6 \(from 0\): column 'x' holds what is not finite"),
        (NUMBER, pa.array(["1"]), "f: column 'x' is string, not a number"),
        (NUMBER, pa.array([[1.0]]), "not a number"),
        (VECTOR, pa.array([1.0]), "f: column 'x' is double, not a list of floats"),
        (VECTOR, pa.array([[1, 2]]), "not a list of floats"),
        (
            VECTOR,
            pa.array([[1.0, 2.0], [1.0]]),
            r"row 6 \(from 0\): column 'x' has 1 numbers and n",
        ),
        (VECTOR, pa.array([None, [1.0, NAN]]), r"row 6 \(from 0\): column 'x' holds what is not f"),
        (VECTOR, pa.array([[1.0, None]]), r"row 5 \(from 0\): column 'x' holds what is not f"),
        (VECTOR, pa.array([[1.0, 1e39]]), r"row 5 \(from 0\): column 'x' holds what is not f"),
    ],
)
def test_what_is_no_such_value_is_refused(
    feature: DenseFeature, array: pa.Array, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        read_dense(pa.table({"x": array}), [feature], "f", 5)
    with pytest.raises(UserError, match="column 'x' is missing"):
        read_dense(pa.table({"y": array}), [feature], "f")
