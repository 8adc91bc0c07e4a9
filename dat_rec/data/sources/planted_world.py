"""A world of known preferences: who likes what, drawn from a seed, and the best that can be known.

Every user has one of T tastes, every item belongs to one of G groups; tastes and groups are unit
vectors u, v around the centres of the categories. An interaction of a user is drawn from

    p(v | u) ∝ exp(sharpness · ⟨u, v⟩ + log popularity(v))

in two steps, the group and then the item in it by popularity, which is the same distribution. In
worlds of up to 4,096 users and 1,024 items each has a vector of its own; in larger ones T · G stays
at 4 million, so that the world costs T · G, and its log nothing but its length.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dat_rec.data.stream.negatives import generator

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CLUSTER_NOISE = 0.8
"""Length of the noise that is added to a unit category centre, for groups and tastes alike."""
MOST_GROUPS = 1 << 10
"""Maximum number of groups; more only where there are more categories."""
MOST_CHANCES = 1 << 22
"""Maximum of tastes · groups."""
MOST_SCORES = 1 << 22
"""Number of scores that are sorted at a time to find the best."""
WORLD, LOG = range(2)
"""Independent streams of random numbers."""


@dataclass(frozen=True)
class World:
    """What is planted."""

    seed: int
    sharpness: float
    taste: Floats
    """(T, dim): unit vectors."""
    taste_of: NDArray[np.int32]
    """(users,): each user's taste."""
    group: Floats
    """(G, dim): unit vectors."""
    group_of: NDArray[np.int32]
    """(items,): each item's group."""
    category: NDArray[np.int32]
    """(items,): that of the group."""
    popularity: Floats
    """(items,): sums to 1."""
    first: Ints
    """(users + 1,): user u has the interactions ``first[u]`` to ``first[u + 1] − 1``, one or
    more."""

    @cached_property
    def group_popularity(self) -> Floats:
        """(G,): sum over the group's items."""
        found = np.bincount(self.group_of, self.popularity, minlength=len(self.group))
        return np.asarray(found, np.float64)

    @cached_property
    def chances(self) -> Floats:
        """(T, G): probability that an interaction of this taste is one with an item of the group.

        p(v | u) is this, times the item's share of its group's popularity.
        """
        logits = self.sharpness * (self.taste @ self.group.T) + np.log(self.group_popularity)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(weights / weights.sum(1, keepdims=True))

    @cached_property
    def _group_edges(self) -> Floats:
        """(T · G,): t plus the chances of taste t, summed up to the group."""
        edges = self.chances.cumsum(1)
        edges = edges / edges[:, -1:] + np.arange(len(edges))[:, None]
        return np.asarray(edges.ravel())

    @cached_property
    def _items(self) -> tuple[Ints, Ints, Floats]:
        """Items by group; (G + 1,) where each group begins; g plus summed shares of its items."""
        order = np.argsort(self.group_of, kind="stable")
        group = self.group_of[order]
        begin = np.searchsorted(group, np.arange(len(self.group) + 1))
        share = self.popularity[order] / self.group_popularity[group]
        total = share.cumsum()
        before = np.concatenate(([0.0], total))[begin[:-1]]
        return order, begin, total - before[group] + group

    def draw(self, block: int, size: int) -> tuple[Ints, Ints, Floats]:
        """Draw the interactions ``block · size`` to ``(block + 1) · size − 1``, or to the last.

        The draw depends on the seed, the block's number and its size alone.

        Returns:
            (rows,) users in rising order, (rows,) items, (rows,) times between 0 and 1.
        """
        begin, end = block * size, min((block + 1) * size, int(self.first[-1]))
        low, high = np.searchsorted(self.first, (begin, end - 1), "right") - 1
        edges = np.clip(self.first[low : high + 2], begin, end)
        user = np.repeat(np.arange(low, high + 1), np.diff(edges))
        of_group, of_item, time = generator(self.seed, LOG, block).random((3, end - begin))
        taste, groups = self.taste_of[user].astype(np.int64), len(self.group)
        group = _found(self._group_edges, taste + of_group) - taste * groups
        group = np.clip(group, 0, groups - 1)
        order, item_begin, item_edges = self._items
        place = _found(item_edges, group + of_item)
        item = order[np.clip(place, item_begin[group], item_begin[group + 1] - 1)]
        return user, item, time


def _found(edges: Floats, values: Floats) -> Ints:
    """How many edges lie at or below each value; searched in rising order, which caches like."""
    order = np.argsort(values)
    found = np.empty(len(values), np.int64)
    found[order] = np.searchsorted(edges, values[order], "right")
    return found


def make_world(
    *,
    users: int,
    items: int,
    interactions: int,
    categories: int,
    dim: int,
    sharpness: float,
    skew: float,
    seed: int,
) -> World:
    """Draw a world; the arguments are those of ``prepare synthetic``.

    It holds 12 bytes for each user, 16 for each item, and some 70 MB for tastes and groups.
    """
    rng = generator(seed, WORLD, 0)
    groups = min(items, max(MOST_GROUPS, categories))
    tastes = max(1, min(users, MOST_CHANCES // groups))
    share = _zipf(categories, skew)
    centre = _unit(rng.standard_normal((categories, dim)))
    category = rng.choice(categories, groups, p=share)
    likes = rng.choice(categories, tastes, p=share)
    # In turns, so that no group is without an item, and no taste without a user.
    group_of = rng.permutation(np.arange(items, dtype=np.int32) % groups)
    taste_of = rng.permutation(np.arange(users, dtype=np.int32) % tastes)
    activity = rng.permutation(_zipf(users, skew))
    counts = 1 + rng.multinomial(interactions - users, activity)
    return World(
        seed=seed,
        sharpness=sharpness,
        taste=_around(centre[likes], rng),
        taste_of=taste_of,
        group=_around(centre[category], rng),
        group_of=group_of,
        category=category.astype(np.int32)[group_of],
        popularity=rng.permutation(_zipf(items, skew)),
        first=np.concatenate(([0], np.cumsum(counts))),
    )


def _zipf(size: int, exponent: float) -> Floats:
    weights = np.arange(1, size + 1) ** -float(exponent)
    return np.asarray(weights / weights.sum())


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _around(centre: Floats, rng: np.random.Generator) -> Floats:
    noise = rng.standard_normal(centre.shape) / np.sqrt(centre.shape[1])
    return _unit(centre + CLUSTER_NOISE * noise)


def best_hit_rates(
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
    at_once = max(1, MOST_SCORES // len(world.group))
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
