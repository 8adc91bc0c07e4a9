"""Query and item vectors in, the exact rank of every test interaction out.

rank = 1 + items scored higher + half the other items with exactly the same score.

A score is search's: the inner product in float64, rounded to float32. Equal items have equal
scores by construction: each distinct item's product with a user is computed once, and stands for
all items that have this vector.

Each rank scores the users with its own items, in products that are the same on any number of
ranks, and counts those above each target. The counts add up.

Beside the ranks come each user's best items (``top_lists``), and the ranks with own history blended
in (``blended_ranks``), if they are wanted.

Shapes: Q test interactions of U users, N items of which the first T are trained, D wide; K distinct
item vectors, of which this rank has some.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dat_rec.dist.agree import together
from dat_rec.errors import UserError
from dat_rec.retrieval.blended_ranks import BlendedRanks
from dat_rec.retrieval.distinct import Distinct, kinds, vector_hashes
from dat_rec.retrieval.divided import (
    ALONE,
    DividedRows,
    Messages,
    equal_bounds,
    fetch,
    gather,
    own_range,
)
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.ranks import Threads, one_thread_each
from dat_rec.retrieval.top_lists import TopLists, best

BLOCK_BYTES = 32 * 2**20
"""Maximum bytes of scores in memory at a time, on all ranks together; one user's row is the
least."""
COLUMNS = 2048
"""Number of items scored at once: few enough that the float64 scores stay in the cache."""
USERS = 4096
"""Maximum number of users who are counted for at once."""
FEW = 8
"""Number of targets up to which comparing with each is cheaper than sorting the pool."""

Ints = NDArray[np.int64]
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
    tied: Floats
    """Number of items with the same score among those of ``unseen``, itself included."""


def compare(pool: NDArray[Number], targets: NDArray[Number]) -> tuple[Floats, Floats]:
    """Count, for each target, the members of the pool above it, and those equal to it.

    (K,) pool, (M,) targets → twice (M,) float64.
    """
    if len(targets) <= FEW:
        above = (pool > targets[:, None]).sum(axis=1)
        not_below = (pool >= targets[:, None]).sum(axis=1)
    else:
        ordered = np.sort(pool)
        above = len(pool) - np.searchsorted(ordered, targets, "right")
        not_below = len(pool) - np.searchsorted(ordered, targets, "left")
    return above.astype(np.float64), (not_below - above).astype(np.float64)


def count_above(pool: NDArray[Number], targets: NDArray[Number]) -> Floats:
    """Count, for each target, the members of the pool above it, plus half of those equal to it.

    A target that is itself in the pool counts as half a tie, so that its rank is
    ½ + count_above; pools add up and subtract. (K,) pool, (M,) targets → (M,) float64.
    """
    above, equal = compare(pool, targets)
    return above + equal / 2


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
    trained_item: NDArray[np.int32]
    """The trained items of this rank, rising: item_index of each of ``trained``."""
    place: NDArray[np.int32]
    """(T,): where in ``trained_item`` each trained item stands; −1 where another rank has it."""


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
    return columns_of(column, trained_items, item_KD.double(), len(alike.first))


def columns_of(
    column: NDArray[np.int32], trained_items: int, item_KD: Tensor, distinct: int
) -> ItemColumns:
    """The columns of a rank.

    Args:
        column: (N,): of each item; −1 where another rank has it.
        trained_items: T.
        item_KD: (columns, D) float64.
        distinct: K, of all ranks.
    """
    trained, others = column[:trained_items], column[trained_items:]
    here = np.flatnonzero(trained >= 0).astype(np.int32)
    place = np.full(trained_items, -1, np.int32)
    place[here] = np.arange(len(here), dtype=np.int32)
    return ItemColumns(
        item_KD,
        distinct,
        column,
        _slice_if_possible(trained[here]),
        _slice_if_possible(others[others >= 0]),
        here,
        place,
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
        messages: between the ranks.
        block_bytes: maximum bytes of scores in memory at a time.
        lists: takes the best items of each user, if they are wanted.
        blended: counts with own history blended in, if that is wanted.
    """

    def __init__(
        self,
        protocol: Protocol,
        items: ItemColumns,
        kind: Ints,
        threads: Threads,
        messages: Messages,
        block_bytes: int = BLOCK_BYTES,
        lists: TopLists | None = None,
        blended: BlendedRanks | None = None,
    ) -> None:
        self._protocol = protocol
        self._items = items
        self._by_kind = np.argsort(kind, kind="stable")
        self._kind = kind[self._by_kind]
        self._threads = threads
        self._messages = messages
        self._block = max(1, block_bytes // max(1, 4 * items.distinct))
        self._lists = lists
        self._blended = blended
        self._trained, self._own, self._others, self._tied = np.zeros((4, len(protocol.user_row)))

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
        sums = np.stack([self._trained, self._own, self._others, self._tied])
        trained, own, others, tied = self._messages.add_up(sums)
        protocol = self._protocol
        return Ranks(
            np.where(protocol.answerable, 0.5 + trained, np.nan),
            np.where(protocol.new_pair, 0.5 + trained - own, np.nan),
            0.5 + trained + others,
            np.where(protocol.new_pair, tied, np.nan),
        )

    def _add(self, query_BD: Tensor, first: int) -> None:
        scores_BK = self._scores(query_BD)
        ends = np.searchsorted(self._kind, [first, first + len(query_BD)])
        self.count(
            self._by_kind[ends[0] : ends[1]], self._kind[ends[0] : ends[1]] - first, scores_BK
        )

    def count(self, users: Ints, row: Ints, scores_BK: NDArray[np.float32]) -> None:
        """Count for users whose scores are known. Collective.

        Args:
            users: (M,) their numbers in ``protocol.users``.
            row: (M,) each one's row of the scores; users may share one.
            scores_BK: (B, columns) scores of this rank's columns.
        """
        for start in range(0, len(users), USERS):
            part = slice(start, start + USERS)
            self._count(users[part], row[part], scores_BK)

    def _count(self, users: Ints, row: Ints, scores_BK: NDArray[np.float32]) -> None:
        protocol, items = self._protocol, self._items
        queries = [protocol.queries_by_user[user] for user in users]
        lengths = [len(one) for one in queries]
        column = items.column[protocol.item_index[np.concatenate(queries)]]
        # What another rank has scored is 0 here, until the ranks add up.
        target = np.zeros(len(column), np.float32)
        here = np.flatnonzero(column >= 0)
        target[here] = scores_BK[np.repeat(row, lengths)[here], column[here]]
        targets = np.split(self._messages.add_up(target), np.cumsum(lengths)[:-1])
        found = None if self._lists is None else self._lists.empty(len(users))

        def count(number: int) -> None:
            scores_K, wanted, mine = scores_BK[row[number]], targets[number], queries[number]
            user = int(protocol.users[users[number]])
            place = items.place[protocol.seen_item[protocol.seen_slice(user)]]
            own = place[place >= 0]
            trained_C, others = scores_K[items.trained], scores_K[items.others]
            above, tied = compare(trained_C, wanted)
            own_above, own_tied = compare(trained_C[own], wanted)
            self._trained[mine] = above + tied / 2
            self._own[mine] = own_above + own_tied / 2
            self._tied[mine] = tied - own_tied
            self._others[mine] = count_above(others, wanted)
            if self._blended is not None:
                self._blended.count(user, mine, wanted, trained_C, place, others)
            if found is not None:
                found.put(number, *best(trained_C, own, items.trained_item, found.longest))

        self._threads.in_turns(count, len(users))
        if self._lists is not None and found is not None:
            self._lists.add(users, found)

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
    lists: TopLists | None = None,
) -> Ranks:
    """Rank every query's item by its inner products with the whole catalogue, in this process.

    All queries of users with one vector share one row of scores; rows go through memory in blocks.

    Args:
        protocol: the queries.
        query_UD: (U, D) vectors of ``protocol.users``, in that order.
        item_ND: (N, D) vectors of the whole catalogue, by item_index.
        block_bytes: maximum bytes of scores in memory at a time.
        lists: takes the best items of each user, if they are wanted.

    Raises:
        UserError: a vector is not finite.
    """
    _check_finite("item", item_ND, 0)
    _check_finite("user", query_UD, 0)
    alike, users = kinds(vector_hashes(item_ND)), kinds(vector_hashes(query_UD))
    items = _columns(torch.from_numpy(item_ND[alike.first]), alike, 0, protocol.trained_items)
    with one_thread_each() as threads:
        ranking = Ranking(protocol, items, users.kind, threads, ALONE, block_bytes, lists)
        ranking.add(torch.from_numpy(query_UD[users.first]), 0)
        return ranking.ranks()


def _check_finite(name: str, vectors: NDArray[np.float32], first: int) -> None:
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise UserError(
            f"the model's {name} vector {first + int(finite.argmin())} is not finite: training "
            "diverged; train anew with lower learning rates"
        )
