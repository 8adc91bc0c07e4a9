"""Leave-last-out with a minimum, splits by a column and in groups; how many users are asked."""

import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from dat_rec.data.validate.validate import validate
from tests.data.sources.prepared import Prepared, Triple, bad_rows, by_time, own, refused, write

DRAW = random.Random(3)
ROWS: list[Triple] = [
    (min(DRAW.randrange(1, 40), DRAW.randrange(1, 40)), DRAW.randrange(9), time)
    for time in range(300)
]
"""Users of 1 to 20 interactions, at times that differ."""
COUNTS = Counter(user for user, _, _ in ROWS)
Spans = tuple[list[Triple], list[Triple], list[Triple]]


def log(folder: Path, rows: list[Triple] = ROWS, **more: Any) -> Path:
    users, items, times = zip(*rows, strict=True)
    return write(folder / "log.parquet", user_id=users, item_id=items, time=times, **more)


def spans(folder: Path, **changes: Any) -> Spans:
    made = Prepared(own(folder, overwrite=True, **changes))
    assert validate(folder / "out") == []
    return made.triples("train"), made.triples("validation"), made.triples("test")


def of_each_user(rows: list[Triple]) -> dict[Any, list[Triple]]:
    found: dict[Any, list[Triple]] = defaultdict(list)
    for row in by_time(rows):
        found[row[0]].append(row)
    return found


def test_users_with_too_few_give_no_test_and_no_validation(tmp_path: Path) -> None:
    """Of at least 5: the last is the test, the last but one validates; others are trained on."""
    log(tmp_path)
    train, validation, test = [], [], []
    for rows in of_each_user(ROWS).values():
        if len(rows) >= 5:
            test.append(rows.pop())
            validation.append(rows.pop())
        train += rows
    assert min(COUNTS.values()) < 4
    assert 4 in COUNTS.values()
    found = spans(tmp_path, split="last", split_minimum=5, validation_share=1.0)
    assert found == (by_time(train), by_time(validation), by_time(test))
    assert spans(tmp_path, split="last", split_minimum=5)[2] == by_time(test)


@pytest.mark.parametrize("share", [0.1, 0.34])
def test_the_last_share_of_each_user_is_held_out(tmp_path: Path, share: float) -> None:
    log(tmp_path)
    train, validation, test = [], [], []
    for rows in of_each_user(ROWS).values():
        for part in (test, validation):
            if len(rows) > 1:
                cut = len(rows) - min(len(rows) - 1, max(1, round(share * len(rows))))
                part += rows[cut:]
                del rows[cut:]
        train += rows
    found = spans(tmp_path, split_group="user_id", test_share=share, validation_share=share)
    assert found == (by_time(train), by_time(validation), by_time(test))


def test_groups_may_be_of_another_column_and_have_a_minimum(tmp_path: Path) -> None:
    shops = ["small" if row % 29 == 0 else f"shop {row % 3}" for row in range(300)]
    log(tmp_path, shop=shops)
    _, _, test = spans(tmp_path, split_group="shop", split_minimum=20)
    by_shop = Counter(shops[time] for _, _, time in test)
    assert by_shop == {shop: round(n / 10) for shop, n in Counter(shops).items() if shop != "small"}
    for shop in by_shop:
        times = [time for time in range(300) if shops[time] == shop]
        assert [t for _, _, t in test if shops[t] == shop] == times[-by_shop[shop] :]


def test_equal_times_of_a_group_stay_together(tmp_path: Path) -> None:
    """User 1 has all at one time, and is trained on; user 0 has two at the last time."""
    rows = [(0, 1, 1), (0, 2, 2), (0, 3, 3), (0, 4, 3), (1, 1, 5), (1, 2, 5)]
    log(tmp_path, rows)
    assert spans(tmp_path, split_group="user_id")[2] == [(0, 3, 3), (0, 4, 3)]
    log(tmp_path, rows, order=[1, 2, 3, 4, 6, 5])
    found = spans(tmp_path, split_group="user_id", sequence="order")[2]
    assert found == [(0, 4, 3), (1, 1, 5)]


