import re
import resource
import subprocess
import sys
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dat_rec.data.columns import Column
from dat_rec.errors import UserError
from dat_rec.retrieval import answer, list_place
from dat_rec.retrieval.queries import read_queries
from dat_rec.retrieval.recommend import recommend, sample
from dat_rec.retrieval.trained import load_model
from dat_rec.storage.address import location
from dat_rec.storage.publish import whole_folder
from tests.object_store import ObjectStore
from tests.retrieval.whole import encode_items, encode_users
from tests.retrieval.world import ITEMS, USERS


def ask(path: Path, ids: object, kind: pa.DataType | None = None, name: str = "user_id") -> Path:
    pq.write_table(pa.table({name: pa.array(ids, kind)}), path)
    return path


def expected_rows(ids: list[str], query: np.ndarray, items: np.ndarray, k: int) -> list[dict]:
    scores = (query.astype(np.float64) @ items.astype(np.float64).T).round(6)
    rows = []
    for user, score in zip(ids, scores, strict=True):
        order = sorted(range(len(items)), key=lambda item: (-score[item], item))[:k]
        rows += [
            {"user_id": user, "rank": rank, "item_id": 1000 + item, "score": score[item]}
            for rank, item in enumerate(order, 1)
        ]
    return rows


def assert_same(path: Path, expected: list[dict]) -> None:
    found = pq.read_table(path).to_pylist()
    assert [row | {"score": 0} for row in found] == [row | {"score": 0} for row in expected]
    np.testing.assert_allclose(
        [row["score"] for row in found], [row["score"] for row in expected], atol=2e-6
    )


@pytest.mark.parametrize("block", [1, 7, 4096])
@pytest.mark.parametrize("k", [1, 10, ITEMS])
def test_all_users_get_their_best_items(
    run: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, k: int
) -> None:
    monkeypatch.setattr(answer, "MOST_USERS", block)
    done = recommend(exported, k, tmp_path / "recs.parquet")
    assert done == (USERS, 0, 0, 0, "")
    trained = load_model(run)
    model, dataset = trained.model, trained.dataset
    query = encode_users(model, dataset, np.arange(USERS))
    ids = [f"u{user}" for user in range(USERS)]
    expected = expected_rows(ids, query, encode_items(model, dataset), k)
    assert_same(tmp_path / "recs.parquet", expected)
    types = {field.name: field.type for field in pq.read_schema(tmp_path / "recs.parquet")}
    assert types == {
        "user_id": pa.string(),
        "rank": pa.int32(),
        "item_id": pa.int64(),
        "score": pa.float32(),
    }


def test_a_list_is_answered_in_its_order_and_strangers_too(
    run: Path, exported: Path, tmp_path: Path
) -> None:
    ids = ["u5", "nobody", "u29", "u0", ""]
    queries = ask(tmp_path / "queries.parquet", ids, pa.large_string())
    assert recommend(exported, 4, tmp_path / "recs.parquet", queries) == (5, 2, 0, 0, "")
    trained = load_model(run)
    model, dataset = trained.model, trained.dataset
    query = encode_users(model, dataset, np.array([5, 0, 29, 0, 0]))
    query[1] = query[4] = stranger(model)
    expected = expected_rows(ids, query, encode_items(model, dataset), 4)
    assert_same(tmp_path / "recs.parquet", expected)


def stranger(model: torch.nn.Module) -> np.ndarray:
    """[unknown user ‖ unknown age ‖ no history ‖ unknown augmented vector], by hand; a 1 behind."""
    tables = model.embeddings.tables
    parts = [tables["user"].local[0], tables["age"].local[0], torch.zeros(8)]
    parts.append(model.augmented.tables["augmented_user"].local[0])
    return np.append(model.query_tower(torch.cat(parts)).numpy(), np.float32(1))


