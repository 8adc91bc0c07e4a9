"""Features of every type that engines write: the right words and buckets, or one clear line."""

import datetime as dt
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from dat_rec.data.sources.feature_kinds import kind_of
from dat_rec.data.sources.parquet_log import ParquetLog
from tests.data.sources.prepared import Prepared, own, refused, write

N = range(6)
DAY = dt.date(2026, 1, 1)
AT = dt.datetime(2026, 1, 1, 12)
UTC = pa.timestamp("us", "UTC")
LARGE, PAIR = pa.large_list(pa.large_string()), pa.list_(pa.int16(), 2)

READ = {
    "flag": (pa.array([True, False] * 3), ["true", "false"] * 3),
    "day": (pa.array([DAY] * 6), ["2026-01-01"] * 6),
    "at": (pa.array([AT] * 6), ["2026-01-01 12:00:00"] * 6),
    "at_utc": (pa.array([AT] * 6, UTC), ["2026-01-01 12:00:00+00"] * 6),
    "dict": (pa.array(["x", "y"] * 3).dictionary_encode(), ["x", "y"] * 3),
    "view": (pa.array(["x", ""] * 3, pa.string_view()), ["x", None] * 3),
    "large": (pa.array(["x", None] * 3, pa.large_string()), ["x", None] * 3),
    "bytes": (pa.array([b"x", b"\xff"] * 3), ["x", "\\xFF"] * 3),
    "big": (pa.array([2**64 - 1, 0] * 3, pa.uint64()), [str(2**64 - 1), "0"] * 3),
    "nothing": (pa.nulls(6), [None] * 6),
    "words": (pa.array([["x"], ["y", "x"]] * 3), [["x"], ["y", "x"]] * 3),
    "large_words": (pa.array([["x"], []] * 3, LARGE), [["x"], []] * 3),
    "pairs": (pa.array([[1, 2], [3, 1]] * 3, PAIR), [["1", "2"], ["3", "1"]] * 3),
}
NUMBERS = {
    "price": pa.array([Decimal(f"{k}.99") for k in N]),
    "half": pa.array([k / 2 for k in N], pa.float16()),
    "single": pa.array([k + 0.25 for k in N], pa.float32()),
    "wide": pa.array([Decimal(k) for k in N], pa.decimal256(50, 2)),
}
REFUSED = {
    "embedding": (pa.array([[k / 7, 1.5] for k in N], pa.list_(pa.float32(), 2)), "an embedding"),
    "doubles": (pa.array([[k / 7] for k in N]), "a list of fractions, as an embedding is"),
    "halves": (pa.array([[k / 2] for k in N], pa.list_(pa.float16())), "a list of fractions"),
    "decimals": (pa.array([[Decimal("1.5")]] * 6), "a list of fractions"),
    "structs": (pa.array([[{"a": 1}]] * 6), "as columns of their own"),
    "struct": (pa.array([{"a": [1.5]}] * 6), "as columns of their own"),
    "map": (pa.array([[("k", 1)]] * 6, pa.map_(pa.string(), pa.int8())), "columns of their own"),
    "nested": (pa.array([[["a"]]] * 6), "tags are a list of text or integers"),
    "dates": (pa.array([[DAY]] * 6), "tags are a list of text or integers"),
    "flags": (pa.array([[True]] * 6), "tags are a list of text or integers"),
    "clock": (pa.array([dt.time(12)] * 6), "is TIME: write it as text or a number"),
    "clock_ns": (pa.array([1] * 6, pa.time64("ns")), "is TIME_NS: write it as text or a number"),
}


def options(folder: Path, columns: dict[str, pa.Array]) -> ParquetLog:
    ids = {"user_id": [k % 7 for k in range(60)], "item_id": [k % 6 for k in range(60)]}
    write(folder / "log.parquet", **ids, time=[*range(60)])
    items = write(folder / "items.parquet", item_id=[*N], **columns)
    return own(folder, items=items, item_features=tuple(columns))


def test_categories_and_tags_are_read_as_their_text(tmp_path: Path) -> None:
    made = Prepared(options(tmp_path, {name: column for name, (column, _) in READ.items()}))
    for name, (_, expected) in READ.items():
        assert [made.items[item][name] for item in N] == expected, name


def test_fractions_are_cut_into_buckets(tmp_path: Path) -> None:
    made = Prepared(options(tmp_path, NUMBERS))
    for name, column in NUMBERS.items():
        for item, value in enumerate(column.to_pylist()):
            start, stop = (float(edge) for edge in made.items[item][name].strip("[)").split(","))
            assert start <= float(value) < stop, name


@pytest.mark.parametrize("name", REFUSED)
def test_what_holds_values_inside_values_is_no_feature(name: str, tmp_path: Path) -> None:
    column, words = REFUSED[name]
    start = f"{tmp_path / 'items.parquet'}: feature {name!r} is "
    assert refused(options(tmp_path, {name: column}), words).startswith(start)


def test_a_list_is_no_number() -> None:
    with pytest.raises(Exception, match="--numbers x: the column is DOUBLE"):
        kind_of("x", "DOUBLE[]", ("x",), "items")
