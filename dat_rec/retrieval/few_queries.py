"""A few query vectors in, their candidates out, as faiss's exact index gives them, but sooner.

faiss keeps a heap of the best items of each query. For a few queries on one thread it takes two to
four times as long as a product with the transposed item vectors, whose best entries are then found
in three passes: the maxima of groups of items; the k-th highest of these, which k items reach at
least; and all items that reach it. Where bounds of the scores take half the numbers that scores do
(``ScoreBounds``), the product is with them, and few items' scores are computed at all.
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
"""Maximum bytes of the item vectors of which a transposed copy is made; beyond, faiss is asked."""
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
    """

    def __init__(self, index: faiss.Index, item_ND: Floats) -> None:
        self._index, self._item_ND = index, item_ND
        self._bounds: ScoreBounds | None = None
        self._item_DN: torch.Tensor | None = None
        if isinstance(index, faiss.IndexFlat) and 0 < item_ND.nbytes <= COPY_BYTES:
            self._bounds = ScoreBounds.of(item_ND)
            if self._bounds is None:
                self._item_DN = torch.from_numpy(np.ascontiguousarray(item_ND.T))

    def search(self, query_BD: Floats, k: int) -> tuple[Floats, Ints]:
        """As ``Searching``."""
        bounds, item_DN, items = self._bounds, self._item_DN, len(self._item_ND)
        few = 0 < len(query_BD) <= FEW
        if not few or (item_DN is None and (bounds is None or 2 * k * SHARE > items)):
            found: tuple[Floats, Ints] = self._index.search(query_BD, k)
            return found
        queries = np.ascontiguousarray(query_BD)
        at_once = max(1, SCORE_BYTES // (4 * items))
        scores, best = [], []
        for start in range(0, len(queries), at_once):
            part_BD = queries[start : start + at_once]
            if item_DN is not None:
                product_BN = (torch.from_numpy(part_BD) @ item_DN).numpy()
                found_each = [self._of_scores(score_N, k) for score_N in product_BN]
            else:
                assert bounds is not None
                bound_BN = bounds.bounds(part_BD).numpy()
                pairs = zip(bound_BN, part_BD, strict=True)
                found_each = [self._of_bounds(bound_N, query_D, k) for bound_N, query_D in pairs]
            scores += [score for score, _ in found_each]
            best += [items for _, items in found_each]
        return np.stack(scores), np.stack(best)

    def _of_scores(self, score_N: Floats, k: int) -> tuple[Floats, Ints]:
        best = highest(score_N, k)
        return score_N[best], best

    def _of_bounds(self, bound_N: Floats, query_D: Floats, k: int) -> tuple[Floats, Ints]:
        """The scores and rows of one query's k best, of bounds of all scores."""
        some = highest(bound_N, 2 * k)
        least = np.partition(self._item_ND[some] @ query_D, k)[k]
        left = np.flatnonzero(bound_N >= least - ROUNDING * (1 + abs(least)))
        if len(left) * SHARE > len(bound_N):
            scores_1K, items_1K = self._index.search(query_D[None], k)
            return scores_1K[0], items_1K[0]
        score = self._item_ND[left] @ query_D
        best = highest(score, k)
        return score[best], left[best]


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
