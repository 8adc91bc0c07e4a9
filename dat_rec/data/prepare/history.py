"""Training interactions of some users in, their order out: who had which items before what.

The interactions stand by user, time and item. An example's history is a part of that order: the
user's last N items strictly earlier in time, most recent last; items of one and the same time stand
in the order of their item_index. Where the log has a sequence, it orders interactions of one time,
and an earlier one is in the history of a later one.

In a log without order no user has interactions of two times, and nothing is earlier than anything
else. There the interactions stand by user, and a user's items in a random order, which goes round:
an example's history is the N items after its own, all of the user's others where there are no more.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dat_rec.data.prepare.pairs_before import PairsBefore
from dat_rec.data.prepare.shuffle import shuffle_keys
from dat_rec.data.prepare.user_histories import Before
from dat_rec.data.schema import HISTORY, HISTORY_CATEGORY

Ints = NDArray[np.int64]
IDS = pa.list_(pa.field("element", pa.int32(), nullable=False))
"""Type of lists of ids: without nulls, which a reader need not look for."""


@dataclass(frozen=True)
class Windows:
    """B histories as parts of a sequence of items."""

    start: Ints
    """(B,): place of the first item."""
    length: Ints
    """(B,): number of items."""
    bounds_2B: Ints | None = None
    """(2, B): where the user's items begin and end; a history goes on at the beginning when it
    reaches the end. None: no history does."""

    def take(self, rows: Ints) -> "Windows":
        """The histories ``rows``."""
        bounds = None if self.bounds_2B is None else self.bounds_2B[:, rows]
        return Windows(self.start[rows], self.length[rows], bounds)

    def behind(self, rows: int) -> "Windows":
        """The same parts of a sequence that has ``rows`` items more in front."""
        bounds = None if self.bounds_2B is None else self.bounds_2B + rows
        return Windows(self.start + rows, self.length, bounds)

    def places(self) -> tuple[Ints, Ints]:
        """Every item's place, history after history; and (B + 1,) where each history begins."""
        offsets = np.concatenate(([0], np.cumsum(self.length)))
        places = np.repeat(self.start - offsets[:-1], self.length)
        places += np.arange(offsets[-1])
        if self.bounds_2B is not None:
            begin, end = (np.repeat(bound, self.length) for bound in self.bounds_2B)
            places -= np.where(places >= end, end - begin, 0)
        return places, offsets


@dataclass(frozen=True)
class Sequences:
    """R training interactions of some users, by user, time and item."""

    user: NDArray[np.int32]
    """(R,) user_row."""
    item: NDArray[np.int32]
    """(R,) item_index."""
    time: Ints
    """(R,)"""
    moment: Ints
    """(R,): grows with the time, and the sequence if there is one, of a user's interactions."""
    histories: Windows
    """Those of the R interactions, as parts of ``item``."""
    ties: int
    """Number of interactions that nothing but the item orders after the one before."""
    sequence: Ints | None
    """(R,): the order of a user's interactions of one time; None: there is none."""
    weight: NDArray[np.float32] | None = None
    """(R,): what each weighs as an example; None: all alike."""

    def last(self, first_user: int, users: int, length: int) -> Windows:
        """Each user's last ``length`` items, from user ``first_user`` on."""
        edges = np.searchsorted(self.user, np.arange(first_user, first_user + users + 1))
        start = np.maximum(edges[:-1], edges[1:] - length)
        return Windows(start, edges[1:] - start)


def order_interactions(
    user: NDArray[np.int32],
    item: NDArray[np.int32],
    time: Ints,
    length: int,
    sequence: Ints | None = None,
    weight: NDArray[np.float32] | None = None,
) -> Sequences:
    """Sort the interactions and find each one's history.

    Args:
        user: (R,) user_row.
        item: (R,) item_index.
        time: (R,)
        length: N, maximum length of a history.
        sequence: (R,) the order of a user's interactions of one time; None: there is none.
        weight: (R,) what each weighs as an example; it orders what is else equal. None: all alike.
    """
    keys = (weight, item, sequence, time, user)
    order = np.lexsort([key for key in keys if key is not None])
    user, item, time = user[order], item[order], time[order]
    row = np.arange(len(order))
    new_user = np.diff(user, prepend=-1) != 0
    new_time = new_user.copy()
    new_time[1:] |= time[1:] != time[:-1]
    if sequence is not None:
        sequence = sequence[order]
        new_time[1:] |= sequence[1:] != sequence[:-1]
    begin = np.maximum.accumulate(np.where(new_user, row, 0))
    earlier = np.maximum.accumulate(np.where(new_time, row, 0))
    start = np.maximum(begin, earlier - length)
    ties = len(order) - int(new_time.sum())
    weight = None if weight is None else weight[order]
    windows = Windows(start, earlier - start)
    return Sequences(user, item, time, earlier, windows, ties, sequence, weight)


class Behind(NamedTuple):
    """Interactions of some users, each user's behind a history."""

    sequences: Sequences
    """R interactions; their histories are parts of ``item``."""
    item: NDArray[np.int32]
    """(H + R,) item_index: user by user, the history so far, then the interactions."""
    last: Windows
    """Each user's last items, as parts of ``item``."""


