"""Who has few interactions waits, and day after day it is as of all days at once."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dat_rec.data.dataset import Dataset
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.schema import Schema
from dat_rec.data.sources.parquet_log import ParquetLog
from dat_rec.data.validate.validate import validate
from dat_rec.retrieval.protocol import Protocol
from tests.data.prepare.chain import DAY, Row, facts_of, read, write_rows
from tests.data.prepare.test_after import Chain
from tests.data.prepare.test_bounds import drop_last
from tests.data.sources.prepared import digest, refused
from tests.data.validate.test_validate import Columns, edit


@pytest.mark.parametrize("name", ["sequence", "ties are cut", "weights"])
def test_days_with_admission_are_all_days_at_once(tmp_path: Path, name: str) -> None:
    """Half of a day is held out; the next one trains on it. The scored day admits nobody."""
    chain = Chain(tmp_path, name, seed=5)
    chain.whole_tables = True
    chain.make("out", 0, 1, test_from="150", admit_after=4)
    begin, waited = 150, 0
    for day in (2, 3, 4):
        (tmp_path / "out").rename(tmp_path / "before")
        parts = {"test_from": str(day * DAY + 50)}
        schema = chain.make("out", day, day, after=tmp_path / "before", **parts)
        whole = chain.make("whole", 0, day, train_from=str(begin), admit_after=4, **parts)
        chain.same("out", "whole")
        assert schema.admit_after == whole.admit_after == 4  # that of the dataset before
        assert (schema.examples, schema.past) == (whole.examples, whole.past)
        before = Counter(facts_of(tmp_path / "before", ties=True).waiting)
        waited += (before - facts_of(tmp_path / "out", ties=True).waiting).total()
        begin = day * DAY + 50
        shutil.rmtree(tmp_path / "before")
    assert waited > 20, "nobody was admitted late: the log tells nothing"
    chain.make("next", 5, 5, after=tmp_path / "out", split="none")
    (tmp_path / "next").rename(tmp_path / "before")
    chain.make("out", 6, 6, after=tmp_path / "before", split="all")
    chain.make("whole", 0, 6, test_from=str(6 * DAY), train_from=str(begin), admit_after=4)
    chain.same("out", "whole", examples=False)


def log_of(path: Path, pairs: list[tuple[int, int]], begin: int = 0) -> Path:
    rows: list[Row] = [
        {"user_id": user, "item_id": item, "time": begin + at}
        for at, (user, item) in enumerate(pairs)
    ]
    return write_rows(path, rows)


FIRST = [(1, 1), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 3), (4, 4), (4, 4)]
"""Of twos: users 1 to 4 have them; items 1, 2, 4; 3 is had once. Of threes: user 1, item 1."""


def by_hand(folder: Path, **changes: Any) -> ParquetLog:
    log = log_of(folder / "first.parquet", FIRST)
    given = {"interactions": log, "out": folder / "before", "split": "none"} | changes
    return ParquetLog(trend=False, **given)


def test_who_has_few_waits(tmp_path: Path) -> None:
    schema = prepare(by_hand(tmp_path, admit_after=2))
    assert (schema.examples, schema.waiting, schema.trained_items, schema.items) == (8, 1, 3, 4)
    facts = facts_of(tmp_path / "before", ties=False)
    assert facts.waiting == Counter({(3, 3, 6, None): 1})
    assert facts.seen == Counter({(1, 1): 2, (1, 2): 1, (2, 1): 1, (2, 2): 1, (3, 1): 1, (4, 4): 2})
    assert facts.users[3]["history"] == [1]
    assert {one: row["item"] for one, row in facts.items.items()} == {1: 1, 2: 2, 3: None, 4: 4}
    assert facts.items[3]["train_count"] == 0
    assert any("waiting: 1 training interactions, of 1 users" in note for note in schema.notes)
    # On the next day item 3 has its second one: the first is in the past and in 3's history.
    log = log_of(tmp_path / "log.parquet", [(2, 3)], begin=20)
    options = replace(by_hand(tmp_path), interactions=log, after=tmp_path / "before")
    schema = prepare(replace(options, out=tmp_path / "out"))
    assert (schema.admit_after, schema.waiting, schema.past, schema.examples) == (2, 0, 9, 1)
    facts = facts_of(tmp_path / "out", ties=False)
    assert facts.users[3]["history"] == [1, 3]
    assert facts.items[3]["train_count"] == 2
    assert validate(tmp_path / "out", threads=1) == []


def test_an_id_whose_partners_all_wait_has_no_row(tmp_path: Path) -> None:
    """Item 9 has three interactions, each of a user with one."""
    log = log_of(tmp_path / "log.parquet", [(1, 1)] * 3 + [(2, 9), (3, 9), (4, 9)])
    schema = prepare(replace(by_hand(tmp_path, admit_after=3), interactions=log))
    assert (schema.trained_items, schema.examples, schema.waiting) == (1, 3, 3)
    log = log_of(tmp_path / "log.parquet", [(2, 9), (2, 1)], begin=20)
    options = replace(by_hand(tmp_path), interactions=log, after=tmp_path / "before")
    schema = prepare(replace(options, out=tmp_path / "out"))
    assert (schema.trained_items, schema.past, schema.examples, schema.waiting) == (2, 4, 2, 2)


def test_another_number_holds_from_then_on(tmp_path: Path) -> None:
    """As if the whole log had been prepared with it: ids come, and ids wait again."""
    prepare(by_hand(tmp_path, admit_after=2))
    log = log_of(tmp_path / "log.parquet", [(1, 1), (3, 2)], begin=20)
    for least in (1, 3):
        options = replace(by_hand(tmp_path), interactions=log, after=tmp_path / "before")
        out = tmp_path / f"out {least}"
        schema = prepare(replace(options, out=out, admit_after=least))
        assert schema.admit_after == least
        rows = read(tmp_path / "first") + read(tmp_path / "log")
        whole = write_rows(tmp_path / "whole.parquet", rows)
        options = replace(by_hand(tmp_path), interactions=whole, out=tmp_path / f"whole {least}")
        prepare(replace(options, admit_after=least, train_from="9"))
        assert facts_of(out, ties=False) == facts_of(options.out, ties=False)


def test_a_test_of_who_waits_is_cold(tmp_path: Path) -> None:
    """Of the trained users 1, 2 and items 1, 2 alone can a model be asked."""
    pairs = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (2, 3)]
    test = [(1, 1), (3, 1), (1, 3), (3, 3), (2, 2)]
    log = log_of(tmp_path / "log.parquet", pairs + test)
    changes = {"interactions": log, "split": "time", "test_from": "6"}
    schema = prepare(by_hand(tmp_path, admit_after=2, **changes))
    protocol = Protocol.read(Dataset(tmp_path / "before", schema))
    assert protocol.answerable.tolist() == [True, False, False, False, True]
    assert "2 of 3 users have a test query that a model can answer" in schema.split


def test_numbers_that_admit_nobody(tmp_path: Path) -> None:
    refused(by_hand(tmp_path, admit_after=0), "--admit-after 0: must be at least 1")
    words = "--admit-after 7: no interaction is of a user and an item that both have so many"
    refused(by_hand(tmp_path, admit_after=7), words)
    prepare(by_hand(tmp_path))
    schema = Schema.load(tmp_path / "before")
    assert "admit_after" not in (tmp_path / "before/schema.json").read_text()
    assert (schema.admit_after, schema.waiting) == (1, 0)
    log = log_of(tmp_path / "log.parquet", [(1, 1)], begin=20)
    options = replace(by_hand(tmp_path), interactions=log, after=tmp_path / "before")
    words = "--admit-after 9: no interaction is of a user and an item that are both kept: lower"
    refused(replace(options, out=tmp_path / "out", admit_after=9), words)


def test_one_is_what_there_was(tmp_path: Path) -> None:
    prepare(by_hand(tmp_path))
    prepare(replace(by_hand(tmp_path, admit_after=1), out=tmp_path / "out"))
    assert digest(tmp_path / "before") == digest(tmp_path / "out")


def trained(columns: Columns) -> None:
    columns["item_index"][0] = 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (trained, "waiting.parquet: row 0: user and item are both trained"),
        (drop_last, "waiting.parquet: 0 rows, and schema.json says 1"),
    ],
)
def test_a_wrong_row_is_found(tmp_path: Path, change: Any, words: str) -> None:
    prepare(by_hand(tmp_path, admit_after=2))
    (tmp_path / "before/sha256.json").unlink()
    edit(tmp_path / "before/waiting.parquet", change)
    faults = [str(fault) for fault in validate(tmp_path / "before", threads=1)]
    assert any(words in fault for fault in faults), faults
