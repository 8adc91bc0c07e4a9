"""A dataset's pairs in, which of some new ones are among them out: seen files are read on demand.

The pairs of all days are looked at, next to none is kept. Two tables by the hashes of the new pairs
(Bloom, 1970) tell in a few operations of almost every old one that it is none of them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

Rows = NDArray[np.int32]
COLUMNS = ["user_row", "item_index"]
AT_ONCE = 1 << 16
"""Old pairs that are in memory together."""
PLACES = 8
"""Places of a table for each new pair, or up to twice as many."""
PRIMES = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
"""Odd numbers without pattern, for the hashes."""


class PairsBefore:
    """The pairs that a dataset has trained on.

    Args:
        paths: its seen files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._groups = [(path, _users_of(pq.read_metadata(path))) for path in paths]

    def among(self, user: Rows, item: Rows) -> NDArray[np.bool_]:
        """(P,): whether the dataset has the pair; threads may call.

        Args:
            user: (P,) user_row.
            item: (P,) item_index; by both, each pair once.
        """
        had = np.zeros(len(user), np.bool_)
        if not len(user):
            return had
        tables = [_Table(user, item, turn) for turn in (0, 1)]
        keys = _keys(user, item)
        for old_user, old_item in self._read(int(user[0]), int(user[-1])):
            for table in tables:
                maybe = table.may_hold(old_user, old_item)
                old_user, old_item = old_user[maybe], old_item[maybe]
            old = _keys(old_user, old_item)
            place = np.minimum(np.searchsorted(keys, old), len(keys) - 1)
            had[place[keys[place] == old]] = True
        return had

    def _read(self, first: int, last: int) -> Iterator[tuple[Rows, Rows]]:
        """The pairs of users from ``first`` to ``last``, and of some others."""
        for path, users in self._groups:
            groups = [n for n, (low, high) in enumerate(users) if low <= last and first <= high]
            if groups:
                with pq.ParquetFile(path, pre_buffer=False) as file:
                    for batch in file.iter_batches(AT_ONCE, groups, COLUMNS, use_threads=False):
                        user, item = (batch[name].to_numpy() for name in COLUMNS)
                        yield user.astype(np.int32, copy=False), item.astype(np.int32, copy=False)


class _Table:
    """Tells of most pairs that they are none of P."""

    def __init__(self, user: Rows, item: Rows, turn: int) -> None:
        bits = min(32, (PLACES * len(user)).bit_length())
        self._shift = np.uint32(32 - bits)
        self._primes = [np.uint32(prime) for prime in (*PRIMES[turn:], *PRIMES[:turn])]
        self._holds = np.zeros(1 << bits, np.bool_)
        self._holds[self._hash(user, item)] = True

    def may_hold(self, user: Rows, item: Rows) -> NDArray[np.int64]:
        """The rows of those that may be among the P: of all that are, and of a few others."""
        return np.flatnonzero(np.take(self._holds, self._hash(user, item), mode="wrap"))

    def _hash(self, user: Rows, item: Rows) -> NDArray[np.uint32]:
        of_user, of_item, of_both = self._primes
        both = user.view(np.uint32) * of_user ^ item.view(np.uint32) * of_item
        return both * of_both >> self._shift


def _keys(user: Rows, item: Rows) -> NDArray[np.int64]:
    return user.astype(np.int64) << 32 | item


def _users_of(metadata: pq.FileMetaData) -> list[tuple[int, int]]:
    """The least and the greatest user_row of each row group."""
    column = metadata.schema.names.index(COLUMNS[0])
    found = []
    for number in range(metadata.num_row_groups):
        told = metadata.row_group(number).column(column).statistics
        known = told is not None and told.has_min_max
        found.append((told.min, told.max) if known else (0, np.iinfo(np.int32).max))
    return found
