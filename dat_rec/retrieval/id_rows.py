"""Ids in, their rows out, again and again: a few ids are found without a look at all others.

Arrow's ``index_in`` hashes all known ids at each call. Here they are sorted once, for 8 bytes an id
(16 of integers), and each id is searched for.
"""

from bisect import bisect_left
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dat_rec.data.rows import is_text

Ints = NDArray[np.int64]
FEW = 64
"""Maximum number of texts that are searched for one by one."""
SHARE = 16
"""Known ids for each that is asked for, from which on it pays to have sorted them."""


class IdRows:
    """The rows of known ids, which are sorted when a few are first asked for.

    Args:
        ids: (R,) integers or text, each once, without nulls.
    """

    def __init__(self, ids: pa.Array) -> None:
        self._ids = ids

    def of(self, wanted: pa.Array) -> Ints:
        """(B,) the row of each id, −1 of a null, and of one that is not known.

        Args:
            wanted: (B,) of the same type.
        """
        if len(wanted) > FEW and len(wanted) * SHARE > len(self._ids):
            found = pc.index_in(wanted, value_set=self._ids).fill_null(-1)
            rows: Ints = found.to_numpy().astype(np.int64)
            return rows
        if not len(self._ids):
            return np.full(len(wanted), -1, np.int64)
        if is_text(self._ids.type):
            found = (-1 if one is None else self._row(one) for one in wanted.to_pylist())
            return np.fromiter(found, np.int64, len(wanted))
        order, ordered = self._numbers
        values = (wanted.fill_null(0) if wanted.null_count else wanted).to_numpy()
        place = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
        known = ordered[place] == values
        if wanted.null_count:
            known &= wanted.is_valid().to_numpy(zero_copy_only=False)
        return np.where(known, order[place], -1).astype(np.int64)

    @cached_property
    def _numbers(self) -> tuple[Ints, NDArray[Any]]:
        values = self._ids.to_numpy()
        order = np.argsort(values)
        return order, values[order]

    @cached_property
    def _order(self) -> NDArray[np.uint64]:
        """Of texts, by their bytes of UTF-8, which is Python's order of text too."""
        order: NDArray[np.uint64] = pc.sort_indices(self._ids).to_numpy()
        return order

    def _row(self, wanted: str) -> int:
        order = self._order
        place = bisect_left(order, wanted, key=lambda row: str(self._ids[int(row)].as_py()))
        if place == len(order) or self._ids[int(order[place])].as_py() != wanted:
            return -1
        return int(order[place])
