"""Raw values, as a log has them, asked of an export: rows and vectors are those that it stores."""

import datetime
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec import Recommender
from dat_rec.data.columns import Column
from dat_rec.data.dense import AnyColumn
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.errors import UserError
from dat_rec.retrieval.export import export
from dat_rec.retrieval.fresh import FreshInputs
from tests.data.sources.prepared import own, write
from tests.retrieval.raw_log import (
    ITEM_FEATURES,
    LATEST,
    SPLIT,
    RawLog,
    older,
    write_raw_log,
)
from tests.retrieval.world import write_run

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
ROUNDING = 1e-6
"""Of a matrix product on other numbers of rows."""
ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"dat_rec", "torchrec", "fbgemm_gpu"}:
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Refuse())
"""


class World:
    """An export of a log with features of every type."""

    def __init__(self, folder: Path, *, text_ids: bool) -> None:
        self.raw: RawLog = write_raw_log(folder, text_ids=text_ids)
        self.export = folder / "export"
        export(self.raw.run, self.export)
        self.asked = Recommender.open(self.export)
        self.fresh: FreshInputs = self.asked._fresh
        self.users = self.asked.user_ids.to_pylist()
        self.items = self.asked.item_ids.to_pylist()

    def queries(self) -> pa.Table:
        """A row for each of the export's users, in its order."""
        return in_order(self.raw.queries(), "user_id", self.users)

    def item_rows(self) -> pa.Table:
        """A row for each of the export's items, in its order."""
        return in_order(self.raw.items, "item_id", self.items)

    def query(self, **columns: Any) -> dict[str, AnyColumn]:
        """The query features of rows of raw values."""
        return self.fresh.query_columns(pa.table(columns))


def in_order(table: pa.Table, key: str, ids: list[Any]) -> pa.Table:
    place = {one: row for row, one in enumerate(table[key].to_pylist())}
    return table.take([place[one] for one in ids])


@pytest.fixture(scope="module", params=[False, True], ids=["numbers", "texts"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("raw"), text_ids=request.param)


def lists(column: AnyColumn) -> list[list[int]]:
    assert isinstance(column, Column)
    assert column.offsets is not None
    return [part.tolist() for part in np.split(column.values, column.offsets[1:-1])]


def assert_same(found: AnyColumn, expected: AnyColumn) -> None:
    np.testing.assert_array_equal(found.values, expected.values)
    if isinstance(expected, Column) and expected.offsets is not None:
        assert isinstance(found, Column)
        np.testing.assert_array_equal(found.offsets, expected.offsets)


def test_users_of_the_log_get_the_rows_and_vectors_that_the_export_stores(world: World) -> None:
    queries = world.queries()
    found = world.fresh.query_columns(queries)
    stored = world.asked.export.user_columns
    assert list(found) == list(stored)
    users = np.arange(len(world.users))
    for name, column in found.items():
        assert_same(column, stored[name].take(users))
    # Every feature says something of the users, and is unknown of some.
    for name in ("segment", "zip", "vip", "born", "joined", "seen_at", "age", "spend"):
        assert {0} < set(found[name].values.tolist()), name
    vectors = np.stack(world.asked.vectors()["vector"].to_numpy(zero_copy_only=False))
    np.testing.assert_allclose(world.asked.fresh_vectors(queries), vectors, rtol=0, atol=ROUNDING)
    alone = [world.asked.fresh_vectors(queries.slice(row, 1))[0] for row in range(0, 40, 9)]
    np.testing.assert_allclose(alone, vectors[::9], rtol=0, atol=ROUNDING)


def test_items_nobody_had_get_the_vectors_that_the_export_stores(world: World) -> None:
    trained = world.raw.dataset.schema.trained_items
    assert 0 < trained < len(world.items)
    raw = world.item_rows()
    found = world.fresh.item_columns(raw)
    stored = world.raw.dataset.item_columns()
    for name, column in stored.items():
        if name != "item":
            assert_same(found[name], column)
    assert not found["item"].values.any()
    vectors = world.asked.fresh_item_vectors(raw.slice(trained).drop(["item_id"]))
    expected = world.asked.export.item_vectors[trained:]
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=ROUNDING)
    # A trained one's own features stand, and its id does not.
    others = world.asked.fresh_item_vectors(raw.slice(0, trained))
    assert (np.abs(others - world.asked.export.item_vectors[:trained]).max(axis=1) > 1e-3).all()


