"""Ranks or vectors in, the evaluation's figures out.

HR@K and MRR for each set of queries, Recall@K and NDCG@K for each user, and what the lists show.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dat_rec.errors import UserError
from dat_rec.retrieval.per_user import per_user
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.ranking import BLOCK_BYTES, Floats, Ranks, exact_ranks
from dat_rec.retrieval.top_lists import TopLists

CUTOFFS = (50, 100)
"""The Ks of HR@K. They stay, so that runs compare."""
USER_CUTOFFS = (20, 50, 100)
"""The Ks of the figures for each user and of the lists, unless others are asked for."""


def check_cutoffs(cutoffs: Sequence[int], option: str = "--k") -> tuple[int, ...]:
    """Return cutoffs, rising and each once.

    Raises:
        UserError: there is none, or one is below 1.
    """
    if not cutoffs or min(cutoffs) < 1:
        raise UserError(f"{option} is {tuple(cutoffs)}: give lengths of lists, 1 or more each")
    return tuple(sorted(set(cutoffs)))


def hit_rate(ranks: Floats, k: int) -> float:
    """HR@K: share of queries with rank ≤ K. (Q,) ranks, Q ≥ 1 (paper, section 3)."""
    return float(np.mean(ranks <= k))


def mean_reciprocal_rank(ranks: Floats) -> float:
    """MRR: mean of 1/rank. (Q,) ranks, Q ≥ 1. The paper prints ten times this."""
    return float(np.mean(1.0 / ranks))


def figures(ranks: Floats, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, Any]:
    """HR@K for each cutoff, MRR and the number of queries; None for each figure without a query."""
    any_query = len(ranks) > 0
    return {
        **{f"HR@{k}": hit_rate(ranks, k) if any_query else None for k in cutoffs},
        "MRR": mean_reciprocal_rank(ranks) if any_query else None,
        "queries": len(ranks),
    }


def largest_category(protocol: Protocol) -> int:
    """The category with most training interactions; of equals, the catalogue's first."""
    return int(np.argmax(np.bincount(protocol.category, weights=protocol.train_count)))


def blocks(
    protocol: Protocol, ranks: Ranks, lists: TopLists, cutoffs: Sequence[int]
) -> dict[str, Any]:
    """Every block of figures, as metrics.json has them.

    ``all`` and ``new_pairs`` rank among trained items and leave out what training cannot
    answer; ``warm`` (the model knows user and item) and ``cold`` (not) rank among the whole
    catalogue. ``per_user``
    has the means over users of the new pairs (``dat_rec.retrieval.per_user``), ``lists`` coverage
    and popularity (``dat_rec.retrieval.top_lists``).

    Args:
        protocol: the queries.
        ranks: of each.
        lists: of each user.
        cutoffs: the Ks of ``per_user`` and ``lists``.
    """
    category = protocol.category[protocol.item_index]
    answerable, new_pair = protocol.answerable, protocol.new_pair
    largest = largest_category(protocol)

    def of_category(chosen: NDArray[np.bool_]) -> dict[str, Any]:
        return figures(ranks.trained[answerable & chosen])

    return {
        "all": figures(ranks.trained[answerable])
        | {"unanswerable": int(np.count_nonzero(~answerable))},
        "new_pairs": figures(ranks.unseen[new_pair]),
        "warm": figures(ranks.catalogue[protocol.warm]),
        "cold": figures(ranks.catalogue[~protocol.warm])
        | {
            "new_users": figures(ranks.catalogue[protocol.new_user]),
            "new_items": figures(ranks.catalogue[protocol.new_item]),
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
        "per_user": per_user(protocol, ranks, cutoffs),
        "lists": lists.figures(),
    }


def protocol_metrics(
    protocol: Protocol,
    query_UD: NDArray[np.float32],
    item_ND: NDArray[np.float32],
    block_bytes: int = BLOCK_BYTES,
    *,
    k: Sequence[int] = USER_CUTOFFS,
) -> dict[str, Any]:
    """Every figure of ``dat_rec.evaluate``, for any model that gives vectors; see ``blocks``.

    Args:
        protocol: the queries.
        query_UD: (U, D) vectors of ``protocol.users``, in that order.
        item_ND: (N, D) vectors of the whole catalogue, by item_index.
        block_bytes: maximum bytes of scores in memory at a time.
        k: the Ks of ``per_user`` and ``lists``.

    Raises:
        UserError: a vector is not finite, or a K is below 1.
    """
    cutoffs = check_cutoffs(k, "k")
    lists = TopLists(protocol, cutoffs)
    ranks = exact_ranks(protocol, query_UD, item_ND, block_bytes, lists)
    return blocks(protocol, ranks, lists, cutoffs)


def metrics_from_vectors(
    queries: NDArray[Any],
    items: NDArray[Any],
    targets: NDArray[Any],
    *,
    cutoffs: Sequence[int] = CUTOFFS,
) -> dict[str, Any]:
    """HR@K and MRR of any model that gives query and item vectors.

    Each query's target is ranked among all items by inner products, exactly: computed in float64
    and rounded to float32, so that equal vectors have equal scores.
    rank = 1 + items scored higher + half the other items with the same score. HR@K is the share of
    queries with rank ≤ K, MRR the mean of 1/rank.

    Args:
        queries: (Q, D) floats, taken as float32.
        items: (N, D) floats, taken as float32; the whole catalogue.
        targets: (Q,) integers: the row of ``items`` that each query should find.
        cutoffs: the Ks.

    Returns:
        ``HR@K`` for each K, ``MRR``, and ``queries``: Q. Without a query the figures are None.

    Raises:
        UserError: shapes that do not go together, a target that is no row, or a vector that is
            not finite.

    Example:
        >>> import numpy as np
        >>> queries = np.array([[1.0, 0.0], [0.0, 1.0]])
        >>> items = np.array([[1.0, 0.0], [0.9, 0.1], [0.9, 0.1]])
        >>> dat_rec.metrics_from_vectors(queries, items, np.array([0, 1]), cutoffs=(1, 2))
        {'HR@1': 0.5, 'HR@2': 1.0, 'MRR': 0.8333333333333333, 'queries': 2}
    """
    query_QD, item_ND = (np.ascontiguousarray(v, np.float32) for v in (queries, items))
    target_Q = np.asarray(targets)
    if query_QD.ndim != 2 or item_ND.ndim != 2 or query_QD.shape[1] != item_ND.shape[1]:
        raise UserError(
            f"queries are {query_QD.shape} and items {item_ND.shape}: give (Q, D) and (N, D)"
        )
    if target_Q.shape != (len(query_QD),) or not np.issubdtype(target_Q.dtype, np.integer):
        raise UserError(
            f"targets are {target_Q.dtype} {target_Q.shape}: give {len(query_QD)} integers, the "
            "row of items that each query should find"
        )
    if np.any(bad := (target_Q < 0) | (target_Q >= len(item_ND))):
        raise UserError(
            f"targets name row {target_Q[bad][0]}, outside 0 … {len(item_ND) - 1}: give rows of "
            "items"
        )
    protocol = Protocol.of_targets(target_Q.astype(np.int64), len(item_ND))
    return figures(exact_ranks(protocol, query_QD, item_ND).catalogue, cutoffs)
