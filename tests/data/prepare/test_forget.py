"""What is forgotten was never there, as a plain model of who leaves tells, day after day."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.rows import places
from dat_rec.data.schema import RECENT
from dat_rec.data.sources.parquet_log import ParquetLog
from dat_rec.runs.kept_rows import table_values
from tests.data.prepare.chain import DAY, Row, check_histories, facts_of, make_log, write_rows
from tests.data.prepare.test_after import Chain, day_3, days  # noqa: F401
from tests.data.sources.prepared import digest, refused

RULES: dict[str, dict[str, Any]] = {
    "old ones": {"forget_after": 1.6 * DAY},
    "few": {"capacity": 17},
    "both": {"forget_after": 2.2 * DAY, "capacity": 21},
    "none": {"forget_after": 99 * DAY, "capacity": 9_999},
    "admitted": {"forget_after": 2.2 * DAY, "capacity": 18, "admit_after": 3},
}
HISTORIES = int(os.environ.get("DAT_REC_TEST_HISTORIES", "20"))
"""Number of random histories."""
Token = tuple[Any, int]
"""Whose weights these are, and since which day."""


def left(
    rows: list[Row], forget_after: float = 1e9, capacity: int = 10**9, admit_after: int = 1
) -> list[Row]:
    """The training interactions of ids that are not forgotten."""
    now = max(row["time"] for row in rows)
    kept = {}
    for key in ("user_id", "item_id"):
        last = {row[key]: row["time"] for row in sorted(rows, key=lambda row: row["time"])}
        count = Counter(row[key] for row in rows)
        young = [one for one in last if last[one] > now - forget_after]
        young.sort(key=lambda one: (-last[one], -count[one], one))
        few = [one for one in young if count[one] < admit_after]
        kept[key] = {*few, *[one for one in young if count[one] >= admit_after][:capacity]}
    return [row for row in rows if all(row[key] in kept[key] for key in kept)]


def admitted(rows: list[Row], admit_after: int = 1) -> list[Row]:
    """Those of the interactions whose user and item have so many of them."""
    counts = {key: Counter(row[key] for row in rows) for key in ("user_id", "item_id")}
    return [row for row in rows if all(counts[key][row[key]] >= admit_after for key in counts)]


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ("old ones", "sequence"),
        ("few", "sequence"),
        ("both", "ties are cut"),
        ("none", "sequence"),
        ("admitted", "sequence"),
    ],
)
def test_what_is_forgotten_was_never_there(tmp_path: Path, rule: str, name: str) -> None:
    """Each day is what preparing all that the model has kept at once gives."""
    walk(tmp_path, Chain(tmp_path, name, seed=11), RULES[rule], 5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(HISTORIES))
def test_random_histories_of_coming_and_leaving(tmp_path: Path, seed: int) -> None:
    """Six days of few rows each; rules are drawn, and each may be missing."""
    rng = np.random.default_rng(seed)
    draw: dict[str, Any] = {
        "forget_after": float(rng.uniform(0.6, 4) * DAY),
        "capacity": int(rng.integers(5, 30)),
        "admit_after": int(rng.integers(1, 5)),
    }
    given = {name: value for name, value in draw.items() if rng.random() < 0.75}
    least = given.get("admit_after", 1)
    rows = make_log(seed, 6, a_day=40).rows
    weights: dict[str, dict[Any, Token]] = {"user": {}, "item": {}}
    out, before = tmp_path / "out", tmp_path / "before"
    kept: list[Row] = []
    for day in range(1, 6):
        new = [row for row in rows if (day > 1) * day * DAY <= row["time"] < (day + 1) * DAY]
        rules = given if day > 1 else {"admit_after": least}
        prepare(
            ParquetLog(
                interactions=write_rows(tmp_path / "log.parquet", new),
                out=out,
                after=before if day > 1 else None,
                split="none",
                sequence="place",
                history_length=4,
                trend=False,
                threads=1,
                **rules,
            )
        )
        kept = left([*kept, *new], **given) if day > 1 else new
        says(out, admitted(kept, least), kept)
        for table, known in weights.items():
            tokens = fresh(out, table, day)
            if day > 1:
                tokens = carried(tmp_path, table, by_row(before, table, known), day)
            # An id that has lost its row has lost its weights; one that keeps it has its own.
            found = by_id(out, table, tokens)
            assert found == {one: known.get(one, (one, day)) for one in found}
            weights[table] = found
        shutil.rmtree(before, ignore_errors=True)
        out.rename(before)


def says(folder: Path, training: list[Row], kept: list[Row]) -> None:
    """Compare all that a dataset says of its interactions with these, of the kept ones."""

    def key(row: Row) -> tuple[Any, ...]:
        return row["user_id"], row["item_id"], row["time"], row["place"]

    facts = facts_of(folder, ties=False)
    check_histories(folder, sequence=True)
    assert facts.training == Counter(key(row) for row in training)
    assert facts.waiting == Counter(key(row) for row in kept) - facts.training
    assert facts.seen == Counter((row["user_id"], row["item_id"]) for row in training)
    count = Counter(row["item_id"] for row in training)
    assert {
        one: row["train_count"] for one, row in facts.items.items() if row["item"] is not None
    } == count
    users = {one for one, row in facts.users.items() if row["trained"] and row["user"] == one}
    assert users == {row["user_id"] for row in training}
    assert all(row["user"] is None for one, row in facts.users.items() if one not in users)


def by_row(data: Path, table: str, weights: dict[Any, Token]) -> list[Token]:
    """The weights of each row of a table, the unknown one's first."""
    values = table_values(data, table, rows_of(data, table)).to_pylist()
    return [weights.get(value, (None, 0)) for value in values]


