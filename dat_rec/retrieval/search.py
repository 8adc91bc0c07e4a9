"""Query vectors and an index in, each query's K best items out: exact, ties by item_index.

Faiss, as any matrix product, may round the same inner product differently from call to
call. So it only proposes candidates; scores are computed from them once more, in float64
rounded to float32, which gives equal vectors equal scores however the work is cut up.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dat_rec.retrieval.few_queries import Searching

SPARE = 16
"""Number of candidates beyond K, so that ties and rounding at the cut are rarely cut off."""
ROUNDING = 1e-5
"""Bound on what float32 rounding moves a score s, as a share of 1 + |s|: the terms of unit vectors'
inner product add up to 1 at most, and what popularity adds behind them to |s| + 1."""


def top_items(
    index: Searching, item_ND: NDArray[np.float32], query_BD: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The K items with the highest inner products for each query.

    Args:
        index: holds ``item_ND``.
        item_ND: (N, D) vectors of the catalogue.
        query_BD: (B, D) vectors.
        k: K, at most N.

    Returns:
        (B, K) int64 rows of ``item_ND`` and (B, K) float32 inner products, falling; of
        equal ones the lower row first.
    """
    rough, candidates = index.search(query_BD, min(k + SPARE, len(item_ND)))
    items, scores = _best(item_ND, query_BD, candidates, k)
    # Where the last candidate is as good as the K-th, others as good may be missing.
    least = rough[:, k - 1] - ROUNDING * (1 + np.abs(rough[:, k - 1]))
    complete = (rough[:, -1] < least) | (candidates.shape[1] == len(item_ND))
    for i in np.flatnonzero(~complete):
        near = np.flatnonzero(item_ND @ query_BD[i] >= least[i])
        items[i], scores[i] = _best(item_ND, query_BD[i : i + 1], near[None], k)
    return items, scores


def blended_items(
    item_ND: NDArray[np.float32],
    query_BD: NDArray[np.float32],
    best: tuple[NDArray[np.int64], NDArray[np.float32]],
    own: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The K items with the highest scores for each query, own history blended in.

    What is added to own items is 0 or more, so all other items that are among the K best are so by
    the inner product alone, too.

    Args:
        item_ND: (N, D) vectors of the catalogue.
        query_BD: (B, D) vectors.
        best: of ``top_items``.
        own: of each query, rows of its own items and the (O,) numbers that are added to their
            inner products, in float32.

    Returns:
        As ``top_items``.
    """
    items_BK, scores_BK = best[0].copy(), best[1].copy()
    k = items_BK.shape[1]
    for row, (own_O, added_O) in enumerate(own):
        own_scores_O = exact_scores(item_ND, query_BD[row : row + 1], own_O[None])[0] + added_O
        others = ~np.isin(items_BK[row], own_O)
        candidates = np.concatenate([own_O, items_BK[row, others]])
        scores = np.concatenate([own_scores_O, scores_BK[row, others]])
        order = np.lexsort((candidates, -scores))[:k]
        items_BK[row], scores_BK[row] = candidates[order], scores[order]
    return items_BK, scores_BK


def exact_scores(
    item_ND: NDArray[np.float32],
    query_BD: NDArray[np.float32],
    candidates_BC: NDArray[np.int64],
) -> NDArray[np.float32]:
    """(B, C) inner products with each query's candidates."""
    vectors_BCD = item_ND[candidates_BC].astype(np.float64)
    exact_BC = np.einsum("bd,bcd->bc", query_BD.astype(np.float64), vectors_BCD)
    return np.asarray(exact_BC.astype(np.float32))


def _best(
    item_ND: NDArray[np.float32],
    query_BD: NDArray[np.float32],
    candidates_BC: NDArray[np.int64],
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    scores_BC = exact_scores(item_ND, query_BD, candidates_BC)
    order = np.lexsort((candidates_BC, -scores_BC))[:, :k]
    rows = np.arange(len(order))[:, None]
    return candidates_BC[rows, order], scores_BC[rows, order]
