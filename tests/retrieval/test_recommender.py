"""Lists of what may be shown: brute force, one user and one item at a time, says the same."""

from collections import Counter
from collections.abc import Callable
from math import fsum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.errors import UserError
from dat_rec.retrieval import allowed_items, quotas, restricted_lists, sql_filter
from dat_rec.retrieval.recommender import Recommender
from tests.cases import drawn
from tests.retrieval.world import ITEMS, USERS

CASES, EACH = drawn(300), 50
NOBODY = ("nobody", "?")
REGIONS = ("north", "south", None)
Row = dict[str, Any]


class World(NamedTuple):
    """An export, asked, and all that brute force needs to know, of other files than it reads."""

    recommender: Recommender
    scores: dict[str, list[np.float32]]
    own: dict[str, dict[int, np.float32]]
    seen: dict[str, set[int]]


@pytest.fixture(scope="module")
def world(run: Path, blended: Path) -> World:
    opened = Recommender.open(blended)
    vectors = pq.read_table(blended / "item_vectors")["vector"].to_pylist()
    users = [f"u{user}" for user in range(USERS)]
    scores = {
        row["user_id"]: [
            np.float32(fsum(a * b for a, b in zip(row["vector"], item, strict=True)))
            for item in vectors
        ]
        # A vector's last bits may follow who is encoded beside: all are, in every case.
        for row in opened.vectors([*users, *NOBODY]).to_pylist()
    }
    own = {
        row["user_id"]: {
            item: np.float32(bonus)
            for item, bonus in zip(row["item_index"], row["bonus"], strict=True)
        }
        for row in pq.read_table(blended / "own_items").to_pylist()
    }
    seen: dict[str, set[int]] = {user: set() for user in (*users, *NOBODY)}
    for row in pq.read_table(run.parent / "data" / "seen.parquet").to_pylist():
        seen[f"u{row['user_row']}"].add(row["item_index"])
    return World(opened, scores, own | {name: {} for name in NOBODY}, seen)


def item_rows(world: World, rng: np.random.Generator) -> list[Row]:
    """Columns of items as a shop may have them; some items are not in its table."""
    export = pq.read_table(world.recommender.where / "items.parquet").to_pylist()
    fresh = [
        {
            "price": None if rng.random() < 0.1 else round(float(rng.random() * 40), 2),
            "region": REGIONS[rng.integers(0, 3)],
            "brand": int(rng.integers(0, 12)) if rng.random() < 0.9 else None,
            "tags": [str(tag) for tag in rng.integers(0, 4, rng.integers(0, 3))],
        }
        for _ in export
    ]
    rows = []
    for row, more in zip(export, fresh, strict=True):
        here = rng.random() < 0.9
        rows.append(row | (more if here else dict.fromkeys(more)) | {"here": here})
    return rows


FILTERS: list[tuple[str, Callable[[Row], Any]]] = [
    ("price < 20", lambda i: i["price"] is not None and i["price"] < 20),
    ("category = 'toys'", lambda i: i["category_name"] == "toys"),
    (
        "price < 25 AND category_name <> 'books'",
        lambda i: i["price"] is not None and i["price"] < 25 and i["category_name"] != "books",
    ),
    ("brand IS NULL OR brand % 3 = 0", lambda i: i["brand"] is None or i["brand"] % 3 == 0),
    ("list_contains(tags, '2')", lambda i: i["tags"] is not None and "2" in i["tags"]),
    ("train_count = 0", lambda i: i["train_count"] == 0),
    ("item_id % 7 < 2", lambda i: i["item_id"] % 7 < 2),
    ("title LIKE '%1%' -- a remark", lambda i: i["title"] is not None and "1" in i["title"]),
    ("false", lambda i: False),
]
PER_USER: list[tuple[str, Callable[[Row, Row], Any]]] = [
    (
        "item.region = user.region",
        lambda i, u: i["region"] is not None and i["region"] == u["region"],
    ),
    (
        "price <= budget OR brand = user.favourite",
        lambda i, u: (
            (i["price"] is not None and i["price"] <= u["budget"])
            or (i["brand"] is not None and i["brand"] == u["favourite"])
        ),
    ),
]


