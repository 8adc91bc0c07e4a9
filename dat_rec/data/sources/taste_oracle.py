"""A world without repeats in, the best HR@K of the taste's oracle out, by groups: of any size.

What best_rankings.py says of the oracle holds here with a_k = 0, for all queries of users of one
taste alike; users · items is never held.
"""

import numpy as np
from numpy.typing import NDArray

from dat_rec.data.sources.planted_world import Floats, Ints, World

MOST_NUMBERS = 1 << 22
"""Number of scores that are sorted at a time to find the best."""


def taste_hit_rates(
    world: World, queries: Ints, trained: NDArray[np.bool_], cutoffs: tuple[int, ...]
) -> dict[int, float]:
    """The expected HR@K of ranking by the true p(v | u) over the trained items, for each K.

    A test item of user u is one of u's K most probable trained items with probability
    Σ_{top K} p(v | u) / Σ_{trained} p(v | u); the mean over the answerable test interactions is
    the best that any model can expect.

    Args:
        world: what is planted.
        queries: (T,) answerable test interactions of the users of each taste.
        trained: (items,) items with a training interaction.
        cutoffs: the numbers K.
    """
    share_KG = _first_shares(world, trained, max(cutoffs))
    share = world.popularity / world.group_popularity[world.group_of]
    known_G = np.bincount(world.group_of[trained], share[trained], minlength=len(world.group))
    hits = dict.fromkeys(cutoffs, 0.0)
    asked = np.flatnonzero(queries)
    at_once = max(1, MOST_NUMBERS // len(world.group))
    for start in range(0, len(asked), at_once):
        tastes = asked[start : start + at_once]
        chance_TG = world.chances[tastes]
        best_TK = _best_scores(chance_TG, share_KG) / (chance_TG @ known_G)[:, None]
        for cutoff in cutoffs:
            hits[cutoff] += float(queries[tastes] @ best_TK[:, :cutoff].sum(1))
    total = max(1, int(queries.sum()))
    return {cutoff: hit / total for cutoff, hit in hits.items()}


def _first_shares(world: World, trained: NDArray[np.bool_], most: int) -> Floats:
    """(most, G): shares of each group's most popular trained items, falling; 0 where none is."""
    share = world.popularity / world.group_popularity[world.group_of]
    order = np.lexsort((-share, world.group_of))
    order = order[trained[order]]
    group = world.group_of[order]
    place = np.arange(len(order)) - np.searchsorted(group, np.arange(len(world.group)))[group]
    kept = place < most
    found = np.zeros((most, len(world.group)))
    found[place[kept], group[kept]] = share[order[kept]]
    return found


def _best_scores(chance_TG: Floats, share_KG: Floats) -> Floats:
    """(T, K): the K largest of all chance · share of each taste, falling; 0 where there are fewer.

    K items reach the K-th best of the groups' first items, so that the K best of all do, too: what
    is below is left out.
    """
    tastes, (most, groups) = len(chance_TG), share_KG.shape
    first_TG = chance_TG * share_KG[0]
    least_T = np.zeros(tastes)
    if groups > most:
        least_T = np.partition(first_TG, -most, axis=1)[:, -most]
    taste, group = np.nonzero((first_TG >= least_T[:, None]) & (first_TG > 0))
    scores, owners = [], []
    for share_G in share_KG:
        score = chance_TG[taste, group] * share_G[group]
        kept = (score >= least_T[taste]) & (score > 0)
        taste, group = taste[kept], group[kept]
        scores.append(score[kept])
        owners.append(taste)
    score, owner = np.concatenate(scores), np.concatenate(owners)
    order = np.lexsort((-score, owner))
    score, owner = score[order], owner[order]
    place = np.arange(len(owner)) - np.searchsorted(owner, np.arange(tastes))[owner]
    best_TK = np.zeros((tastes, most))
    best_TK[owner[place < most], place[place < most]] = score[place < most]
    return best_TK
