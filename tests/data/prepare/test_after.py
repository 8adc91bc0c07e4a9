"""Prepared day after day, a dataset is that of all days at once, but for its numbers."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.prepare import stages
from dat_rec.data.prepare.journal import made_of
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.schema import Schema
from dat_rec.data.sources.parquet_log import ParquetLog
from dat_rec.data.sources.synthetic import Synthetic
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
from tests.data.prepare.test_bounds import drop_last
from tests.data.sources.prepared import digest as digest_of
from tests.data.sources.prepared import own, refused
from tests.data.validate.test_validate import Columns, edit, set_value, swap
from tests.dense_log import DENSE, write_dense_log

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
WEIGHTS = {"label": "event", "label_weights": "click=1,cart=3,purchase=4.5"}
VARIANTS["weights"] = {"history_length": 1000, **WEIGHTS}
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
        self.whole_tables = False

    def make(self, out: str, first: int, last: int, **changes: Any) -> Schema:
        """The dataset of the log's days; its tables have what the days up to the last one know."""
        tables = {}
        if "category" in self.options:
            # Of every other day, the tables have what is new alone.
            new = first if last % 2 and not self.whole_tables else 0
            for name, rows in (("items", self.log.items), ("users", self.log.users)):
                known = [row for row in rows if new <= row["day"] <= last]
                tables[name] = write_rows(self.folder / f"{name}.parquet", known)
        log = write_rows(self.folder / "log.parquet", self.log.days(first, last))
        options = ParquetLog(
            interactions=log,
            out=self.folder / out,
            overwrite=True,
            trend=False,  # its half-life is the first dataset's (test_trend.py)
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


@pytest.mark.parametrize("name", ["sequence", "ties are cut", "weights"])
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


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``before``, which tests on day 2; a log of day 3; and its tables."""
    folder = tmp_path_factory.mktemp("days")
    chain = Chain(folder, "ties are cut", seed=3)
    chain.make("before", 0, 2, test_from="200")
    chain.make("out", 3, 3, after=folder / "before", test_from="350")
    return folder


def day_3(days: Path, out: Path, **changes: Any) -> ParquetLog:
    return ParquetLog(
        **{
            "interactions": days / "log.parquet",
            "items": days / "items.parquet",
            "users": days / "users.parquet",
            "after": days / "before",
            "out": out,
            "test_from": "350",
            **VARIANTS["ties are cut"],
            **changes,
        }
    )


def whole_tables(folder: Path) -> dict[str, Path]:
    """Tables of all items and users, of all days."""
    log = make_log(3, DAYS)
    return {
        "items": write_rows(folder / "all_items.parquet", log.items),
        "users": write_rows(folder / "all_users.parquet", log.users),
    }


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"train_from": "300"}, "--train-from 300 and --after: examples begin where the training of"),
    ({"history_length": 5}, "--history-length 5: is 4 in "),
    ({"item_features": ("tags",)}, "features are other ones: those of this log lack 'price' (item"),
    ({"item_features": ("price", "tags")}, "those of this log are more, or in another order"),
    ({"user_features": ()}, "those of this log lack 'city' (query, one value)"),
    ({"category": "name"}, "those of this log lack 'kind' (item, one value)"),
    ({"sequence": "place"}, "the log has a sequence, and that dataset has none: pass the same"),
    ({"text_ids": True}, "item_id is BIGINT there, and VARCHAR in this log"),
    ({"split": "last", "test_from": None}, "needs a test that is the last of the log by time"),
    ({"split": "random", "test_from": None}, "needs a test that is the last of the log by time"),
    ({"split_group": "user_id", "test_from": None}, "needs a test that is the last of the log"),
    ({"split_column": "place", "test_from": None}, "place"),
    ({"test_from": "900"}, "no interaction is held out to test on (test: from 900 on)"),
    ({"split": "none"}, "--test-from needs --split time: it is none"),
    ({"split": "none", "test_from": None, "test_share": 0.2}, "--test-share has no meaning for"),
    ({"after": Path("nowhere")}, "nowhere: no such file or folder"),
    ({"test_until": "300"}, "--test-until 300: no interaction is earlier"),
    (WEIGHTS, "before: its examples have no weights: leave --label-weights out, or prepare all"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_options_that_the_dataset_contradicts(
    days: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    refused(day_3(days, tmp_path / "out", **changes), words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label_weights": "click=1,cart=2,purchase=4.5"}, "cart=3,purchase=4.5"),
        ({"label_weights": "click=1,cart=3"}, "pass --label-weights click=1,cart=3,purchase=4.5"),
        ({"label": None, "label_weights": None}, "its examples have other weights: pass"),
        ({"label_weights": None, "positive_labels": ("cart",)}, "other weights: pass --label"),
    ],
)
def test_a_chain_keeps_its_weights(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    chain = Chain(tmp_path, "weights")
    chain.make("before", 0, 2, split="none")
    log = write_rows(tmp_path / "log.parquet", chain.log.days(3, 3))
    given = {**VARIANTS["weights"], "after": tmp_path / "before", "split": "none", **changes}
    refused(own(tmp_path, interactions=log, **given), words)
    # In another order they are the same.
    same = {**WEIGHTS, "label_weights": "purchase=4.50,click=1,cart=3", "positive_labels": ()}
    schema = prepare(own(tmp_path, interactions=log, **{**given, **same}))
    assert schema.example_weights == {"click": 1.0, "cart": 3.0, "purchase": 4.5}
    assert "purchase (weight 4.5, 0 rows)" in schema.notes[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"positive_labels": ("cart",)}, "its positives: event is cart or purchase, and those of"),
        ({"label": None, "positive_labels": ()}, "those of this log: all: pass the same options"),
    ],
)
def test_a_chain_keeps_its_positives(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    chain = Chain(tmp_path, "plain")
    of = {"label": "event", "positive_labels": ("cart", "purchase")}
    chain.make("before", 0, 2, split="none", **of)
    log = write_rows(tmp_path / "log.parquet", chain.log.days(3, 3))
    given = {**chain.options, **of, "after": tmp_path / "before", "split": "none"}
    refused(own(tmp_path, interactions=log, **{**given, **changes}), words)
    # A day may lack a kind of event, and this one lacks purchases; in what order they are named is
    # all one.
    carts = sum(row["event"] == "cart" for row in chain.log.days(3, 3))
    given["positive_labels"] = ("purchase", "cart")
    schema = prepare(own(tmp_path, interactions=log, **given))
    assert (schema.examples, "purchase" in {r["event"] for r in chain.log.days(3, 3)}) == (
        carts,
        False,
    )


def test_what_is_no_such_dataset(days: Path, tmp_path: Path) -> None:
    refused(day_3(days, days / "before", overwrite=True), "before holds the input")
    refused(day_3(days, days / "before" / "out"), "out lies in --after")
    refused(day_3(days, tmp_path / "out", after=days), "is not a prepared dataset")
    other = Synthetic(out=tmp_path / "out", after=days / "before", history_length=4)
    refused(other, "was made of the source parquet, this is synthetic: use that one")
    # Of a test that is not the last of the log, training is not over where it begins.
    free: dict[str, Any] = {"after": None, "test_from": None, **whole_tables(tmp_path)}
    random = day_3(days, tmp_path / "random", split="random", **free)
    prepare(random)
    words = "trains on what is as late as what it holds out, or later"
    refused(day_3(days, tmp_path / "out", after=random.out), words)
    flat = write_rows(tmp_path / "flat.parquet", make_log(1, 1).rows[:1] * 3)
    options = ParquetLog(interactions=flat, out=tmp_path / "flat", unordered=True, split="random")
    write_rows(flat, [{"user_id": n % 5, "item_id": n % 7} for n in range(60)])
    prepare(options)
    words = "its log has no order, and so no day follows another"
    refused(day_3(days, tmp_path / "out", after=options.out, history_length=50), words)


def test_datasets_of_other_engines_that_cannot_go_on(days: Path, tmp_path: Path) -> None:
    before = tmp_path / "before"
    shutil.copytree(days / "before", before)
    schema = Schema.load(before)
    cases = {
        "has no feature 'history', of which": tuple(
            one for one in schema.features if one.name != "history"
        ),
        "feature 'tags' looks up the table of another one, 'kind'": tuple(
            replace(one, table="kind", rows=schema.feature("kind").rows)
            if one.name == "tags"
            else one
            for one in schema.features
        ),
    }
    for words, features in cases.items():
        replace(schema, features=features).save(before)
        refused(day_3(days, tmp_path / "out", after=before), words)
    schema.save(before)
    (before / "test.parquet").unlink()
    words = f"--after {before}: cannot be read (", "test.parquet"
    refused(day_3(days, tmp_path / "out", after=before), *words)


BROKEN: list[tuple[str, Callable[[Columns], Any], str]] = [
    ("past/part-00000.parquet", set_value("time", 3, 205), "time is at or after train_from"),
    ("past/part-00000.parquet", drop_last, "rows, and schema.json says"),
    ("seen/part-00001.parquet", set_value("count", 0, 7), "training interactions are of the pair"),
    ("seen/part-00001.parquet", swap(3, 7), "are not sorted by user_row and item_index"),
    ("seen/part-00000.parquet", drop_last, "training interactions are of the pair"),
]


@pytest.mark.parametrize(("name", "change", "words"), BROKEN)
def test_a_wrong_part_is_found(
    days: Path, tmp_path: Path, name: str, change: Callable[[Columns], Any], words: str
) -> None:
    shutil.copytree(days / "out", tmp_path / "out")
    (tmp_path / "out" / "sha256.json").unlink()
    edit(tmp_path / "out" / name, change)
    faults = [str(fault) for fault in validate(tmp_path / "out", threads=1)]
    assert any(words in fault for fault in faults), faults


def test_a_part_that_the_schema_does_not_know_is_named(days: Path, tmp_path: Path) -> None:
    shutil.copytree(days / "out", tmp_path / "out")
    (tmp_path / "out" / "sha256.json").unlink()
    (tmp_path / "out/seen/part-00001.parquet").rename(tmp_path / "out/seen/part-00002.parquet")
    shutil.copy(days / "before/seen.parquet", tmp_path / "out")
    faults = [str(fault) for fault in validate(tmp_path / "out", threads=1)]
    assert any("part-00001.parquet: the file is missing" in fault for fault in faults)
    for path in ("seen/part-00002.parquet", "seen.parquet"):
        assert any(f"{path}: schema.json knows of no such file" in fault for fault in faults)


def test_a_number_stays_a_number(days: Path, tmp_path: Path) -> None:
    items = pq.read_table(days / "items.parquet")
    price = items["price"].cast(pa.int64())
    whole = items.set_column(items.schema.get_field_index("price"), "price", price)
    pq.write_table(whole, tmp_path / "items.parquet")
    options = day_3(days, tmp_path / "out", items=tmp_path / "items.parquet")
    refused(options, "feature 'price' is a number there: read it as that (--numbers)")
    prepare(replace(options, numbers=("price",)))
    assert facts_of(tmp_path / "out", ties=False) == facts_of(days / "out", ties=False)


def test_buckets_are_those_of_the_dataset_before(days: Path) -> None:
    vocabulary = read(days / "before" / "vocabularies" / "price")
    edges = [float(row["value"][1:].split(",")[0]) for row in vocabulary[1:]]
    assert read(days / "out" / "vocabularies" / "price") == vocabulary
    price = {row["item_id"]: row["price"] for row in read(days / "items")}
    found = {row["item_id"]: row["price"] for row in read(days / "out" / "items")}
    known = {row["item_id"]: row["price"] for row in read(days / "before" / "items")}
    assert len(found.keys() - known.keys()) >= 5
    for item, bucket in found.items():
        wanted = sum(edge <= price[item] for edge in edges) if item in price else known[item]
        assert bucket == wanted


def test_late_rows_are_counted_and_left_out(days: Path, tmp_path: Path) -> None:
    """Rows of days that the dataset has, as of a log that is read from its beginning."""
    rows = make_log(3, DAYS).days(0, 3)
    late = [row for row in rows if row["time"] <= 299]
    log = write_rows(tmp_path / "log.parquet", rows)
    options = day_3(days, tmp_path / "out", interactions=log, max_rejected=1)
    schema = prepare(options)
    kind = "late: before the end of the dataset of --after"
    end = max(row["time"] for row in rows if row["time"] < 300) + 1
    assert schema.rejected == {kind: sum(row["time"] < end for row in rows)} == {kind: len(late)}
    assert facts_of(tmp_path / "out", ties=False) == facts_of(days / "out", ties=False)
    refused(
        replace(options, out=tmp_path / "x", max_rejected=0.01), kind, f"(value: {late[0]['time']})"
    )
    # Where the log was said to end, it has ended, with rows or without.
    bounds = {"test_from": "320", "test_until": "380"}
    ended = day_3(days, tmp_path / "ended", after=None, **bounds, **whole_tables(tmp_path))
    prepare(ended)
    of_day = make_log(3, DAYS).days(3, 3)
    counts = {
        "after": sum(row["time"] >= 380 for row in of_day),
        "late": sum(row["time"] < 380 for row in of_day),
    }
    options = day_3(days, tmp_path / "late", after=ended.out, test_from="0", max_rejected=1)
    schema = prepare(options)
    assert (schema.tests, schema.rejected) == (counts["after"], {kind: counts["late"]})


def test_the_files_before_are_linked_and_neither_read_nor_written(
    days: Path, tmp_path: Path
) -> None:
    before, out = days / "before", days / "out"
    assert (out / "seen/part-00000.parquet").samefile(before / "seen.parquet")
    said = json.loads((out / "sha256.json").read_text())
    assert said == {
        name: digest for name, digest in digest_of(out).items() if name != "sha256.json"
    }
    # On another disk they are copied.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dat_rec.data.prepare.parts.os.link", _no_link)
        prepare(day_3(days, tmp_path / "out"))
    assert digest_of(tmp_path / "out") == digest_of(out)
    assert not (tmp_path / "out/seen/part-00000.parquet").samefile(before / "seen.parquet")


def _no_link(*_: Any) -> None:
    raise OSError(18, "Invalid cross-device link")


def test_ranges_and_row_groups_change_nothing(
    days: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In many ranges of users, of a dataset with many row groups, and several files."""
    for name, value in {
        "interactions.RANGE_ROWS": 40,
        "write.ROW_GROUP": 8,
        "write.PIECE": 3,
        "write.FILE_ROWS": 32,
    }.items():
        monkeypatch.setattr(f"dat_rec.data.prepare.{name}", value)
    chain = Chain(tmp_path, "ties are cut", seed=3)
    chain.make("before", 0, 2, test_from="200")
    made = chain.make("out", 3, 3, after=tmp_path / "before", test_from="350", threads=3)
    assert len(made.example_files) > 3
    assert facts_of(tmp_path / "out", ties=False) == facts_of(days / "out", ties=False)


def test_how_the_files_of_the_dataset_are_written_changes_nothing(
    days: Path, tmp_path: Path
) -> None:
    """As of the previous release: dictionaries alone, zstd."""
    before = tmp_path / "before"
    shutil.copytree(days / "before", before)
    for path in before.rglob("*.parquet"):
        pq.write_table(pq.read_table(path), path, compression="zstd", row_group_size=16)
    prepare(day_3(days, tmp_path / "out", after=before))
    made, expected = digest_of(tmp_path / "out"), digest_of(days / "out")
    # What was taken over is as it was there.
    own_files = {name for name in expected if "part-00000" not in name and name != "sha256.json"}
    assert own_files > {"users.parquet", "items.parquet", "test.parquet", "seen/part-00001.parquet"}
    assert all(made[name] == expected[name] for name in own_files)
    assert facts_of(tmp_path / "out", ties=False) == facts_of(days / "out", ties=False)


def test_a_dataset_that_is_replaced_meanwhile_is_noticed(
    days: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(days / "before", tmp_path / "before")
    real = stages.write_past

    def replaced(base: Any, path: Path) -> int:
        shutil.rmtree(tmp_path / "before")
        shutil.copytree(days / "before", tmp_path / "before")
        return real(base, path)

    monkeypatch.setattr(stages, "write_past", replaced)
    refused(
        day_3(days, tmp_path / "out", after=tmp_path / "before"),
        f"--after {tmp_path / 'before'}: was replaced while it was read: start again",
    )


KILLED = """
import os, signal, sys
from pathlib import Path
from _pytest.monkeypatch import MonkeyPatch, derive_importpath
from dat_rec.data.prepare.pipeline import prepare
from tests.data.prepare.test_after import day_3

name, target = derive_importpath(sys.argv[3], True)
MonkeyPatch().setattr(target, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
prepare(day_3(Path(sys.argv[1]), Path(sys.argv[2])))
"""


@pytest.mark.parametrize(
    ("where", "stage"),
    [
        ("dat_rec.data.prepare.stages.hold_out", "check"),
        ("dat_rec.data.prepare.stages.grow_users", "split"),
        ("dat_rec.data.prepare.user_ranges.find_pairs", "number"),
        ("dat_rec.data.prepare.stages.write_past", "users"),
        ("dat_rec.data.prepare.pipeline.Schema.save", "examples"),
    ],
)
def test_a_killed_prepare_goes_on_to_the_same_bytes(
    where: str, stage: str, days: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(days), str(tmp_path / "out"), where],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    prepare(day_3(days, tmp_path / "out"))
    assert f"going on after the stage {stage!r}" in capsys.readouterr().err
    assert digest_of(tmp_path / "out") == digest_of(days / "out")


def test_another_dataset_before_starts_anew(days: Path, tmp_path: Path) -> None:
    first = made_of(day_3(days, tmp_path / "out"))
    assert made_of(day_3(days, tmp_path / "out")) == first
    shutil.copytree(days / "before", tmp_path / "before")
    (tmp_path / "before" / "schema.json").write_text("{}")
    assert made_of(day_3(days, tmp_path / "out", after=tmp_path / "before")) != first
    assert "dataset before" not in made_of(day_3(days, tmp_path / "out", after=None))


def test_dense_features_are_those_of_all_days(tmp_path: Path) -> None:
    """Who is not in today's table keeps the values of before."""
    options = write_dense_log(tmp_path)
    log = pq.read_table(tmp_path / "log.parquet")
    half = log.num_rows // 2
    made: dict[str, dict[str, list[Any]]] = {}

    def make(out: str, rows: pa.Table, **changes: Any) -> None:
        pq.write_table(rows, tmp_path / "log.parquet")
        prepare(own(tmp_path, **{**options, "out": tmp_path / out, **changes}))
        assert validate(tmp_path / out) == []
        items = pq.read_table(tmp_path / out / "items.parquet").sort_by("item_id")
        users = pq.read_table(tmp_path / out / "users.parquet").sort_by("user_id")
        made[out] = {
            name: (users if name in ("face", "since") else items)[name].to_pylist()
            for name in DENSE
        }

    test_from = str(log["time"][-150].as_py())
    make("before", log[:half], split="none")
    items = pq.read_table(options["items"])
    prices = items["price"].to_pylist()
    prices[2] += 1
    today = items.set_column(items.column_names.index("price"), "price", pa.array(prices))
    pq.write_table(today, options["items"])
    make("whole", log, test_from=test_from)
    pq.write_table(today[2:3], options["items"])
    make("out", log[half:], after=tmp_path / "before", test_from=test_from)
    assert made["out"] == made["whole"] != made["before"]
    found, wanted = (Schema.load(tmp_path / name).dense for name in ("out", "whole"))
    for one, other in zip(found, wanted, strict=True):
        assert (one.name, one.side, one.width) == (other.name, other.side, other.width)
        assert one.mean == pytest.approx(other.mean, rel=1e-9)
        assert one.scale == pytest.approx(other.scale, rel=1e-9)


def test_a_vector_of_another_size_does_not_follow(tmp_path: Path) -> None:
    options = write_dense_log(tmp_path)
    prepare(own(tmp_path, **{**options, "out": tmp_path / "before"}))
    items = pq.read_table(options["items"])
    texts = pa.array([[1.0, 2.0]] * items.num_rows)
    items = items.set_column(items.column_names.index("text"), "text", texts)
    pq.write_table(items, options["items"])
    changes = {"after": tmp_path / "before", "out": tmp_path / "out"}
    refused(own(tmp_path, **{**options, **changes}), "'text' (item, a vector of 5 numbers)")


@pytest.mark.parametrize("side", ["item", "user"])
def test_features_may_have_any_name(tmp_path: Path, side: str) -> None:
    names = ("code", "found", "kept", "last", "items", "row_number", "weight", "place")
    rows = [{f"{side}_id": n, **{name: f"{name} {n % 3}" for name in names}} for n in range(9)]
    table = write_rows(tmp_path / "table.parquet", rows)
    tables: dict[str, Any] = {f"{side}s": table, f"{side}_features": names}
    for number, out in enumerate(("before", "out")):
        log = [{"user_id": n % 9, "item_id": n % 7, "time": 60 * number + n} for n in range(60)]
        write_rows(tmp_path / "log.parquet", log)
        rules = {"after": tmp_path / "before", "capacity": 8} if number else {}
        prepare(own(tmp_path, out=tmp_path / out, split="none", **tables, **rules))
        assert validate(tmp_path / out) == []


def test_a_category_may_be_called_code(tmp_path: Path) -> None:
    write_rows(tmp_path / "items.parquet", [{"item_id": n, "code": f"c {n % 3}"} for n in range(9)])
    log = [{"user_id": n % 9, "item_id": n % 7, "time": n} for n in range(60)]
    write_rows(tmp_path / "log.parquet", log)
    prepare(own(tmp_path, items=tmp_path / "items.parquet", category="code"))
    assert validate(tmp_path / "out") == []


def test_a_table_of_what_is_new_may_be_empty(days: Path, tmp_path: Path) -> None:
    for name in ("items", "users"):
        pq.write_table(pq.read_table(days / f"{name}.parquet")[:0], tmp_path / f"{name}.parquet")
    log = [row for row in read(days / "log") if row["item_id"] in known_items(days)]
    options = day_3(
        days,
        tmp_path / "out",
        interactions=write_rows(tmp_path / "log.parquet", log),
        items=tmp_path / "items.parquet",
        users=tmp_path / "users.parquet",
    )
    assert prepare(options).items == len(known_items(days))
    assert validate(tmp_path / "out") == []


def known_items(days: Path) -> set[Any]:
    return {row["item_id"] for row in read(days / "before" / "items")}


def test_times_of_another_unit_are_refused(days: Path, tmp_path: Path) -> None:
    log = pq.read_table(days / "log.parquet")
    stamps = pa.array([10**15 + time for time in log["time"].to_pylist()], pa.timestamp("us"))
    other = log.set_column(log.column_names.index("time"), "time", stamps)
    pq.write_table(other, tmp_path / "log.parquet")
    options = day_3(days, tmp_path / "out", interactions=tmp_path / "log.parquet", test_from=None)
    refused(options, "its times are integers, up to 29", "and this log's are timestamps")
