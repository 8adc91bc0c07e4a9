"""Training interactions of some users in, their order out: who had which items before what.

The interactions stand by user, time and item. An example's history is a part of that order: the
user's last N items strictly earlier in time, most recent last; items of one and the same time stand
in the order of their item_index. Where the log has a sequence, it orders interactions of one time,
and an earlier one is in the history of a later one.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dat_rec.data.schema import HISTORY
from dat_rec.data.source import HISTORY_CATEGORY

Ints = NDArray[np.int64]
IDS = pa.list_(pa.field("element", pa.int32(), nullable=False))
"""Type of lists of ids: without nulls, which a reader need not look for."""


@dataclass(frozen=True)
class Sequences:
    """R training interactions of some users, by user, time and item."""

    user: NDArray[np.int32]
    """(R,) user_row."""
    item: NDArray[np.int32]
    """(R,) item_index."""
    time: Ints
    """(R,)"""
    start: Ints
    """(R,): row i's history is ``item[start[i]:stop[i]]``."""
    stop: Ints
    """(R,)"""
    ties: int
    """Number of interactions that nothing but the item orders after the one before."""
    sequence: Ints | None
    """(R,): the order of a user's interactions of one time; None: there is none."""

    def last(self, first_user: int, users: int, length: int) -> tuple[Ints, Ints]:
        """(users,) start and stop of each user's last ``length`` items, from ``first_user`` on."""
        edges = np.searchsorted(self.user, np.arange(first_user, first_user + users + 1))
        return np.maximum(edges[:-1], edges[1:] - length), edges[1:]


def order_interactions(
    user: NDArray[np.int32],
    item: NDArray[np.int32],
    time: Ints,
    length: int,
    sequence: Ints | None = None,
) -> Sequences:
    """Sort the interactions and find each one's history.

    Args:
        user: (R,) user_row.
        item: (R,) item_index.
        time: (R,)
        length: N, maximum length of a history.
        sequence: (R,) the order of a user's interactions of one time; None: there is none.
    """
    keys = (item, time, user) if sequence is None else (item, sequence, time, user)
    order = np.lexsort(keys)
    user, item, time = user[order], item[order], time[order]
    row = np.arange(len(order))
    new_user = np.diff(user, prepend=-1) != 0
    new_time = new_user.copy()
    new_time[1:] |= time[1:] != time[:-1]
    if sequence is not None:
        sequence = sequence[order]
        new_time[1:] |= sequence[1:] != sequence[:-1]
    begin = np.maximum.accumulate(np.where(new_user, row, 0))
    stop = np.maximum.accumulate(np.where(new_time, row, 0))
    ties = len(order) - int(new_time.sum())
    return Sequences(user, item, time, np.maximum(begin, stop - length), stop, ties, sequence)


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


def find_pairs(sequences: Sequences) -> Pairs:
    """Count the pairs, and find the interactions that repeat one."""
    pair = sequences.user.astype(np.int64) << 32 | sequences.item
    # Stable: within a pair the order is that of the times.
    order = np.argsort(pair, kind="stable")
    pair = pair[order]
    first = np.flatnonzero(np.diff(pair, prepend=-1))
    count = np.diff(first, append=len(pair))
    # Grows with the time, and the sequence if there is one, of a user's interactions.
    moment = sequences.stop[order]
    repeat = np.empty(len(pair), np.bool_)
    repeat[order] = moment > np.repeat(moment[first], count)
    pair = pair[first]
    user, item = (pair >> 32).astype(np.int32), (pair & 0x7FFFFFFF).astype(np.int32)
    return Pairs(user, item, count.astype(np.int32), repeat)


def with_histories(
    batch: pa.RecordBatch,
    start: Ints,
    stop: Ints,
    items: NDArray[np.int32],
    category: NDArray[np.int32],
) -> pa.RecordBatch:
    """``batch`` with the columns ``history`` and ``history_category``.

    Args:
        batch: B rows.
        start: (B,): row i gets ``items[start[i]:stop[i]]`` and their categories.
        stop: (B,)
        items: the sequence, as item_index.
        category: (items of the catalogue,): the category's embedding row of each item_index.
    """
    lengths = stop - start
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    positions = np.repeat(start - offsets[:-1], lengths) + np.arange(offsets[-1])
    found = np.asarray(items[positions])
    for name, values in ((HISTORY, found + np.int32(1)), (HISTORY_CATEGORY, category[found])):
        column = pa.ListArray.from_arrays(
            pa.array(offsets, pa.int32()), pa.array(values, pa.int32()), type=IDS
        )
        batch = batch.append_column(pa.field(name, IDS, nullable=False), column)
    return batch
