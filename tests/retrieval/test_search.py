import math

import faiss
import numpy as np
import pytest

from dat_rec.retrieval.search import top_items


def unit_vectors(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    vectors = rng.standard_normal((rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def exact_order(query: np.ndarray, items: np.ndarray) -> list[tuple[float, int]]:
    """(score, row) of all items, best first, one pair at a time."""
    scored = [
        (np.float32(math.fsum(float(a) * float(b) for a, b in zip(query, item, strict=True))), row)
        for row, item in enumerate(items)
    ]
    return sorted(scored, key=lambda pair: (-pair[0], pair[1]))


@pytest.mark.parametrize("k", [1, 5, 40, 200])
@pytest.mark.parametrize("different", [200, 12, 1])
@pytest.mark.parametrize("popularity", [0.0, 0.04, 30.0])
def test_equals_a_full_sort_with_ties_by_row(k: int, different: int, popularity: float) -> None:
    rng = np.random.default_rng(k + different)
    # Few different vectors: groups of equal items reach far beyond the cut.
    items = unit_vectors(rng, different, 8)[rng.integers(0, different, 200)]
    queries = unit_vectors(rng, 23, 8)
    if popularity:
        behind = popularity * np.log(rng.integers(1, 4, 200) / 3)
        items = np.column_stack([items, behind]).astype(np.float32)
        queries = np.column_stack([queries, np.ones(23, np.float32)])
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items)
    found, scores = top_items(index, items, queries, k)
    assert (found.shape, scores.dtype) == ((23, k), np.float32)
    for i, query in enumerate(queries):
        expected = exact_order(query, items)[:k]
        assert found[i].tolist() == [row for _, row in expected]
        assert scores[i].tolist() == [score for score, _ in expected]
    one_by_one = [top_items(index, items, query[None], k) for query in queries]
    assert np.array_equal(np.concatenate([rows for rows, _ in one_by_one]), found)
    assert np.array_equal(np.concatenate([part for _, part in one_by_one]), scores)