def walk(folder: Path, chain: Chain, rules: dict[str, Any], days_: int) -> None:
    """Follow a log with the rules, and compare each day with the model."""
    whole = {"items": chain.log.items, "users": chain.log.users}
    chain.log = chain.log._replace(
        **{name: [{**row, "day": 0} for row in rows] for name, rows in whole.items()}
    )
    chain.whole_tables = True
    rows = chain.log.rows
    least = {"admit_after": rules.get("admit_after")}
    chain.make("out", 0, 1, split="none", **least)
    kept = chain.log.days(0, 1)
    tokens = {table: fresh(folder / "out", table, 1) for table in ("user", "item")}
    wanted = {table: by_id(folder / "out", table, tokens[table]) for table in tokens}
    left_out = 0
    for day in range(2, days_):
        (folder / "out").rename(folder / "before")
        new = [row for row in rows if day * DAY <= row["time"] < (day + 1) * DAY]
        schema = chain.make("out", day, day, after=folder / "before", split="none", **rules)
        kept = left([*kept, *new], **rules)
        left_out += len(chain.log.days(0, day)) - len(kept)
        chain.log = chain.log._replace(rows=kept)
        chain.make("whole", 0, day, split="none", train_from=str(day * DAY), **least)
        chain.log = chain.log._replace(rows=rows)
        chain.same("out", "whole")
        capacity = rules.get("capacity", 10**9)
        assert schema.trained_items <= capacity
        assert schema.feature("user").rows - 1 <= capacity
        for table in tokens:
            tokens[table] = carried(folder, table, tokens[table], day)
            # An id has the weights that it was given when it came last, and nobody else's.
            found = by_id(folder / "out", table, tokens[table])
            known = wanted[table]
            wanted[table] = {
                one: known.get(one, token) if one in known else token
                for one, token in found.items()
            }
            assert found == wanted[table]
            assert all(token[0] == one for one, token in found.items())
            assert {one for one, token in found.items() if token[1] == day} == (
                found.keys() - known.keys()
            )
        shutil.rmtree(folder / "before")
    assert (left_out > 20) == (rules != RULES["none"])


def fresh(data: Path, table: str, day: int) -> list[Token]:
    """New weights for each row of a table."""
    values = table_values(data, table, rows_of(data, table)).to_pylist()
    return [(value, day) for value in values]


def rows_of(data: Path, table: str) -> int:
    from dat_rec.data.schema import Schema

    return Schema.load(data).feature(table).rows


def carried(folder: Path, table: str, tokens: list[Token], day: int) -> list[Token]:
    """The weights of today's rows, as a warm start from yesterday's takes them."""
    old = table_values(folder / "before", table, rows_of(folder / "before", table))
    new = table_values(folder / "out", table, rows_of(folder / "out", table))
    made = fresh(folder / "out", table, day)
    source = places(new, old)
    return [tokens[one] if one >= 0 else made[row] for row, one in enumerate(source.tolist())]


def by_id(data: Path, table: str, tokens: list[Token]) -> dict[str, Token]:
    """The weights that each id reads."""
    values = table_values(data, table, rows_of(data, table)).to_pylist()
    return {value: tokens[row] for row, value in enumerate(values) if row}


def test_a_capacity_that_leaves_nothing(tmp_path: Path) -> None:
    """The user and the item that are kept have nothing to do with one another."""
    pairs = [(1, 1, 5), (2, 2, 5), (2, 3, 4), (4, 1, 4)]
    rows = [{"user_id": user, "item_id": item, "time": time} for user, item, time in pairs]
    log = write_rows(tmp_path / "log.parquet", rows)
    prepare(ParquetLog(interactions=log, out=tmp_path / "before", split="none"))
    write_rows(log, [{"user_id": 9, "item_id": 9, "time": 6}])
    options = ParquetLog(
        interactions=log, out=tmp_path / "out", after=tmp_path / "before", test_from="6", capacity=1
    )
    refused(options, "--capacity 1: no interaction is of a user and an item that are both kept")
    schema = prepare(replace(options, capacity=2))
    assert (schema.past, schema.trained_items, schema.items) == (2, 2, 4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"capacity": 0}, "--capacity 0: must be above 0"),
        ({"forget_after": -1.0}, "--forget-after -1.0: must be above 0"),
        ({"forget_after": float("inf")}, "--forget-after inf: must be above 0"),
        ({"forget_after": 0.1}, "--forget-after 0.1: "),
        ({"capacity": 5, "after": None}, "--capacity 5: needs --after, whose ids are forgotten"),
    ],
)
def test_rules_that_are_none(
    days: Path,  # noqa: F811
    tmp_path: Path,
    changes: dict[str, Any],
    words: str,
) -> None:
    refused(day_3(days, tmp_path / "out", **changes), words)