@pytest.mark.parametrize("block", [1, 4, 7])
def test_users_whom_nothing_tells_apart_get_the_same_list(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(answer, "MOST_USERS", block)
    known = [f"u{number}" for number in range(USERS)]
    ids = ["?0", "?1", *known[:3], "?2", "?3", *known[3:], "?4"]
    recommend(exported, 5, tmp_path / "recs.parquet", ask(tmp_path / "queries.parquet", ids))
    lists: dict[str, list[tuple[int, float]]] = {}
    for row in pq.read_table(tmp_path / "recs.parquet").to_pylist():
        lists.setdefault(row["user_id"], []).append((row["item_id"], row["score"]))
    assert all(lists[f"?{number}"] == lists["?0"] for number in range(5))


def test_an_empty_list_gives_an_empty_answer(exported: Path, tmp_path: Path) -> None:
    queries = ask(tmp_path / "queries.parquet", [], pa.string())
    assert recommend(exported, 4, tmp_path / "recs.parquet", queries) == (0, 0, 0, 0, "")
    assert pq.read_table(tmp_path / "recs.parquet").num_rows == 0


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["u5", "nobody"], pa.string_view()),
        pa.array(["u5", "nobody"], pa.large_string()),
        pa.array(["u5", "nobody"]).dictionary_encode(),
        pa.array(["u5", "nobody"], pa.large_string()).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_text_of_every_kind_is_text(exported: Path, tmp_path: Path, column: pa.Array) -> None:
    recommend(exported, 2, tmp_path / "a", ask(tmp_path / "plain", ["u5", "nobody"], pa.string()))
    pq.write_table(pa.table({"user_id": column}), tmp_path / "queries")
    assert recommend(exported, 2, tmp_path / "b", tmp_path / "queries") == (2, 1, 0, 0, "")
    assert pq.read_table(tmp_path / "b").equals(pq.read_table(tmp_path / "a"))


def test_the_users_own_column_can_be_named(exported: Path, tmp_path: Path) -> None:
    table = {"user_id": ["no", "no"], "who": ["u5", "nobody"]}
    pq.write_table(pa.table(table), tmp_path / "queries")
    done = recommend(exported, 2, tmp_path / "out", tmp_path / "queries", user_id="who")
    assert done == (2, 1, 0, 0, "")
    found = pq.read_table(tmp_path / "out")["user_id"].to_pylist()
    assert found == ["u5", "u5", "nobody", "nobody"]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (pa.array([3.0, 4.0]), None),
        (pa.array([3, 4], pa.uint8()), None),
        (pa.array([3, 4]).dictionary_encode(), None),
        (pa.array([Decimal(3), Decimal(4)], pa.decimal128(38, 0)), None),
        (pa.array([3.0, float("nan")]), "row 2: user_id is null"),
        (pa.array([3.0, 3.5]), "row 2: user_id 3.5 is no int64, as the export's ids are"),
        (pa.array([3, 2.0**53]), "row 2: user_id 9007199254740992.0 is a float too large"),
        (pa.array([3, 2**64 - 1], pa.uint64()), "row 2: user_id 18446744073709551615 is no int64"),
        (pa.array([Decimal("3.5")], pa.decimal128(9, 1)), "row 1: user_id 3.5 is no int64"),
        (pa.array([3.0, 3.0]), "user_id 3 stands there 2 times"),
        (pa.array(["3"]), "user_id is string, the export's user_id is int64: write it as integers"),
        (pa.array([True]), "user_id is bool, the export's user_id is int64"),
    ],
)
def test_integers_are_read_from_every_exact_number(
    tmp_path: Path, ids: pa.Array, message: str | None
) -> None:
    pq.write_table(pa.table({"user_id": ids}), tmp_path / "queries")
    if message is None:
        assert read_queries(tmp_path / "queries", "user_id", pa.array([3])).to_pylist() == [3, 4]
        return
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'queries'}: {message}")) as error:
        read_queries(tmp_path / "queries", "user_id", pa.array([3]))
    assert "\n" not in str(error.value)


