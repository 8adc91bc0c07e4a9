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


def test_no_bound_is_below_its_score() -> None:
    items = vectors(0, rest=0.05)
    bounds = ScoreBounds.of(items)
    assert bounds is not None
    queries = np.random.default_rng(1).normal(size=(9, DIM)).astype(np.float32)
    scores = queries.astype(np.float64) @ items.T.astype(np.float64)
    above = bounds.bounds(queries).numpy() - scores
    assert above.min() > -few_queries.ROUNDING
    # Of queries in the subspace they are near the scores, or they would be of no use.
    assert np.median(bounds.bounds(items[:9]).numpy() - items[:9] @ items.T) < 0.05


@pytest.mark.parametrize("rest", [0.0, 0.05])
def test_lists_by_bounds_have_the_bits_that_faiss_candidates_give(rest: float) -> None:
    items = vectors(2, rest)
    index = faiss.IndexFlatIP(DIM)
    index.add(items)
    few = FewQueries(index, items)
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
    assert by_bounds >= 20


def test_few_items_and_those_without_a_subspace_have_no_bounds() -> None:
    even = np.random.default_rng(4).normal(size=(ITEMS, DIM)).astype(np.float32)
    assert ScoreBounds.of(even) is None
    assert ScoreBounds.of(vectors(5, rest=0.0)[: LEAST - 1]) is None