class Case(NamedTuple):
    """What is asked, and by brute force what may be shown."""

    options: dict[str, Any]
    users: list[Row]
    may: Callable[[Row, int], bool]
    quotas: list[tuple[list[Any], int]]
    k: int
    blend: bool


def draw(world: World, rng: np.random.Generator) -> Case:
    """A case with some of all options."""
    items = item_rows(world, rng)
    names = ["item_id", "price", "region", "brand", "tags"]
    there = [{name: row[name] for name in names} for row in items if row["here"]]
    rng.shuffle(there)
    options: dict[str, Any] = {"item_table": pa.Table.from_pylist(there)}
    users = [
        {"user_id": str(name), "region": REGIONS[rng.integers(0, 3)], "favourite": 3, "budget": 9.5}
        | {"unused": number}
        for number, name in enumerate(
            rng.permutation([*(f"u{user}" for user in range(USERS)), *NOBODY])
        )
    ]
    may: list[Callable[[Row, int], bool]] = []
    if rng.random() < 0.5:
        options["filter"], test = FILTERS[rng.integers(0, len(FILTERS))]
        may.append(lambda _, item, test=test: test(items[item]))
    if rng.random() < 0.4:
        available = set(rng.permutation(ITEMS)[: rng.integers(1, ITEMS)].tolist())
        options["available"] = [1000 + item for item in (*available, 7777)]
        may.append(lambda _, item: item in available)
    if rng.random() < 0.5:
        options["exclude_seen"] = True
        may.append(lambda user, item: item not in world.seen[user["user_id"]])
    if rng.random() < 0.5:
        pairs = {
            (users[rng.integers(0, len(users))]["user_id"], int(rng.integers(0, ITEMS)))
            for _ in range(300)
        }
        told = [*sorted(pairs), *sorted(pairs)[:9], ("stranger", 3), (users[0]["user_id"], 6777)]
        options["exclude"] = pa.table(
            {"user_id": [user for user, _ in told], "item_id": [1000 + item for _, item in told]}
        )
        may.append(lambda user, item: (user["user_id"], item) not in pairs)
    if rng.random() < 0.4:
        options["per_user_filter"], allows = PER_USER[rng.integers(0, len(PER_USER))]
        may.append(lambda user, item, allows=allows: allows(items[item], user))
    limits = []
    if rng.random() < 0.4:
        options["per_category"] = int(rng.integers(1, 9))
        limits.append(([row["category_name"] for row in items], options["per_category"]))
    if rng.random() < 0.4:
        options["quotas"] = {"brand": int(rng.integers(1, 4))}
        limits.append(([row["brand"] for row in items], options["quotas"]["brand"]))
    blend = bool(rng.random() < 0.5)
    k = int(rng.integers(1, 15)) if rng.random() < 0.8 else ITEMS
    return Case(
        options, users, lambda user, item: all(test(user, item) for test in may), limits, k, blend
    )


def brute_force(world: World, case: Case) -> list[Row]:
    """All items in order, one after the other."""
    rows = []
    for user in case.users:
        name, taken = user["user_id"], [Counter[Any]() for _ in case.quotas]
        own = world.own[name] if case.blend else {}
        score = [one + own.get(item, 0) for item, one in enumerate(world.scores[name])]
        rank = 0
        for item in sorted(range(ITEMS), key=lambda item: (-score[item], item)):
            values = [of_items[item] for of_items, _ in case.quotas]
            full = (
                count[value] == most
                for count, value, (_, most) in zip(taken, values, case.quotas, strict=True)
            )
            if rank == case.k or not case.may(user, item) or any(full):
                continue
            rank += 1
            for count, value in zip(taken, values, strict=True):
                count[value] += 1
            rows.append({"user_id": name, "rank": rank, "item_id": 1000 + item})
            rows[-1]["score"] = float(score[item])
    return rows


