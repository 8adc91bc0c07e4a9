"""Ranks in, the evaluation's figures out: HR@50, HR@100 and MRR for each set of queries."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.ranking import BLOCK_BYTES, Floats, Ranks, exact_ranks

CUTOFFS = (50, 100)


def hit_rate(ranks: Floats, k: int) -> float:
    """HR@K: share of queries with rank ≤ K. (Q,) ranks, Q ≥ 1 (paper, section 3)."""
    return float(np.mean(ranks <= k))


def mean_reciprocal_rank(ranks: Floats) -> float:
    """MRR: mean of 1/rank. (Q,) ranks, Q ≥ 1. The paper prints ten times this."""
    return float(np.mean(1.0 / ranks))


def figures(ranks: Floats) -> dict[str, Any]:
    """HR@50, HR@100, MRR and the number of queries; None for each figure without a query."""
    any_query = len(ranks) > 0
    return {
        **{f"HR@{k}": hit_rate(ranks, k) if any_query else None for k in CUTOFFS},
        "MRR": mean_reciprocal_rank(ranks) if any_query else None,
        "queries": len(ranks),
    }


def largest_category(protocol: Protocol) -> int:
    """The category with most training interactions; of equals, the catalogue's first."""
    return int(np.argmax(np.bincount(protocol.category, weights=protocol.train_count)))


def blocks(protocol: Protocol, ranks: Ranks) -> dict[str, Any]:
    """Every block of figures, as metrics.json has them.

    ``all`` and ``new_pairs`` rank among trained items and leave out what training cannot
    answer; ``warm`` (answerable) and ``cold`` (not) rank among the whole catalogue.
    """
    category = protocol.category[protocol.item_index]
    answerable, new_pair = protocol.answerable, protocol.new_pair
    largest = largest_category(protocol)

    def of_category(chosen: NDArray[np.bool_]) -> dict[str, Any]:
        return figures(ranks.trained[answerable & chosen])

    new_user = ~protocol.user_trained[protocol.user_row]
    new_item = protocol.item_index >= protocol.trained_items
    return {
        "all": figures(ranks.trained[answerable])
        | {"unanswerable": int(np.count_nonzero(~answerable))},
        "new_pairs": figures(ranks.unseen[new_pair]),
        "warm": figures(ranks.catalogue[answerable]),
        "cold": figures(ranks.catalogue[~answerable])
        | {
            "new_users": figures(ranks.catalogue[new_user]),
            "new_items": figures(ranks.catalogue[new_item]),
        },
        "by_category": {
            protocol.category_names[number]: of_category(category == number)
            for number in np.unique(category[answerable])
        },
        "largest_category": {
            "name": protocol.category_names[largest],
            "largest": of_category(category == largest),
            "others": of_category(category != largest),
        },
    }


def metrics_from_vectors(
    protocol: Protocol,
    query_UD: NDArray[np.float32],
    item_ND: NDArray[np.float32],
    block_bytes: int = BLOCK_BYTES,
) -> dict[str, Any]:
    """The figures of any model that gives vectors; see ``exact_ranks`` and ``blocks``.

    Args:
        protocol: the queries.
        query_UD: vectors of ``protocol.users``, in that order.
        item_ND: vectors of the whole catalogue, by item_index.
        block_bytes: most bytes of scores in memory at a time.

    Raises:
        UserError: a vector is not finite.
    """
    return blocks(protocol, exact_ranks(protocol, query_UD, item_ND, block_bytes))
