"""Query and item vectors in, the exact rank of every test interaction out.

rank = 1 + items scored higher + half the other items with exactly the same score.

A score is search's: the inner product in float64, rounded to float32. Equal items have equal
scores by construction: each distinct item's product with a user is computed once, and stands for
all items that have this vector.

Each rank scores the users with its own items, in products that are the same on any number of
ranks, and counts those above each target. The counts add up.

Shapes: Q test interactions of U users, N items of which the first T are trained, D wide; K distinct
item vectors, of which this rank has some.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dat_rec.dist.agree import together
from dat_rec.errors import UserError
from dat_rec.retrieval.distinct import Distinct, kinds, vector_hashes
from dat_rec.retrieval.divided import DividedRows, equal_bounds, fetch, gather, own_range
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.ranks import Threads, one_thread_each

BLOCK_BYTES = 32 * 2**20
"""Maximum bytes of scores in memory at a time, on all ranks together; one user's row is the
least."""
COLUMNS = 2048
"""Number of items scored at once: few enough that the float64 scores stay in the cache."""
FEW = 8
"""Number of targets up to which comparing with each is cheaper than sorting the pool."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Number = TypeVar("Number", np.float32, np.int64)
AddUp = Callable[[NDArray[Any]], NDArray[Any]]
"""Returns the sum of all ranks' arrays."""


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


@dataclass(frozen=True)
class ItemColumns:
    """The distinct item vectors that this rank scores: its columns of the scores."""

    item_KD: Tensor
    """(columns, D) float64."""
    distinct: int
    """K, of all ranks."""
    column: NDArray[np.int32]
    """(N,): the column of each item; −1 where another rank has it."""
    trained: slice | Ints
    """The columns of the trained items of this rank, one for each."""
    others: slice | Ints
    """The columns of its other items."""


def item_columns(rows: DividedRows, kind: Ints, trained_items: int) -> ItemColumns:
    """Give each rank its part of the distinct item vectors. Collective.

    Args:
        rows: vectors of kinds of items, divided over the ranks.
        kind: (N,): the kind of each item.
        trained_items: T.

    Raises:
        UserError: a vector is not finite.
    """
    with together():
        _check_finite("item", rows.local.numpy(), own_range(rows.bounds)[0])
    alike = kinds(gather(vector_hashes(rows.local.numpy())))
    bounds = equal_bounds(len(alike.first), COLUMNS)
    start, stop = own_range(bounds)
    (item_KD,) = fetch([(rows, torch.from_numpy(alike.first[start:stop]))])
    return _columns(item_KD, Distinct(alike.first, alike.kind[kind]), start, trained_items)


def _columns(item_KD: Tensor, alike: Distinct, start: int, trained_items: int) -> ItemColumns:
    """The columns of the distinct vectors from number ``start`` on."""
    own = (alike.kind >= start) & (alike.kind < start + len(item_KD))
    column = np.where(own, alike.kind - start, -1).astype(np.int32)
    trained, others = column[:trained_items], column[trained_items:]
    return ItemColumns(
        item_KD.double(),
        len(alike.first),
        column,
        _slice_if_possible(trained[trained >= 0]),
        _slice_if_possible(others[others >= 0]),
    )


def _slice_if_possible(columns: NDArray[np.int32]) -> slice | Ints:
    """The same columns, as a slice where they follow one another: it copies nothing."""
    if len(columns) and np.array_equal(columns, np.arange(columns[0], columns[0] + len(columns))):
        return slice(int(columns[0]), int(columns[0]) + len(columns))
    return columns.astype(np.int64)


