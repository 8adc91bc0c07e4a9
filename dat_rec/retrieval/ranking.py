"""Query and item vectors in, the exact rank of every test interaction out.

rank = 1 + items scored higher + half the other items with exactly the same score.

A score is search's: the inner product in float64, rounded to float32. Equal vectors have equal
scores by construction: each distinct item's product with each distinct user is computed once, and
stands for all items and users that have these vectors.

Shapes: Q test interactions of U users, N items of which the first T are trained, D wide; K distinct
item vectors.
"""

from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dat_rec.errors import UserError
from dat_rec.retrieval.distinct import distinct_vectors
from dat_rec.retrieval.protocol import Protocol

BLOCK_BYTES = 32 * 2**20
"""Maximum bytes of scores in memory at a time; one user's row is the least."""
COLUMNS = 2048
"""Number of items scored at once: few enough that the float64 scores stay in the cache."""
FEW = 8
"""Number of targets up to which comparing with each is cheaper than sorting the pool."""

Floats = NDArray[np.float64]
Number = TypeVar("Number", np.float32, np.int64)


class Ranks(NamedTuple):
    """The rank of each query's item among three sets of items: (Q,) each, NaN where it has none."""

    trained: Floats
    """Among the T trained items; for answerable queries."""
    unseen: Floats
    """Among the trained items without the user's own; for new pairs."""
    catalogue: Floats
    """Among all N items; for every query."""


def count_above(pool: NDArray[Number], targets: NDArray[Number]) -> Floats:
    """Count, for each target, the members of the pool above it, plus half of those equal to it.

    A target that is itself in the pool counts as half a tie, so that its rank is
    ½ + count_above; pools add up and subtract. (K,) pool, (M,) targets → (M,) float64.
    """
    if len(targets) <= FEW:
        above = (pool > targets[:, None]).sum(axis=1)
        not_below = (pool >= targets[:, None]).sum(axis=1)
    else:
        ordered = np.sort(pool)
        above = len(pool) - np.searchsorted(ordered, targets, "right")
        not_below = len(pool) - np.searchsorted(ordered, targets, "left")
    return np.asarray((above + not_below) / 2, np.float64)


def exact_ranks(
    protocol: Protocol,
    query_UD: NDArray[np.float32],
    item_ND: NDArray[np.float32],
    block_bytes: int = BLOCK_BYTES,
) -> Ranks:
    """Rank every query's item by its inner products with the whole catalogue.

    All queries of users with one vector share one row of scores; rows go through memory in blocks.

    Args:
        protocol: the queries.
        query_UD: (U, D) vectors of ``protocol.users``, in that order.
        item_ND: (N, D) vectors of the whole catalogue, by item_index.
        block_bytes: maximum bytes of scores in memory at a time.

    Raises:
        UserError: a vector is not finite.
    """
    for name, vectors in (("user", query_UD), ("item", item_ND)):
        if not np.isfinite(vectors).all():
            row = np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0]
            raise UserError(
                f"the model's {name} vector {row} is not finite: training diverged; "
                "train anew with lower learning rates"
            )
    trained, unseen, catalogue = np.full((3, len(protocol.user_row)), np.nan)
    items, users = distinct_vectors(item_ND), distinct_vectors(query_UD)
    item_KD = torch.from_numpy(item_ND[items.first]).double()
    alike = len(item_KD) < len(item_ND)
    block = max(1, block_bytes // max(1, 4 * len(item_KD)))
    blocks = range(0, len(users.first), block)
    for start in tqdm(blocks, desc="rank", unit="block"):
        chosen = users.first[start : start + block]
        scores_BK = _scores(torch.from_numpy(query_UD[chosen]).double(), item_KD)
        for i in np.flatnonzero((users.kind >= start) & (users.kind < start + block)):
            scores_K = scores_BK[users.kind[i] - start]
            scores_N = scores_K[items.kind] if alike else scores_K
            mine = protocol.queries_by_user[i]
            targets = scores_N[protocol.item_index[mine]]
            own = protocol.seen_item[protocol.seen_slice(protocol.users[i])]
            among_trained = count_above(scores_N[: protocol.trained_items], targets)
            among_others = count_above(scores_N[protocol.trained_items :], targets)
            trained[mine] = 0.5 + among_trained
            unseen[mine] = 0.5 + among_trained - count_above(scores_N[own], targets)
            catalogue[mine] = 0.5 + among_trained + among_others
    return Ranks(
        np.where(protocol.answerable, trained, np.nan),
        np.where(protocol.new_pair, unseen, np.nan),
        catalogue,
    )


def _scores(query_BD: Tensor, item_KD: Tensor) -> NDArray[np.float32]:
    """(B, K) inner products of float64 vectors, rounded to float32."""
    scores_BK = torch.empty(len(query_BD), len(item_KD))
    for start in range(0, len(item_KD), COLUMNS):
        part = slice(start, start + COLUMNS)
        scores_BK[:, part] = query_BD @ item_KD[part].T
    return scores_BK.numpy()
