"""A world of known preferences: who likes what, drawn from a seed, and the best that can be known.

Every user has one of T tastes, every item belongs to one of G groups; tastes and groups are unit
vectors u, v around the centres of the categories. An interaction of a user is drawn from

    p(v | u) ∝ exp(sharpness · ⟨u, v⟩ + log popularity(v))

in two steps, the group and then the item in it by popularity, which is the same distribution. In
worlds of up to 4,096 users and 1,024 items each has a vector of its own, if no smaller number of
tastes is asked for; in larger ones T · G stays at 4 million, so that the world costs T · G, and its
log nothing but its length.

Where a world has repeats, the k-th interaction of a user (k > 1) is with the chance ρ one with the
item of an earlier one, each of the k − 1 as likely (a Pólya urn), and otherwise drawn as above.

Where some items are unseen, interactions before the test are drawn as if these were not there.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dat_rec.data.sources.world_shapes import WorldShape
from dat_rec.data.stream.negatives import generator

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CLUSTER_NOISE = 0.8
"""Length of the noise that is added to a unit category centre, for groups and tastes alike."""
MOST_GROUPS = 1 << 10
"""Maximum number of groups; more only where there are more categories."""
MOST_CHANCES = 1 << 22
"""Maximum of tastes · groups."""
WORLD, LOG, REPEATS, UNSEEN = range(4)
"""Independent streams of random numbers."""


@dataclass(frozen=True)
class World:
    """What is planted."""

    seed: int
    sharpness: float
    repeats: float
    """ρ: chance that an interaction takes the item of an earlier one of the user."""
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
    unseen: NDArray[np.bool_]
    """(items,): those that occur in the test only."""
    first: Ints
    """(users + 1,): user u has the interactions ``first[u]`` to ``first[u + 1] − 1``, one or
    more."""

    @cached_property
    def group_popularity(self) -> Floats:
        """(G,): sum over the group's items."""
        found = np.bincount(self.group_of, self.popularity, minlength=len(self.group))
        return np.asarray(found, np.float64)

    @cached_property
    def training(self) -> "World":
        """The world that interactions before the test are drawn from: without unseen items."""
        if not self.unseen.any():
            return self
        popularity = np.where(self.unseen, 0.0, self.popularity)
        none = np.zeros_like(self.unseen)
        return replace(self, popularity=popularity / popularity.sum(), unseen=none)

    @cached_property
    def share(self) -> Floats:
        """(items,): each item's share of its group's popularity; 0 where the group has none."""
        of_group = self.group_popularity[self.group_of]
        return np.divide(self.popularity, of_group, np.zeros(len(of_group)), where=of_group > 0)

    @cached_property
    def chances(self) -> Floats:
        """(T, G): probability that an interaction of this taste is one with an item of the group.

        p(v | u) is this, times the item's share of its group's popularity.
        """
        with np.errstate(divide="ignore"):
            logs = np.log(self.group_popularity)
        logits = self.sharpness * (self.taste @ self.group.T) + logs
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
        total = self.share[order].cumsum()
        before = np.concatenate(([0.0], total))[begin[:-1]]
        return order, begin, total - before[group] + group

    def draw(self, block: int, size: int, test_from: float = 1.0) -> tuple[Ints, Ints, Floats]:
        """Draw the interactions ``block · size`` to ``(block + 1) · size − 1``, or to the last.

        The draw depends on the seed, the block's number and its size alone; with unseen items, on
        ``test_from`` too, the time from which on they occur. With repeats a block
        has all interactions of the users whose first one is in it, in the order of their times.

        Returns:
            (rows,) users in rising order, (rows,) items, (rows,) times between 0 and 1.
        """
        begin, end = block * size, min((block + 1) * size, int(self.first[-1]))
        if self.repeats:
            begin, end = (int(self.first[np.searchsorted(self.first, at)]) for at in (begin, end))
        low, high = np.searchsorted(self.first, (begin, max(begin, end - 1)), "right") - 1
        edges = np.clip(self.first[low : high + 2], begin, end)
        user = np.repeat(np.arange(low, low + len(edges) - 1), np.diff(edges))
        of_group, of_item, time = generator(self.seed, LOG, block).random((3, end - begin))
        taste = self.taste_of[user].astype(np.int64)
        item = self.training.draw_items(taste, of_group, of_item)
        if self.unseen.any():
            tested = time >= test_from
            item[tested] = self.draw_items(taste[tested], of_group[tested], of_item[tested])
        if self.repeats:
            time = time[np.lexsort((time, user))]
            item = item[self._origins(block, self.first[user] - begin)]
        return user, item, time

    def draw_items(self, taste: Ints, of_group: Floats, of_item: Floats) -> Ints:
        """(rows,) items of interactions of these tastes, by two uniform numbers each."""
        groups = len(self.group)
        group = _found(self._group_edges, taste + of_group) - taste * groups
        group = np.clip(group, 0, groups - 1)
        order, item_begin, item_edges = self._items
        place = _found(item_edges, group + of_item)
        return order[np.clip(place, item_begin[group], item_begin[group + 1] - 1)]

    def _origins(self, block: int, first: Ints) -> Ints:
        """(rows,) which of the block's rows each has its item from; itself, if it is no repeat.

        Args:
            block: its number.
            first: (rows,) the first row of each one's user.
        """
        row = np.arange(len(first))
        coin, which = generator(self.seed, REPEATS, block).random((2, len(first)))
        earlier = first + (which * (row - first)).astype(np.int64)
        origin = np.where((coin < self.repeats) & (row > first), earlier, row)
        while np.any((before := origin[origin]) != origin):
            origin = before
        return origin


