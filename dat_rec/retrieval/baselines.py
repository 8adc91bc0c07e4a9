"""Training counts in, the ranks and lists of two rules without a model out.

``MostPop`` ranks by training interactions. ``own history`` ranks the user's own items by
how often the user took them, then by popularity, and all others after them by popularity.
Ties count half, as everywhere. A user without training has no history, and gets what is popular;
items without training stand behind all others.
"""

from typing import Any, NamedTuple

import numpy as np

from dat_rec.retrieval.metrics import blocks
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.ranking import USERS, Floats, Ranks, compare, count_above
from dat_rec.retrieval.top_lists import TopLists

RULES = {"MostPop": False, "own history": True}
"""The rules by name, and whether the user's own items go first."""


class Settings(NamedTuple):
    """What the figures of a baseline are computed for."""

    protocol: Protocol
    cutoffs: tuple[int, ...]
    """The Ks of the figures for each user and of the lists."""


def baseline_ranks(protocol: Protocol, *, own_history: bool) -> Ranks:
    """Rank every query's item by a rule.

    An item's key is its popularity, plus own count × (highest popularity + 1) with
    ``own_history``. Only the user's own items' keys differ from popularity, so a rank
    is a count among all items, corrected for those few.
    """
    items, trained_items = len(protocol.train_count), protocol.trained_items
    popularity = protocol.train_count[:trained_items]
    weight = popularity.max() + 1 if own_history else 0
    target = protocol.own_count * weight + protocol.train_count[protocol.item_index]
    above, tied = compare(popularity, target)
    trained, unseen = np.empty((2, len(target)))
    for user, mine in zip(protocol.users, protocol.queries_by_user, strict=True):
        own = protocol.seen_slice(user)
        own_popularity = popularity[protocol.seen_item[own]]
        own_key = protocol.seen_count[own] * weight + own_popularity
        own_above, own_tied = compare(own_popularity, target[mine])
        tied[mine] -= own_tied
        unseen[mine] = 0.5 + above[mine] - own_above + tied[mine] / 2
        trained[mine] = unseen[mine] + count_above(own_key, target[mine])
    untrained = protocol.item_index >= trained_items
    behind_all = trained_items + (items - trained_items + 1) / 2
    return Ranks(
        np.where(protocol.answerable, trained, np.nan),
        np.where(protocol.new_pair, unseen, np.nan),
        np.where(untrained, behind_all, trained),
        np.where(protocol.new_pair, tied, np.nan),
    )


def add_popular(protocol: Protocol, lists: TopLists) -> None:
    """Give every user the most popular items that the user has not had: either rule's list."""
    popularity = protocol.train_count[: protocol.trained_items]
    order = np.argsort(-popularity, kind="stable").astype(np.int32)
    for start in range(0, len(protocol.users), USERS):
        users = np.arange(start, min(start + USERS, len(protocol.users)))
        found = lists.empty(len(users))
        for row, user in enumerate(protocol.users[users]):
            own = protocol.seen_item[protocol.seen_slice(user)]
            first = order[: found.longest + len(own)]
            first = first[~np.isin(first, own)][: found.longest]
            found.put(row, first, popularity[first].astype(np.float32))
        lists.add(users, found)


def rules(settings: Settings) -> dict[str, dict[str, Any]]:
    """The figures of each rule, by name."""
    protocol, cutoffs = settings
    lists = TopLists(protocol, cutoffs)
    add_popular(protocol, lists)
    return {
        name: of_baseline(settings, baseline_ranks(protocol, own_history=own_history), lists)
        for name, own_history in RULES.items()
    }


def of_baseline(settings: Settings, ranks: Ranks, lists: TopLists) -> dict[str, Any]:
    """The blocks that the table prints of a baseline: all but the single categories."""
    found = blocks(settings.protocol, ranks, lists, settings.cutoffs)
    del found["by_category"]
    del found["all"]["unanswerable"]  # the model's block says it
    return found


def popularity_keys(protocol: Protocol) -> Floats:
    """(T,) numbers that rise with popularity, equal for equal ones, in (−1, 0)."""
    _, rank = np.unique(protocol.train_count[: protocol.trained_items], return_inverse=True)
    return np.asarray((rank + 1) / (rank.max() + 2) - 1, np.float64)
