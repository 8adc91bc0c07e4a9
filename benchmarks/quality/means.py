"""Values of seeds in; a mean with its interval, or a paired difference with its test, out.

Intervals are Student's: mean ± t(.975, n − 1) · s / √n, with the sample's standard deviation s.
They say how much a figure varies over seeds on this test, and nothing of another test.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


class Mean(NamedTuple):
    """A mean over seeds."""

    value: float
    half_width: float | None
    """Of the 95 % interval; None for one seed."""
    seeds: int


class Difference(NamedTuple):
    """A mean difference of pairs."""

    value: float
    low: float | None
    """The 95 % interval's ends; None for one pair."""
    high: float | None
    p: float | None
    """Two-sided p-value of "there is no difference"; None for one pair, or where all are equal."""
    seeds: int


def mean(values: Sequence[float]) -> Mean:
    """The mean of n ≥ 1 values, and its interval."""
    half = None
    if len(values) > 1:
        half = float(_t(len(values)) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return Mean(float(np.mean(values)), half, len(values))


def difference(ours: Mapping[int, float], theirs: Mapping[int, float] | float) -> Difference | None:
    """Ours minus theirs, paired by seed: the paired t test, which is that of the differences.

    Args:
        ours: values by seed.
        theirs: values by seed, of which those of the same seeds count, or one of a rule that has no
            seed.

    Returns:
        None where they have no seed in common.
    """
    other = dict.fromkeys(ours, theirs) if isinstance(theirs, float) else theirs
    found = np.array([ours[seed] - other[seed] for seed in ours if seed in other])
    if not len(found):
        return None
    value, half, seeds = mean(found.tolist())
    if half is None:
        return Difference(value, None, None, None, seeds)
    p = float(stats.ttest_1samp(found, 0.0).pvalue) if np.ptp(found) > 0 else None
    return Difference(value, value - half, value + half, p, seeds)


def _t(values: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, values - 1))
