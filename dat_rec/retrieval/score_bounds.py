"""Item vectors in, upper bounds of their scores out, for fewer numbers than scores take.

An inner product is the same in other coordinates, where items are v' = Tv and queries q' = T⁻ᵀq.
Of those, T is chosen in which items and queries vary along the same axes, and as much
(Moore, 1981, "Principal component analysis in linear systems: controllability, observability, and
model reduction", who calls them balanced). The first d have nearly all of the scores' squares; of
the rest its length alone is kept:

    q · v  ≤  Σ_{i ≤ d} q'_i v'_i + |q'_{> d}| |v'_{> d}|          (Cauchy and Schwarz)

It holds for every query. How near it is to the score depends on how well T fits. With C_v and C_q
the mean outer products of items and of queries, L Lᵀ = C_v and Lᵀ C_q L = W S² Wᵀ:

    T = S^½ Wᵀ L⁻¹,   E[v'_i²] = E[q'_i²] = s_i

Where no queries are known, C_q is the identity, and the axes are the items' principal ones.
An item whose bound is below the K-th best score that is known already is none of the K best.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
LEAST = 4096
"""Minimum number of items."""
SAMPLE = 4096
"""Maximum number of items that the axes are computed from."""
REST = 0.005
"""Share of the scores' squares that may lie beyond the first d axes."""
EVEN = 1e-2
"""Share of queries' squared lengths, and a tenth of items', that counts as spread evenly over all
directions: so that no coordinate grows without bound in one in which few or none were seen."""


@dataclass(frozen=True)
class ScoreBounds:
    """Bounds of the scores of N items."""

    axes_DD: Floats
    """T⁻¹: a query's coordinates are its product with it."""
    item_RN: torch.Tensor
    """(d + 1, N) the first d coordinates of each item, and the length of all others."""

    @staticmethod
    def of(item_ND: Floats, query_QD: Floats | None = None) -> "ScoreBounds | None":
        """The bounds of vectors; None of few, and where they would take as long as scores.

        Args:
            item_ND: the items.
            query_QD: some queries, for whose like the bounds shall be near the scores.
        """
        items, dim = item_ND.shape
        if items < LEAST:
            return None
        sample_SD = item_ND[:: -(-items // SAMPLE)].astype(np.float64)
        to_items_DD, to_queries_DD, squares_D = _balanced(sample_SD, query_QD)
        left = squares_D.sum() - np.cumsum(squares_D)
        first = int(np.argmax(left <= REST * squares_D.sum())) + 1
        if 2 * (first + 1) > dim:
            return None
        turned = torch.from_numpy(item_ND) @ torch.from_numpy(to_items_DD.astype(np.float32))
        item_RN = torch.empty(first + 1, items)
        item_RN[:first] = turned[:, :first].T
        item_RN[first] = turned[:, first:].norm(dim=1)
        return ScoreBounds(to_queries_DD.astype(np.float32), item_RN)

    def bounds(self, query_BD: Floats) -> torch.Tensor:
        """(B, N) what the scores are at most, but for float32's rounding."""
        first = len(self.item_RN) - 1
        turned = query_BD @ self.axes_DD
        rest_BS, short_BR = turned[:, first:], turned[:, : first + 1].copy()
        short_BR[:, first] = np.sqrt(np.einsum("bs,bs->b", rest_BS, rest_BS))
        return torch.from_numpy(short_BR) @ self.item_RN


def _balanced(item_SD: Doubles, query_QD: Floats | None) -> tuple[Doubles, Doubles, Doubles]:
    """Tᵀ and T⁻¹, both (D, D), and (D,) the mean squares of what axes add to scores, falling."""
    dim = item_SD.shape[1]
    of_queries = np.eye(dim)
    if query_QD is not None and len(query_QD):
        of_queries = _moments(query_QD.astype(np.float64), EVEN)
    root = np.linalg.cholesky(_moments(item_SD, EVEN / 10))
    squares, turn = np.linalg.eigh(root.T @ of_queries @ root)
    squares, turn = squares[::-1], turn[:, ::-1]
    size = np.maximum(squares, np.finfo(np.float64).tiny) ** 0.25
    to_items = np.linalg.solve(root.T, turn) * size
    return to_items, root @ turn / size, squares


def _moments(vector_ND: Doubles, even: float) -> Doubles:
    """(D, D) mean outer product, of which a share is spread evenly."""
    dim = vector_ND.shape[1]
    found = vector_ND.T @ vector_ND / len(vector_ND)
    # Vectors of zeros alone have none.
    length = np.trace(found) / dim or 1.0
    return np.asarray((1 - even) * found + even * length * np.eye(dim))
