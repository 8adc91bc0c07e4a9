"""Interactions of one user and time: in the order of the sequence column, or counted and said."""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from dat_rec.data.sources.parquet_log import ParquetLog
from dat_rec.data.validate.validate import validate
from tests.data.sources.prepared import Prepared, refused

Row = tuple[int, int, int, int]
"""User, item, time, sequence."""
NUMBERS = list(range(120))
random.Random(7).shuffle(NUMBERS)
ROWS: list[Row] = [(n % 4, (n * n + n // 9) % 13, n // 12, n) for n in NUMBERS]
"""In no order; three interactions of each user at each time."""


def table(rows: list[Row], **changes: Any) -> pa.Table:
    names = ("user_id", "item_id", "time", "offset")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    return pa.table({**columns, **changes})


def options(folder: Path, **changes: Any) -> ParquetLog:
    values = {"out": folder / "out", "interactions": folder / "log.parquet", "overwrite": True}
    return ParquetLog(**{**values, **changes})


def histories(made: Prepared) -> list[tuple[Any, ...]]:
    rows = ((r["user_id"], r["item_id"], r["time"], tuple(r["history"])) for r in made.train)
    return sorted(rows)


def expected(rows: list[Row]) -> list[tuple[Any, ...]]:
    """Each row with the items of the user before it, by time and sequence."""
    found = []
    for user, item, time, place in rows:
        before = sorted(row[2:] + row[1:2] for row in rows if row[0] == user)
        history = tuple(i for t, p, i in before if (t, p) < (time, place))
        found.append((user, item, time, history))
    return sorted(found)


def test_a_sequence_orders_equal_times_in_histories(tmp_path: Path) -> None:
    pq.write_table(table(ROWS), tmp_path / "log.parquet")
    made = Prepared(options(tmp_path, sequence="offset", test_from="9"))
    assert histories(made) == expected([row for row in ROWS if row[2] < 9])
    assert not any("have the user and time of" in note for note in made.schema.notes)


def test_a_repeat_is_what_came_before_in_the_sequence(tmp_path: Path) -> None:
    rows = [(0, 5, 1, 2), (0, 5, 1, 1), (0, 6, 1, 3), (0, 6, 2, 4)]
    pq.write_table(table(rows), tmp_path / "log.parquet")
    made = Prepared(options(tmp_path, sequence="offset", split="last"))
    found = sorted((len(row["history"]), row["item_id"], row["repeat"]) for row in made.train)
    assert found == [(0, 5, False), (1, 5, True), (2, 6, False)]


def test_a_sequence_says_which_of_equal_times_is_the_last(tmp_path: Path) -> None:
    pq.write_table(table(ROWS), tmp_path / "log.parquet")
    made = Prepared(options(tmp_path, sequence="offset", split="last"))
    last = [max((row for row in ROWS if row[0] == u), key=lambda row: row[2:]) for u in range(4)]
    assert sorted(made.triples("test")) == sorted(row[:3] for row in last)
    assert histories(made) == expected([row for row in ROWS if row not in last])


def test_ties_are_counted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(table(ROWS), tmp_path / "log.parquet")
    made = Prepared(options(tmp_path, test_from="9"))
    train = [row[:3] for row in ROWS if row[2] < 9]
    ties = len(train) - len({(user, time) for user, _, time in train})
    said = f"{ties} of {len(train)} training interactions have the user and time of another one"
    assert any(note.startswith(said) for note in made.schema.notes)
    assert said in capsys.readouterr().err
    for row in made.train:
        assert len(row["history"]) == sum(
            u == row["user_id"] and t < row["time"] for u, _, t in train
        )
    assert (
        Prepared(options(tmp_path, split="last"))
        .schema.notes[-2]
        .startswith(
            "warning: 4 held-out interactions have the user and time of one that is trained on"
        )
    )


def test_of_a_sequence_with_ties_those_are_counted(tmp_path: Path) -> None:
    rows = [(user, item, 5, item // 2) for user in range(3) for item in range(6)]
    pq.write_table(table(rows), tmp_path / "log.parquet")
    notes = Prepared(options(tmp_path, sequence="offset", split="last")).schema.notes
    assert notes[-3].startswith("warning: 3 held-out interactions")
    assert notes[-2].startswith("warning: the test asks 0 of 3 users")  # the last item is theirs
    assert notes[-1].startswith("6 of 15 training interactions")


def test_a_sequence_stays_where_each_user_trains_on_one_interaction(tmp_path: Path) -> None:
    rows = [(user, (user + place) % 6, user, place) for user in range(8) for place in range(2)]
    pq.write_table(table(rows), tmp_path / "log.parquet")
    made = Prepared(options(tmp_path, sequence="offset", split="last"))
    assert made.schema.histories == "others"
    assert [row["sequence"] for row in made.train] == [0] * 8
    assert not validate(tmp_path / "out")


@pytest.mark.parametrize("unit", ["s", "us", "ns"])
def test_times_may_order_times(tmp_path: Path, unit: str) -> None:
    """Nanoseconds keep their order where the same column, cut to microseconds, is the time."""
    start = 1_770_000_000
    at = pa.array([start + row[3] for row in ROWS]).cast(pa.timestamp(unit))
    if unit == "ns":
        at = pa.array([start * 10**9 + row[3] for row in ROWS]).cast(pa.timestamp("ns"))
        rows = [(user, item, start * 10**6, place) for user, item, _, place in ROWS]
        log = table(rows, time=at, offset=at)
    else:
        rows = ROWS
        log = table(rows, offset=at)
    pq.write_table(log, tmp_path / "log.parquet")
    made = Prepared(options(tmp_path, sequence="offset", split="last"))
    last = [max((row for row in rows if row[0] == u), key=lambda row: row[2:]) for u in range(4)]
    assert histories(made) == expected([row for row in rows if row not in last])


def test_an_update_that_moves_the_rows_of_a_table_changes_nothing(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "log", table(ROWS[:60]))
    write_deltalake(tmp_path / "log", table(ROWS[60:]), mode="append")
    DeltaTable(tmp_path / "log").update(predicate="offset = 7", updates={"time": "time"})
    files = {"interactions": tmp_path / "log", "sequence": "offset", "split": "last"}
    made = [Prepared(options(tmp_path, **files, version=version)) for version in (1, None)]
    assert made[0].train == made[1].train
    assert made[0].test == made[1].test


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ([f"{n}" for n in range(120)], "log.parquet: --sequence offset: is VARCHAR: name integers"),
        (
            [n + 0.6 for n in range(120)],
            "--sequence offset: is DOUBLE: name integers or timestamps",
        ),
        (
            pa.array([2**63 + n for n in range(120)], pa.uint64()),
            "log.parquet: row 1: offset 9223372036854775808 is over 9223372036854775807",
        ),
        ([None, *range(119)], "log.parquet: row 1: missing sequence"),
    ],
)
def test_a_sequence_that_would_be_cut_is_refused(column: Any, words: str, tmp_path: Path) -> None:
    pq.write_table(table(ROWS, offset=column), tmp_path / "log.parquet")
    refused(options(tmp_path, sequence="offset", max_rejected=0.0), words)


def test_without_times_the_sequence_is_named_as_the_time(tmp_path: Path) -> None:
    rows = table(ROWS).drop_columns(["time"])
    pq.write_table(rows, tmp_path / "log.parquet")
    words = "has no column 'time', and the rows are in no order: name one that orders them: "
    refused(options(tmp_path, sequence="offset", split="last"), f"{words}--time offset")
    write_deltalake(tmp_path / "log", rows)
    refused(options(tmp_path, interactions=tmp_path / "log", split="last"), f"{words}--time COLUMN")