def test_uuids_are_text(tmp_path: Path) -> None:
    names = [uuid.UUID(int=number) for number in (3, 4)]
    ids = pa.array([name.bytes for name in names], pa.uuid())
    pq.write_table(pa.table({"user_id": ids}), tmp_path / "queries")
    found = read_queries(tmp_path / "queries", "user_id", pa.array(["u3"]))
    assert found.to_pylist() == [str(name) for name in names]


@pytest.mark.parametrize("kind", [pa.null(), pa.string(), pa.int32(), pa.float64()])
def test_a_list_of_none_has_any_type(tmp_path: Path, kind: pa.DataType) -> None:
    """pandas cannot tell the type of an empty column."""
    pq.write_table(pa.table({"user_id": pa.array([], kind)}), tmp_path / "queries")
    none = pa.array([], pa.string() if kind == pa.string() else pa.int64())
    assert read_queries(tmp_path / "queries", "user_id", none).equals(none)


KNOWN = pa.array(['["north",17]', '["south",3]'])
STORES = pa.array(["south", "east"])


@pytest.mark.parametrize("kind", [pa.int16(), pa.uint64(), pa.float64()])
def test_columns_of_queries_make_the_id_that_they_made_in_the_log(
    tmp_path: Path, kind: pa.DataType
) -> None:
    columns = {"store": STORES, "customer": pa.array([3, 5], kind), "x": [0, 0]}
    pq.write_table(pa.table(columns), tmp_path / "queries")
    found = read_queries(tmp_path / "queries", "store,customer", KNOWN)
    assert found.equals(pa.array(['["south",3]', '["east",5]']))


@pytest.mark.parametrize(
    ("named", "known", "message"),
    [
        ("store,customer", pa.array(["u1"]), "the export's ids are of 1 columns, as u1: name as"),
        ("store,customer", pa.array([7]), "the export's ids are of 1 columns, as 7"),
        ("store,customer,x", KNOWN, "the export's ids are of 2 columns, as "),
        ("customer,store", KNOWN, "customer is int64, the export's user_id is string: write it"),
        ("store,text", KNOWN, "text is string, the export's user_id is int64: write it as int"),
        ("store,none", KNOWN, "row 2: none is null: remove the row"),
        ("store,who", KNOWN, "column 'who' is missing: it has store, customer, text, none, x"),
        ("store,", KNOWN, "--user-id store,: a name is empty"),
        ("x,customer", pa.array(["[1,2]"]), "stands there 2 times: name each user once"),
    ],
)
def test_columns_that_are_not_those_of_the_log_are_refused(
    tmp_path: Path, named: str, known: pa.Array, message: str
) -> None:
    table = {"store": STORES, "customer": [3, 3], "text": ["3", "5"], "none": [3, None]}
    pq.write_table(pa.table({**table, "x": [0, 0]}), tmp_path / "queries")
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_queries(tmp_path / "queries", named, known)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("ids", "kind", "name", "message"),
    [
        (["u1", "u2", "u1"], pa.string(), "user_id", "'u1' stands there 2 times"),
        (["u1", None], pa.string(), "user_id", "row 2: user_id is null"),
        ([1, 2], pa.int64(), "user_id", "user_id is int64, the export's user_id is string: write"),
        ([1.5], pa.float64(), "user_id", "user_id is double"),
        (["u1"], pa.string(), "who", "'user_id' is missing: it has who; name the one .* --user-id"),
        ([b"u1"], pa.binary(), "user_id", "user_id is binary"),
    ],
)
def test_malformed_queries_are_refused(
    exported: Path, tmp_path: Path, ids: list, kind: pa.DataType, name: str, message: str
) -> None:
    queries = ask(tmp_path / "queries.parquet", ids, kind, name)
    with pytest.raises(UserError, match=message) as error:
        recommend(exported, 3, tmp_path / "recs.parquet", queries)
    assert str(queries) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "recs.parquet").exists()


def test_queries_that_are_no_parquet_are_refused(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "queries.csv").write_text("user_id\nu1\n")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        recommend(exported, 3, tmp_path / "recs.parquet", tmp_path / "queries.csv")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        recommend(exported, 3, tmp_path / "recs.parquet", tmp_path / "absent.parquet")


