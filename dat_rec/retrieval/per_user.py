"""Ranks of new pairs in, Recall@K and NDCG@K out: the mean over users, as papers print them.

For each user all trained items are ranked but those of the user's training. Relevant are the
user's distinct test items among them: the new pairs. An item without a training interaction cannot
be ranked and is not relevant, nor is one that the user had in training, nor is any item of a user
without training. In a public split whose test has none of these (LightGCN's Gowalla, Yelp2018 and
Amazon Books), the relevant items are all of a user's test items, and the figures those of its
papers.

    Recall@K = hits / relevant items
    DCG@K    = Σ over hits of 1 / log2(position + 1)
    NDCG@K   = DCG@K / DCG@K of a list that begins with min(K, relevant) hits

(Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002, with gains
0 and 1.) Both are means over the users with a relevant item.

Items of equal scores stand in any order with the same chance, and each figure is the expectation
over these orders. With a items above the relevant one and g of its score, itself included, it
stands at each of the positions a + 1 … a + g with chance 1/g.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.ranking import Floats, Ranks


def per_user(protocol: Protocol, ranks: Ranks, cutoffs: Sequence[int]) -> dict[str, Any]:
    """The mean ``Recall@K`` and ``NDCG@K`` for each K, and what they are means of.

    Returns:
        Also ``users``, the number of users with a relevant item, and ``pairs``, that of all of
        their relevant items. Without a user the figures are None.
    """
    chosen = np.flatnonzero(protocol.new_pair)
    pair = protocol.user_row[chosen] * len(protocol.train_count) + protocol.item_index[chosen]
    # Several interactions may name one pair: their ranks are the same.
    query = chosen[np.unique(pair, return_index=True)[1]]
    _, user, relevant = np.unique(protocol.user_row[query], return_inverse=True, return_counts=True)
    tied = ranks.tied[query]
    above = ranks.unseen[query] - (tied + 1) / 2
    figures: dict[str, Any] = {}
    for k in cutoffs:
        last, first = np.minimum(above + tied, k).astype(int), np.minimum(above, k).astype(int)
        gain = _gains(k)
        hit, cumulated = (last - first) / tied, (gain[last] - gain[first]) / tied
        recall = _sums(user, hit, len(relevant)) / relevant
        ideal = gain[np.minimum(relevant, k)]
        ndcg = _sums(user, cumulated, len(relevant)) / ideal
        figures[f"Recall@{k}"] = float(np.mean(recall)) if len(relevant) else None
        figures[f"NDCG@{k}"] = float(np.mean(ndcg)) if len(relevant) else None
    return {**figures, "users": len(relevant), "pairs": len(query)}


def _gains(k: int) -> Floats:
    """(K + 1,): DCG of a list that begins with so many hits."""
    return np.append(0.0, np.cumsum(1 / np.log2(np.arange(2, k + 2))))


def _sums(user: np.ndarray[Any, np.dtype[np.int64]], values: Floats, users: int) -> Floats:
    """(users,): the sum of each user's values."""
    return np.asarray(np.bincount(user, weights=values, minlength=users), np.float64)
