"""Training counts in, the figures of two rules without a model out.

``MostPop`` ranks by training interactions. ``own history`` ranks the user's own items by
how often the user took them, then by popularity, and all others after them by popularity.
Ties count half, as everywhere.
"""

from typing import Any

import numpy as np

from dat_rec.retrieval.metrics import figures
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.ranking import Floats, count_above


def baseline_ranks(protocol: Protocol, *, own_history: bool) -> tuple[Floats, Floats]:
    """Ranks among the trained items, and among those without the user's own. (Q,) each.

    An item's key is its popularity, plus own count × (highest popularity + 1) with
    ``own_history``. Only the user's own items' keys differ from popularity, so a rank
    is a count among all items, corrected for those few. Valid for answerable queries,
    the second for new pairs.
    """
    popularity = protocol.train_count[: protocol.trained_items]
    weight = popularity.max() + 1 if own_history else 0
    target = protocol.own_count * weight + protocol.train_count[protocol.item_index]
    among_all = count_above(popularity, target)
    trained, unseen = np.empty((2, len(target)))
    for user, mine in zip(protocol.users, protocol.queries_by_user, strict=True):
        own = protocol.seen_slice(user)
        own_popularity = popularity[protocol.seen_item[own]]
        own_key = protocol.seen_count[own] * weight + own_popularity
        unseen[mine] = 0.5 + among_all[mine] - count_above(own_popularity, target[mine])
        trained[mine] = unseen[mine] + count_above(own_key, target[mine])
    return trained, unseen


def baselines(protocol: Protocol) -> dict[str, dict[str, Any]]:
    """``all`` and ``new_pairs`` figures of each rule, by name."""
    results: dict[str, dict[str, Any]] = {}
    for name, own_history in (("MostPop", False), ("own history", True)):
        trained, unseen = baseline_ranks(protocol, own_history=own_history)
        results[name] = {
            "all": figures(trained[protocol.answerable]),
            "new_pairs": figures(unseen[protocol.new_pair]),
        }
    return results