@pytest.mark.parametrize(("k", "message"), [(0, "--k is 0"), (-1, "--k is -1"), (61, "60 items")])
def test_k_out_of_range_is_refused(exported: Path, tmp_path: Path, k: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recommend(exported, k, tmp_path / "recs.parquet")


def test_a_taken_file_is_kept_unless_asked(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "recs.parquet"
    out.write_text("keep")
    with pytest.raises(UserError, match="already there"):
        recommend(exported, 3, out)
    assert out.read_text() == "keep"
    recommend(exported, 3, out, overwrite=True)
    assert pq.read_table(out).num_rows == 3 * USERS


def test_a_failure_midway_leaves_no_file(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer, "MOST_USERS", 7)
    take, calls = Column.take, []

    def fail_later(column: Column, rows: np.ndarray) -> Column:
        calls.append(rows)
        if len(calls) > 6:
            raise KeyboardInterrupt
        return take(column, rows)

    monkeypatch.setattr(Column, "take", fail_later)
    with pytest.raises(KeyboardInterrupt):
        recommend(exported, 3, tmp_path / "recs.parquet")
    assert list(tmp_path.iterdir()) == []


def test_table_shows_titles_of_the_first_users(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "recs.parquet"
    recommend(exported, 7, out)
    lines = sample(exported, out, users=2, first=3).splitlines()
    assert [line for line in lines if line.startswith("user")] == ["user u0", "user u1"]
    rows = [row for row in pq.read_table(out).to_pylist()[:14] if row["rank"] <= 3]
    shown = [line.split(maxsplit=2) for line in lines if not line.startswith("user")]
    assert len(shown) == len(rows) == 6
    for (rank, score, title), row in zip(shown, rows, strict=True):
        number = row["item_id"] - 1000
        wanted = f"item {row['item_id']}" if number % 10 == 9 else f"title {number}"
        assert (int(rank), float(score), title) == (row["rank"], round(row["score"], 4), wanted)
    assert len(sample(exported, out, users=99, first=99).splitlines()) == 8 * USERS


def test_what_stands_in_a_store_is_replaced_by_its_like_alone(
    object_store: ObjectStore, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a file and a folder may have one name; a reader would take the one that is left."""
    object_store.put("recs/one.parquet", b"")
    with whole_folder(location("s3://open/recs/many"), marker="part-00000.parquet") as folder:
        (folder / "part-00000.parquet").touch()
    for ranks, out, why in [
        (1, "s3://open/recs/many", "a folder, or part of the input"),
        (1, "s3://open", "a folder, or part of the input"),
        (2, "s3://open/recs/one.parquet", "a file, and several ranks write a folder"),
    ]:
        monkeypatch.setattr(list_place, "rank_and_ranks", lambda ranks=ranks: (0, ranks))
        with pytest.raises(UserError, match=rf"^--out {out}: {why}"):
            recommend(exported, 3, location(out), overwrite=True)
    with pytest.raises(UserError, match=r"^s3://open/recs/one\.parquet is already there"):
        recommend(exported, 3, location("s3://open/recs/one.parquet"))


HEAVY = {"torchrec", "fbgemm_gpu", "torch._dynamo", "sympy", "pandas", "duckdb"}
AND_SAY_WHAT_WAS_IMPORTED = """
import sys
from dat_rec.cli import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""


def test_a_process_that_recommends_imports_torch_alone(
    exported: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    queries, out = ask(tmp_path / "queries.parquet", ["u1"]), tmp_path / "recs.parquet"
    options = ["--export", exported, "--queries", queries, "--out", out, "--k", "3"]
    command = [sys.executable, "-c", AND_SAY_WHAT_WAS_IMPORTED, "recommend", *map(str, options)]
    before = _children_s()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    record_property("figure", f"recommend of one user: {_children_s() - before:.1f} s of CPU")
    assert done.returncode == 0, done.stderr
    imported = set(done.stderr.split())
    assert "torch" in imported
    assert not HEAVY & imported
    assert pq.read_table(out).num_rows == 3


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
