"""A planted world and its log in, the best HR@K that can be expected out, for two who know it all.

Every query of the evaluation is a test interaction of a trained user with a trained item, and is
ranked among the trained items (``dat_rec.retrieval.protocol``: all pairs). The k-th interaction of
a user behind the n training ones is one with the item v with probability

    P_k(v) = a_k · c(v) / n + (1 − a_k) · p(v),    a_k = ρ · (n + a_1 + … + a_{k−1}) / (n + k − 1)

where c(v) is how often training has the pair, and ρ the chance of a repeat (without: a_k = 0). That
follows from the urn by induction: an earlier one of the user is one of the n, or one of the k − 1.
A query is a hit among the K items of a list with probability Σ_list P_k(v) / Σ_trained P_k(v), so
that an item is worth Σ_k P_k(v) / Σ_trained P_k in a user's list, and a list what its items are.
The HR@K is the sum over the users' lists, over the number of queries.

``best HR@K``, the **taste's oracle**: each user's list is of the K items that are worth most. It
knows each user's taste t: p(v) = p(v | t). No ranking can expect more hits.

``Bayes HR@K``, the **Bayes oracle**: it knows all that is planted but which user has which taste,
and infers that from the user's training interactions. Each of the T tastes is as likely before:

    p(v) = Σ_t p(t | history) p(v | t),    p(t | history) ∝ Π_i p(i-th one | t, earlier ones)

Its lists are of the K items that are worth most by that p, and count as what they are worth in
truth. It is the best possible for whoever is not told the tastes; a model, which has to learn what
tastes there are and the items' groups too, stays below. (That T tastes are dealt to users in turns,
so that what is known of one user tells a little of the others, is left aside.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from dat_rec.data.sources.planted_world import Floats, Ints, World

Flags = NDArray[np.bool_]
MOST_NUMBERS = 1 << 22
"""Numbers that are held at a time."""
MOST_WORK = 1 << 35
"""Multiplications that the Bayes oracle may cost: some ten seconds."""


@dataclass(frozen=True)
class Log:
    """All interactions of a world: R rows by user and, where there are repeats, by time."""

    user: Ints
    item: Ints
    """(R,) each."""
    trained: Flags
    """(R,): whether it is trained on. Of a user with repeats these come first."""
    tested: Flags
    """(R,): whether it is a test interaction; those that are neither validate."""


@dataclass(frozen=True)
class Asked:
    """The queries of the U users who are asked something, as weights of a list's score.

    A user's list is worth Σ_list own · c(v) + fresh · p(v) hits.
    """

    users: Ints
    """(U,)"""
    queries: Ints
    """(U,): how many each has."""
    row_of: Ints
    """(users of the world,): a user's place in ``users``; −1: not asked."""
    pairs: sparse.csr_matrix
    """(U, items): c(v)."""
    trained_items: Flags
    """(items,)"""
    offsets: Ints
    """(U + 1,) where each user's queries begin in ``again``."""
    again: Floats
    """(queries,): a_k."""

    def worth(self, rows: slice, fresh_BV: Floats) -> Floats:
        """(B, items): expected hits of an item in the list of each of the users ``rows``.

        Args:
            rows: B of the U users.
            fresh_BV: (B, items) p(v).
        """
        fresh_BV = np.where(self.trained_items, fresh_BV, 0.0)
        known_B = fresh_BV.sum(1)
        edges = self.offsets[rows.start : rows.stop + 1]
        again = self.again[edges[0] : edges[-1]]
        user = np.repeat(np.arange(len(known_B)), np.diff(edges))
        reach = again + (1 - again) * known_B[user]
        own_B = np.bincount(user, again / reach, len(known_B))
        new_B = np.bincount(user, (1 - again) / reach, len(known_B))
        worth_BV = new_B[:, None] * fresh_BV
        if again.any():
            pairs = self.pairs[rows]
            own = sparse.diags(own_B / np.asarray(pairs.sum(1)).ravel()) @ pairs
            worth_BV += own.toarray()
        return worth_BV


def _hits(score_BV: Floats, worth_BV: Floats, cutoff: int) -> float:
    """What the ``cutoff`` items of the highest scores are worth, summed over the users."""
    if cutoff >= score_BV.shape[1]:
        return float(worth_BV.sum())
    best_BK = np.argpartition(score_BV, -cutoff, axis=1)[:, -cutoff:]
    return float(np.take_along_axis(worth_BV, best_BK, axis=1).sum())


def is_affordable(world: World) -> bool:
    """Whether the users and items of the world are few enough for ``best_hit_rates``."""
    rows, users, items = int(world.first[-1]), len(world.taste_of), len(world.group_of)
    return rows * len(world.taste) + users * (world.chances.size + items) <= MOST_WORK


