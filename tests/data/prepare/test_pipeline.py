"""A small random log, prepared, against a naive Python loop over the same rows."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.dataset import Dataset
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.sources.parquet_log import ParquetLog
from tests.data.sources.prepared import digest, own, write

N = 5
TEST_SHARE = 0.2


@dataclass(frozen=True)
class Log:
    rows: list[tuple[int, str, int]]  # user, item, time
    items: dict[str, dict[str, Any]]
    users: dict[int, dict[str, Any]]

    def split(self) -> tuple[list[tuple[int, str, int]], list[tuple[int, str, int]]]:
        times = sorted(time for _, _, time in self.rows)
        cut = times[int(np.floor((1 - TEST_SHARE) * len(times)))]
        train = [row for row in self.rows if row[2] < cut]
        return train, [row for row in self.rows if row[2] >= cut]


def random_log() -> Log:
    """Few times, so that many are equal; users and items that only the tests or tables have."""
    generator = np.random.default_rng(7)
    items = {
        f"i{number:02}": {
            "dept": str(generator.choice(["food", "toys", "", "tools"])) or None,
            "tags": [str(tag) for tag in generator.choice(["a", "b", "c"], generator.integers(4))],
            "price": float(generator.integers(1, 100)),
        }
        for number in range(40)
    }
    users = {number: {"age": int(generator.integers(3))} for number in range(5, 60)}
    rows = []
    for _ in range(600):
        time = int(generator.integers(0, 30))
        user = int(generator.integers(0, 40 if time < 24 else 50))
        item = int(generator.zipf(1.5)) % (30 if time < 24 else 35)
        rows.append((user, f"i{item:02}", time))
    return Log(rows, items, users)


def write_log(log: Log, folder: Path) -> None:
    user, item, time = zip(*log.rows, strict=True)
    write(folder / "log.parquet", user_id=user, item_id=item, time=time)
    items = pa.Table.from_pylist([{"item_id": name, **row} for name, row in log.items.items()])
    pq.write_table(items, folder / "items.parquet")
    ages = [row["age"] for row in log.users.values()]
    write(folder / "users.parquet", user_id=list(log.users), age=ages)


def options(folder: Path, **changes: Any) -> ParquetLog:
    tables = {"items": folder / "items.parquet", "users": folder / "users.parquet"}
    features = {"item_features": ("tags", "price"), "user_features": ("age",)}
    sizes = {"history_length": N, "test_share": TEST_SHARE}
    return own(folder, **{**tables, "category": "dept", **features, **sizes, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Log, Dataset]:
    folder = tmp_path_factory.mktemp("log")
    log = random_log()
    write_log(log, folder)
    prepare(options(folder))
    return log, Dataset.open(folder / "out")


def rows_of(dataset: Dataset, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(dataset.folder / f"{name}.parquet").to_pylist()
    return rows


def vocabulary(dataset: Dataset, name: str) -> dict[int, Any]:
    table = pq.read_table(dataset.folder / "vocabularies" / f"{name}.parquet").to_pylist()
    return {row["index"]: row["value"] for row in table}


def ids(dataset: Dataset) -> tuple[dict[int, int], dict[int, str]]:
    """Embedding row → id, from the two tables."""
    users = {row["user"]: row["user_id"] for row in rows_of(dataset, "users") if row["user"]}
    items = {row["item"]: row["item_id"] for row in rows_of(dataset, "items") if row["item"]}
    return users, items


def naive_history(train: list[tuple[int, str, int]], user: int, time: int) -> list[tuple[int, str]]:
    return sorted((t, i) for u, i, t in train if u == user and t < time)


def check_history(found: list[str], earlier: list[tuple[int, str]]) -> None:
    """The last N, most recent last; those of equal times are free in their order."""
    assert len(found) == min(N, len(earlier))
    by_time: dict[int, Counter[str]] = defaultdict(Counter)
    for time, item in earlier:
        by_time[time][item] += 1
    rest = list(found)
    for time in sorted(by_time, reverse=True):
        group = by_time[time]
        size = min(group.total(), len(rest))
        last = Counter(rest[len(rest) - size :])
        assert not last - group
        assert size == len(rest) or last == group
        rest = rest[: len(rest) - size]
    assert not rest


def test_every_example_is_what_a_loop_finds(made: tuple[Log, Dataset]) -> None:
    log, dataset = made
    train, _ = log.split()
    users, items = ids(dataset)
    depts, tags = vocabulary(dataset, "dept"), vocabulary(dataset, "tags")
    ages = vocabulary(dataset, "age")
    examples = pq.read_table(dataset.folder / "examples").to_pylist()
    found = []
    for row in examples:
        user, item, time = users[row["user"]], items[row["item"]], row["time"]
        found.append((user, item, time))
        history = [items[value] for value in row["history"]]
        check_history(history, naive_history(train, user, time))
        categories = [depts[value] for value in row["history_category"]]
        assert categories == [log.items[name]["dept"] for name in history]
        assert row["repeat"] == any(u == user and i == item and t < time for u, i, t in train)
        assert row["item_index"] == row["item"] - 1
        assert depts[row["dept"]] == log.items[item]["dept"]
        assert sorted(tags[v] for v in row["tags"]) == sorted(set(log.items[item]["tags"]))
        age = log.users[user]["age"] if user in log.users else None
        assert ages[row["age"]] == (None if age is None else str(age))
    assert sorted(found) == sorted(train)
    assert sum(row["repeat"] for row in examples) > 20
    assert found != sorted(found)


def test_users_are_all_users_with_features_as_of_the_split(made: tuple[Log, Dataset]) -> None:
    log, dataset = made
    train, test = log.split()
    _, items = ids(dataset)
    trained = {user for user, _, _ in train}
    rows = rows_of(dataset, "users")
    everyone = trained | {user for user, _, _ in test} | set(log.users)
    assert {row["user_id"] for row in rows} == everyone
    assert len(rows) == len(everyone) == dataset.schema.users
    assert everyone - trained
    for row in rows:
        assert row["trained"] == (row["user_id"] in trained) == (row["user"] > 0)
        history = [items[value] for value in row["history"]]
        check_history(history, naive_history(train, row["user_id"], 10**9))
    assert dataset.schema.feature("user").rows == len(trained) + 1
    assert sorted(row["user"] for row in rows if row["user"]) == list(range(1, len(trained) + 1))


def test_the_catalogue_starts_with_the_trained_items(made: tuple[Log, Dataset]) -> None:
    log, dataset = made
    train, _ = log.split()
    counts = Counter(item for _, item, _ in train)
    rows = rows_of(dataset, "items")
    assert {row["item_id"] for row in rows} == set(log.items)
    assert dataset.schema.trained_items == len(counts) < len(rows) == len(log.items)
    for index, row in enumerate(rows):
        assert row["train_count"] == counts[row["item_id"]]
        assert row["item"] == (index + 1 if index < len(counts) else 0)
        assert row["category_name"] == (log.items[row["item_id"]]["dept"] or "(unknown)")
    assert [row["train_count"] for row in rows] == [
        *sorted(counts.values(), reverse=True),
        *[0] * (len(rows) - len(counts)),
    ]


def test_prices_are_cut_into_buckets_of_like_size(made: tuple[Log, Dataset]) -> None:
    log, dataset = made
    buckets = defaultdict(list)
    for row in rows_of(dataset, "items"):
        buckets[row["price"]].append(log.items[row["item_id"]]["price"])
    assert 0 not in buckets
    assert max(map(len, buckets.values())) <= 6
    for low, high in pairwise(sorted(buckets)):
        assert max(buckets[low]) < min(buckets[high])
    words = vocabulary(dataset, "price")
    for number, prices in buckets.items():
        start, stop = (float(edge) for edge in words[number].strip("[)").split(","))
        assert all(start <= price < stop for price in prices)


def test_seen_and_test_hold_the_split(made: tuple[Log, Dataset]) -> None:
    log, dataset = made
    train, test = log.split()
    user = [row["user_id"] for row in rows_of(dataset, "users")]
    item = [row["item_id"] for row in rows_of(dataset, "items")]
    seen = rows_of(dataset, "seen")
    pairs = {(user[row["user_row"]], item[row["item_index"]]): row["count"] for row in seen}
    assert pairs == Counter((u, i) for u, i, _ in train)
    assert [row["user_row"] for row in seen] == sorted(row["user_row"] for row in seen)
    held = [
        (user[row["user_row"]], item[row["item_index"]], row["time"])
        for row in rows_of(dataset, "test")
    ]
    assert sorted(held) == sorted(test)
    assert dataset.schema.tests == len(test)
    assert dataset.schema.examples == len(train)
    assert dataset.schema.rows_read == len(log.rows)


def test_what_is_written_can_be_read(made: tuple[Log, Dataset]) -> None:
    _, dataset = made
    columns = {**dataset.user_columns(), **dataset.item_columns()}
    assert list(columns) == [feature.name for feature in dataset.schema.features]
    example = pq.ParquetFile(dataset.folder / "examples/part-00000.parquet")
    assert example.schema_arrow.names == [*columns, "item_index", "time", "repeat"]
    ids = pa.list_(pa.field("element", pa.int32(), nullable=False))
    assert example.schema_arrow.field("history").type == ids
    assert example.schema_arrow.field("item_index").type == pa.int32()
    files = {f"{name}.parquet" for name in ("items", "seen", "test", "users")}
    found = {path.name for path in dataset.folder.iterdir()}
    assert found == {"examples", "schema.json", "sha256.json", "vocabularies", *files}


def test_the_seed_decides_the_order_of_the_examples_alone(
    made: tuple[Log, Dataset], tmp_path: Path
) -> None:
    write_log(made[0], tmp_path)
    prepare(options(tmp_path, out=tmp_path / "a", seed=1))
    first, other = digest(made[1].folder), digest(tmp_path / "a")
    differing = {name for name in other if other[name] != first[name]}
    assert differing == {"examples/part-00000.parquet", "sha256.json"}


def test_rows_in_another_order_make_the_same_bytes(
    made: tuple[Log, Dataset], tmp_path: Path
) -> None:
    log = made[0]
    order = np.random.default_rng(0).permutation(len(log.rows))
    write_log(Log([log.rows[place] for place in order], log.items, log.users), tmp_path)
    prepare(options(tmp_path))
    assert digest(tmp_path / "out") == digest(made[1].folder)


@pytest.mark.parametrize("range_rows", [50, 4])
def test_batches_and_files_are_seamless(
    range_rows: int, made: tuple[Log, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With tiny batches and files the same rows come out: nothing is lost at a border.

    Most users have more interactions than the smaller ranges.
    """
    write_log(made[0], tmp_path)
    monkeypatch.setattr("dat_rec.data.prepare.interactions.RANGE_ROWS", range_rows)
    monkeypatch.setattr("dat_rec.data.prepare.write.ROW_GROUP", 16)
    monkeypatch.setattr("dat_rec.data.prepare.write.FILE_ROWS", 64)
    schema = prepare(options(tmp_path, out=tmp_path / "b"))
    assert len(schema.example_files) == -(-schema.examples // 64)
    for name in ("examples", "users.parquet", "items.parquet", "seen.parquet", "test.parquet"):
        assert pq.read_table(made[1].folder / name) == pq.read_table(tmp_path / "b" / name)
