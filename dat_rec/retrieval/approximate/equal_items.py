"""Items with equal vectors: one of each group is indexed, and stands for all of them.

All items that share unknown rows have one vector. A graph cannot reach a repeated vector: the
first ones' links lead to one another. ``ann_equal.parquet`` says, for each item that is not in the
index, ``item_index``, rising, and ``same_as``, the item_index of the one with its vector that is:
the first of them in the catalogue.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.data.dataset import read_parquet
from dat_rec.retrieval.distinct import kinds, vector_hashes

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def distinct_rows(vectors_ND: Floats) -> tuple[Ints, Ints]:
    """(M,) the first row of each kind of equal vectors, rising, and (N,) the first one of each."""
    alike = kinds(vector_hashes(vectors_ND))
    return alike.first, alike.first[alike.kind]


def write_equal(first_N: Ints, path: Path) -> None:
    """Write which rows are not in the index, and which ones stand for them.

    Args:
        first_N: of each row the first one with its vector.
        path: of the file.
    """
    others = np.flatnonzero(first_N != np.arange(len(first_N)))
    table = pa.table({"item_index": others, "same_as": first_N[others]})
    pq.write_table(table, path)


class EqualItems:
    """What stands for what.

    Args:
        item: (P,) item_index of those that are not in the index, rising.
        same_as: (P,) of the ones that stand for them.
    """

    def __init__(self, item: Ints, same_as: Ints) -> None:
        order = np.argsort(same_as, kind="stable")
        self._item = item[order]
        self._first, begin = np.unique(same_as[order], return_index=True)
        self._bounds = np.append(begin, len(item))

    @staticmethod
    def read(path: Path) -> "EqualItems":
        """Read the file.

        Raises:
            UserError: it cannot be read.
        """
        table = read_parquet(path, ["item_index", "same_as"])
        item, same_as = (column.to_numpy() for column in table.columns)
        return EqualItems(item, same_as)

    def groups(self, items: Ints) -> Ints:
        """The number of each item's group; −1 of one that stands for itself alone."""
        if not len(self._first):
            return np.full(items.shape, -1)
        place = np.minimum(np.searchsorted(self._first, items), len(self._first) - 1)
        return np.where(self._first[place] == items, place, -1)

    def others(self, group: int, most: int) -> Ints:
        """The first items of a group but the one that stands for it, rising, at most so many."""
        begin, end = self._bounds[group : group + 2]
        return self._item[begin : min(end, begin + most)]
