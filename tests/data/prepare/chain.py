"""A log of several days, written day by day; and what a dataset holds, whatever its numbers are."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dat_rec.data.schema import HISTORY, HISTORY_CATEGORY, ITEM, USER, Schema

DAY = 100
"""Units of time in a day."""
EVENTS = ("click", "cart", "purchase")
Row = dict[str, Any]


class Log(NamedTuple):
    """Interactions of days with new users, items and values, repeats and equal times."""

    rows: list[Row]
    """user_id, item_id, time, place, event."""
    items: list[Row]
    """item_id, name, kind, tags, price, and the day of the first one that may have it."""
    users: list[Row]
    """user_id, city, day."""

    def days(self, first: int, last: int) -> list[Row]:
        return [row for row in self.rows if first * DAY <= row["time"] < (last + 1) * DAY]


def make_log(seed: int, days: int, *, text: bool = False, a_day: int = 120) -> Log:
    """A log in which each day brings users and items, and some stay away for days."""
    rng = np.random.default_rng(seed)
    name = (lambda kind, n: f"{kind} {n:03}") if text else (lambda _, n: n)
    # Ids rise with no day, so that sorted ones do not stand by age.
    user_of, item_of = rng.permutation(20 + 5 * days), rng.permutation(40 + 8 * days)
    rows = []
    for day in range(days):
        users, items = 20 + 5 * day, 30 + 8 * day
        user = user_of[(rng.random(a_day) ** 2 * users).astype(int)]
        item = item_of[(rng.random(a_day) ** 2 * items).astype(int)]
        time = day * DAY + rng.integers(0, DAY, a_day) // 3 * 3
        for u, i, t in zip(user, item, time, strict=True):
            rows.append({"user_id": name("user", u), "item_id": name("item", i), "time": int(t)})
    # As interactions differ by their place, a sequence leaves no ties.
    for place, row in enumerate(rows):
        row["place"] = (place * 37) % 1009
        # Odd days have no purchases.
        row["event"] = EVENTS[place % (2 if row["time"] // DAY % 2 else 3)]
    items = [
        {
            "item_id": name("item", item),
            "name": f"title {item}",
            "kind": f"kind {item % (3 + place // 12)}",
            "tags": [f"tag {item % 4}", f"tag {place // 9}"],
            "price": float(item * 7 % 50),
            "day": max(0, (place - 30) // 8 + 1),
        }
        for place, item in enumerate(item_of.tolist())
    ]
    users_ = [
        {"user_id": name("user", user), "city": f"city {place // 6}", "day": max(0, place // 5 - 3)}
        for place, user in enumerate(user_of.tolist())
    ]
    return Log(rows, items, users_)


def write_rows(path: Path, rows: list[Row]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


class Facts(NamedTuple):
    """What a dataset says, in ids and values, without order."""

    users: dict[Any, Row]
    items: dict[Any, Row]
    examples: Counter[str]
    training: Counter[tuple[Any, ...]]
    """Examples and past: user, item, time, sequence."""
    seen: Counter[tuple[Any, Any]]
    test: Counter[tuple[Any, ...]]
    """User, item, time, sequence, weight as an example."""
    validation: Counter[tuple[Any, ...]]
    waiting: Counter[tuple[Any, ...]]
    values: dict[str, set[str]]


def facts_of(folder: Path, *, ties: bool, numbers: tuple[str, ...] = ()) -> Facts:
    """Read a dataset.

    Args:
        folder: of the dataset.
        ties: whether a history's items of one time may stand in another order.
        numbers: features to leave out.
    """
    schema = Schema.load(folder)
    words = {
        feature.table: [row["value"] for row in read(folder / f"vocabularies/{feature.table}")]
        for feature in schema.features
        if feature.table not in (USER, ITEM)
    }
    tables = {feature.name: feature.table for feature in schema.features}
    user_rows, item_rows = read(folder / "users"), read(folder / "items")
    users = [row["user_id"] for row in user_rows]
    items = [row["item_id"] for row in item_rows]

    def decoded(row: Row) -> Row:
        found = {}
        for name, value in row.items():
            if name in numbers:
                continue
            if name in (USER, ITEM):
                ids = users if name == USER else items
                found[name] = ids[value - 1] if value else None
            elif name == HISTORY:
                found[name] = [items[number - 1] for number in value]
            elif name in tables:
                of = words[tables[name]]
                found[name] = [of[n] for n in value] if isinstance(value, list) else of[value]
            elif name != "item_index":
                found[name] = value
            if ties and name in (HISTORY, HISTORY_CATEGORY):
                found[name] = sorted(found[name], key=str)
        return found

    def interactions(rows: list[Row], *more: str) -> Counter[tuple[Any, ...]]:
        names = ("sequence", *more)
        return Counter(
            (
                users[row["user_row"]],
                items[row["item_index"]],
                row["time"],
                *(row.get(name) for name in names),
            )
            for row in rows
        )

    def held_out(name: str) -> Counter[tuple[Any, ...]]:
        return interactions(read(folder / name), "example_weight")

    def files(names: tuple[str, ...]) -> list[Row]:
        return [row for name in names for row in pq.read_table(folder / name).to_pylist()]

    examples = files(tuple(file.path for file in schema.example_files))
    of_examples = [{**row, "user_row": row[USER] - 1} for row in examples]
    seen: Counter[tuple[Any, Any]] = Counter()
    for row in files(schema.seen_paths):
        seen[users[row["user_row"]], items[row["item_index"]]] += row["count"]
    return Facts(
        users={row["user_id"]: decoded(row) for row in user_rows},
        items={row["item_id"]: decoded(row) for row in item_rows},
        examples=Counter(str(decoded(row)) for row in examples),
        training=interactions([*of_examples, *files(schema.past_paths)]),
        seen=seen,
        test=held_out("test"),
        validation=held_out("validation") if schema.validation else Counter(),
        waiting=interactions(read(folder / "waiting")) if schema.waiting else Counter(),
        values={name: {*of} - {None} for name, of in words.items() if name not in numbers},
    )


def check_histories(folder: Path, sequence: bool) -> None:
    """Compare every history with the user's last training items, by their definition."""
    schema = Schema.load(folder)
    past = [row for path in schema.past_paths for row in pq.read_table(folder / path).to_pylist()]
    examples = [
        {**row, "user_row": row[USER] - 1}
        for file in schema.example_files
        for row in pq.read_table(folder / file.path).to_pylist()
    ]
    of_user = defaultdict(list)
    for row in (*past, *examples):
        moment = (row["time"], row["sequence"] if sequence else 0)
        of_user[row["user_row"]].append((moment, row["item_index"]))
    for row in examples:
        moment = (row["time"], row["sequence"] if sequence else 0)
        earlier = sorted(one for one in of_user[row["user_row"]] if one[0] < moment)
        assert row[HISTORY] == [item + 1 for _, item in earlier[-schema.history_length :]]
        had = {item for _, item in earlier}
        assert row["repeat"] == (row["item_index"] in had)
    for place, row in enumerate(read(folder / "users")):
        last = sorted(of_user[place])[-schema.history_length :]
        assert row[HISTORY] == [item + 1 for _, item in last]


def read(path: Path) -> list[Row]:
    rows: list[Row] = pq.read_table(f"{path}.parquet").to_pylist()
    return rows
