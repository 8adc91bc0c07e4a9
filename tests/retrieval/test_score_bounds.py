"""Bounds are never below the scores, and lists that are found by them are faiss's."""

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from dat_rec.retrieval import few_queries
from dat_rec.retrieval.few_queries import FewQueries
from dat_rec.retrieval.score_bounds import LEAST, ScoreBounds
from dat_rec.retrieval.search import top_items

ITEMS, DIM = 6000, 24


def vectors(seed: int, rest: float) -> NDArray[np.float32]:
    """Items near a random subspace of five dimensions, some of them equal."""
    rng = np.random.default_rng(seed)
    near = rng.normal(size=(ITEMS, 5)) @ rng.normal(size=(5, DIM))
    items = (near + rest * rng.normal(size=(ITEMS, DIM))).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    items[::50] = items[0]
    return items


def seen(kind: str, items: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Queries that bounds are fitted to."""
    rng = np.random.default_rng(9)
    if kind == "none":
        return None
    queries = {
        "nobody": np.empty((0, DIM)),
        "one": rng.normal(size=(1, DIM)),
        "zeros": np.zeros((3, DIM)),
        "some": rng.normal(size=(100, 3)) @ rng.normal(size=(3, DIM)) * 40,
    }[kind]
    return queries.astype(np.float32)


@pytest.mark.parametrize("kind", ["none", "nobody", "one", "zeros", "some"])
@pytest.mark.parametrize("rest", [0.0, 0.05])
def test_no_bound_is_below_its_score(kind: str, rest: float) -> None:
    items = vectors(0, rest)
    bounds = ScoreBounds.of(items, seen(kind, items))
    assert bounds is not None
    rng = np.random.default_rng(1)
    away = rng.normal(size=(9, DIM)) * np.logspace(-3, 1, DIM)
    for queries in (rng.normal(size=(9, DIM)), away, away[:, ::-1], items[:9]):
        query_BD = queries.astype(np.float32)
        scores = query_BD.astype(np.float64) @ items.T.astype(np.float64)
        above = bounds.bounds(query_BD).numpy() - scores
        assert (above > -few_queries.ROUNDING * (1 + np.abs(scores))).all()
    if kind == "none":
        # Of queries in the subspace they are near the scores, or they would be of no use.
        assert np.median(bounds.bounds(items[:9]).numpy() - items[:9] @ items.T) < 0.05


def test_queries_that_were_seen_make_bounds_of_use_where_items_alone_have_none() -> None:
    rng = np.random.default_rng(6)
    turn = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
    items = (rng.normal(size=(ITEMS, DIM)) * np.logspace(0, -1, DIM)) @ turn
    queries = (rng.normal(size=(200, DIM)) * np.logspace(0, -2, DIM)) @ turn
    items, queries = items.astype(np.float32), queries.astype(np.float32)
    assert ScoreBounds.of(items) is None
    bounds = ScoreBounds.of(items, queries[:100])
    assert bounds is not None
    scores = queries[100:] @ items.T
    tenth = -np.partition(-scores, 10, axis=1)[:, 10:11]
    left = (bounds.bounds(queries[100:]).numpy() >= tenth).sum(axis=1)
    assert np.median(left) < 100


@pytest.mark.parametrize("kind", ["none", "one", "some"])
@pytest.mark.parametrize("rest", [0.0, 0.05])
def test_lists_by_bounds_have_the_bits_that_faiss_candidates_give(rest: float, kind: str) -> None:
    items = vectors(2, rest)
    index = faiss.IndexFlatIP(DIM)
    index.add(items)
    few = FewQueries(index, items, seen(kind, items))
    assert few._bounds is not None
    others = np.random.default_rng(3).normal(size=(20, DIM)).astype(np.float32)
    by_bounds = 0
    # Queries near the items, and others, of which bounds may leave too many items.
    for asked in (*items[:20, None], *others[:, None]):
        for k in (1, 10, 100, 1000, ITEMS):
            by_bounds += few._by_bounds(asked, k) is not None
            ours = top_items(few, items, asked, k)
            plain = top_items(index, items, asked, k)
            np.testing.assert_array_equal(ours[0], plain[0])
            np.testing.assert_array_equal(ours[1], plain[1])
    # They may leave many of others than those that were seen.
    assert by_bounds >= (1 if kind == "some" else 20)


def test_few_items_and_those_without_a_subspace_have_no_bounds() -> None:
    even = np.random.default_rng(4).normal(size=(ITEMS, DIM)).astype(np.float32)
    assert ScoreBounds.of(even) is None
    assert ScoreBounds.of(vectors(5, rest=0.0)[: LEAST - 1]) is None
