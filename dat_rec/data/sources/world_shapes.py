"""A shape's name in, the numbers that it stands for out: what planted worlds are made of.

``plain`` is the one whose options the command line begins with. The other five are small, and each
is like one kind of log: what a model, or a default, is worth is asked on all of them
(``benchmarks/worlds.py``). Their users share a few hundred tastes, so that a model can learn each
from several users, and their sizes are such that a user's history tells most of the user's taste
(sparse apart): the Bayes oracle's HR is near the taste's (``best_rankings.py``).
"""

from dataclasses import dataclass
from typing import Literal

ShapeName = Literal["plain", "dense", "sparse", "ids", "repeats", "skewed"]


@dataclass(frozen=True, kw_only=True)
class WorldShape:
    """The numbers of a world."""

    users: int = 2_000
    items: int = 1_000
    interactions: int = 40_000
    categories: int = 10
    dim: int = 16
    tastes: int | None = None
    """Number of tastes that users share; None: each user has one, as far as the memory goes."""
    sharpness: float = 8.0
    repeats: float = 0.0
    """Chance that an interaction takes one of the user's earlier items."""
    skew: float = 0.8
    """Exponent s of what follows 1/rank^s, where the next two do not say otherwise."""
    category_skew: float | None = None
    """Exponent of the categories' sizes."""
    activity_skew: float | None = None
    """Exponent of the users' activity."""
    least: int = 1
    """Minimum number of interactions of a user."""
    even_categories: bool = False
    """Whether items are as popular as their rank in their category says, and all categories with
    items have the same share, so that a taste for a small one is as sharp as for a large one."""
    content: float = 0.0
    """Share of the coordinates of an item's vector that it has as a dense feature."""
    unseen: float = 0.0
    """Share of the items that occur in the test only."""
    ids_only: bool = False
    """Whether items have no category, and no interaction is earlier than another."""


SHAPES: dict[ShapeName, WorldShape] = {
    "plain": WorldShape(),
    "dense": WorldShape(
        users=2_000, items=1_500, interactions=160_000, tastes=100, sharpness=7.0, skew=0.8
    ),
    "sparse": WorldShape(
        users=12_000,
        items=5_000,
        interactions=80_000,
        categories=30,
        tastes=100,
        sharpness=10.0,
        skew=0.6,
        activity_skew=0.0,
        least=5,
    ),
    "ids": WorldShape(
        users=6_000,
        items=5_000,
        interactions=180_000,
        categories=20,
        tastes=200,
        sharpness=10.0,
        skew=0.6,
        ids_only=True,
    ),
    "repeats": WorldShape(
        users=3_000,
        items=2_500,
        interactions=150_000,
        tastes=150,
        sharpness=8.0,
        skew=0.6,
        repeats=0.5,
    ),
    "skewed": WorldShape(
        users=4_000,
        items=3_000,
        interactions=160_000,
        categories=40,
        dim=32,
        tastes=200,
        sharpness=10.0,
        skew=1.0,
        category_skew=1.2,
        activity_skew=0.6,
        even_categories=True,
    ),
}