def behind_histories(new: Sequences, before: Before, length: int, first_user: int) -> Behind:
    """Put each user's history so far before the user's new interactions.

    Args:
        new: R interactions of ``order_interactions``.
        before: the histories so far of all users that are worked on.
        length: N, maximum length of a history.
        first_user: the first one's row.
    """
    users = len(before.offsets) - 1
    new_offsets = np.searchsorted(new.user, np.arange(first_user, first_user + users + 1))
    edges = before.offsets + new_offsets
    user = new.user - first_user
    # Before a new row stand all new ones before it, and the histories of users up to its own.
    place = before.offsets[user + 1] + np.arange(len(user))
    earlier = place[new.moment]
    start = np.maximum(edges[user], earlier - length)
    merged = np.empty(edges[-1], np.int32)
    old = np.ones(len(merged), np.bool_)
    old[place] = False
    merged[place], merged[old] = new.item, before.item
    last = np.maximum(edges[:-1], edges[1:] - length)
    sequences = replace(new, histories=Windows(start, earlier - start))
    return Behind(sequences, merged, Windows(last, edges[1:] - last))


def order_at_random(
    user: NDArray[np.int32],
    item: NDArray[np.int32],
    time: Ints,
    length: int,
    seed: int,
    sequence: Ints | None = None,
    weight: NDArray[np.float32] | None = None,
) -> Sequences:
    """Sort the interactions of a log without order, and find each one's history.

    A user's equal items stand together, and none of them is in another's history.

    Args:
        user: (R,) user_row.
        item: (R,) item_index.
        time: (R,): of each user the same.
        length: N, maximum length of a history.
        seed: decides the order of a user's items.
        sequence: (R,): of each user the same; None: there is none.
        weight: (R,) what each weighs as an example; it orders equal ones. None: all alike.
    """
    pair = pair_keys(user, item)
    keys = (weight, pair, shuffle_keys(pair, seed), user)
    order = np.lexsort([key for key in keys if key is not None])
    user, item, time, pair = user[order], item[order], time[order], pair[order]
    begin, end = _runs(user)
    first, after = _runs(pair)
    others = (end - begin) - (after - first)
    windows = Windows(after, np.minimum(others, length), np.stack([begin, end]))
    sequence = None if sequence is None else sequence[order]
    weight = None if weight is None else weight[order]
    return Sequences(user, item, time, begin, windows, 0, sequence, weight)


def _runs(values: NDArray[np.signedinteger]) -> tuple[Ints, Ints]:
    """For each row, where the run of values equal to its own begins and ends."""
    first = np.flatnonzero(np.diff(values, prepend=-1))
    after = np.append(first[1:], len(values))
    return np.repeat(first, after - first), np.repeat(after, after - first)


@dataclass(frozen=True)
class Pairs:
    """P pairs of a user and an item that occur among R interactions, by user and item."""

    user: NDArray[np.int32]
    """(P,) user_row."""
    item: NDArray[np.int32]
    """(P,) item_index."""
    count: NDArray[np.int32]
    """(P,) how often each occurs."""
    repeat: NDArray[np.bool_]
    """(R,): whether the user had the item earlier."""


def find_pairs(sequences: Sequences, before: PairsBefore | None = None) -> Pairs:
    """Count the pairs, and find the interactions that repeat one, or one of a dataset before."""
    pair = pair_keys(sequences.user, sequences.item)
    # Stable: within a pair the order is that of the times.
    order = np.argsort(pair, kind="stable")
    pair = pair[order]
    first = np.flatnonzero(np.diff(pair, prepend=-1))
    count = np.diff(first, append=len(pair))
    moment = sequences.moment[order]
    pair = pair[first]
    user, item = (pair >> 32).astype(np.int32), (pair & 0x7FFFFFFF).astype(np.int32)
    again = moment > np.repeat(moment[first], count)
    if before is not None:
        again |= np.repeat(before.among(user, item), count)
    repeat = np.empty(len(again), np.bool_)
    repeat[order] = again
    return Pairs(user, item, count.astype(np.int32), repeat)


def pair_keys(user: NDArray[np.int32], item: NDArray[np.int32]) -> Ints:
    """(R,): a number for each pair of user_row and item_index, in their order."""
    return user.astype(np.int64) << 32 | item


def history_columns(
    histories: Windows, items: NDArray[np.int32], category: NDArray[np.int32]
) -> dict[str, pa.Array]:
    """The columns ``history`` and ``history_category``.

    Args:
        histories: B, as parts of ``items``.
        items: the sequence, as item_index.
        category: (items of the catalogue,): the category's embedding row of each item_index.
    """
    places, offsets = histories.places()
    ends = pa.array(offsets, pa.int32())
    # "clip" looks for no place that is out of bounds, which takes a fifth of the time.
    found = np.take(items, places, mode="clip")
    of_found = np.take(category, found, mode="clip")
    columns = {HISTORY: found + np.int32(1), HISTORY_CATEGORY: of_found}
    return {
        name: pa.ListArray.from_arrays(ends, pa.array(values, pa.int32()), type=IDS)
        for name, values in columns.items()
    }