def best_hit_rates(world: World, log: Log, cutoffs: Sequence[int]) -> dict[str, float]:
    """``best HR@K`` and ``Bayes HR@K`` for each K; zeros where there is no query.

    It costs rows · T + users · (T · G + items) multiplications.
    """
    asked = _asked(world, log)
    hits = np.zeros((2, len(cutoffs)))
    share = world.share
    posterior = _posterior(world, log, asked)
    users = len(asked.users)
    at_once = max(1, MOST_NUMBERS // len(world.group_of))
    for start in range(0, users, at_once):
        rows = slice(start, min(users, start + at_once))
        of_taste = world.chances[world.taste_of[asked.users[rows]]]
        worth_BV = asked.worth(rows, of_taste[:, world.group_of] * share)
        inferred = posterior[rows] @ world.chances
        score_BV = asked.worth(rows, inferred[:, world.group_of] * share)
        hits[0] += [_hits(worth_BV, worth_BV, cutoff) for cutoff in cutoffs]
        hits[1] += [_hits(score_BV, worth_BV, cutoff) for cutoff in cutoffs]
    rates = hits / max(1, int(asked.queries.sum()))
    return {
        f"{name} HR@{cutoff}": float(rate)
        for name, row in zip(("best", "Bayes"), rates, strict=True)
        for cutoff, rate in zip(cutoffs, row, strict=True)
    }


def _asked(world: World, log: Log) -> Asked:
    users, items = len(world.taste_of), len(world.group_of)
    train_count = np.bincount(log.user[log.trained], minlength=users)
    trained_items = np.zeros(items, np.bool_)
    trained_items[log.item[log.trained]] = True
    held_out = ~log.trained
    # Which one behind the training ones it is, from 0.
    first = np.searchsorted(log.user, np.arange(users))
    place = np.arange(len(log.user)) - first[log.user] - train_count[log.user]
    asks = log.tested & (train_count[log.user] > 0) & trained_items[log.item]
    again = _again(world.repeats, train_count, int(place[held_out].max(initial=-1)) + 1)
    found, queries = np.unique(log.user[asks], return_counts=True)
    row_of = np.full(users, -1)
    row_of[found] = np.arange(len(found))
    mine = log.trained & (row_of[log.user] >= 0)
    pairs = sparse.csr_matrix(
        (np.ones(int(mine.sum())), (row_of[log.user[mine]], log.item[mine])), (len(found), items)
    )
    return Asked(
        users=found,
        queries=queries,
        row_of=row_of,
        pairs=pairs,
        trained_items=trained_items,
        offsets=np.append(0, np.cumsum(queries)),
        again=again[place[asks], log.user[asks]] if world.repeats else np.zeros(int(asks.sum())),
    )


def _again(repeats: float, train_count: Ints, most: int) -> Floats:
    """(most, users): a_k of each user, k from 1; nothing without repeats."""
    if not repeats:
        return np.zeros((0, 0))
    found = np.zeros((most, len(train_count)))
    total = train_count.astype(np.float64)
    for k in range(most):
        found[k] = repeats * total / np.maximum(1, train_count + k)
        total += found[k]
    return found


def _posterior(world: World, log: Log, asked: Asked) -> Floats:
    """(U, T): p(t | the user's training interactions)."""
    with np.errstate(divide="ignore"):
        if world.repeats:
            logits = _logits_with_repeats(world, log, asked)
        else:
            of_group = sparse.csr_matrix(
                (np.ones(len(world.group_of)), (np.arange(len(world.group_of)), world.group_of))
            )
            logits = (asked.pairs @ of_group) @ np.log(world.training.chances).T
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(weights / weights.sum(1, keepdims=True))


def _logits_with_repeats(world: World, log: Log, asked: Asked) -> Floats:
    """(U, T): Σ log of each training interaction's probability, given those before it."""
    mine = np.flatnonzero(log.trained & (asked.row_of[log.user] >= 0))
    user, item = asked.row_of[log.user[mine]], log.item[mine]
    begin = np.searchsorted(user, np.arange(len(asked.users)))
    place = np.arange(len(user)) - begin[user]
    pair = user * len(world.group_of) + item
    order = np.argsort(pair, kind="stable")
    earlier = np.empty(len(pair), np.int64)
    earlier[order] = np.arange(len(pair)) - np.searchsorted(pair[order], pair[order])
    own = world.repeats * earlier / np.maximum(1, place)
    fresh = np.where(place > 0, 1 - world.repeats, 1.0)
    fresh *= world.popularity[item] / world.group_popularity[world.group_of[item]]
    logits = np.zeros((len(asked.users), len(world.taste)))
    at_once = max(1, MOST_NUMBERS // len(world.taste))
    for start in range(0, len(user), at_once):
        rows = slice(start, start + at_once)
        chance = world.chances.T[world.group_of[item[rows]]]
        logs = np.log(own[rows, None] + fresh[rows, None] * chance)
        found, begins = np.unique(user[rows], return_index=True)
        logits[found] += np.add.reduceat(logs, begins, axis=0)
    return logits
