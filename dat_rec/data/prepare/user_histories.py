"""A dataset's users.parquet in, any users' histories out: row groups are read on demand."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.data.schema import HISTORY


class Before(NamedTuple):
    """The H items of some users' histories, user after user."""

    user: NDArray[np.int32]
    """(H,) user_row."""
    item: NDArray[np.int32]
    """(H,) item_index."""


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
            return Before(np.empty(0, np.int32), np.empty(0, np.int32))
        groups = [
            number
            for number in range(len(bounds) - 1)
            if bounds[number] < end and first < bounds[number + 1]
        ]
        table = pq.ParquetFile(self._path).read_row_groups(groups, columns=[HISTORY])
        column = table[HISTORY].slice(first - bounds[groups[0]], end - first).combine_chunks()
        histories = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        lengths = histories.value_lengths().to_numpy(zero_copy_only=False)
        item = histories.flatten().to_numpy(zero_copy_only=False).astype(np.int32) - np.int32(1)
        return Before(np.repeat(np.arange(first, end, dtype=np.int32), lengths), item)
