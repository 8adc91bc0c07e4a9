"""What the server answers is what ``Recommender`` gives for the same user, to the last bit."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dat_rec.retrieval.recommender import Recommender
from tests.retrieval.raw_log import RawLog
from tests.serve.server import Server

USERS = [*(f"u{number:03}" for number in range(38)), "nobody"]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"k": 3},
    {"k": 7, "blend_history": True},
    {"exclude_seen": True},
    {"exclude_seen": True, "blend_history": True, "k": 4},
    {"filter": "weight < 2"},
    {"filter": "train_count > 3 AND weight > 0.5", "exclude_seen": True, "per_category": 2},
    {"available": ["i003", "i004", "i020", "no such"], "k": 5},
    {"quotas": {"category": 1}},
    {"quotas": {"stock": 2}, "k": 9, "filter": "true"},
]


@pytest.fixture(scope="module")
def recommender(exported: Path) -> Recommender:
    return Recommender.open(exported)


def of_one(recommender: Recommender, user: str, options: dict[str, Any]) -> tuple[Any, Any]:
    options = {"k": 30} | options
    if exclude := options.pop("exclude", None):
        pairs = {"user_id": [user] * len(exclude), "item_id": exclude}
        options["exclude"] = pa.table(pairs)
    found = recommender.top([user], **options)
    return found["item_id"].to_pylist(), found["score"].to_pylist()


@pytest.mark.parametrize("options", [*OPTIONS, {"exclude": ["i001", "i002", "no such"], "k": 6}])
def test_lists_are_those_of_the_recommender(
    server: Server, recommender: Recommender, options: dict[str, Any]
) -> None:
    found = server.lists(user_ids=USERS, **{"k": 30} | options)
    assert [one["user_id"] for one in found] == USERS
    assert [one["known"] for one in found] == [True] * 38 + [False]
    for one in found:
        assert (one["items"], one["scores"]) == of_one(recommender, one["user_id"], options)


def test_requests_that_come_together_are_answered_as_alone(
    server: Server, recommender: Recommender
) -> None:
    rng = np.random.default_rng(0)
    asked = [
        (USERS[rng.integers(len(USERS))], OPTIONS[rng.integers(len(OPTIONS))]) for _ in range(150)
    ]

    def ask(one: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
        return server.lists(user_ids=[one[0]], **{"k": 30} | one[1])

    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(ask, asked))
    for (user, options), (found,) in zip(asked, answers, strict=True):
        assert (found["items"], found["scores"]) == of_one(recommender, user, options)
    _, figures, _ = server.ask("GET", "/metrics")
    counts = {
        line.split(" ")[0]: float(line.split(" ")[1])
        for line in figures.splitlines()
        if line.startswith("dat_rec_batch_requests_")
    }
    # Some have been computed together.
    assert counts["dat_rec_batch_requests_count"] < counts["dat_rec_batch_requests_sum"]


def test_nobody_has_no_lists(server: Server) -> None:
    assert server.lists(user_ids=[]) == []
    assert server.lists(user_ids=[], filter="true", exclude_seen=True) == []
    assert server.lists(queries=[], k=3) == []
    assert server.ask("POST", "/similar", {"item_ids": []})[1]["items"] == []


def test_one_user_by_get(server: Server, recommender: Recommender) -> None:
    _, found, _ = server.ask("GET", "/recommend/u004?k=5&exclude_seen=true&blend_history=0")
    (one,) = found["users"]
    expected = of_one(recommender, "u004", {"k": 5, "exclude_seen": True})
    assert (one["items"], one["scores"]) == expected


def test_raw_values_of_users_who_were_never_seen(
    server: Server, recommender: Recommender, log: RawLog
) -> None:
    names = ["user_id", "segment", "zip", "vip", "age", "langs", "codes", "history"]
    queries = log.queries().select(names).slice(0, 6).to_pylist()
    queries[2]["user_id"] = "a new one"
    queries.append({"history": ["i003", "i009", "never seen"], "face": [0.5, 1.5, -2.0]})
    for options in ({}, {"exclude_seen": True}, {"filter": "weight < 2", "per_category": 2}):
        found = server.lists(queries=queries, k=8, **options)
        table = pa.Table.from_pylist(
            [{name: query.get(name) for name in [*names, "face"]} for query in queries]
        )
        top = recommender.top_fresh(table, 8, **options)
        for number, one in enumerate(found):
            mine = top.filter(pa.compute.equal(top["query"], number))
            assert one["items"] == mine["item_id"].to_pylist()
            assert one["scores"] == mine["score"].to_pylist()
    assert found[2]["user_id"] == "a new one"
    # A history of other items asks for other items.
    one, other = (server.lists(queries=[{"history": [item] * 5}])[0] for item in ("i001", "i009"))
    assert one["scores"] != other["scores"]


def test_similar_items(server: Server, recommender: Recommender) -> None:
    asked = ["i005", "i001"]
    for options in ({"k": 6}, {"k": 9, "filter": "weight < 2", "per_category": 2}):
        _, found, _ = server.ask("POST", "/similar", {"item_ids": asked, **options})
        top = recommender.similar(asked, **options)
        for one in found["items"]:
            mine = top.filter(pa.compute.equal(top["item_id"], one["item_id"]))
            assert one["items"] == mine["similar_item_id"].to_pylist()
            assert one["scores"] == mine["score"].to_pylist()
        assert [one["item_id"] for one in found["items"]] == asked


def test_numbered_ids(others: tuple[Path, Path], tmp_path: Path) -> None:
    """Items are numbers there: they stay numbers in JSON."""
    from tests.serve.server import serving

    expected = Recommender.open(others[0]).top(["u3"], k=4)
    with serving(others[0], tmp_path / "log") as server:
        (found,) = server.lists(user_ids=["u3"], k=4)
        assert found["items"] == expected["item_id"].to_pylist()
        status, wrong, _ = server.ask("POST", "/recommend", {"user_ids": [3], "k": 3})
        assert (status, wrong["error"][:9]) == (400, "user_ids:")
        status, wrong, _ = server.ask("POST", "/recommend", {"queries": [{"history": ["x"]}]})
        assert status == 400
        assert server.end() == 0