def test_a_random_share_of_each_user_follows_the_seed_alone(tmp_path: Path) -> None:
    log(tmp_path)
    options = {"split": "random", "split_group": "user_id", "test_share": 0.3}
    train, _, test = spans(tmp_path, **options)
    held = Counter(user for user, _, _ in test)
    assert held == {u: max(1, round(0.3 * n)) for u, n in COUNTS.items() if n > 1}
    assert by_time(train + test) == by_time(ROWS)
    log(tmp_path, ROWS[::-1])
    assert spans(tmp_path, **options)[2] == test
    assert spans(tmp_path, **options, seed=1)[2] != test


SAID = [("train", "Test", " valid ")[row % 3] if row % 5 else "TRAINING" for row in range(300)]


def test_a_column_says_what_is_trained_on_validates_and_tests(tmp_path: Path) -> None:
    log(tmp_path, split=SAID)
    wanted = {"train": [], "Test": [], " valid ": [], "TRAINING": []}
    for row, said in zip(ROWS, SAID, strict=True):
        wanted[said].append(row)
    found = spans(tmp_path, split_column="split")
    train = by_time(wanted["train"] + wanted["TRAINING"])
    assert found == (train, by_time(wanted[" valid "]), by_time(wanted["Test"]))


def test_folders_may_say_it_and_times_may_lack(tmp_path: Path) -> None:
    for part in ("train", "test"):
        folder = tmp_path / "log" / f"split={part}"
        folder.mkdir(parents=True)
        rows = [row for row in ROWS if (row[2] % 4 == 0) == (part == "test")]
        users, items, _ = zip(*rows, strict=True)
        write(folder / "0.parquet", user_id=users, item_id=items)
    made = Prepared(own(tmp_path, interactions=tmp_path / "log", split_column="split"))
    pairs = sorted((row["user_id"], row["item_id"]) for row in made.test)
    assert pairs == sorted((user, item) for user, item, time in ROWS if time % 4 == 0)
    assert made.schema.validation == 0
    assert validate(tmp_path / "out") == []


def test_where_the_column_says_nothing_of_validation_a_share_may_be(tmp_path: Path) -> None:
    log(tmp_path, split=["train"] * 200 + ["test"] * 100)
    _, validation, test = spans(tmp_path, split_column="split", validation_share=0.25)
    assert (validation, test) == (ROWS[150:200], ROWS[200:])


def test_equal_interactions_are_held_out_together(tmp_path: Path) -> None:
    rows = [(0, 1, 1), (0, 1, 1), (0, 2, 2), (1, 1, 3), (1, 1, 3), (1, 2, 4), (1, 3, 5)]
    says = ["train", "test", "train", "train", "validation", "train", "test"]
    log(tmp_path, rows, split=says)
    train, validation, test = spans(tmp_path, split_column="split")
    assert train == [(0, 2, 2), (1, 2, 4)]
    assert validation == [(1, 1, 3), (1, 1, 3)]
    assert test == [(0, 1, 1), (0, 1, 1), (1, 3, 5)]
    made = Prepared(own(tmp_path, split_column="split", overwrite=True))
    words = "2 interactions have the user, item and time of a held-out one, and are held out with"
    assert any(note.startswith(words) for note in made.schema.notes)


@pytest.mark.parametrize("way", [{"split_column": "split"}, {"split": "random"}])
def test_a_log_without_order_knows_no_earlier_item(tmp_path: Path, way: dict[str, str]) -> None:
    """Histories are the user's other items, whatever the order of the rows; times are not read."""
    rows = sorted({(user % 9, item, 0) for user, item, _ in ROWS})
    says = ["test" if row % 4 == 0 else "validation" if row % 9 == 0 else "train" for row in
            range(len(rows))]  # fmt: skip
    options = {"unordered": True, "validation_share": None if "split_column" in way else 0.2, **way}
    found = []
    for order in (1, -1):
        users, items, _ = zip(*rows[::order], strict=True)
        columns = {"user_id": users, "item_id": items, "time": ["?"] * len(rows)}
        write(tmp_path / "log.parquet", **columns, split=says[::order])
        made = Prepared(own(tmp_path, overwrite=True, **options))
        assert validate(tmp_path / "out") == []
        of_user = defaultdict(set)
        for row in made.train:
            of_user[row["user_id"]].add(row["item_id"])
        for row in made.train:
            assert set(row["history"]) == of_user[row["user_id"]] - {row["item_id"]}
        found.append([made.triples(part) for part in ("train", "validation", "test")])
    assert found[0] == found[1]
    assert by_time(row for part in found[0] for row in part) == by_time(rows)
    if "split_column" in way:
        assert found[0][2] == by_time(rows[::4])


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_row_that_says_nothing_is_bad(tmp_path: Path, value: str | None) -> None:
    path = log(tmp_path, split=[*SAID[:6], value, *SAID[7:]])
    found = bad_rows(own(tmp_path, split_column="split"))
    assert found == [(str(path), 7, "missing split", "nothing")]


