"""Differences of tables, against dictionaries by id; what comes of them, to the last bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.errors import UserError
from dat_rec.retrieval.delta import rows as module
from dat_rec.retrieval.delta.rows import (
    CHANGED,
    NONE,
    ORDER,
    NewRows,
    comparable,
    equal_rows,
    read_difference,
    write_difference,
)

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("count", pa.int32()),
        pa.field("score", pa.float32()),
        pa.field("history", pa.list_(pa.field("element", pa.int64()))),
        pa.field("bonus", pa.large_list(pa.field("element", pa.float32()))),
        pa.field("vector", pa.list_(pa.field("element", pa.int8()), 2)),
        pa.field("halves", pa.list_(pa.field("element", pa.float16()), 2)),
    ],
    metadata={"of": "yesterday"},
)


def random_row(rng: np.random.Generator, name: str) -> dict[str, Any]:
    """A row in which everything may be missing or empty, and zeros have signs."""
    numbers = [None, 0.0, -0.0, float("nan"), 1.5]
    return {
        "id": name,
        "title": rng.choice([None, "", "a", "b"]),
        "count": rng.choice([None, 0, 7]),
        "score": numbers[rng.integers(5)],
        "history": [None, [], [1], [1, 2], [2, 1]][rng.integers(5)],
        "bonus": [None, [], [0.0], [-0.0], [1.5, None]][rng.integers(5)],
        "vector": [None, [1, -127], [1, 127], [None, 1], [0, 0]][rng.integers(5)],
        "halves": [None, [0.0, 1.5], [-0.0, 1.5], [float("nan"), 0.0]][rng.integers(4)],
    }


def two_days(seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Some ids go, some come, some change in one column, and all stand elsewhere."""
    rng = np.random.default_rng(seed)
    before = [random_row(rng, f"i{number}") for number in range(rng.integers(1, 60))]
    now = [row for row in before if rng.random() < 0.8]
    for place, row in enumerate(now):
        if rng.random() < 0.3:
            column = rng.choice(["title", "count", "score", "history", "bonus", "vector", "halves"])
            now[place] = row | {column: random_row(rng, "")[column]}
    now += [random_row(rng, f"n{number}") for number in range(rng.integers(0, 9))]
    return before, [now[place] for place in rng.permutation(len(now))]


def bits(row: dict[str, Any]) -> str:
    """All of a row, as text that tells −0 from 0."""
    return repr(row)


@pytest.mark.parametrize("seed", range(40))
def test_rows_are_found_by_id_and_come_out_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", 7)
    before, now = two_days(seed)
    base = pa.Table.from_pylist(before, SCHEMA)
    new = pa.Table.from_pylist(now, SCHEMA.with_metadata({"of": "today"}))
    found = equal_rows(new, base, "id")
    by_id = {row["id"]: (place, bits(row)) for place, row in enumerate(before)}
    expected = [
        by_id[row["id"]][0] if by_id.get(row["id"], (0, ""))[1] == bits(row) else NONE
        for row in now
    ]
    assert found.tolist() == expected
    write_difference(tmp_path / "delta", new, found)
    changed = pq.read_table(tmp_path / "delta" / CHANGED)
    assert changed.num_rows == expected.count(NONE)
    difference = read_difference(tmp_path / "delta", len(base))
    rows = NewRows(base, difference)
    middle = len(now) // 3
    parts = [rows.rows(0, middle), rows.rows(middle, len(now))]
    assert [bits(row) for part in parts for row in part.to_pylist()] == list(map(bits, now))
    for part in parts:
        assert part.schema.equals(new.schema, check_metadata=True)


def test_what_has_other_columns_is_given_anew(tmp_path: Path) -> None:
    new = pa.table({"id": [1, 2], "age": [3, 4]})
    for base in (
        pa.table({"id": [1, 2]}),
        pa.table({"id": pa.array([1, 2], pa.int32()), "age": [3, 4]}),
        pa.table({"id": ["1", "2"], "age": [3, 4]}),
    ):
        assert equal_rows(new, base, "id").tolist() == [NONE, NONE]
    write_difference(tmp_path / "delta", new, equal_rows(new, base, "id"))
    assert NewRows(base, read_difference(tmp_path / "delta", 2)).rows(0, 2).equals(new)


def test_columns_that_cannot_be_compared_are_known() -> None:
    assert comparable(SCHEMA)
    for kind in (pa.dictionary(pa.int8(), pa.string()), pa.struct({"a": pa.int8()})):
        assert not comparable(SCHEMA.append(pa.field("more", kind)))
        assert not comparable(SCHEMA.append(pa.field("more", pa.list_(kind))))


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([0, 3], "names rows that the base lacks"),
        ([0, -5], "names rows that the base lacks"),
        ([0, 1], "does not fit changed.parquet"),
        ([None, None], "does not fit changed.parquet"),
    ],
)
def test_an_order_that_does_not_fit_is_refused(
    tmp_path: Path, order: list[int | None], message: str
) -> None:
    new = pa.table({"id": [1, 9]})
    write_difference(tmp_path / "delta", new, np.array([0, NONE]))
    path = tmp_path / "delta" / ORDER
    pq.write_table(pa.table({"base_row": pa.array(order, pa.int64())}), path)
    with pytest.raises(UserError, match=message):
        read_difference(tmp_path / "delta", 3)
