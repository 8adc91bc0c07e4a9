"""Recall@K and NDCG@K against other libraries', and against every order of equal items."""

from itertools import permutations
from math import log2

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import ndcg_score
from torchmetrics.functional.retrieval import retrieval_recall

from dat_rec.retrieval.per_user import per_user
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.ranking import exact_ranks
from tests.retrieval.test_ranking import asked_for
from tests.retrieval.world import ITEMS, TRAINED_ITEMS, random_protocol

CUTOFFS = (1, 3, 10, 40)


def relevant_candidates(protocol: Protocol, user: int) -> tuple[NDArray, NDArray]:
    """The trained items that the user has not had, and which of them the user takes."""
    seen = protocol.seen_item[protocol.seen_slice(user)]
    corpus = np.setdiff1d(np.arange(TRAINED_ITEMS), seen)
    return corpus, np.isin(corpus, protocol.item_index[protocol.user_row == user])


def expected(protocol: Protocol, scores_UN: NDArray, *, ties: bool) -> dict[str, float]:
    """scikit-learn's NDCG, which takes the mean over orders of equals, and torchmetrics' recall."""
    found: dict[str, list[float]] = {}
    for row, user in enumerate(protocol.users):
        corpus, relevant = relevant_candidates(protocol, user)
        if not protocol.user_trained[user] or not relevant.any():
            continue
        scores = scores_UN[row, corpus]
        for k in CUTOFFS:
            ndcg = ndcg_score([relevant], [scores], k=k)
            found.setdefault(f"NDCG@{k}", []).append(ndcg)
            if ties:
                continue
            tensors = torch.from_numpy(scores), torch.from_numpy(relevant)
            recall = float(retrieval_recall(*tensors, top_k=k))  # float32
            hits = round(recall * relevant.sum())
            found.setdefault(f"Recall@{k}", []).append(hits / relevant.sum())
    return {name: float(np.mean(values)) for name, values in found.items()}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_equal_other_libraries(seed: int, ties: bool) -> None:
    protocol, rng = random_protocol(seed), np.random.default_rng(seed)
    query_UD = rng.normal(size=(len(protocol.users), 3)).astype(np.float32)
    item_ND = rng.normal(size=(ITEMS, 3)).astype(np.float32)
    if ties:
        query_UD, item_ND = np.sign(query_UD), np.sign(item_ND)
    scores_UN = (query_UD.astype(float) @ item_ND.T.astype(float)).astype(np.float32)
    found = per_user(protocol, exact_ranks(protocol, query_UD, item_ND), CUTOFFS)
    wanted = expected(protocol, scores_UN, ties=ties)
    assert len(wanted) == (4 if ties else 8)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name
    assert 0 < found["users"] < found["pairs"] < len(protocol.user_row)


def test_equal_items_count_as_the_mean_over_all_their_orders() -> None:
    """Six items of one score below a better one; two of the six are relevant."""
    protocol = asked_for(users=1, items=7, trained=7, wanted=[2, 5])
    item_ND = np.array([[2.0]] + [[1.0]] * 6, np.float32)
    found = per_user(protocol, exact_ranks(protocol, np.ones((1, 1), np.float32), item_ND), (3,))
    orders = [(0, *order) for order in permutations(range(1, 7))]
    hits = [[place for place in range(3) if order[place] in (2, 5)] for order in orders]
    ideal = 1 + 1 / log2(3)
    assert found["Recall@3"] == pytest.approx(np.mean([len(one) / 2 for one in hits]), abs=1e-12)
    ndcg = [sum(1 / log2(place + 2) for place in one) / ideal for one in hits]
    assert found["NDCG@3"] == pytest.approx(np.mean(ndcg), abs=1e-12)


def test_without_a_user_there_is_no_figure() -> None:
    protocol = asked_for(users=1, items=3, trained=2, wanted=[2])
    ranks = exact_ranks(protocol, np.ones((1, 1), np.float32), np.ones((3, 1), np.float32))
    assert per_user(protocol, ranks, (5,)) == {
        "Recall@5": None,
        "NDCG@5": None,
        "users": 0,
        "pairs": 0,
    }


def test_a_pair_that_is_asked_twice_counts_once_and_what_was_had_not_at_all() -> None:
    """User 0 takes item 1 twice, and item 0 of the training: one relevant item, found first."""
    protocol = Protocol(
        user_row=np.array([0, 0, 0]),
        item_index=np.array([1, 1, 0]),
        user_trained=np.ones(1, bool),
        train_count=np.array([3, 1, 1]),
        category=np.zeros(3, np.int64),
        category_names=("all",),
        seen_offsets=np.array([0, 1]),
        seen_item=np.array([0]),
        seen_count=np.array([3]),
    )
    item_ND = np.array([[3.0], [2.0], [1.0]], np.float32)
    ranks = exact_ranks(protocol, np.ones((1, 1), np.float32), item_ND)
    found = per_user(protocol, ranks, (1,))
    assert found == {"Recall@1": 1.0, "NDCG@1": 1.0, "users": 1, "pairs": 1}
