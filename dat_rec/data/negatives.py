"""Which items stand in for "not chosen": drawn by popularity to a power, keyed by the step.

The draw for global step t depends on the seed and t alone, so that every world size and
every resumed run sees the same negatives.
"""

import numpy as np
from numpy.typing import NDArray

NEGATIVES, ORDER, WINDOW, DROPOUT = range(4)
"""Independent streams of random numbers."""


def generator(seed: int, stream: int, number: int) -> np.random.Generator:
    """A generator that depends on its three arguments alone (Philox, counter-based)."""
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, number, 0]))


class NegativeSampler:
    """Draws trained items with probability ∝ (training count)^power; 0 is uniform.

    Args:
        counts: (trained items,) how often each occurs in training, all ≥ 1.
        power: 0 uniform (the paper), 1 by popularity.
    """

    def __init__(self, counts: NDArray[np.int64], power: float) -> None:
        weights = (counts / counts.max()) ** power
        self.probabilities: NDArray[np.float64] = weights / weights.sum()
        self._cumulative = np.cumsum(self.probabilities)
        self._uniform = power == 0

    def draw(self, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.int64]:
        """Catalogue rows (int64) of ``shape``."""
        if self._uniform:
            return rng.integers(0, len(self.probabilities), shape)
        uniform = rng.random(shape).ravel()
        # Searched for in rising order, neighbours find the same sums in the cache.
        order = np.argsort(uniform)
        found = np.empty(len(uniform), np.int64)
        found[order] = np.searchsorted(self._cumulative, uniform[order], side="right")
        return np.minimum(found, len(self.probabilities) - 1).reshape(shape)


def log_candidate_share(
    counts: NDArray[np.int64], sampler: NegativeSampler, positives: int, negatives: int
) -> NDArray[np.float32]:
    """Log of each item's expected share of the softmax's candidates.

    B of them are positives, drawn by popularity, and N come from the sampler:
    Q = (B·count/Σcount + N·P) / (B + N) (Yang et al., WWW 2020, section 3.3).

    Args:
        counts: (trained items,) how often each occurs in training.
        sampler: where the negatives come from.
        positives: B, positives that are candidates; in a batch, or for each negative.
        negatives: N, negatives beside them.

    Returns:
        (trained items,) float32.
    """
    drawn = positives * (counts / counts.sum()) + negatives * sampler.probabilities
    share = drawn / (positives + negatives)
    result: NDArray[np.float32] = np.log(share).astype(np.float32)
    return result
