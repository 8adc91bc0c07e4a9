"""Training interactions of a log without order in, each item's audience out.

An item's audience is the users who had it, all or some of them, drawn at random. It is to the item
what the history is to the user: a feature of several values, in the users' own table. In an example
it lacks the example's user, as the history lacks its item. In a log with order it would tell of
what comes later, and so there is none.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.data.prepare.history import IDS
from dat_rec.data.scan import scan_parquet
from dat_rec.data.schema import AUDIENCE, USER
from dat_rec.data.source import quoted

PAIRS = 1 << 20
"""Pairs of an item and a user that are in memory at a time, beside one item's."""
Ints = NDArray[np.int32]


def write_pairs(database: duckdb.DuckDBPyConnection, training: Path, seed: int, path: Path) -> None:
    """Write pairs of item_index and the user's embedding row: by item, of each in a random order.

    DuckDB sorts them within its memory limit, where lists for all items would have to fit in it.

    Args:
        database: any.
        training: folder of ``write_training``.
        seed: decides the order.
        path: the Parquet file to write.
    """
    files = sorted(path for folder in training.iterdir() for path in folder.iterdir())
    # A digest that stays the same over releases of DuckDB, as its hash() may not.
    key = f"md5_number_lower(concat_ws(' ', {seed}, user_row, item_index))"
    database.execute(
        f"COPY (SELECT item_index, user_row + 1 AS user FROM (SELECT DISTINCT user_row, item_index "
        f"FROM {scan_parquet(files)}) ORDER BY item_index, {key}) TO {quoted(path)} "
        "(FORMAT parquet)"
    )


def with_audiences(
    items: Iterable[pa.RecordBatch], pairs: Path, length: int
) -> Iterator[pa.RecordBatch]:
    """Yield the batches of items with the column ``audience``.

    Args:
        items: rows in the order of item_index, from 0 on.
        pairs: file of ``write_pairs``.
        length: maximum number of an item's users: the first of its pairs.
    """
    first = 0
    ahead = _Pairs(pairs)
    for batch in items:
        item, user = ahead.up_to(first + batch.num_rows)
        begin = np.searchsorted(item, item)  # where each pair's item begins
        kept = np.arange(len(item)) - begin < length
        counts = np.bincount(item[kept] - first, minlength=batch.num_rows)
        offsets = np.concatenate(([0], np.cumsum(counts)))
        yield batch.append_column(
            pa.field(AUDIENCE, IDS, nullable=False), _lists(offsets, user[kept])
        )
        first += batch.num_rows


class _Pairs:
    """The pairs of a file, item after item."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        self._batches = self._file.iter_batches(PAIRS)
        self._item: Ints = np.zeros(0, np.int32)
        self._user: Ints = np.zeros(0, np.int32)

    def up_to(self, stop: int) -> tuple[Ints, Ints]:
        """Return items and users of the pairs that follow, whose items are below ``stop``."""
        while not len(self._item) or self._item[-1] < stop:
            batch = next(self._batches, None)
            if batch is None:
                break
            self._item = np.concatenate([self._item, batch["item_index"].to_numpy()])
            self._user = np.concatenate([self._user, batch["user"].to_numpy()])
        end = int(np.searchsorted(self._item, stop))
        found = self._item[:end], self._user[:end]
        self._item, self._user = self._item[end:], self._user[end:]
        return found


def without_own(batch: pa.RecordBatch) -> pa.RecordBatch:
    """``batch`` with each example's own user left out of ``audience``.

    Args:
        batch: examples with the columns ``user`` and ``audience``.
    """
    place = batch.schema.get_field_index(AUDIENCE)
    audience = batch.column(place)
    lengths = audience.value_lengths().to_numpy()
    values: Ints = audience.flatten().to_numpy()
    kept = values != np.repeat(batch[USER].to_numpy(), lengths)
    ends = np.concatenate(([0], np.cumsum(kept)))
    offsets = ends[np.concatenate(([0], np.cumsum(lengths)))]
    column = _lists(offsets, values[kept])
    return batch.set_column(place, pa.field(AUDIENCE, IDS, nullable=False), column)


def _lists(offsets: NDArray[np.int64], values: Ints) -> pa.ListArray:
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(values, pa.int32()), type=IDS
    )
