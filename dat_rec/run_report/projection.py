"""Item vectors in, points on a plane out: their two principal components (PCA)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dat_rec.run_report.catalogue import Floats

MOST_FITTED = 100_000
"""Maximum number of vectors that the components are fitted to: drawn at random."""


class Projection(NamedTuple):
    """N points."""

    points_N2: NDArray[np.float64]
    """(N, 2) centred; of each axis, the entry of its component that is the largest is above 0."""
    share: float
    """Of the vectors' variance, what the two axes show."""


def projection(vectors_ND: Floats) -> Projection:
    """Project vectors to the plane that shows most of their variance."""
    fitted = vectors_ND
    if len(fitted) > MOST_FITTED:
        rows = np.random.default_rng(0).choice(len(fitted), MOST_FITTED, replace=False)
        fitted = fitted[np.sort(rows)]
    mean_D = fitted.mean(0, dtype=np.float64)
    centred = fitted.astype(np.float64) - mean_D
    variance_D, axes_DD = np.linalg.eigh(centred.T @ centred)
    # The largest come last. A single dimension has no second one.
    axes_D2 = np.zeros((len(mean_D), 2))
    axes_D2[:, : axes_DD.shape[1]] = axes_DD[:, ::-1][:, :2]
    largest = axes_D2[np.abs(axes_D2).argmax(0), [0, 1]]
    axes_D2 *= np.where(largest < 0, -1.0, 1.0)
    points_N2 = (vectors_ND - mean_D) @ axes_D2
    total = float(variance_D.sum())
    share = float(variance_D[::-1][:2].sum()) / total if total > 0 else 0.0
    return Projection(points_N2, share)
