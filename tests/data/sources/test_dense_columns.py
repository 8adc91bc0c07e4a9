"""Columns that ``--dense`` names: of every type that holds numbers, and what is refused."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.sources.parquet_log import ParquetLog
from tests.data.sources.prepared import own, refused, write

N = range(6)
NAN, INF = float("nan"), float("inf")
READ: dict[str, tuple[pa.Array, list[Any]]] = {
    "single": (pa.array([k / 4 for k in N], pa.float32()), [k / 4 for k in N]),
    "half": (pa.array([k / 2 for k in N], pa.float16()), [k / 2 for k in N]),
    "decimal": (pa.array([Decimal(f"{k}.25") for k in N]), [k + 0.25 for k in N]),
    "integer": (pa.array([2**40 + k for k in N]), [2.0**40 + k for k in N]),
    "flag": (pa.array([k % 2 == 0 for k in N]), [float(k % 2 == 0) for k in N]),
    "missing": (pa.array([None, NAN, 2.0, 3.0, 4.0, 5.0]), [None, None, 2.0, 3.0, 4.0, 5.0]),
    "floats": (pa.array([[k / 2, -1.0] for k in N], pa.list_(pa.float32())), None),
    "fixed": (pa.array([[k / 2, -1.0] for k in N], pa.list_(pa.float64(), 2)), None),
    "halves": (pa.array([[k / 2, -1.0] for k in N], pa.list_(pa.float16())), None),
    "integers": (pa.array([[k, -1] for k in N]), [[k, -1] for k in N]),
    "some": (pa.array([None, *([k, 1.5] for k in N[1:])]), [None, *([k, 1.5] for k in N[1:])]),
}
REFUSED: dict[str, tuple[pa.Array, str]] = {
    "infinite": (pa.array([1.0, 2.0, -INF, 3.0, INF, 4.0]), "row 3: --dense x: holds -inf"),
    "text": (pa.array(["1.5"] * 6), "--dense x: the column is VARCHAR: name a column of numbers"),
    "texts": (pa.array([["1.5"]] * 6), "--dense x: the column is VARCHAR[]"),
    "nested": (pa.array([[[1.5]]] * 6), "--dense x: the column is DOUBLE[][]"),
    "date": (pa.array([1] * 6, pa.date32()), "--dense x: the column is DATE"),
    "short": (pa.array([[1.0, 2.0]] * 4 + [[1.0]] * 2), "row 5: --dense x: a list of 1 numbers, a"),
    "hole": (pa.array([[1.0, 2.0]] * 5 + [[1.0, None]]), "row 6: --dense x: holds NULL"),
    "nan": (pa.array([[1.0, 2.0], [NAN, 2.0]] * 3), "row 2: --dense x: holds nan"),
    "inf": (pa.array([[1.0, 2.0], [1.0, -INF]] * 3), "row 2: --dense x: holds -inf"),
    "large": (pa.array([[1.0, 1e39]] * 6), "row 1: --dense x: holds 1e+39"),
    "empty": (pa.array([[]] * 6, pa.list_(pa.float32())), "no row has a list with a number in it"),
    "nothing": (pa.nulls(6, pa.list_(pa.float32())), "no row has a list with a number in it"),
}


def options(folder: Path, columns: dict[str, pa.Array], **changes: Any) -> ParquetLog:
    ids = {"user_id": [k % 7 for k in range(60)], "item_id": [k % 6 for k in range(60)]}
    write(folder / "log.parquet", **ids, time=[*range(60)])
    items = write(folder / "items.parquet", item_id=[*N], cat=["a", "b"] * 3, **columns)
    features = {"item_features": tuple(columns), "dense": tuple(columns)}
    return own(folder, **({"items": items} | features | changes))


def test_every_type_of_number_and_list_is_read(tmp_path: Path) -> None:
    schema = prepare(options(tmp_path, {name: column for name, (column, _) in READ.items()}))
    table = pq.read_table(tmp_path / "out" / "items.parquet").sort_by("item_id")
    kinds = {one.name: (one.kind, one.width) for one in schema.dense}
    for name, (column, expected) in READ.items():
        found = table[name].to_pylist()
        assert found == (column.to_pylist() if expected is None else expected), name
        a_list = pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
        assert kinds[name] == (("vector", 2) if a_list else ("number", 1)), name


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_finite_number_or_vector_of_one_size_is_refused(
    name: str, tmp_path: Path
) -> None:
    column, words = REFUSED[name]
    message = refused(options(tmp_path, {"x": column}), words)
    assert message.startswith(str(tmp_path / "items.parquet"))


LISTS = pa.list_(pa.float32())


@pytest.mark.parametrize(
    "columns",
    [
        {"x": pa.nulls(2), "v": pa.nulls(2)},
        {"x": pa.array([NAN, None]), "v": pa.nulls(2, LISTS)},
        {"x": pa.nulls(2, LISTS), "v": pa.array([NAN, NAN])},
        {"x": pa.nulls(2, pa.string()), "v": pa.nulls(2, pa.list_(pa.float64(), 2))},
    ],
)
def test_new_items_may_all_be_without_a_value(columns: dict[str, pa.Array], tmp_path: Path) -> None:
    """After a dataset, a column of nulls is what that one has, whatever its type."""
    x, v = pa.array(np.arange(6.0)), pa.array([[k, 0.5] for k in N], LISTS)
    first = options(tmp_path, {"x": x, "v": v}, split="none", out=tmp_path / "first")
    before = prepare(first)
    log = write(tmp_path / "day.parquet", user_id=[0, 1], item_id=[6, 7], time=[70, 71])
    items = write(tmp_path / "new.parquet", item_id=[6, 7], cat=["a", "b"], **columns)
    names = {"item_features": ("x", "v"), "dense": ("x", "v"), "items": items, "split": "none"}
    schema = prepare(own(tmp_path, interactions=log, after=first.out, **names))
    assert schema.dense == before.dense
    table = pq.read_table(tmp_path / "out" / "items.parquet").sort_by("item_id")
    assert table["x"].to_pylist() == [*x.to_pylist(), None, None]
    assert table["v"].to_pylist() == [*v.to_pylist(), None, None]


def test_files_may_differ_in_how_they_write_vectors(tmp_path: Path) -> None:
    folder = tmp_path / "items"
    folder.mkdir()
    for part, kind in enumerate((pa.list_(pa.float32()), pa.list_(pa.float64(), 2))):
        ids = [*N][part::2]
        write(folder / f"{part}.parquet", item_id=ids, x=pa.array([[k, 0.5] for k in ids], kind))
    columns = {"x": pa.array([[0.0]] * 6)}
    prepare(options(tmp_path, columns, items=folder))
    table = pq.read_table(tmp_path / "out" / "items.parquet").sort_by("item_id")
    assert table["x"].to_pylist() == [[k, 0.5] for k in N]


def test_options_that_contradict_are_refused(tmp_path: Path) -> None:
    columns = {"x": pa.array(np.arange(6.0)), "tags": pa.array(["a|b"] * 6)}
    of = {"item_features": ("x", "tags")}
    for changes, words in (
        ({"dense": ("x", "y")}, "--dense y: is not among the features: name it there"),
        ({"dense": ("x",), "numbers": ("x",)}, "--dense x: --numbers cuts it into buckets"),
        ({"dense": ("tags",), "separator": ("tags=|",)}, "--dense tags: is text that --separator"),
        ({"dense": ("cat",), "category": "cat"}, "--dense cat: is the category, and no number"),
    ):
        refused(options(tmp_path, columns, **{**of, **changes}), words)


def test_both_sides_may_have_one_name(tmp_path: Path) -> None:
    """The option names the column of both, or the feature of one."""
    users = write(tmp_path / "users.parquet", user_id=[*range(7)], x=[float(k) for k in range(7)])
    both = {"users": users, "user_features": ("x",)}
    columns = {"x": pa.array(np.arange(6.0))}
    schema = prepare(options(tmp_path, columns, **both))
    assert [(one.name, one.side) for one in schema.dense] == [
        ("user_x", "query"),
        ("item_x", "item"),
    ]
    one = options(tmp_path, columns, **both, dense=("item_x",), out=tmp_path / "one")
    schema = prepare(one)
    assert [one.name for one in schema.dense] == ["item_x"]
    assert schema.feature("user_x").side == "query"