def test_a_history_keeps_the_latest_and_counts_the_unknown(world: World) -> None:
    trained = world.raw.dataset.schema.trained_items
    first, second, cold = world.items[0], world.items[1], world.items[trained]
    never = "nothing" if isinstance(first, str) else 10**9
    given = [
        [first, never, second],
        None,
        [],
        [second] * 3 + [first] * (LATEST - 1) + [cold],
        [None, second],
    ]
    found = world.query(history=pa.array(given, pa.list_(pa.array(world.items).type)))
    rows = [[1, 0, 2], [], [], [1] * (LATEST - 1) + [0], [2]]
    assert lists(found["history"]) == rows
    shelf = world.raw.dataset.item_columns()["shelf"].values
    # The shelf of an item counts where the item has no row of its own, too.
    shelves = [[{1: shelf[0], 2: shelf[1]}.get(row, 0) for row in bag] for bag in rows]
    shelves[3][-1] = shelf[trained]
    assert lists(found["history_category"]) == shelves


def test_what_is_missing_null_or_new_is_unknown(world: World) -> None:
    for name, column in world.query(user_id=pa.nulls(2)).items():
        if name in ("face", "since"):
            assert np.isnan(column.values).all()
        else:
            assert not column.values.any()
    born = [datetime.date(1950, 1, 1)]
    new = world.query(segment=["s 9"], zip=[77], born=born, langs=[["zz", "yy", "de"]])
    assert [new[name].values.tolist() for name in ("segment", "zip", "born")] == [[0], [0], [0]]
    assert lists(new["langs"])[0][:2] == [0, 0]
    assert lists(new["langs"])[0][2] > 0
    outside = world.query(age=[-1000, 1000], spend=[float("-inf"), 1e9])
    edges = next(one.edges for one in world.fresh._inputs.query if one.feature == "age")
    assert edges is not None
    assert outside["age"].values.tolist() == [1, len(edges) + 1]
    assert outside["spend"].values[0] == 0
    nobody = pa.table({"user_id": pa.array([], pa.null())})
    assert world.asked.fresh_vectors(nobody).shape == (0, world.asked.export.item_vectors.shape[1])


def test_other_types_that_say_the_same_are_the_same(world: World) -> None:
    queries = world.queries()
    expected = world.asked.fresh_vectors(queries)
    ids = queries["user_id"].combine_chunks()
    other = {
        "user_id": ids.cast(pa.large_string() if pa.types.is_string(ids.type) else pa.int32()),
        "segment": queries["segment"].dictionary_encode(),
        "zip": queries["zip"].cast(pa.string()),
        "born": queries["born"].cast(pa.string()),
        "joined": queries["joined"].cast(pa.timestamp("ns")),
        "age": queries["age"].cast(pa.float64()),
        "face": queries["face"].cast(pa.list_(pa.float64())),
        "since": queries["since"].cast(pa.float64()),
        "history": queries["history"].cast(pa.large_list(ids.type)),
    }
    kept = {name: queries[name] for name in queries.column_names if name not in other}
    np.testing.assert_array_equal(world.asked.fresh_vectors(pa.table(other | kept)), expected)
    views = {
        "face": pa.list_view(pa.float32()),
        "history": pa.large_list_view(ids.type),
        "langs": pa.list_view(pa.string()),
    }
    for name, kind in views.items():
        column = pa.array(queries[name].to_pylist(), kind)
        viewed = queries.set_column(queries.column_names.index(name), name, column)
        np.testing.assert_array_equal(world.asked.fresh_vectors(viewed), expected)


