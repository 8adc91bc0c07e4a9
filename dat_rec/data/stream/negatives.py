"""Which items stand in for "not chosen": drawn by popularity to a power, keyed by the step.

The draw for global step t depends on the seed and t alone, so that every world size and
every resumed run sees the same negatives.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NEGATIVES, ORDER, WINDOW, DROPOUT, NEGATIVE_DROPOUT = range(5)
"""Independent streams of random numbers."""
PHILOX_BLOCK = 4
"""Numbers of 64 bits, each of which makes a float64, for each value of Philox's counter."""


def generator(seed: int, stream: int, *numbers: int) -> np.random.Generator:
    """A generator that depends on its arguments alone: seed, stream and one to three numbers."""
    return np.random.Generator(_philox(seed, stream, numbers, 0))


def uniform(seed: int, stream: int, number: int, start: int, stop: int) -> NDArray[np.float64]:
    """Numbers ``start`` to ``stop`` of an endless sequence of uniform ones in [0, 1).

    It depends on seed, stream and ``number``. Those before ``start`` are not made, so that a rank
    draws its own part of what a global batch needs.
    """
    skipped = start // PHILOX_BLOCK
    rng = np.random.Generator(_philox(seed, stream, (number,), skipped))
    return rng.random(stop - skipped * PHILOX_BLOCK)[start - skipped * PHILOX_BLOCK :]


def _philox(seed: int, stream: int, numbers: Sequence[int], skipped: int) -> np.random.Philox:
    """Philox, counter-based: the first word counts its blocks, the others are free."""
    counter = [skipped, *numbers, 0, 0]
    return np.random.Philox(key=[seed, stream], counter=counter[:4])


class NegativeSampler:
    """Draws trained items with probability ∝ (training count)^power; 0 is uniform.

    Args:
        counts: (trained items,) how often each is a positive; 0 counts as 1, so that an item
            without an example is drawn, too.
        power: 0 uniform (the paper), 1 by popularity.
    """

    def __init__(self, counts: NDArray[np.int64], power: float) -> None:
        weights = (np.maximum(counts, 1) / counts.max()) ** power
        self.probabilities: NDArray[np.float64] = weights / weights.sum()
        self._cumulative = np.cumsum(self.probabilities)
        self._uniform = power == 0

    def draw(self, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """Catalogue rows (N,), one for each of (N,) independent uniform numbers in [0, 1)."""
        items = len(self.probabilities)
        if self._uniform:
            found = (uniform * items).astype(np.int64)
        else:
            # Searched for in rising order, neighbours find the same sums in the cache.
            order = np.argsort(uniform)
            found = np.empty(len(uniform), np.int64)
            found[order] = np.searchsorted(self._cumulative, uniform[order], side="right")
        return np.minimum(found, items - 1)


def log_candidate_share(
    counts: NDArray[np.int64], sampler: NegativeSampler, positives: int, negatives: int
) -> NDArray[np.float32]:
    """Log of each item's expected share of the softmax's candidates.

    B of them are positives, drawn by popularity, and N come from the sampler:
    Q = (B·count/Σcount + N·P) / (B + N) (Yang et al., WWW 2020, section 3.3). It is the share of
    all candidates, wherever one comes from: shares among each kind would be right in expectation
    too, but noisier, since an item that is rare in one kind has a large weight there.

    Args:
        counts: (trained items,) how often each is a positive. Where there are no negatives, an item
            that is none is no candidate: its 0 counts as 1.
        sampler: where the negatives come from.
        positives: B, positives that are candidates; in a batch, or for each negative.
        negatives: N, negatives beside them.

    Returns:
        (trained items,) float32.
    """
    positive = counts if negatives else np.maximum(counts, 1)
    drawn = positives * (positive / counts.sum()) + negatives * sampler.probabilities
    share = drawn / (positives + negatives)
    result: NDArray[np.float32] = np.log(share).astype(np.float32)
    return result


def logit_offsets(
    log_q_N: NDArray[np.float32], strength: float, counts: NDArray[np.int64], popularity: float
) -> NDArray[np.float32]:
    """What is added to items' logits in the sampled softmax: β·log P − w·log Q.

    In-batch candidates come as often as items are popular. Left as they are, the softmax would
    learn the score minus the log of that frequency, and rank popular items too low; −log Q on every
    logit takes it away again (Bengio and Senécal, 2008; Yi et al., RecSys 2019, equation (3)).
    β·log P is a part of the score itself (``log_popularity``).

    Args:
        log_q_N: (trained items,) log Q, of ``log_candidate_share``.
        strength: w; 1 corrects as sampled, 0 not at all.
        counts: (trained items,) how often each occurs in training, all ≥ 1.
        popularity: β.

    Returns:
        (trained items,) float32.
    """
    offsets = popularity * log_popularity(counts) - strength * log_q_N.astype(np.float64)
    result: NDArray[np.float32] = offsets.astype(np.float32)
    return result


def typical_count(counts: NDArray[np.int64] | NDArray[np.float64]) -> float:
    """Geometric mean of training counts: what an unknown item's log P is expected to be of.

    Args:
        counts: (trained items,) how often each occurs in training; 0 counts as 1.
    """
    return float(np.exp(np.log(np.maximum(counts, 1)).mean()))


def log_popularity(
    counts: NDArray[np.int64] | NDArray[np.float64],
) -> NDArray[np.float64]:
    """Log P of items, P their count over that of the most frequent one: 0 or below.

    Args:
        counts: (items,) how often each occurs in training; less than 1 counts as 1.
    """
    result: NDArray[np.float64] = np.log(np.maximum(counts, 1) / max(1, counts.max()))
    return result
