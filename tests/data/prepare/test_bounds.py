"""Examples of the last days, all else of the whole log; and a log that ends before its files do."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dat_rec.data.sources.amazon import Amazon
from dat_rec.data.sources.synthetic import Synthetic
from dat_rec.data.validate.validate import validate
from tests.data.prepare.test_history import log_without_order
from tests.data.sources.prepared import Prepared, Triple, digest, own, read, refused, write
from tests.data.validate.test_validate import Columns, edit, set_value

FROM, TEST = 100, 170
"""Where examples begin, and the test; times are 0 to 199."""
OPTIONS: dict[str, dict[str, Any]] = {
    "test from": {"test_from": f"{TEST}"},
    "shares": {"test_share": 0.15, "validation_share": 0.2},
    "validation from": {"test_from": f"{TEST}", "validation_from": "140", "history_length": 3},
    "sequence": {"test_from": f"{TEST}", "sequence": "place", "history_length": 4},
    "tables": {
        "test_from": f"{TEST}",
        "item_features": ("price", "tags"),
        "user_features": ("city",),
    },
}


def write_log(folder: Path, seed: int = 0, until: int = 200) -> list[Triple]:
    """A random log, with repeats and equal times: the rows before a time."""
    rng = np.random.default_rng(seed)
    user, item, time = (rng.integers(0, most, 700) for most in (25, 40, 200))
    # Some items, and users, are of the past alone, or of the test.
    item = np.where((item > 34) & (time >= FROM), 3, item)
    item = np.where((item > 31) & (item < 35) & (time < TEST), 4, item)
    user = np.where((user > 21) & (time >= FROM), 2, user)
    kept = time < until
    user, item, time = user[kept], item[kept], time[kept]
    place = np.arange(700)[kept] % 3
    write(folder / "log.parquet", user_id=user, item_id=item, time=time, place=place)
    tags = [[f"tag {number % 4}", f"tag {number % 7}"] for number in range(45)]
    prices = [number * 1.5 for number in range(45)]
    write(folder / "items.parquet", item_id=list(range(45)), price=prices, tags=tags)
    write(folder / "users.parquet", user_id=list(range(30)), city=[f"{n % 4}" for n in range(30)])
    return list(zip(user.tolist(), item.tolist(), time.tolist(), strict=True))


def make(folder: Path, out: str, **changes: Any) -> Prepared:
    tables = {}
    if "item_features" in changes:
        tables = {name: folder / f"{name}.parquet" for name in ("items", "users")}
    made = Prepared(own(folder, out=folder / out, **tables, **changes))
    assert validate(folder / out) == []
    return made


def rows_of(folder: Path) -> Counter[str]:
    """The examples, each as text of all its columns."""
    return Counter(json.dumps(row) for row in pq.read_table(folder / "examples").to_pylist())


@pytest.mark.parametrize("name", OPTIONS)
def test_all_but_the_examples_are_the_whole_logs(tmp_path: Path, name: str) -> None:
    rows = write_log(tmp_path, seed=[*OPTIONS].index(name))
    whole = make(tmp_path, "whole", **OPTIONS[name])
    made = make(tmp_path, "out", **OPTIONS[name], train_from=f"{FROM}")
    found, wanted = digest(tmp_path / "out"), digest(tmp_path / "whole")
    differing = {path for path in found | wanted if found.get(path) != wanted.get(path)}
    assert differing == {
        *("schema.json", "sha256.json", "past.parquet", "examples/part-00000.parquet")
    }
    late = [
        text for text in rows_of(tmp_path / "whole").elements() if json.loads(text)["time"] >= FROM
    ]
    assert rows_of(tmp_path / "out") == Counter(late)

    # The same, of the log itself.
    training = [
        row for row in rows if row not in {*made.triples("test"), *made.triples("validation")}
    ]
    assert made.triples("train") == sorted(
        (row for row in training if row[2] >= FROM), key=lambda row: (row[2], row[0], row[1])
    )
    users = [row["user_id"] for row in pq.read_table(tmp_path / "out/users.parquet").to_pylist()]
    items = [row["item_id"] for row in pq.read_table(tmp_path / "out/items.parquet").to_pylist()]
    past = read(tmp_path / "out" / "past.parquet", "user_row", "item_index", "time")
    of_past = Counter((users[user], items[item], time) for user, item, time in past)
    assert of_past == Counter(row for row in training if row[2] < FROM)
    assert made.schema.past == len(past)
    assert made.schema.training == whole.schema.examples == len(training)
    assert {item for item in range(35, 40) if made.items[item]["train_count"]} == {*range(35, 40)}
    words = f"{len(past)} of {len(training)} training interactions are earlier"
    assert f"examples: from {FROM} on: {words}" in made.schema.split
    if name != "sequence":
        had = defaultdict(list)
        for user, item, time in training:
            had[user, item].append(time)
        for row in made.train:
            assert row["repeat"] == (min(had[row["user_id"], row["item_id"]]) < row["time"])


def test_without_the_options_the_schema_says_nothing_of_them(tmp_path: Path) -> None:
    write_log(tmp_path)
    made = make(tmp_path, "out")
    said = json.loads((tmp_path / "out" / "schema.json").read_text())
    assert not {"past", "train_from", "test_until"} & said.keys()
    assert made.schema.training == made.schema.examples


def test_a_bound_before_the_log_leaves_it_as_it_is(tmp_path: Path) -> None:
    write_log(tmp_path)
    make(tmp_path, "whole", test_from="170")
    made = make(tmp_path, "out", test_from="170", train_from="-5", test_until="1000")
    found, wanted = digest(tmp_path / "out"), digest(tmp_path / "whole")
    assert {name for name in wanted if found[name] != wanted[name]} == {
        *("schema.json", "sha256.json")
    }
    assert found.keys() == wanted.keys()
    assert (made.schema.past, made.schema.train_from, made.schema.test_until) == (0, -5, 1000)
    assert "0 later interactions are left out" in made.schema.split


@pytest.mark.parametrize("name", ["shares", "validation from", "tables"])
def test_the_log_ends_where_it_is_told_to(tmp_path: Path, name: str) -> None:
    """Items that only later rows name are gone too, where there is no catalogue."""
    rows = write_log(tmp_path)
    options = {**OPTIONS[name], "train_from": f"{FROM}"}
    made = make(tmp_path, "out", **options, test_until="185")
    left = write_log(tmp_path, until=185)
    wanted = make(tmp_path, "cut", **options)
    assert made.triples("test") == wanted.triples("test")
    found, whole = digest(tmp_path / "out"), digest(tmp_path / "cut")
    assert {path for path in found | whole if found.get(path) != whole.get(path)} == {
        *("schema.json", "sha256.json")
    }
    assert f"{len(rows) - len(left)} later interactions are left out" in made.schema.split
    assert (made.schema.rows_read, made.schema.test_until) == (len(left), 185)


def test_moments_are_read_as_those_of_the_split(tmp_path: Path) -> None:
    day = 24 * 3600 * 1_000_000
    times = [datetime(2026, 1, 1) + timedelta(days=n) for n in range(30)]
    write(tmp_path / "log.parquet", user_id=[1, 2] * 15, item_id=[1, 2, 3] * 10, time=times)
    bounds = {"train_from": "2026-01-10", "test_until": "2026-01-25 00:00:00"}
    made = make(tmp_path, "out", test_from="2026-01-20", **bounds)
    first = 1_767_225_600_000_000
    assert [row[2] for row in made.triples("train")] == [first + n * day for n in range(9, 19)]
    assert [row[2] for row in made.triples("test")] == [first + n * day for n in range(19, 24)]
    assert (made.schema.train_from, made.schema.test_until) == (first + 9 * day, first + 24 * day)


def test_threads_memory_and_ranges_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In many ranges of users, some of which have no example, and several files."""
    write_log(tmp_path)
    options = {"test_from": f"{TEST}", "train_from": "150", "test_until": "190"}
    make(tmp_path, "one", **options, threads=1)
    make(tmp_path, "two", **options, threads=2, memory_limit="200MB")
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    monkeypatch.setattr("dat_rec.data.prepare.interactions.RANGE_ROWS", 4)
    monkeypatch.setattr("dat_rec.data.prepare.write.ROW_GROUP", 8)
    monkeypatch.setattr("dat_rec.data.prepare.write.FILE_ROWS", 16)
    made = make(tmp_path, "many", **options, threads=2)
    assert len(made.schema.example_files) == -(-made.schema.examples // 16) > 2
    for name in ("examples", "users.parquet", "seen.parquet", "past.parquet", "test.parquet"):
        assert pq.read_table(tmp_path / "one" / name) == pq.read_table(tmp_path / "many" / name)


def test_of_users_without_an_order_those_of_the_last_days_train(tmp_path: Path) -> None:
    """Each user's interactions are of one time: audiences and histories are those of all."""
    log_without_order(tmp_path, times=3)
    whole = make(tmp_path, "whole", test_from="9")
    made = make(tmp_path, "out", test_from="9", train_from="1")
    assert made.schema.histories == "others"
    assert made.items == whole.items
    assert {row["user_id"] % 3 for row in made.train} == {1, 2}
    assert rows_of(tmp_path / "out") == Counter(
        text for text in rows_of(tmp_path / "whole").elements() if json.loads(text)["time"] >= 1
    )


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"test_from": "170", "train_from": "170"},
        "--train-from 170: no interaction from then on is left to train on: name a time before",
    ),
    (
        {"test_from": "170", "validation_from": "120", "train_from": "120"},
        "--train-from 120: no interaction from then on is left to train on",
    ),
    ({"train_from": "5000"}, "--train-from 5000: no interaction from then on is left to train on"),
    (
        {"test_from": "170", "test_until": "170"},
        "(test: from 170 on): name a later time than --test-until 170, or hold out more",
    ),
    ({"test_until": "0"}, "--test-until 0: no interaction is earlier: name a later time"),
    ({"test_from": "0", "test_until": "9"}, "no interaction is left to train on (test: from 0"),
    ({"train_from": "noon"}, "--train-from noon: is no integer, as the times are: write one"),
    ({"test_until": "x"}, "--test-until x: is no integer, as the times are: write one"),
    (
        {"split": "last", "train_from": "100"},
        "--train-from 100: needs a test that is the last of the log by time, and this one is not "
        "(test: the last interaction of each user",
    ),
    ({"split": "random", "test_until": "100"}, "--test-until 100: needs a test that is the last"),
    ({"split_group": "user_id", "train_from": "100"}, "--train-from 100: needs a test that is"),
    (
        {"split_column": "said", "train_from": "100"},
        "--split-column said and --train-from: the column says what trains and what tests",
    ),
    (
        {"unordered": True, "split": "random", "test_until": "100"},
        "--unordered and --test-until, which needs times",
    ),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_bounds_that_leave_nothing_or_mean_nothing(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    write_log(tmp_path)
    refused(own(tmp_path, **changes), words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": "ids", "train_from": "2020-02-01"}, "the shape ids has no times: leave it out"),
        ({"train_from": "soon"}, "--train-from soon: is no timestamp: write one like 2026-01-31"),
        ({"test_until": "2020-03-31"}, "name a later time than --test-until 2020-03-31"),
        ({"train_from": "2020-03-31"}, "--train-from 2020-03-31: no interaction from then on"),
    ],
)
def test_a_planted_world_has_bounds_in_utc(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    size: dict[str, Any] = {"users": 300, "items": 200, "interactions": 900}
    refused(Synthetic(out=tmp_path / "out", **size, **changes), words)


def test_leave_last_out_of_reviews_has_no_bounds(tmp_path: Path) -> None:
    """A source whose split is its own."""
    ratings = "".join(f"u{n % 3},B{n % 4:09},5.0,{n}\n" for n in range(60))
    (tmp_path / "ratings.csv").write_text(ratings)
    products = "".join(f'{{"asin": "B{n:09}", "category": ["a", "b"]}}\n' for n in range(4))
    (tmp_path / "meta.json").write_text(products)
    options = Amazon(
        out=tmp_path / "out",
        reviews=tmp_path / "ratings.csv",
        metadata=tmp_path / "meta.json",
        test_until="2026-01-01",
    )
    refused(options, "--test-until 2026-01-01: needs a test that is the last of the log by time")


def test_a_log_without_times_has_no_bounds(tmp_path: Path) -> None:
    write(tmp_path / "log.parquet", user_id=[1, 1, 2], item_id=[1, 2, 3])
    refused(own(tmp_path, split="last", train_from="2"), "--train-from 2: needs a test that is")


def drop_last(columns: Columns) -> None:
    for values in columns.values():
        values.pop()


BROKEN: list[tuple[str, Callable[[Columns], Any], str]] = [
    (
        "past.parquet",
        set_value("time", 3, FROM),
        f"time is at or after train_from of schema.json ({FROM})",
    ),
    ("past.parquet", set_value("item_index", 3, 44), "item_index is none of the"),
    ("past.parquet", set_value("user_row", 3, -1), "user_row is none of the"),
    (
        "past.parquet",
        set_value("item_index", 3, lambda n: 1 - n % 2),
        "training interactions are of",
    ),
    ("past.parquet", set_value("time", 3, lambda n: n - 150), "history must be the user's last"),
    ("past.parquet", drop_last, "rows, and schema.json says"),
    ("past.parquet", lambda columns: columns.pop("time"), "column 'time' is missing"),
    ("test.parquet", set_value("time", -1, 195), "time is at or after test_until of schema.json"),
    (
        "examples/part-00000.parquet",
        set_value("time", 0, FROM - 1),
        f"time is before train_from of schema.json ({FROM - 1})",
    ),
    (
        "examples/part-00000.parquet",
        lambda columns: columns.update(repeat=[not value for value in columns["repeat"]]),
        "repeat must be true where the user had the item earlier",
    ),
]


@pytest.mark.parametrize(("name", "change", "words"), BROKEN)
def test_a_wrong_past_is_found(
    tmp_path: Path, name: str, change: Callable[[Columns], Any], words: str
) -> None:
    write_log(tmp_path)
    make(tmp_path, "out", test_from=f"{TEST}", train_from=f"{FROM}", test_until="195")
    (tmp_path / "out" / "sha256.json").unlink()
    edit(tmp_path / "out" / name, change)
    faults = [str(fault) for fault in validate(tmp_path / "out")]
    assert any(words in fault for fault in faults), faults


def test_a_past_that_the_schema_does_not_know_is_named(tmp_path: Path) -> None:
    write_log(tmp_path)
    make(tmp_path, "out", train_from=f"{FROM}")
    folder = tmp_path / "out"
    (folder / "sha256.json").unlink()
    schema = json.loads((folder / "schema.json").read_text())
    without = {name: value for name, value in schema.items() if name != "past"}
    (folder / "schema.json").write_text(json.dumps(without))
    faults = [str(fault) for fault in validate(folder)]
    assert any("past.parquet: schema.json knows of no such file" in fault for fault in faults)
    del schema["train_from"]
    (folder / "schema.json").write_text(json.dumps(schema))
    (fault,) = validate(folder)
    assert f"past is {schema['past']}, and there is no train_from" in str(fault)
