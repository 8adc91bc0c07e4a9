"""Ties: equal vectors score equally, whatever the product's edges and blocks."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from dat_rec.retrieval import ranking
from dat_rec.retrieval.metrics import mean_reciprocal_rank
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.ranking import COLUMNS, exact_ranks
from tests.retrieval.test_search import unit_vectors


def asked_for(users: int, items: int, trained: int, wanted: list[int]) -> Protocol:
    """Every user is asked for every one of ``wanted``, and has no past."""
    return Protocol(
        user_row=np.repeat(np.arange(users), len(wanted)),
        item_index=np.tile(wanted, users),
        user_trained=np.ones(users, bool),
        train_count=(np.arange(items) < trained).astype(np.int64),
        category=np.zeros(items, np.int64),
        category_names=("all",),
        seen_offsets=np.zeros(users + 1, np.int64),
        seen_item=np.zeros(0, np.int64),
        seen_count=np.zeros(0, np.int64),
    )


def ranks_one_by_one(query: np.ndarray, items: np.ndarray, wanted: list[int]) -> list[float]:
    """Scores summed exactly from float64 products, one pair at a time, rounded to float32."""
    found = []
    for user in query.astype(np.float64):
        scores = [float(np.float32(math.fsum(row))) for row in items.astype(np.float64) * user]
        for item in wanted:
            above = sum(score > scores[item] for score in scores)
            equal = sum(score == scores[item] for score in scores)
            found.append(1 + above + (equal - 1) / 2)
    return found


@pytest.mark.parametrize("users", [1, 2, 3, 9])
@pytest.mark.parametrize("items", [17, 383, COLUMNS + 1, 2 * COLUMNS + 3])
@pytest.mark.parametrize("block_users", [1, 2, 1000])
def test_equal_items_tie_wherever_they_stand(users: int, items: int, block_users: int) -> None:
    rng = np.random.default_rng(users * items)
    vectors = unit_vectors(rng, items, 32)
    edges = [0, 1, 15, 16, items // 2, items - 3, items - 2, items - 1]
    edges += [edge for edge in (COLUMNS - 1, COLUMNS) if edge < items]
    vectors[edges] = vectors[5]
    vectors[items - 5 : items - 3] = vectors[7]
    query = unit_vectors(rng, users, 32)
    query[-1] = query[0]
    wanted = sorted({*edges, 5, 7, 9, items - 4})
    protocol = asked_for(users, items, items, wanted)
    found = exact_ranks(protocol, query, vectors, block_bytes=4 * items * block_users)
    expected = ranks_one_by_one(query, vectors, wanted)
    assert found.catalogue.tolist() == found.trained.tolist() == expected


@pytest.mark.parametrize("users", [1, 2, 3])
def test_items_that_are_all_the_same_share_the_middle_rank(users: int) -> None:
    rng = np.random.default_rng(0)
    vectors = np.repeat(unit_vectors(rng, 1, 32), 383, axis=0)
    # A sign of zero makes no other vector.
    vectors[:, 3] = 0.0
    vectors[::2, 3] = -0.0
    protocol = asked_for(users, 383, 0, list(range(383)))
    found = exact_ranks(protocol, unit_vectors(rng, users, 32), vectors).catalogue
    assert (found == 192).all()
    assert mean_reciprocal_rank(found) == pytest.approx(0.0052, abs=5e-5)


def noise(seed: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A product whose every number is off by chance, far more than rounding."""
    generator = torch.Generator().manual_seed(seed)

    def scores(query: Tensor, items: Tensor) -> Tensor:
        off = torch.rand(len(query), len(items), generator=generator, dtype=torch.float64)
        return query @ items.T + 1e-3 * off

    return scores


@pytest.mark.parametrize("block_users", [1, 2, 1000])
def test_equal_vectors_rank_alike_whatever_the_product_rounds(
    monkeypatch: pytest.MonkeyPatch, block_users: int
) -> None:
    rng = np.random.default_rng(1)
    vectors = unit_vectors(rng, 40, 8)[rng.integers(0, 40, 100)]
    query = unit_vectors(rng, 3, 8)[rng.integers(0, 3, 20)]
    protocol = asked_for(20, 100, 70, list(range(100)))
    monkeypatch.setattr(ranking, "product", noise(2))
    found = exact_ranks(protocol, query, vectors, block_bytes=4 * 40 * block_users)
    for ranks in (found.catalogue, found.trained):
        of_user = ranks.reshape(20, 100)
        for i in range(20):
            for j in range(100):
                same_item = (vectors == vectors[j]).all(axis=1) & ~np.isnan(of_user[i])
                same_user = (query == query[i]).all(axis=1)
                if same_item[j]:
                    assert len(set(of_user[i, same_item])) == 1
                    assert len(set(of_user[same_user, j])) == 1
