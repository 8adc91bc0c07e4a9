from dataclasses import replace

import numpy as np
import pytest

from dat_rec.errors import UserError
from dat_rec.retrieval.metrics import (
    figures,
    largest_category,
    metrics_from_vectors,
    protocol_metrics,
)
from dat_rec.retrieval.ranking import count_above, exact_ranks
from tests.retrieval import brute_force
from tests.retrieval.world import ITEMS, random_protocol


def small_integers(rng, rows: int) -> np.ndarray:
    """Vectors whose inner products are exact and tie often."""
    return rng.integers(-2, 3, (rows, 3)).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block_bytes", [1, 3 * 4 * ITEMS, 2**20])
def test_every_block_equals_a_loop_over_queries_and_items(seed: int, block_bytes: int) -> None:
    protocol = random_protocol(seed)
    rng = np.random.default_rng(100 + seed)
    query, item = small_integers(rng, len(protocol.users)), small_integers(rng, ITEMS)
    row_of = {int(user): row for row, user in enumerate(protocol.users)}

    def score(user: int, candidate: int) -> float:
        pairs = zip(query[row_of[user]].tolist(), item[candidate].tolist(), strict=True)
        return sum(a * b for a, b in pairs)

    found = protocol_metrics(protocol, query, item, block_bytes)
    assert brute_force.approximately(found) == brute_force.approximately(
        brute_force.metrics(protocol, score)
    )


def test_world_has_the_cases_that_matter() -> None:
    protocol = random_protocol(0)
    sizes = [len(queries) for queries in protocol.queries_by_user]
    pairs = set(zip(protocol.user_row.tolist(), protocol.item_index.tolist(), strict=True))
    assert min(sizes) <= 8 < max(sizes)
    assert len(pairs) < len(protocol.user_row)
    assert 0 < protocol.new_pair.sum() < protocol.answerable.sum() < len(protocol.user_row)


def test_by_hand() -> None:
    # Scores 5 3 3 3 1: the 5 ranks first; a 3 after it, with half of two ties.
    pool = np.array([3, 1, 3, 5, 3], np.int64)
    assert (0.5 + count_above(pool, np.array([5, 3, 1]))).tolist() == [1.0, 3.0, 5.0]
    assert figures(np.array([1.0, 50.0, 50.5, 100.5])) == {
        "HR@50": 0.5,
        "HR@100": 0.75,
        "MRR": pytest.approx((1 + 1 / 50 + 1 / 50.5 + 1 / 100.5) / 4),
        "queries": 4,
    }


def test_largest_category_has_most_interactions_not_most_items() -> None:
    protocol = replace(random_protocol(0), category=np.r_[np.ones(2, int), np.zeros(58, int)])
    counts = np.r_[900, 800, np.ones(43, int), np.zeros(15, int)]
    assert largest_category(replace(protocol, train_count=counts)) == 1


def test_no_query_gives_no_figure() -> None:
    protocol = random_protocol(0)
    none = np.zeros(0, np.int64)
    empty = replace(protocol, user_row=none, item_index=none)
    found = protocol_metrics(empty, np.zeros((0, 3), np.float32), np.zeros((ITEMS, 3), np.float32))
    nothing = {"HR@50": None, "HR@100": None, "MRR": None, "queries": 0}
    assert found["all"] == nothing | {"unanswerable": 0}
    assert found["cold"]["new_items"] == nothing
    assert found["by_category"] == {}


@pytest.mark.parametrize("which", ["user", "item"])
def test_vectors_that_are_not_finite_are_refused(which: str) -> None:
    protocol = random_protocol(0)
    vectors = {"user": np.ones((len(protocol.users), 3), np.float32)}
    vectors["item"] = np.ones((ITEMS, 3), np.float32)
    vectors[which][4, 1] = np.nan
    with pytest.raises(UserError, match=f"{which} vector 4 is not finite"):
        exact_ranks(protocol, vectors["user"], vectors["item"])


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.int64])
def test_vectors_of_any_model_are_ranked_as_a_loop_does(kind: type) -> None:
    rng = np.random.default_rng(3)
    query, item = (small_integers(rng, rows).astype(kind) for rows in (50, ITEMS))
    target = rng.integers(0, ITEMS, 50)
    ranks = []
    for vector, own in zip(query.tolist(), target.tolist(), strict=True):
        scores = [sum(a * b for a, b in zip(vector, other, strict=True)) for other in item.tolist()]
        above = sum(score > scores[own] for score in scores)
        ranks.append(1 + above + (sum(score == scores[own] for score in scores) - 1) / 2)
    assert metrics_from_vectors(query, item, target, cutoffs=(1, 5)) == {
        "HR@1": pytest.approx(sum(rank <= 1 for rank in ranks) / 50),
        "HR@5": pytest.approx(sum(rank <= 5 for rank in ranks) / 50),
        "MRR": pytest.approx(sum(1 / rank for rank in ranks) / 50),
        "queries": 50,
    }


@pytest.mark.parametrize(
    ("shapes", "targets", "message"),
    [
        (((2, 3), (4, 2)), [0, 1], r"queries are \(2, 3\) and items \(4, 2\): give"),
        (((2, 3), (4, 3)), [0], r"targets are int64 \(1,\): give 2 integers"),
        (((2, 3), (4, 3)), [0.0, 1.0], "targets are float64"),
        (((2, 3), (4, 3)), [0, 4], "targets name row 4, outside 0 … 3"),
    ],
)
def test_vectors_that_do_not_go_together_are_refused(
    shapes: tuple[tuple[int, int], ...], targets: list[float], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        metrics_from_vectors(*(np.ones(shape) for shape in shapes), np.array(targets))
