"""What expressions may name and compute, and how much memory pairs of users and items take."""

import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dat_rec.errors import UserError
from dat_rec.retrieval import sql_filter
from dat_rec.retrieval.recommender import Recommender
from dat_rec.retrieval.sql_filter import passing_items
from tests.retrieval.world import ITEMS

IDS = [1000 + item for item in range(ITEMS)]
EVEN = [item % 2 == 0 for item in range(ITEMS)]


@pytest.fixture(scope="module")
def recommender(exported: Path) -> Recommender:
    return Recommender.open(exported)


def listed(recommender: Recommender, **options: Any) -> set[int]:
    users = pa.table({"user_id": ["u1"], "Region": ["x"], "budget": [1]})
    return set(recommender.top(users, ITEMS, **options)["item_id"].to_pylist())


def refused(recommender: Recommender, users: Any = None, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        recommender.top(["u1"] if users is None else users, **{"k": 3} | options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["Title", "CATEGORY", "Category_Name", "title", "category"])
def test_a_fresh_column_stands_in_place_of_the_exports_whatever_its_case(
    recommender: Recommender, name: str
) -> None:
    fresh = pa.table({"item_id": IDS, name: ["x" if even else "y" for even in EVEN]})
    even = {item for item, is_even in zip(IDS, EVEN, strict=True) if is_even}
    for written in {name, name.lower(), name.upper(), name.lower().removesuffix("_name")}:
        sql = f"{written} = 'x'"
        assert listed(recommender, filter=sql, item_table=fresh) == even
        sql = f"item.{written} = user.region"
        assert listed(recommender, per_user_filter=sql, item_table=fresh) == even
        two = recommender.top(["u1"], ITEMS, quotas={written: 2}, item_table=fresh)
        assert sorted(item % 2 for item in two["item_id"].to_pylist()) == [0, 0, 1, 1]


def test_columns_that_are_one_name_in_sql_are_refused_where_they_are_used(
    recommender: Recommender,
) -> None:
    fresh = pa.table({"item_id": IDS, "Price": IDS, "price": IDS[::-1], "pricey": EVEN})
    said = refused(recommender, filter="PRICE < 1003", item_table=fresh)
    assert said.startswith("--filter 'PRICE < 1003': items have Price and price, which are one")
    assert listed(recommender, filter="NOT pricey", item_table=fresh) == set(IDS[1::2])
    users = pa.table({"user_id": ["u1"], "Age": [1], "age": [2]})
    said = refused(recommender, users, per_user_filter="item_id % user.age = 0")
    assert "users have Age and age, which are one name in SQL" in said
    assert len(recommender.top(users, 3, per_user_filter="item_id > 0")) == 3
    said = refused(recommender, quotas={"PRICE": 1}, item_table=fresh)
    assert said.startswith("--quota PRICE=1: items have no such column")
    assert refused(recommender, quotas={1: 2}).startswith("--quota 1=2: items have no such column")
    twice = pa.table({"item_id": IDS, "Item_ID": IDS})
    assert "have item_id and Item_ID" in refused(
        recommender, filter="item_id > 5", item_table=twice
    )


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("COLUMNS('title|category_name') IS NOT NULL", "gives 2 columns: write one condition"),
        ("unnest({'a': true, 'b': false})", "gives 2 columns"),
        ("COLUMNS('.*row') < 5 -- title", "COLUMNS names no column: name each"),
        ("_dat_rec_row < 5", "_dat_rec_row is the program's own: leave it out"),
        ("_DAT_REC_kind < 5", "_dat_rec_kind is the program's own: leave it out"),
        ("random() < 0.5", "random is another each time: lists must not depend on when"),
        ("list_max(list_transform([1], lambda x: x * random())) < 0.5", "random is another"),
        ("title = uuid()::VARCHAR", "uuid is another each time"),
        pytest.param("not " * 490 + "true", "is nested too deeply", id="deep"),
        pytest.param("not " * 200 + "true", "is nested too deeply", id="too-deep"),
        (5, " 5: is no text: write a condition"),
        ("title = '\udcff'", "is no UTF-8"),
    ],
)
def test_what_no_condition_may_ask_is_refused(
    recommender: Recommender, sql: Any, message: str
) -> None:
    users = pa.table({"user_id": ["u1"]})
    said = refused(recommender, filter=sql)
    assert said.startswith(f"--filter {sql!r}"[:100])
    assert len(said) < 400
    assert message in said
    assert message in refused(recommender, users, per_user_filter=sql)


def test_a_condition_of_150_operators_in_each_other_is_taken(recommender: Recommender) -> None:
    deep = recommender.top(["u1"], ITEMS, filter="not " * 150 + "true")
    assert deep.equals(recommender.top(["u1"], ITEMS, filter="true"))


def test_a_value_that_cannot_be_computed_is_said_when_pairs_are_asked(
    recommender: Recommender,
) -> None:
    users = pa.table({"user_id": ["u1"], "limit_": ["many"]})
    said = refused(recommender, users, per_user_filter="train_count < user.limit_::INT")
    assert "Could not convert string 'many'" in said


