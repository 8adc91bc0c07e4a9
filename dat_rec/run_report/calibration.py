"""Scores of test users with all items in, how often the items of a score were taken out.

A query is a test interaction, and its candidates are all trained items. In each bin of scores,

    observed  = queries whose item has a score of the bin / pairs of a query and such an item
    predicted = mean over these pairs of P(v | u) = exp(s(u, v) / τ) / Σ_w exp(s(u, w) / τ)

so that both are chances that a query's item is one given item. They agree where the softmax is
calibrated; where only the order counts, observed must rise.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dat_rec.run_report.catalogue import Asked, Floats, Ints

BINS = 24
SCORES = 2_000_000
"""Maximum number of scores in memory at a time; those of one user are the least."""
FEWEST = 5
"""Least number of queries' items in a bin that is shown: below, the share is mostly chance."""


class Calibration(NamedTuple):
    """Bins of scores with ``FEWEST`` queries' items or more, by score."""

    score: NDArray[np.float64]
    """(B,) middle of each bin."""
    pairs: Ints
    """(B,) pairs of a query and an item with such a score."""
    hits: Ints
    """(B,) of these, the pairs whose item is the query's own."""
    predicted: NDArray[np.float64] | None
    """(B,) mean P(v | u); None where the model has no probabilities."""

    @property
    def observed(self) -> NDArray[np.float64]:
        """(B,) share of the pairs whose item is the query's own."""
        return self.hits / self.pairs


def calibration(
    asked: Asked, item_ND: Floats, trained: NDArray[np.bool_], temperature: float | None
) -> Calibration:
    """Bin the scores of every query with every trained item.

    Args:
        asked: Q queries of U users.
        item_ND: (N, D) vectors of all items, as they are served.
        trained: (N,) whether an item has training interactions; the queries' items have.
        temperature: τ; None where the model has no probabilities.
    """
    items = np.flatnonzero(trained)
    place = np.searchsorted(items, asked.item)
    item_TD = item_ND[items]
    at_once = max(1, SCORES // len(items))
    queries = np.bincount(asked.user, minlength=len(asked.query_UD))
    low, high = np.inf, -np.inf
    for start in range(0, len(queries), at_once):
        scores = asked.query_UD[start : start + at_once] @ item_TD.T
        low, high = min(low, float(scores.min())), max(high, float(scores.max()))
    edges = np.linspace(low, high, BINS + 1) if high > low else np.array([low, low + 1.0])
    bins = len(edges) - 1
    pairs, hits, predicted = (np.zeros(bins) for _ in range(3))
    for start in range(0, len(queries), at_once):
        scores = asked.query_UD[start : start + at_once] @ item_TD.T
        number = np.clip(np.searchsorted(edges, scores, "right") - 1, 0, bins - 1)
        weight = np.broadcast_to(queries[start : start + at_once, None], scores.shape)
        pairs += np.bincount(number.ravel(), weight.ravel(), bins)
        own = (asked.user >= start) & (asked.user < start + len(scores))
        hits += np.bincount(number[asked.user[own] - start, place[own]], minlength=bins)
        if temperature is not None:
            logits = scores.astype(np.float64) / temperature
            chance = np.exp(logits - logits.max(1, keepdims=True))
            chance *= weight / chance.sum(1, keepdims=True)
            predicted += np.bincount(number.ravel(), chance.ravel(), bins)
    shown = hits >= FEWEST
    middle = (edges[:-1] + edges[1:]) / 2
    return Calibration(
        middle[shown],
        pairs[shown].astype(np.int64),
        hits[shown].astype(np.int64),
        None if temperature is None else predicted[shown] / pairs[shown],
    )