def test_a_row_far_ahead_does_not_make_all_others_forgotten(tmp_path: Path) -> None:
    rows = [{"user_id": n % 9, "item_id": n % 7, "time": n} for n in range(60)]
    log = write_rows(tmp_path / "log.parquet", rows)
    prepare(ParquetLog(interactions=log, out=tmp_path / "before", split="none"))
    more = [row | {"time": row["time"] + 60} for row in rows]
    write_rows(log, [*more, {"user_id": 1, "item_id": 1, "time": 10**6}])
    options = ParquetLog(
        interactions=log,
        out=tmp_path / "out",
        after=tmp_path / "before",
        split="none",
        forget_after=500.0,
    )
    refused(options, "--forget-after 500.0: leaves out 60 of 61 new interactions, as the last one")


@pytest.mark.parametrize(("forget_after", "kept"), [(2.0, 2), (2.4, 3), (2.6, 3), (3.0, 3)])
def test_part_of_a_unit_of_time_is_not_rounded(
    tmp_path: Path, forget_after: float, kept: int
) -> None:
    """Items of ages 4, 3, 2, 1 and 0: one that is so old, or older, is forgotten."""
    rows = [{"user_id": 7, "item_id": n, "time": n} for n in range(5)]
    log = write_rows(tmp_path / "log.parquet", rows[:4])
    prepare(ParquetLog(interactions=log, out=tmp_path / "before", split="none"))
    write_rows(log, rows[4:])
    options = ParquetLog(
        interactions=log,
        out=tmp_path / "out",
        after=tmp_path / "before",
        split="none",
        forget_after=forget_after,
    )
    assert prepare(options).trained_items == kept


def test_recent_counts_forget_too(tmp_path: Path) -> None:
    """Item 50 had many users at the end of the first day, of whom none is kept."""
    rng = np.random.default_rng(3)
    time = np.sort(rng.integers(0, 3_000, 3_000))
    item = (rng.zipf(1.5, 3_000) + time // 600 * 4) % 20
    rows = [
        {"user_id": int(user), "item_id": int(one), "time": int(at)}
        for user, one, at in zip(rng.integers(0, 30, 3_000), item, time, strict=True)
    ]
    rows += [{"user_id": 1_000 + n, "item_id": 50, "time": 2_990} for n in range(200)]
    log = write_rows(tmp_path / "log.parquet", rows)
    prepare(ParquetLog(interactions=log, out=tmp_path / "before", split="none"))
    new = [{"user_id": n % 30, "item_id": n % 20, "time": 3_000 + n} for n in range(300)]
    write_rows(log, [*new, {"user_id": 3, "item_id": 50, "time": 3_100}])
    out = tmp_path / "out"
    options = ParquetLog(
        interactions=log, out=out, after=tmp_path / "before", split="none", capacity=30
    )
    schema = prepare(options)
    trend = schema.trend
    assert trend is not None
    training = [
        (row["item_index"], row["time"])
        for path in (*schema.past_paths, *(file.path for file in schema.example_files))
        for row in pq.read_table(out / path).to_pylist()
    ]
    items = pq.read_table(out / "items.parquet")
    wanted = np.zeros(items.num_rows)
    for index, at in training:
        wanted[index] += 0.5 ** (max(0, trend.until - at) / trend.half_life)
    assert items["train_count"].to_pylist()[items["item_id"].to_pylist().index(50)] == 1
    np.testing.assert_allclose(items[RECENT].to_numpy(), wanted, rtol=0.01, atol=1e-3)


KILLED = """
import os, signal, sys
from pathlib import Path
from _pytest.monkeypatch import MonkeyPatch
from dat_rec.data.prepare import stages
from dat_rec.data.prepare.pipeline import prepare
from tests.data.prepare.test_after import day_3

MonkeyPatch().setattr(stages, "grow_users", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
prepare(day_3(Path(sys.argv[1]), Path(sys.argv[2]), capacity=12, threads=1))
"""


def test_neither_kills_nor_threads_change_a_bit(
    days: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepare(day_3(days, tmp_path / "whole", capacity=12, threads=1))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(days), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    prepare(day_3(days, tmp_path / "out", capacity=12, threads=3))
    assert "going on after the stage 'forget'" in capsys.readouterr().err
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")