@pytest.mark.parametrize("name", ["_dat_rec_row", "_Dat_Rec_Kind"])
def test_tables_may_not_have_the_columns_that_we_add(recommender: Recommender, name: str) -> None:
    users = pa.table({name: [1], "user_id": ["u1"]})
    said = refused(recommender, users, per_user_filter="train_count > 3")
    assert f"users have a column {name}: rename it" in said
    fresh = pa.table({"item_id": IDS, name: IDS})
    said = refused(recommender, filter="train_count > 3", item_table=fresh)
    assert f"items have a column {name}: rename it" in said


WORDS = pa.array(["a", "b", None] * (ITEMS // 3))


@pytest.mark.parametrize(
    "column",
    [
        WORDS.cast(pa.string_view()),
        WORDS.cast(pa.binary()).cast(pa.binary_view()),
        pc.run_end_encode(WORDS),
        pa.array([one and uuid.UUID(int=ord(one)).bytes for one in WORDS.to_pylist()], pa.uuid()),
    ],
    ids=["string_view", "binary_view", "run_end_encoded", "uuid"],
)
def test_columns_of_rarer_types_are_taken_for_filters_and_quotas(
    recommender: Recommender, column: pa.Array
) -> None:
    fresh = pa.table({"item_id": IDS[::-1], "word": column})
    null = listed(recommender, filter="word IS NULL", item_table=fresh)
    assert null == set(IDS[::3])
    found = recommender.top(["u1"], ITEMS, quotas={"word": 4}, item_table=fresh)
    rests = [(one - 1000) % 3 for one in found["item_id"].to_pylist()]
    assert np.bincount(rests).tolist() == [4, 4, 4]
    users = pa.table({"user_id": ["u1"], "own": column.slice(0, 1)})
    same = recommender.top(users, ITEMS, per_user_filter="word = own", item_table=fresh)
    assert set(same["item_id"].to_pylist()) == set(IDS[2::3])


def test_a_column_that_cannot_be_taken_is_named(recommender: Recommender) -> None:
    views = pa.array([["a"]] * ITEMS).cast(pa.list_(pa.string_view()))
    fresh = pa.table({"item_id": IDS, "word": views})
    said = refused(recommender, filter="word IS NULL", item_table=fresh)
    assert said.startswith("--item-table: column 'word' is list<")


@pytest.mark.parametrize("most", [1.5, True, "2", None])
def test_a_quota_and_k_are_whole_numbers(recommender: Recommender, most: Any) -> None:
    said = refused(recommender, quotas={"category": most})
    assert said == f"--quota category={most}: it must be a whole number"
    assert refused(recommender, k=most) == f"k is {most!r}: it must be a whole number"
    whole = recommender.top(["u1"], np.int64(3), quotas={"category": np.int32(1)})
    assert len(whole) == 3


MEMORY = """
import numpy as np, pyarrow as pa
from dat_rec.retrieval.sql_filter import PerUserFilter
N, B = 50_000, 400  # 20 MB of flags; 20 million pairs would be 320 MB of numbers
items, users = pa.table({"price": np.arange(N)}), pa.table({"budget": N - np.arange(B)})
asked = PerUserFilter(items, users, "price < budget", (["price"], ["budget"]))
def peak():
    return int(next(l for l in open("/proc/self/status") if "VmHWM" in l).split()[1]) * 1024
asked.of([0])
before = peak()
flags = asked.of(range(B))
assert [int(one.sum()) for one in flags] == list(range(N, N - B, -1))
print((peak() - before) / (N * B))
"""


def test_a_block_of_pairs_takes_little_more_than_its_flags() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True
    )
    assert float(done.stdout.splitlines()[-1]) < 4


def test_a_limited_filter_is_a_plain_condition_and_ends_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items = pa.table({"price": list(range(3000))})
    assert passing_items(items, "price < 3", ["price"], 60).sum() == 3
    endless = "(SELECT count(*) FROM range(100000000000) AS a(i) WHERE hash(i) = 3) > 0"
    with pytest.raises(UserError, match="SELECT and FROM"):
        passing_items(items, endless, ["price"], 60)
    for expression, what in (
        ("len(range(1000000000)) > 1", "function range"),
        ("len(repeat('x', 1000000000)) > 1", "function repeat"),
        ("[x for x in [1, 2]][1] > price", "function list_apply"),
        ("row_number() OVER () > 1", "window"),
        ("price > 1 FROM item", "SELECT and FROM"),
        ("price > ?", "parameter"),
        ("price >", "syntax error"),
        ("true; DROP TABLE item", "--filter 'true; DROP"),
    ):
        with pytest.raises(UserError, match=what):
            passing_items(items, expression, ["price"], 60)
    plain = (
        "price BETWEEN 2 AND 5 AND price % 2 = 0 OR lower(CAST(price AS VARCHAR)) LIKE '299_' "
        "OR price IN (7, 8) AND NOT list_contains([1, 8], price) OR now() < DATE '2000-01-01'"
    )
    found = np.flatnonzero(passing_items(items, plain, ["price"], 60)).tolist()
    assert found == [2, 4, 7, *range(2990, 3000)]
    monkeypatch.setattr(sql_filter, "refuse_costly", lambda *_: None)
    with pytest.raises(UserError, match=r"takes longer than 0\.2 s"):
        passing_items(items, endless, ["price"], 0.2)
