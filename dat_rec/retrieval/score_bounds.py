"""Item vectors in, upper bounds of their scores out, for half the numbers that scores take.

Vectors of a trained catalogue lie near a subspace. Rotated onto their principal axes, most have
nearly all of their length in the first d coordinates; of the rest their length alone is kept:

    q · v  ≤  Σ_{i ≤ d} q_i v_i + |q_{> d}| |v_{> d}|          (Cauchy and Schwarz)

An item whose bound is below the K-th best score that is known already is none of the K best.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]
LEAST = 4096
"""Minimum number of items."""
SAMPLE = 4096
"""Maximum number of items that the axes are computed from."""
REST = 0.005
"""Share of the squared lengths that may lie beyond the first d axes."""


@dataclass(frozen=True)
class ScoreBounds:
    """Bounds of the scores of N items."""

    axes_DD: Floats
    """Principal axes, one a column."""
    item_RN: torch.Tensor
    """(d + 1, N) the first d coordinates of each item, and the length of all others."""

    @staticmethod
    def of(item_ND: Floats) -> "ScoreBounds | None":
        """The bounds of vectors; None of few, and where they would take as long as scores."""
        items, dim = item_ND.shape
        if items < LEAST:
            return None
        sample = item_ND[:: -(-items // SAMPLE)].astype(np.float64)
        lengths, axes = np.linalg.eigh(sample.T @ sample)
        left = lengths.sum() - np.cumsum(lengths[::-1])
        first = int(np.argmax(left <= REST * lengths.sum())) + 1
        if 2 * (first + 1) > dim:
            return None
        axes_DD = axes[:, ::-1].astype(np.float32)
        rotated = torch.from_numpy(item_ND) @ torch.from_numpy(axes_DD.copy())
        item_RN = torch.empty(first + 1, items)
        item_RN[:first] = rotated[:, :first].T
        item_RN[first] = rotated[:, first:].norm(dim=1)
        return ScoreBounds(axes_DD, item_RN)

    def bounds(self, query_BD: Floats) -> torch.Tensor:
        """(B, N) what the scores are at most, but for float32's rounding."""
        first = len(self.item_RN) - 1
        rotated = query_BD @ self.axes_DD
        rest_BS, short_BR = rotated[:, first:], rotated[:, : first + 1].copy()
        short_BR[:, first] = np.sqrt(np.einsum("bs,bs->b", rest_BS, rest_BS))
        return torch.from_numpy(short_BR) @ self.item_RN
