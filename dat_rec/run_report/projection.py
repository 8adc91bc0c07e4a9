"""Item vectors in, a plane out, and points on it: their two principal components (PCA)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dat_rec.run_report.catalogue import Floats

MOST_FITTED = 100_000
"""Maximum number of vectors that the components are fitted to: drawn at random."""


class Projection(NamedTuple):
    """The plane that shows most of the variance of vectors."""

    mean_D: NDArray[np.float64]
    """(D,) which stands at (0, 0)."""
    axes_D2: NDArray[np.float64]
    """(D, 2) the components; the entry of each that is the largest is above 0."""
    share: float
    """Of the vectors' variance, what the two axes show."""

    def points(self, vectors_ND: Floats) -> NDArray[np.float64]:
        """(N, 2) where vectors stand on the plane."""
        points_N2: NDArray[np.float64] = (vectors_ND - self.mean_D) @ self.axes_D2
        return points_N2


def projection(vectors_ND: Floats) -> Projection:
    """Return the plane that shows most of the vectors' variance."""
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
    total = float(variance_D.sum())
    share = float(variance_D[::-1][:2].sum()) / total if total > 0 else 0.0
    return Projection(mean_D, axes_D2, share)