class Ranking:
    """Counts the items above every query's, block of users by block.

    Args:
        protocol: the queries.
        items: this rank's.
        kind: (U,): the kind of each of ``protocol.users``; those of one kind have one vector.
        threads: that compute side by side.
        add_up: adds up the ranks' numbers.
        block_bytes: maximum bytes of scores in memory at a time.
    """

    def __init__(
        self,
        protocol: Protocol,
        items: ItemColumns,
        kind: Ints,
        threads: Threads,
        add_up: AddUp,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self._protocol = protocol
        self._items = items
        self._by_kind = np.argsort(kind, kind="stable")
        self._kind = kind[self._by_kind]
        self._threads = threads
        self._add_up = add_up
        self._block = max(1, block_bytes // max(1, 4 * items.distinct))
        self._trained, self._own, self._others = np.zeros((3, len(protocol.user_row)))

    def add(self, query_BD: Tensor, first: int) -> None:
        """Count for all users of some kinds. Collective.

        Args:
            query_BD: (B, D) float32 vectors of the kinds.
            first: number of the first kind.

        Raises:
            UserError: a vector is not finite.
        """
        _check_finite("user", query_BD.numpy(), first)
        for start in range(0, len(query_BD), self._block):
            part_BD = query_BD[start : start + self._block].double()
            self._add(part_BD, first + start)

    def ranks(self) -> Ranks:
        """Return the ranks, when all users have been added. Collective."""
        sums = self._add_up(np.stack([self._trained, self._own, self._others]))
        trained, own, others = sums
        protocol = self._protocol
        return Ranks(
            np.where(protocol.answerable, 0.5 + trained, np.nan),
            np.where(protocol.new_pair, 0.5 + trained - own, np.nan),
            0.5 + trained + others,
        )

    def _add(self, query_BD: Tensor, first: int) -> None:
        protocol = self._protocol
        scores_BK = self._scores(query_BD)
        ends = np.searchsorted(self._kind, [first, first + len(query_BD)])
        users = self._by_kind[ends[0] : ends[1]]
        row = self._kind[ends[0] : ends[1]] - first
        queries = [protocol.queries_by_user[user] for user in users]
        lengths = [len(one) for one in queries]
        column = self._items.column[protocol.item_index[np.concatenate(queries)]]
        # What another rank has scored is 0 here, until the ranks add up.
        target = np.zeros(len(column), np.float32)
        here = np.flatnonzero(column >= 0)
        target[here] = scores_BK[np.repeat(row, lengths)[here], column[here]]
        targets = np.split(self._add_up(target), np.cumsum(lengths)[:-1])

        def count(number: int) -> None:
            scores_K, wanted, mine = scores_BK[row[number]], targets[number], queries[number]
            seen = protocol.seen_item[protocol.seen_slice(protocol.users[users[number]])]
            own = self._items.column[seen]
            self._trained[mine] = count_above(scores_K[self._items.trained], wanted)
            self._others[mine] = count_above(scores_K[self._items.others], wanted)
            self._own[mine] = count_above(scores_K[own[own >= 0]], wanted)

        self._threads.in_turns(count, len(users))

    def _scores(self, query_BD: Tensor) -> NDArray[np.float32]:
        """(B, columns) inner products of float64 vectors, rounded to float32."""
        item_KD = self._items.item_KD
        scores_BK = torch.empty(len(query_BD), len(item_KD))

        def score(start: int) -> None:
            part = slice(start, start + COLUMNS)
            scores_BK[:, part] = product(query_BD, item_KD[part])

        self._threads.map(score, range(0, len(item_KD), COLUMNS))
        return scores_BK.numpy()


def product(query_BD: Tensor, item_KD: Tensor) -> Tensor:
    """(B, K) inner products of float64 vectors."""
    return query_BD @ item_KD.T


def exact_ranks(
    protocol: Protocol,
    query_UD: NDArray[np.float32],
    item_ND: NDArray[np.float32],
    block_bytes: int = BLOCK_BYTES,
) -> Ranks:
    """Rank every query's item by its inner products with the whole catalogue, in this process.

    All queries of users with one vector share one row of scores; rows go through memory in blocks.

    Args:
        protocol: the queries.
        query_UD: (U, D) vectors of ``protocol.users``, in that order.
        item_ND: (N, D) vectors of the whole catalogue, by item_index.
        block_bytes: maximum bytes of scores in memory at a time.

    Raises:
        UserError: a vector is not finite.
    """
    _check_finite("item", item_ND, 0)
    _check_finite("user", query_UD, 0)
    alike, users = kinds(vector_hashes(item_ND)), kinds(vector_hashes(query_UD))
    items = _columns(torch.from_numpy(item_ND[alike.first]), alike, 0, protocol.trained_items)
    with one_thread_each() as threads:
        ranking = Ranking(protocol, items, users.kind, threads, _alone, block_bytes)
        ranking.add(torch.from_numpy(query_UD[users.first]), 0)
        return ranking.ranks()


def _alone(own: NDArray[Any]) -> NDArray[Any]:
    return own


def _check_finite(name: str, vectors: NDArray[np.float32], first: int) -> None:
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise UserError(
            f"the model's {name} vector {first + int(finite.argmin())} is not finite: training "
            "diverged; train anew with lower learning rates"
        )
