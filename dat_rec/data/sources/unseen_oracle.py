"""A planted world in, the HR@K of the taste's oracle for items that nobody had in training out.

``unseen HR@K``: the oracle ranks the whole catalogue by the true p(v | u), as ``evaluate`` ranks
for its cold rows. A test item of user u that has no training interaction is among u's first K with
probability Σ_{unseen in the first K} p(v | u) / Σ_{unseen} p(v | u); the fact is the mean over all
such queries of trained users. The oracle knows the whole vectors and the popularity of these items:
who knows their content alone, which is a part of the vectors, stays below if it ranks all items
by what it expects of them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dat_rec.data.sources.planted_world import Ints, World

MOST_NUMBERS = 1 << 22
"""Numbers that are held at a time."""


def unseen_hit_rates(
    world: World, queries: Ints, unseen: NDArray[np.bool_], cutoffs: Sequence[int]
) -> dict[str, float]:
    """``unseen HR@K`` for each K; 0 where nobody is asked.

    Args:
        world: what is planted.
        queries: (T,) test interactions with unseen items, of the users of each taste.
        unseen: (items,) items without a training interaction.
        cutoffs: the numbers K.
    """
    hits = np.zeros(len(cutoffs))
    asked = np.flatnonzero(queries)
    at_once = max(1, MOST_NUMBERS // len(unseen))
    for start in range(0, len(asked), at_once):
        tastes = asked[start : start + at_once]
        chance_TV = world.chances[tastes][:, world.group_of] * world.share
        order_TV = np.argsort(-chance_TV, axis=1, kind="stable")
        unseen_TV = np.where(unseen, chance_TV, 0.0)
        found_TV = np.take_along_axis(unseen_TV, order_TV, axis=1).cumsum(axis=1)
        for number, cutoff in enumerate(cutoffs):
            inside_T = found_TV[:, min(cutoff, len(unseen)) - 1] / found_TV[:, -1]
            hits[number] += float(queries[tastes] @ inside_T)
    rates = hits / max(1, int(queries.sum()))
    return {f"unseen HR@{cutoff}": float(rate) for cutoff, rate in zip(cutoffs, rates, strict=True)}