def test_a_row_without_a_group_is_bad(tmp_path: Path) -> None:
    path = log(tmp_path, shop=[*range(6), None, *range(293)])
    found = bad_rows(own(tmp_path, split_group="shop"))
    assert found == [(str(path), 7, "missing shop", "nothing")]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"split_column": "odd"},
            "--split-column odd: {log}: row 8: says 'holdout': it may say",
        ),
        (
            {"split_column": "number"},
            "--split-column number: {log}: the column is BIGINT: name",
        ),
        ({"split_column": "no"}, "column 'no' is missing"),
        ({"split_column": "all_train"}, "no interaction is held out to test on (test: where all_t"),
        ({"split_column": "all_test"}, "no interaction is left to train on (test: where all_test"),
        ({"split_column": "said", "split": "last"}, "--split-column said and --split: both choose"),
        ({"split_column": "said", "test_share": 0.2}, "said and --test-share: both choose the"),
        ({"split_column": "said", "test_from": "9"}, "said and --test-from: both choose the test"),
        ({"split_column": "said", "split_group": "user_id"}, "said and --split-group: both choose"),
        ({"split_column": "said", "validation_share": 0.1}, "--split-column said says validation"),
        ({"split_group": "user_id", "split": "last"}, "user_id has no meaning for --split last"),
        ({"split_group": "user_id", "test_from": "9"}, "user_id has no meaning for --test-from"),
        ({"split_group": "list"}, "--split-group list: {log}: the column is a list: name one of"),
        ({"split_group": "user_id", "test_share": 1.0}, "test share 1.0: must lie between 0 and 1"),
        ({"split_group": "time"}, "no time has 2 that differ: lower --split-minimum, or leave"),
        (
            {"unordered": True},
            "--unordered and --split time, which needs times: pass --split random",
        ),
        ({"unordered": True, "split": "last"}, "--unordered and --split last, which needs times"),
        ({"unordered": True, "split": "random", "time": "number"}, "--unordered and --time, which"),
        ({"split_minimum": 3}, "--split-minimum needs --split last or --split-group: pass one"),
        ({"split": "last", "split_minimum": 1}, "--split-minimum 1: must be at least 2"),
        ({"split": "last", "split_minimum": 999}, "no user has 999 that differ: pass --split time"),
    ],
)
def test_what_divides_nothing_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = log(
        tmp_path,
        said=SAID,
        odd=[*SAID[:7], "holdout", *SAID[8:]],
        number=[0] * 300,
        all_train=["train"] * 300,
        all_test=["test"] * 300,
        list=[[1]] * 300,
    )
    refused(own(tmp_path, **changes), words.format(log=path))


@pytest.mark.parametrize("newcomers", [0, 200])
def test_the_users_who_are_asked_are_counted_and_few_are_warned_of(
    tmp_path: Path, newcomers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the test, two queries are of unknown users, one of an unknown item, two of one user."""
    rows = [(user, user % 5, user) for user in range(newcomers + 10)]
    later = [(1, 2, 900), (1, 3, 901), (2, 99, 902), (-1, 2, 903), (-2, 2, 904)]
    log(tmp_path, rows + [(user + 5000 if user < 0 else user, i, t) for user, i, t in later])
    made = Prepared(own(tmp_path, test_from="900"))
    users = newcomers + 12
    said = f"and 1 of {users} users have a test query that a model can answer ({1 / users:.2%})"
    assert said in made.schema.split
    told = capsys.readouterr().err
    assert said in told
    warning = f"warning: the test asks 1 of {users} users, fewer than 5% (a query's user and item"
    assert (warning in told) == (newcomers > 0)
