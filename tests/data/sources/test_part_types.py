"""Parts whose columns have other types: every value exact, or refused with both files' names."""

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dat_rec.data.sources.part_types import plain, widen
from tests.data.sources.prepared import error_of, read, write

BIG = 2**60
NOON = dt.datetime(2026, 1, 1, 12)
DICTIONARY = pa.dictionary(pa.int32(), pa.string())
TZ = pa.timestamp("ms", "Europe/Berlin")
SAME = [
    (pa.array([1], pa.int32()), pa.array([BIG + 1], pa.int64())),
    (pa.array([200], pa.uint8()), pa.array([-3], pa.int8())),
    (pa.array([2**32 - 1], pa.uint32()), pa.array([-(2**31)], pa.int32())),
    (pa.nulls(1), pa.array([BIG + 1])),
    (pa.nulls(1), pa.array(["007"])),
    (pa.nulls(1), pa.array([["a"]])),
    (pa.array([[]], pa.list_(pa.null())), pa.array([["a"]])),
    (pa.array([0.5], pa.float16()), pa.array([1 + 2**-20], pa.float32())),
    (pa.array([0.1], pa.float32()), pa.array([0.1], pa.float64())),
    (pa.array([2**31 - 1], pa.int32()), pa.array([3.6])),
    (pa.array([7], pa.int16()), pa.array([3.5], pa.float32())),
    (pa.array([Decimal("1.5")]), pa.array([Decimal("10.25")])),
    (pa.array([Decimal("0.5")]), pa.array([BIG + 1])),
    (pa.array(["a"]).cast(DICTIONARY), pa.array(["007"], pa.string_view())),
    (pa.array(["a"], pa.large_string()), pa.array(["007"])),
    (pa.array([["a"]], pa.large_list(pa.large_string())), pa.array([["b", "c"]])),
    (pa.array([[1]], pa.list_(pa.int8())), pa.array([[BIG + 1]])),
    (pa.array([NOON], pa.timestamp("ms")), pa.array([NOON], pa.timestamp("us"))),
    (pa.array([NOON], pa.timestamp("us")), pa.array([NOON], pa.timestamp("ns"))),
]
OTHER = [
    (pa.array([BIG]), pa.array([float(BIG)])),
    (pa.array([3]), pa.array([3.6])),
    (pa.array([-1]), pa.array([2**64 - 1], pa.uint64())),
    (pa.array([7]), pa.array(["007"])),
    (pa.array([True]), pa.array([2])),
    (pa.array([b"a"]), pa.array(["a"])),
    (pa.array([Decimal("0.1")]), pa.array([0.1])),
    (pa.array([Decimal("0.1234567890123456789012345678")]), pa.array([2**62])),
    (pa.array([NOON.date()]), pa.array([NOON])),
    (pa.array([NOON]), pa.array([NOON], TZ)),
    (pa.array([NOON]), pa.array(["2026-01-01 12:00"])),
    (pa.array(["a"]), pa.array([["a"]])),
    (pa.array([[1]]), pa.array([["a"]])),
    (pa.array([[1]]), pa.array([[1.5]])),
]


def parts(folder: Path, *columns: pa.Array) -> list[Any]:
    """The column's values as they are read from a file for each array, in the files' order."""
    for place, column in enumerate(columns):
        write(folder / f"{place}.parquet", v=column, **{f"more{place}": [place]})
    return [row[0] for row in read(folder, "v")]


@pytest.mark.parametrize(("one", "other"), SAME)
@pytest.mark.parametrize("turned", [False, True])
def test_types_that_one_type_holds_are_read_exactly(
    one: pa.Array, other: pa.Array, turned: bool, tmp_path: Path
) -> None:
    columns = (other, one) if turned else (one, other)
    expected = [column.to_pylist()[0] for column in columns]
    assert parts(tmp_path, *columns, columns[0]) == [*expected, expected[0]]


@pytest.mark.parametrize(("one", "other"), OTHER)
@pytest.mark.parametrize("turned", [False, True])
def test_types_that_no_type_holds_are_refused_with_both_files(
    one: pa.Array, other: pa.Array, turned: bool, tmp_path: Path
) -> None:
    columns = (other, one) if turned else (one, other)
    assert error_of(parts, tmp_path, columns[0], pa.nulls(1), *columns) == (
        f"{tmp_path / '3.parquet'}: column 'v' is {plain(columns[1].type)}, and "
        f"{plain(columns[0].type)} in {tmp_path / '0.parquet'}: reading both as one would change "
        "values: write all parts with one type"
    )


def test_three_types_of_which_two_fit_each_other(tmp_path: Path) -> None:
    """int16 and int32 are exact in a double, int32 and float in none but it."""
    columns = [pa.array([1], pa.int16()), pa.array([2.5], pa.float32())]
    assert parts(tmp_path, *columns, pa.array([2**31 - 1], pa.int32())) == [1, 2.5, 2**31 - 1]


def test_widening_takes_no_side() -> None:
    types = {plain(column.type) for pair in SAME + OTHER for column in pair}
    for one in types:
        for other in types:
            assert widen(one, other) == widen(other, one)


def test_types_of_columns_that_are_not_asked_for_do_not_count(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", v=[1], w=[1])
    write(tmp_path / "b.parquet", w=["x"], v=[2])
    write(tmp_path / "c.parquet", v=[3])
    assert read(tmp_path, "v", "_source_row") == [(1, 1), (2, 1), (3, 1)]
