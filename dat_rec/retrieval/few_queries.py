"""A few query vectors in, their candidates out, as faiss's exact index gives them, but sooner.

faiss keeps a heap of the best items of each query. For a few queries on one thread it takes two to
four times as long as a product with the transposed item vectors, whose best entries are then found
in three passes: the maxima of groups of items; the k-th highest of these, which k items reach at
least; and all items that reach it. For a lone query it takes longest to read the item vectors:
there the product is with bounds of the scores, of fewer numbers (``ScoreBounds``), and few
items' scores are computed at all.
"""

from typing import Protocol

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from dat_rec.retrieval.score_bounds import ScoreBounds

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
FEW = 64
"""Maximum number of queries; more are faiss's, which deals them to all cores."""
COPY_BYTES = 2**28
"""Maximum bytes of the transposed item vectors; beyond, faiss is asked. Bounds take half of it."""
SCORE_BYTES = 2**25
"""Maximum bytes of scores in memory at a time; one query's are the least."""
GROUP = 64
"""Maximum number of items of which one maximum is taken."""
SHARE = 16
"""Items for each whose score is computed, from which on bounds are of use."""
ROUNDING = 1e-5
"""Bound on what float32 rounding moves a score s, or its bound, as a share of 1 + |s|."""


class Searching(Protocol):
    """What proposes candidates: a faiss index, or what stands for one."""

    def search(self, query_BD: Floats, k: int, /) -> tuple[Floats, Ints]:
        """(B, k) rough scores, falling, and (B, k) rows of the items; k is at most N."""


class FewQueries:
    """The exact index, quick for a few queries.

    Args:
        index: faiss's exact index.
        item_ND: (N, D) the vectors that it holds.
        like_QD: some queries that others will be like.
    """

    def __init__(self, index: faiss.Index, item_ND: Floats, like_QD: Floats | None = None) -> None:
        self._index, self._item_ND = index, item_ND
        self._item_DN: torch.Tensor | None = None
        self._bounds: ScoreBounds | None = None
        if isinstance(index, faiss.IndexFlat) and 0 < item_ND.nbytes <= COPY_BYTES:
            self._item_DN = torch.from_numpy(np.ascontiguousarray(item_ND.T))
            self._bounds = ScoreBounds.of(item_ND, like_QD)

    def search(self, query_BD: Floats, k: int) -> tuple[Floats, Ints]:
        """As ``Searching``."""
        item_DN = self._item_DN
        if item_DN is None or not 0 < len(query_BD) <= FEW:
            found: tuple[Floats, Ints] = self._index.search(query_BD, k)
            return found
        if len(query_BD) == 1 and (best := self._by_bounds(query_BD, k)) is not None:
            return best
        queries = torch.from_numpy(np.ascontiguousarray(query_BD))
        at_once = max(1, SCORE_BYTES // (4 * item_DN.shape[1]))
        scores, items = [], []
        for part_BD in queries.split(at_once):
            for score_N in (part_BD @ item_DN).numpy():
                rows = highest(score_N, k)
                items.append(rows)
                scores.append(score_N[rows])
        return np.stack(scores), np.stack(items)

    def _by_bounds(self, query_1D: Floats, k: int) -> tuple[Floats, Ints] | None:
        """The same of one query, by bounds of the scores; None where they leave many items."""
        if self._bounds is None or 2 * k * SHARE > len(self._item_ND):
            return None
        bound_N, query_D = self._bounds.bounds(query_1D).numpy()[0], query_1D[0]
        some = highest(bound_N, 2 * k)
        least = np.partition(self._item_ND[some] @ query_D, k)[k]
        left = np.flatnonzero(bound_N >= least - ROUNDING * (1 + abs(least)))
        if len(left) * SHARE > len(bound_N):
            return None
        score = self._item_ND[left] @ query_D
        best = highest(score, k)
        return score[best][None], left[best][None]


def highest(score_N: Floats, k: int) -> Ints:
    """(k,) places of the k highest of N scores, falling; k is at most N."""
    # Of few items a group has one: then the maxima are the scores themselves.
    rows = max(1, min(GROUP, len(score_N) // (4 * k)))
    groups = len(score_N) // rows
    maxima = score_N[: rows * groups].reshape(rows, groups).max(axis=0)
    near = np.flatnonzero(score_N >= np.partition(maxima, groups - k)[groups - k])
    score = score_N[near]
    if len(near) > 2 * k:
        best = np.argpartition(score, len(near) - k)[len(near) - k :]
        near, score = near[best], score[best]
    return near[np.argsort(-score)[:k]]
