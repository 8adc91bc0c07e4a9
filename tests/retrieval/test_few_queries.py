"""Candidates of a few queries are those of faiss's exact index, ties and all."""

import faiss
import numpy as np
import pytest

from dat_rec.retrieval import few_queries
from dat_rec.retrieval.few_queries import FewQueries, highest
from dat_rec.retrieval.search import top_items


@pytest.mark.parametrize("items", [1, 7, 100, 5000])
@pytest.mark.parametrize("levels", [3, 1000])
def test_the_highest_are_those_of_a_sort(items: int, levels: int) -> None:
    rng = np.random.default_rng(items)
    for k in {1, min(items, 5), min(items, 116), items}:
        # With few levels most scores are equal.
        score = (rng.integers(0, levels, items) / levels).astype(np.float32)
        found = highest(score, k)
        assert len(set(found.tolist())) == k
        assert score[found].tolist() == np.sort(score)[::-1][:k].tolist()


@pytest.mark.parametrize("queries", [1, 5, 64, 65])
def test_lists_have_the_bits_that_faiss_candidates_give(
    queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(few_queries, "SCORE_BYTES", 3 * 4 * 700)
    rng = np.random.default_rng(queries)
    items = rng.normal(size=(700, 9)).astype(np.float32)
    items[::7] = items[0]  # Equal ones tie at every place.
    asked = rng.normal(size=(queries, 9)).astype(np.float32)
    index = faiss.IndexFlatIP(9)
    index.add(items)
    for k in (1, 20, 700):
        ours = top_items(FewQueries(index, items), items, asked, k)
        plain = top_items(index, items, asked, k)
        np.testing.assert_array_equal(ours[0], plain[0])
        np.testing.assert_array_equal(ours[1], plain[1])


def test_an_index_that_is_not_exact_or_too_large_is_asked_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    graph = faiss.IndexHNSWFlat(8, 4, faiss.METRIC_INNER_PRODUCT)
    graph.add(items)
    graph.hnsw.efSearch = 4
    found = FewQueries(graph, items).search(items[:9], 20)
    np.testing.assert_array_equal(found[1], graph.search(items[:9], 20)[1])
    flat = faiss.IndexFlatIP(8)
    flat.add(items)
    monkeypatch.setattr(few_queries, "COPY_BYTES", items.nbytes - 1)
    found = FewQueries(flat, items).search(items[:9], 20)
    np.testing.assert_array_equal(found[0], flat.search(items[:9], 20)[0])