def in_small_blocks(patch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """As if the world were large."""
    patch.setattr(allowed_items, "ITEMS_AT_ONCE", int(rng.choice([7, 25, 100])))
    patch.setattr(allowed_items, "USERS_AT_ONCE", int(rng.choice([3, 10, 64])))
    patch.setattr(allowed_items, "RESCORED", int(rng.choice([3, 100])))
    patch.setattr(quotas, "AHEAD", int(rng.integers(1, 5)))
    patch.setattr(restricted_lists, "MASK_BYTES", int(rng.choice([7, 20, 100])) * ITEMS)
    patch.setattr(sql_filter, "CACHE_BYTES", int(rng.choice([20, 2**20])))


@pytest.mark.parametrize("seed", range(CASES // EACH))
def test_lists_are_those_of_brute_force(
    world: World, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    fewer = 0
    for number in range(EACH):
        in_small_blocks(monkeypatch, rng)
        case = draw(world, rng)
        users = pa.Table.from_pylist(case.users)
        found = world.recommender.top(users, case.k, **case.options, blend_history=case.blend)
        wanted = brute_force(world, case)
        assert found.to_pylist() == wanted, (seed, number, case.options)
        fewer += len(wanted) < case.k * len(users)
    assert 0 < fewer < EACH


def test_seen_items_are_never_returned(world: World, run: Path) -> None:
    seen = {(f"u{u}", 1000 + i) for u, i in pairs_of(run.parent / "data" / "seen.parquet")}
    found = world.recommender.top(k=ITEMS, exclude_seen=True)
    listed = list(zip(found["user_id"].to_pylist(), found["item_id"].to_pylist(), strict=True))
    assert not seen & set(listed)
    # All others are there, each once.
    assert len(set(listed)) == len(listed) == USERS * ITEMS - len(seen)


def pairs_of(path: Path) -> list[tuple[int, int]]:
    table = pq.read_table(path)
    return list(zip(table["user_row"].to_pylist(), table["item_index"].to_pylist(), strict=True))


@pytest.mark.parametrize("blend", [False, True])
def test_what_lets_all_in_changes_no_bit(world: World, blend: bool) -> None:
    free = world.recommender.top(k=20, blend_history=blend)
    for options in (
        {"filter": "true"},
        {"available": world.recommender.item_ids},
        {"quotas": {"item_id": 1}},
        {"per_category": ITEMS},
    ):
        assert world.recommender.top(k=20, blend_history=blend, **options).equals(free)


def test_one_quota_gives_the_best_list_there_is(world: World) -> None:
    """Of each brand the best n, and of these the best K: no other list within it sums up higher."""
    brand = [item % 5 for item in range(ITEMS)]
    table = pa.table({"item_id": [1000 + item for item in range(ITEMS)], "brand": brand})
    users = [*world.scores]
    found = world.recommender.top(users, k=7, quotas={"brand": 2}, item_table=table)
    for user in range(USERS):
        score = world.scores[f"u{user}"]
        best = [
            sorted((score[item] for item in range(ITEMS) if brand[item] == of), reverse=True)[:2]
            for of in range(5)
        ]
        wanted = sorted((one for of_brand in best for one in of_brand), reverse=True)[:7]
        assert found["score"].to_pylist()[7 * user : 7 * user + 7] == [float(s) for s in wanted]


def test_similar_items_are_nearest_by_the_unit_vectors(world: World, exported: Path) -> None:
    """Popularity stands behind them, and does not count; of equal ones the first; never itself."""
    vectors = np.array(pq.read_table(exported / "item_vectors")["vector"].to_pylist(), np.float64)[
        :, :-1
    ]
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(ITEMS), abs=1e-5)
    cosine = np.array([[np.float32(fsum(a * b)) for b in vectors] for a in vectors])
    found = world.recommender.similar([1007, 1000, 1059], k=9)
    wanted = []
    for item in (7, 0, 59):
        order = sorted(range(ITEMS), key=lambda other: (-cosine[item, other], other))
        nearest = [other for other in order if other != item][:9]
        wanted += [
            {"item_id": 1000 + item, "rank": rank, "similar_item_id": 1000 + other}
            | {"score": float(cosine[item, other])}
            for rank, other in enumerate(nearest, 1)
        ]
    assert found.to_pylist() == wanted
    few = world.recommender.similar(k=9, filter="item_id < 1003")
    assert few["similar_item_id"].to_pylist()[:4] != few["item_id"].to_pylist()[:4]
    counts = Counter(few["item_id"].to_pylist())
    assert counts == {1000 + item: 2 if item < 3 else 3 for item in range(ITEMS)}


def test_vectors_times_item_vectors_are_the_scores(world: World, blended: Path) -> None:
    vectors = world.recommender.vectors(["u4", "nobody"])
    items = np.array(pq.read_table(blended / "item_vectors")["vector"].to_pylist())
    found = world.recommender.top(["u4", "nobody"], k=ITEMS)
    for number, name in enumerate(("u4", "nobody")):
        score = items @ np.array(vectors["vector"].to_pylist()[number])
        rows = [row for row in found.to_pylist() if row["user_id"] == name]
        assert [row["score"] for row in rows] == pytest.approx(
            [score[row["item_id"] - 1000] for row in rows], abs=1e-6
        )


def test_ids_may_be_of_any_collection_and_files_of_text(world: World, tmp_path: Path) -> None:
    some = [1000, 1003, 1059]
    wanted = world.recommender.top(["u1"], 3, available=some)
    assert sorted(wanted["item_id"].to_pylist()) == some
    pq.write_table(pa.table({"item_id": some, "mine": [True] * 3}), tmp_path / "some.parquet")
    text = str(tmp_path / "some.parquet")
    for options in (
        {"available": set(some)},
        {"available": (one for one in some)},
        {"available": text},
        {"item_table": text, "filter": "mine"},
    ):
        assert world.recommender.top(["u1"], 3, **options).equals(wanted)
    pairs = pa.table({"user_id": ["u1"] * (ITEMS - 3)})
    others = [1000 + item for item in range(ITEMS) if 1000 + item not in some]
    pq.write_table(pairs.append_column("item_id", [others]), tmp_path / "pairs.parquet")
    found = world.recommender.top(["u1"], 3, exclude=str(tmp_path / "pairs.parquet"))
    assert found.equals(wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filter": "prise < 20"}, r"--filter 'prise < 20': Referenced column \"prise\" not found"),
        ({"filter": "prise < 20"}, "items have item_id, title, category_name, train_count, cat"),
        ({"filter": "train_count"}, "is BIGINT, and not true or false: write a condition"),
        ({"filter": "NULL"}, "not true or false"),
        ({"filter": "true; DROP TABLE x"}, "it holds more than one statement"),
        ({"filter": "true, false"}, "only a single expression"),
        ({"filter": "train_count <"}, "syntax error"),
        ({"filter": "true) OR (true"}, "syntax error"),
        ({"filter": ""}, "--filter ''"),
        ({"filter": "(SELECT count(*) FROM read_csv('/etc/passwd')) > 0"}, "disabled by config"),
        ({"filter": "EXISTS (SELECT * FROM '/etc/passwd')"}, "--filter .*: "),
        ({"filter": "EXISTS (SELECT * FROM options)"}, "options does not exist"),
        ({"filter": "max(train_count) > 3"}, "GROUP BY"),
        ({"filter": "unnest([true, false])"}, "has not one value for each item"),
        ({"filter": "train_count < 'many'"}, "Could not convert string 'many'"),
        ({"per_user_filter": "region = 1"}, "needs the users' columns"),
        ({"quotas": {"brand": 2}}, "--quota brand=2: items have no such column: they have item_id"),
        ({"per_category": 0}, "--quota category=0: it must be 1 or more"),
        ({"available": ["x"]}, "item_id is string, the export's item_id is int64"),
        ({"available": [1.5]}, "item_id 1.5 is no int64"),
        ({"available": pa.table({"id": [1]})}, "column 'item_id' is missing, or twice: it has id"),
        ({"exclude": pa.table({"user_id": ["u1"]})}, "exclude: column 'item_id' is missing"),
        (
            {"exclude": pa.table({"user_id": [1], "item_id": [1]})},
            "exclude: user_id is int64, the export's user_id is string",
        ),
        (
            {"item_table": pa.table({"item_id": [1000, 1000]})},
            "--item-table: item_id 1000 stands there 2 times: name each item once",
        ),
        ({"k": 0}, "k is 0"),
        ({"available": [1, "a"]}, "available: ids .*: give integers alone, or text alone"),
        ({"available": [2**70]}, "available: ids .*: give integers alone, or text alone"),
        ({"available": 5}, "available: is int: give a list of ids"),
        ({"available": {"item_id": [1000]}}, "available: is dict: give a list of ids"),
        ({"available": "absent.parquet"}, "absent.parquet: cannot be read as Parquet"),
        ({"item_table": "absent.parquet"}, "absent.parquet: cannot be read as Parquet"),
        ({"item_table": 5}, "item_table: is int: give an Arrow table, or the path of a Parquet"),
        ({"exclude": {"user_id": ["u1"], "item_id": [1000]}}, "exclude: is dict: give an Arrow"),
        ({"quotas": [("category", 3)]}, "quotas: is list: give a dict"),
        ({"users": "u1"}, "users: is str: give a list of ids"),
        ({"users": {"user_id": ["u1"]}}, "users: is dict: give a list of ids"),
        ({"k": ITEMS + 1}, "at most the 60 items"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    world: World, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        world.recommender.top(**{"users": ["u1"], "k": 3} | options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("item.region = user.region", "Referenced|does not have a column"),
        ("category = user.area", 'does not have a column named "area"|"area" not found'),
        ("user.budget", "is BIGINT, and not true or false"),
        ("user.budget < 3; true", "syntax error"),
    ],
)
def test_a_per_user_filter_names_the_columns_of_both(
    world: World, expression: str, message: str
) -> None:
    users = pa.table({"user_id": ["u1"], "budget": [3]})
    with pytest.raises(UserError, match=message) as error:
        world.recommender.top(users, 3, per_user_filter=expression)
    assert "\n" not in str(error.value)
    assert "item has item_id" in str(error.value) or "not true or false" in str(error.value)


def test_ids_that_are_none_are_refused(world: World) -> None:
    with pytest.raises(UserError, match="the export has no item 5: leave it out"):
        world.recommender.similar([1000, 5], 3)
    with pytest.raises(UserError, match="users: user_id is int64, the export's user_id is string"):
        world.recommender.top([1], 3)
    with pytest.raises(UserError, match="users: column 'user_id' is missing"):
        world.recommender.top(pa.table({"who": ["u1"]}), 3)
    with pytest.raises(UserError, match=f"k is {ITEMS}: it must be 1 or more, and at most the 59"):
        world.recommender.similar(k=ITEMS)


def test_nobody_gets_an_empty_table_and_one_user_twice_two_lists(world: World) -> None:
    none = world.recommender.top([], k=3, exclude_seen=True)
    assert none.num_rows == 0
    assert none.schema == world.recommender.top(["u1"], k=3).schema
    excluded = pa.table({"user_id": ["u1"], "item_id": [1003]})
    twice = world.recommender.top(["u1", "u1"], k=ITEMS, exclude=excluded)
    assert twice["item_id"].to_pylist()[: ITEMS - 1] == twice["item_id"].to_pylist()[ITEMS - 1 :]
    assert 1003 not in twice["item_id"].to_pylist()