def test_nan_among_integer_ids_is_nothing(world: World) -> None:
    if isinstance(world.items[0], str):
        pytest.skip("the ids are text")
    first, second = map(float, world.items[:2])
    given = pa.array([[first, float("nan"), second], [float("nan")]], pa.list_(pa.float64()))
    assert lists(world.query(history=given)["history"]) == [[1, 2], []]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"colour": [1]}, "queries: column 'colour' is of no feature: the .* user_id, segment"),
        ({"age": ["old"]}, "queries: column 'age' is string: give a number"),
        ({"segment": [1.5]}, "queries: column 'segment' is double: give text"),
        ({"segment": [["a"]]}, "queries: column 'segment' is list.*: give one value"),
        ({"langs": ["de"]}, "queries: column 'langs' is string: give a list"),
        ({"history": [1]}, "queries: column 'history' is int64: give a list"),
        ({"history": [[1.5]]}, "queries: .*history"),
        ({"history": [[True]]}, "queries: history is bool"),
        ({"user_id": [True]}, "queries: user_id is bool"),
        ({"face": [[1.0, 2.0]]}, "queries: row 0 .*'face' has 2 numbers and not 3: correct it"),
        ({"face": [[1.0, None, 2.0]]}, "queries: row 0 .*'face' holds what is not finite"),
        ({"face": [["a"]]}, "queries: column 'face' is list.*: give a list of 3 numbers"),
        ({"since": [1e308]}, r"column 'since' holds 1e\+308, too far from all that training saw"),
        ({"since": [float("inf")]}, "queries: row 0 .*'since' holds what is not finite: correct"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    world: World, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        world.asked.fresh_vectors(pa.table(columns))
    assert "\n" not in str(error.value)


def test_tables_alone_are_taken_and_each_name_once(world: World) -> None:
    twice = pa.table([[1], [2]], ["age", "age"])
    with pytest.raises(UserError, match="'age' stands there twice"):
        world.asked.fresh_vectors(twice)
    with pytest.raises(UserError, match="queries: is dict: give an Arrow table"):
        world.asked.top_fresh({"age": [1]}, 3, per_user_filter="true")
    with pytest.raises(UserError, match="items: column 'history' is of no feature"):
        world.asked.fresh_item_vectors(pa.table({"history": [[1]]}))


def test_lists_are_those_of_brute_force(world: World) -> None:
    queries = world.queries()
    scores = world.asked.fresh_vectors(queries) @ world.asked.export.item_vectors.T
    log = world.raw.log.to_pylist()
    had = {(row["user_id"], row["item_id"]) for row in log if row["time"] < SPLIT}
    pairs = {(0, 0), (0, 1), (1, 2)}
    items = [world.items[place] for _, place in [*pairs, (99, 3)]]
    bought = pa.table({"query": [*(query for query, _ in pairs), 99], "item_id": items})
    top = world.asked.top_fresh(
        queries,
        5,
        exclude_seen=True,
        exclude=bought,
        available=world.items[:30],
        per_user_filter="user.spend IS NULL OR user.spend < 30 OR item.shelf <> 'shelf 1'",
    )
    assert top.column_names == ["query", "rank", "item_id", "score"]
    shelf = world.item_rows()["shelf"].to_pylist()
    for number, query in enumerate(queries.to_pylist()):
        cheap = query["spend"] is None or query["spend"] < 30
        shown = [
            place
            for place, item in enumerate(world.items[:30])
            if (query["user_id"], item) not in had
            and (number, place) not in pairs
            and (cheap or shelf[place] not in (None, "shelf 1"))
        ]
        best = sorted(shown, key=lambda place: -scores[number, place])[:5]
        mine = [row for row in top.to_pylist() if row["query"] == number]
        assert [row["item_id"] for row in mine] == [world.items[place] for place in best]
        given = [row["score"] for row in mine]
        np.testing.assert_allclose(given, scores[number, best], rtol=0, atol=1e-5)


def test_a_new_users_own_history_is_never_shown_again(world: World) -> None:
    history, every = world.items[:10], set(world.items)
    queries = pa.table({"history": [history, [], history[:1]]})
    top = world.asked.top_fresh(queries, len(every), exclude_seen=True).to_pylist()
    shown = [{row["item_id"] for row in top if row["query"] == query} for query in range(3)]
    assert shown == [every - set(history), every, every - {history[0]}]
    by_user = pa.table({"user_id": [world.users[0]], "item_id": [world.items[4]]})
    with pytest.raises(UserError, match="queries have no user_id: give it"):
        world.asked.top_fresh(queries, 3, exclude=by_user)
    known = pa.table({"user_id": world.users[:2]})
    top = world.asked.top_fresh(known, len(every), exclude=by_user).to_pylist()
    shown = [{row["item_id"] for row in top if row["query"] == query} for query in range(2)]
    assert shown == [every - {world.items[4]}, every]


@pytest.mark.parametrize("world", [True], indirect=True, ids=["texts"])
def test_the_page_tells_how_torch_alone_encodes_a_fresh_query(world: World, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (code,) = (block for block in blocks if "json.load(open(query))" in block)
    query = {
        "user_id": world.users[3],
        "history": [world.items[n] for n in (4, 2, 9)],
        "segment": "s 1",
        "age": 33,
        "langs": ["en", "zz"],
        "face": [0.5, -1.0, 2.0],
        "since": 1_700_000_123,
    }
    program, asked = tmp_path / "fresh.py", tmp_path / "query.json"
    program.write_text(ALONE + code)
    asked.write_text(json.dumps(query))
    ended = subprocess.run(
        [sys.executable, program, world.export, asked],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    expected = world.asked.fresh_vectors(pa.Table.from_pylist([query]))[0]
    np.testing.assert_allclose(json.loads(ended.stdout), expected, rtol=0, atol=ROUNDING)


def test_the_audience_of_a_log_without_order_is_a_list_of_users(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    write(
        tmp_path / "log.parquet",
        user_id=[f"u{n}" for n in rng.integers(0, 20, 300)],
        item_id=[f"i{n}" for n in rng.integers(0, 15, 300)],
    )
    prepare(own(tmp_path, unordered=True, split="random", audience_length=4))
    export(write_run(tmp_path / "run", tmp_path / "out"), tmp_path / "export")
    asked = Recommender.open(tmp_path / "export")
    stored = pq.read_table(tmp_path / "out" / "items.parquet")["audience"].to_pylist()
    users = pq.read_table(tmp_path / "out" / "users.parquet").to_pylist()
    name = {row["user"]: row["user_id"] for row in users if row["user"]}
    audience = [[name[row] for row in bag] for bag in stored]
    found = asked._fresh.item_columns(pa.table({"audience": audience}))
    assert lists(found["audience"]) == stored


def test_an_older_export_answers_its_own_users_and_says_why_no_others(
    world: World, tmp_path: Path
) -> None:
    asked = Recommender.open(older(world.export, tmp_path / "older"))
    assert asked.top(world.users[:2], 3).equals(world.asked.top(world.users[:2], 3))
    queries = pa.table({"user_id": world.users[:1]})
    for ask in (
        lambda: asked.fresh_vectors(queries),
        lambda: asked.top_fresh(queries, 3),
        lambda: asked.fresh_item_vectors(queries),
    ):
        with pytest.raises(UserError, match=r"older release.*: export anew"):
            ask()


def test_an_export_that_was_replaced_is_not_mixed_with_the_one_opened(
    world: World, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(world.export, tmp_path / "copy"))
    asked = Recommender.open(copy)
    path = copy / "vocabularies" / "segment.parquet"
    table = pq.read_table(path)
    values = [None, *table["value"].to_pylist()[:0:-1]]
    pq.write_table(table.set_column(1, "value", pa.array(values)), path)
    with pytest.raises(UserError, match="another export's by now"):
        asked.fresh_vectors(pa.table({"segment": ["s 1"]}))


def test_every_item_feature_of_the_log_is_asked_for(world: World) -> None:
    columns = {one.column for one in world.fresh._inputs.item}
    assert columns == {"item_id", "shelf", *ITEM_FEATURES}