def _found(edges: Floats, values: Floats) -> Ints:
    """How many edges lie at or below each value; searched in rising order, which caches like."""
    order = np.argsort(values)
    found = np.empty(len(values), np.int64)
    found[order] = np.searchsorted(edges, values[order], "right")
    return found


def make_world(shape: WorldShape, seed: int) -> World:
    """Draw a world of the numbers of ``shape``.

    It holds 12 bytes for each user, 16 for each item, and some 70 MB for tastes and groups.
    """
    rng = generator(seed, WORLD, 0)
    users, items, categories = shape.users, shape.items, shape.categories
    groups = groups_of(items, categories)
    tastes = most_tastes(users, groups) if shape.tastes is None else shape.tastes
    category_skew = shape.skew if shape.category_skew is None else shape.category_skew
    activity_skew = shape.skew if shape.activity_skew is None else shape.activity_skew
    share = _zipf(categories, category_skew)
    centre = _unit(rng.standard_normal((categories, shape.dim)))
    category = rng.choice(categories, groups, p=share)
    likes = rng.choice(categories, tastes, p=share)
    # In turns, so that no group is without an item, and no taste without a user.
    group_of = rng.permutation(np.arange(items, dtype=np.int32) % groups)
    taste_of = rng.permutation(np.arange(users, dtype=np.int32) % tastes)
    activity = rng.permutation(_zipf(users, activity_skew))
    counts = shape.least + rng.multinomial(shape.interactions - shape.least * users, activity)
    category_of = category.astype(np.int32)[group_of]
    taste, group = _around(centre[likes], rng), _around(centre[category], rng)
    popularity = rng.permutation(_zipf(items, shape.skew))
    return World(
        seed=seed,
        sharpness=shape.sharpness,
        repeats=shape.repeats,
        taste=taste,
        taste_of=taste_of,
        group=group,
        group_of=group_of,
        category=category_of,
        popularity=_within(popularity, category_of, shape.skew)
        if shape.even_categories
        else popularity,
        unseen=_unseen(items, shape.unseen, seed),
        first=np.concatenate(([0], np.cumsum(counts))),
    )


def _unseen(items: int, share: float, seed: int) -> NDArray[np.bool_]:
    """(items,) a random share of them, of random numbers that no other part of the world takes."""
    found = np.zeros(items, np.bool_)
    found[generator(seed, UNSEEN, 0).permutation(items)[: round(share * items)]] = True
    return found


def groups_of(items: int, categories: int) -> int:
    """G, of so many items and categories."""
    return min(items, max(MOST_GROUPS, categories))


def most_tastes(users: int, groups: int) -> int:
    """Maximum of T, of so many users and groups."""
    return max(1, min(users, MOST_CHANCES // groups))


def _within(popularity: Floats, category: NDArray[np.int32], skew: float) -> Floats:
    """(items,) popularity ∝ 1/rank^skew in each category, of which each has the same share.

    Args:
        popularity: (items,): orders those of a category.
        category: (items,)
        skew: the exponent.
    """
    order = np.lexsort((-popularity, category))
    sorted_category = category[order]
    begin = np.searchsorted(sorted_category, sorted_category)
    weights = (np.arange(len(order)) - begin + 1.0) ** -float(skew)
    found = np.empty(len(order))
    found[order] = weights / np.bincount(sorted_category, weights)[sorted_category]
    return np.asarray(found / found.sum())


def _zipf(size: int, exponent: float) -> Floats:
    weights = np.arange(1, size + 1) ** -float(exponent)
    return np.asarray(weights / weights.sum())


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _around(centre: Floats, rng: np.random.Generator) -> Floats:
    noise = rng.standard_normal(centre.shape) / np.sqrt(centre.shape[1])
    return _unit(centre + CLUSTER_NOISE * noise)
