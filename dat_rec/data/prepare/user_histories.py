"""A dataset's users.parquet in, any users' histories out: row groups are read on demand."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.data.schema import HISTORY


class Before(NamedTuple):
    """The histories of U users, H items in all."""

    offsets: NDArray[np.int64]
    """(U + 1,): where each user's items begin."""
    item: NDArray[np.int32]
    """(H,) item_index: user after user."""


class UserHistories:
    """The histories of a dataset's trained users, who stand first.

    Args:
        path: its users.parquet.
        trained: number of trained users.
    """

    def __init__(self, path: Path, trained: int) -> None:
        self._path = path
        self._trained = trained
        metadata = pq.read_metadata(path)
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self._bounds = np.append(0, np.cumsum(np.array(sizes, np.int64)))

    def read(self, first: int, users: int) -> Before:
        """The histories of users from row ``first`` on; threads may call."""
        end = min(first + users, self._trained)
        bounds = self._bounds
        if end <= first:
            return Before(np.zeros(users + 1, np.int64), np.empty(0, np.int32))
        groups = [
            number
            for number in range(len(bounds) - 1)
            if bounds[number] < end and first < bounds[number + 1]
        ]
        with pq.ParquetFile(self._path, pre_buffer=False) as file:
            column = file.read_row_groups(groups, columns=[HISTORY], use_threads=False)[HISTORY]
        chunks = column.slice(first - bounds[groups[0]], end - first).chunks
        lengths = [chunk.value_lengths().to_numpy(zero_copy_only=False) for chunk in chunks]
        items = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in chunks]
        item = np.concatenate(items, dtype=np.int32)
        item -= np.int32(1)
        none = np.full(first + users - end, 0)
        offsets = np.cumsum(np.concatenate([np.zeros(1, np.int64), *lengths, none]))
        return Before(offsets, item)
