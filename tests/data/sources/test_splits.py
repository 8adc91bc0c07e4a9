"""What is held out: by time, at random, or each user's last; with times and without."""

import hashlib
import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from dat_rec.data.validate.validate import validate
from tests.data.sources.prepared import Prepared, by_time, last_of_each_user, own, raw, refused
from tests.data.sources.prepared import write as write_columns

Row = tuple[Any, Any, int]
ROWS: list[Row] = [(row * row % 7, row % 11, 1000 - row // 3) for row in range(200)]


def write(path: Path, rows: list[Row], *, timed: bool = True, **more: list[Any]) -> None:
    users, items, times = zip(*rows, strict=True)
    write_columns(path, user_id=users, item_id=items, **({"time": times} if timed else {}), **more)


def split(made: Prepared) -> tuple[list[Row], list[Row]]:
    return made.triples("train"), made.triples("test")


def largest(rows: list[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Train and test, by the latter half of MD5 of seed|user|item|time; equal ones together."""

    def number(row: Row) -> int:
        text = "|".join(str(part) for part in (seed, *row))
        return int.from_bytes(hashlib.md5(text.encode()).digest()[8:], "little")

    numbers = sorted((number(row) for row in rows), reverse=True)
    cut = numbers[-(-len(rows) * round(share * 100) // 100) - 1]
    train, test = (
        (row for row in rows if number(row) < cut),
        (row for row in rows if number(row) >= cut),
    )
    return by_time(train), by_time(test)


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("share", [0.1, 0.25])
def test_a_random_share_is_that_of_the_hashes(tmp_path: Path, seed: int, share: float) -> None:
    write(tmp_path / "log.parquet", ROWS)
    made = Prepared(own(tmp_path, split="random", test_share=share, seed=seed))
    train, test = largest(ROWS, share, seed)
    assert split(made) == (train, test)
    assert f"a random {share * 100:g} % of interactions (seed {seed})" in made.schema.split
    assert f"{len(test)} of 200 are held out" in made.schema.split


def test_a_random_split_does_not_follow_the_order_of_the_rows(tmp_path: Path) -> None:
    write(tmp_path / "log.parquet", ROWS[::-1])
    assert split(Prepared(own(tmp_path, split="random"))) == largest(ROWS, 0.1, 0)


def test_last_interactions_that_are_equal_stay_together(tmp_path: Path) -> None:
    """User 0 has the last one twice; user 1 has one alone, twice."""
    rows = [(0, 5, 1), (0, 6, 2), (0, 6, 2), (0, 7, 2), (1, 6, 3), (1, 6, 3)]
    for last in ((0, 6, 2), (0, 7, 2)):
        log = [row for row in rows if row != last] + [row for row in rows if row == last]
        write(tmp_path / "log.parquet", log)
        made = Prepared(own(tmp_path, split="last", overwrite=True))
        assert split(made) == (
            by_time(row for row in log if row != last),
            [row for row in log if row == last],
        )
        assert validate(tmp_path / "out") == []


def test_the_last_of_each_user_is_held_out(tmp_path: Path) -> None:
    rows = [*ROWS, (99, 3, 5)]
    write(tmp_path / "log.parquet", rows)
    made = Prepared(own(tmp_path, split="last"))
    assert split(made) == last_of_each_user(rows)
    assert "the last interaction of each user who has two or more" in made.schema.split


def test_the_order_of_the_files_decides_between_equal_times(tmp_path: Path) -> None:
    rows = [(user, item, 5) for item in range(6) for user in range(3)]
    (tmp_path / "log").mkdir()
    write(tmp_path / "log" / "b.parquet", rows[9:])
    write(tmp_path / "log" / "a.parquet", rows[:9])
    made = Prepared(own(tmp_path, split="last", interactions=tmp_path / "log"))
    assert split(made) == last_of_each_user(rows)


def test_without_times_the_order_of_the_rows_is_the_order(tmp_path: Path) -> None:
    rows = [(user, item, place) for place, (user, item, _) in enumerate(ROWS, 1)]
    write(tmp_path / "log.parquet", ROWS, timed=False)
    made = Prepared(own(tmp_path, split="last"))
    assert split(made) == last_of_each_user(rows)
    for row in made.train:
        before = [i for u, i, place in rows if u == row["user_id"] and place < row["time"]]
        assert row["history"] == before[-50:]
    assert "the log has no times: the order of its rows" in made.schema.notes[1]
    made = Prepared(own(tmp_path, split="random", out=tmp_path / "b"))
    assert split(made) == largest(rows, 0.1, 0)


@pytest.mark.parametrize("timed", [True, False])
def test_the_rows_are_put_in_order_once(tmp_path: Path, timed: bool) -> None:
    """Not again by each of those who read the interactions."""
    write(tmp_path / "log.parquet", ROWS, timed=timed)
    database = duckdb.connect()
    own(tmp_path, split="last").register(database, tmp_path)
    query = "SELECT count(*), sum(place), min(time) FROM raw_interactions"
    assert (database.execute(query).fetchone() or ())[:2] == (200, 200 * 201 // 2)
    plan = database.execute(f"EXPLAIN {query}").fetchall()[0][1]
    assert "placed_log" in plan
    assert "WINDOW" not in plan


def test_a_bad_row_of_a_log_without_times_is_located(tmp_path: Path) -> None:
    write(tmp_path / "log.parquet", [ROWS[0], (None, 1, 0), *ROWS], timed=False)
    refused(own(tmp_path, split="last", max_rejected=0.0), "row 2: missing user_id")


def test_a_log_without_times_names_the_splits_that_need_none(tmp_path: Path) -> None:
    write(tmp_path / "log.parquet", ROWS, timed=False)
    words = "column 'time' is missing: it has user_id, item_id"
    refused(own(tmp_path), words, "pass --split last or --split random")
    refused(own(tmp_path, split="last", time="when"), "column 'when' is missing")


def bursts(early: int) -> list[Row]:
    return [(user, item, 5 if row < early else 9) for row, (user, item, _) in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("early", "held", "warned"),
    [(190, 10, "5.00%"), (50, 150, "75.00%"), (175, 25, ""), (166, 34, "17.00%"), (4, 196, "98")],
)
def test_what_was_held_out_is_said(
    tmp_path: Path, early: int, held: int, warned: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The earliest time is for training wherever there is a later one."""
    write(tmp_path / "log.parquet", bursts(early))
    made = Prepared(own(tmp_path))
    assert (made.schema.examples, made.schema.tests) == (200 - held, held)
    schema = json.loads((tmp_path / "out" / "schema.json").read_text())
    assert f"; {held} of 200 are held out ({held / 2:.2f}%)" in schema["split"]
    told = capsys.readouterr().err
    assert ("warning" in told) == bool(warned)
    if warned:
        assert f"warning: {held} of 200 are held out ({warned}" in told
        assert "where 10.00% were asked for" in told


def test_a_log_of_one_time_is_told_the_true_cure(tmp_path: Path) -> None:
    rows = bursts(0)
    write(tmp_path / "log.parquet", rows)
    message = refused(own(tmp_path), "all are of one time: pass --split last or --split random")
    assert "hold out less" not in message
    for how, expected in (("last", last_of_each_user(rows)), ("random", largest(rows, 0.1, 0))):
        assert split(Prepared(own(tmp_path, split=how, out=tmp_path / how))) == expected


def test_one_interaction_is_too_few(tmp_path: Path) -> None:
    write(tmp_path / "log.parquet", ROWS[:1])
    refused(own(tmp_path), "there is one interaction, to train on or to test on: give more")


LABELS: list[Any] = ["view", "view", "purchase", "add_to_cart", None]


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (LABELS, ("purchase",)),
        (LABELS, ("purchase", "add_to_cart")),
        ([1, 2, 3, 4, None], ("2", "4")),
        ([True, False, True, True, None], ("true",)),
        ([True, False, True, True, None], ("True",)),
        ([True, False, True, True, None], ("FALSE",)),
        (["View", "view", "VIEW", "x", None], ("View", "view")),
    ],
)
def test_positives_can_be_named(tmp_path: Path, labels: list[Any], named: tuple[str, ...]) -> None:
    write(tmp_path / "log.parquet", ROWS, event=labels * 40)
    options = own(tmp_path, label="event", positive_labels=named, max_rejected=0.7)
    wanted = {
        label
        for label in labels
        if str(label) in named
        or (isinstance(label, bool) and str(label).lower() == named[0].lower())
    }
    rows = raw(options, "user_id", "item_id", "time", "problem")
    good = [row[:3] for row in rows if row[3] is None]
    assert good == [row for place, row in enumerate(ROWS) if labels[place % 5] in wanted]
    assert [row[3] for row in rows if row[3] is not None] == ["missing label"] * 40
    made = Prepared(options)
    assert made.schema.rejected == {"missing label": 40}
    assert made.schema.notes[0] == f"positives: event is {' or '.join(named)}"


HELD = "it holds view, add_to_cart, purchase"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split": "last", "test_share": 0.2}, "--test-share has no meaning for --split last"),
        ({"split": "random", "test_from": "5"}, "--test-from needs --split time"),
        ({"split": "random", "test_share": 1.0}, "test share 1.0: must lie between 0 and 1"),
        (
            {"split": "last", "user_id": "each"},
            "no user has two that differ: pass --split time",
        ),
        ({"label": "event"}, f"'event' is text: name its positives by --positive-labels; {HELD}"),
        ({"label": "event", "positive_labels": ("purchase", "purchse")}, "labels purchse: "),
        ({"label": "event", "positive_labels": ("x",)}, "'event' holds view, add_to_cart, purch"),
        ({"positive_labels": ("view",)}, "--positive-labels needs --label"),
        ({"min_label": 2.0}, "--min-label needs --label"),
        (
            {"label": "event", "positive_labels": ("view",), "min_label": 1.0},
            "--min-label and --positive-labels: both",
        ),
        ({"label": "sure", "positive_labels": ("Yes",)}, "--positive-labels Yes: "),
        ({"label": "stars", "positive_labels": ("4",)}, "or pass --min-label"),
    ],
)
def test_options_that_contradict(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    stars, sure = [row / 2 for row in range(200)], [row % 2 == 0 for row in range(200)]
    columns = {"event": LABELS * 40, "stars": stars, "sure": sure, "each": list(range(200))}
    write(tmp_path / "log.parquet", ROWS, **columns)
    refused(own(tmp_path, **changes), words)


@pytest.mark.parametrize("second", ["no time", "text"])
def test_times_of_some_files_alone_are_no_log_without_times(tmp_path: Path, second: str) -> None:
    """A split that could do without times must not drop those that are there."""
    log = tmp_path / "log.parquet"
    log.mkdir()
    write(log / "a.parquet", ROWS[:100])
    texts = {"time": ["2026-01-01"] * 100} if second == "text" else {}
    write(log / "b.parquet", ROWS[100:], timed=False, **texts)
    refused(own(tmp_path, split="last"), "'time'", "b.parquet")
