"""Prepared day after day, a dataset is that of all days at once, but for its numbers."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.schema import Schema
from dat_rec.data.sources.parquet_log import ParquetLog
from dat_rec.data.validate.validate import validate
from tests.data.prepare.chain import (
    DAY,
    Facts,
    Log,
    check_histories,
    facts_of,
    make_log,
    read,
    write_rows,
)

COLUMNS: dict[str, Any] = {
    "title": "name",
    "category": "kind",
    "item_features": ("tags", "price"),
    "user_features": ("city",),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"history_length": 1000},
    "ties are cut": {"history_length": 4, **COLUMNS},
    "sequence": {"history_length": 5, "sequence": "place", **COLUMNS},
    "text ids": {"history_length": 1000, "threads": 1, **COLUMNS},
    "threads": {"history_length": 1000, "threads": 3, "memory_limit": "300MB", **COLUMNS},
}
FIRST, DAYS = 2, 9
"""Days of the first dataset, and of the log."""


class Chain:
    """Datasets of a log, made of its days."""

    def __init__(self, folder: Path, name: str, seed: int = 0) -> None:
        self.folder = folder
        self.options = VARIANTS[name]
        self.log: Log = make_log(seed, DAYS, text=name == "text ids")
        self.sequence = "sequence" in self.options
        self.ties = name != "sequence"
        self.cut = name == "ties are cut"

    def make(self, out: str, first: int, last: int, **changes: Any) -> Schema:
        """The dataset of the log's days; its tables have what the days up to the last one know."""
        tables = {}
        if "category" in self.options:
            # Of every other day, the tables have what is new alone.
            new = first if last % 2 else 0
            for name, rows in (("items", self.log.items), ("users", self.log.users)):
                known = [row for row in rows if new <= row["day"] <= last]
                tables[name] = write_rows(self.folder / f"{name}.parquet", known)
        log = write_rows(self.folder / "log.parquet", self.log.days(first, last))
        options = ParquetLog(
            interactions=log,
            out=self.folder / out,
            overwrite=True,
            **{**self.options, **tables, **changes},
        )
        schema = prepare(options)
        if "after" in changes:
            assert validate(self.folder / out, threads=1) == []
        return schema

    def facts(self, out: str) -> Facts:
        return facts_of(self.folder / out, ties=self.ties, numbers=("price",))

    def same(self, out: str, whole: str, *, examples: bool = True) -> None:
        """Compare a dataset with that of all days at once."""
        check_histories(self.folder / out, self.sequence)
        found, wanted = self.facts(out), self.facts(whole)
        if not examples:  # the whole one has all of the past as examples
            found, wanted = found._replace(examples=None), wanted._replace(examples=None)
        if self.cut:
            # Which of equal times are cut off is decided by numbers, and was checked by them.
            found, wanted = without_histories(found), without_histories(wanted)
        for name, one, other in zip(Facts._fields, found, wanted, strict=True):
            assert one == other, name
        one, other = (Schema.load(self.folder / name) for name in (out, whole))
        for name in ("users", "items", "trained_items", "tests", "validation", "training"):
            assert getattr(one, name) == getattr(other, name), name
        sizes = (
            {f.name: f.rows for f in schema.features if f.name != "price"}
            for schema in (one, other)
        )
        assert next(sizes) == next(sizes)

    def rows(self, out: str) -> dict[str, dict[Any, int]]:
        """The embedding row of each id and value."""
        folder = self.folder / out
        found = {
            name: {row[f"{name}_id"]: row[name] for row in read(folder / f"{name}s") if row[name]}
            for name in ("user", "item")
        }
        for path in (folder / "vocabularies").iterdir():
            found[path.stem] = {row["value"]: row["index"] for row in read(path.with_suffix(""))}
        return found


def without_histories(facts: Facts) -> Facts:
    return facts._replace(
        users={
            user: {name: value for name, value in row.items() if "history" not in name}
            for user, row in facts.users.items()
        },
        examples=None,
    )


@pytest.mark.parametrize(
    ("name", "days"),
    [*((name, 5) for name in VARIANTS), pytest.param("sequence", DAYS, marks=pytest.mark.slow)],
)
def test_days_that_follow_one_another_are_all_days_at_once(
    tmp_path: Path, name: str, days: int
) -> None:
    """Each day is scored before it is trained on; every prepare reads its own day alone."""
    chain = Chain(tmp_path, name, seed=[*VARIANTS].index(name))
    start = str((FIRST - 1) * DAY)
    chain.make("train", 0, FIRST - 1, test_from=start)
    begin = FIRST - 1
    for day in range(FIRST, days):
        (tmp_path / "train").rename(tmp_path / "before")
        known = chain.rows("before")
        score = chain.make("score", day, day, after=tmp_path / "before", test_from=str(day * DAY))
        train = chain.make("train", day, day, after=tmp_path / "before", split="none")
        for found in (chain.rows("score"), chain.rows("train")):
            assert all(found[table].items() >= rows.items() for table, rows in known.items())

        whole = {"test_from": str(day * DAY)}
        if day > FIRST:
            assert (score.examples, score.past) == (0, len(chain.log.days(0, day - 1)))
        else:
            assert score.examples == len(chain.log.days(begin, begin))
            whole["train_from"] = str(begin * DAY)
        chain.make("whole", 0, day, **whole)
        chain.same("score", "whole", examples=day == FIRST)
        assert score.tests == len(chain.log.days(day, day))

        begin = day if day > FIRST else begin
        chain.make("whole", 0, day, split="none", train_from=str(begin * DAY))
        chain.same("train", "whole")
        assert train.examples == len(chain.log.days(begin, day))
        assert train.tests == 0
        shutil.rmtree(tmp_path / "before")


@pytest.mark.parametrize("name", ["sequence", "ties are cut"])
def test_what_was_held_out_is_trained_on_the_next_day(tmp_path: Path, name: str) -> None:
    """Each day a validation and a test, of half a day each; two days at a time at the end."""
    chain = Chain(tmp_path, name, seed=9)
    chain.make("out", 0, 2, test_from="250", validation_from="220")
    begin = 220
    for first, last in ((3, 3), (4, 6)):
        (tmp_path / "out").rename(tmp_path / "before")
        parts = {
            "validation_from": str(last * DAY + 30),
            "test_from": str(last * DAY + 60),
        }
        chain.make("out", first, last, after=tmp_path / "before", **parts)
        chain.make("whole", 0, last, train_from=str(begin), **parts)
        chain.same("out", "whole")
        begin = last * DAY + 30
        shutil.rmtree(tmp_path / "before")
