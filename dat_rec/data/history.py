"""Training interactions in, training sequences out: who had which items before what.

One pass over the training interactions in the order (user, time, item), a batch at a time, so
that memory holds one batch whatever the log's size. Out, in the work folder:

    sequence.int32   the item_index of every training interaction in that order, as raw int32
    training.parquet one row for each: user_row, item_index, time, repeat, _start, _stop, shuffle

so an example's history is ``sequence[start:stop]``: the user's last N items strictly earlier in
time, most recent last; items of one and the same time stand in the order of their item_index.
``shuffle`` is a pseudo-random number made from the seed and the row's position: sorting by it
shuffles the examples the same way on every machine.
"""

from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Ints = NDArray[np.int64]
BATCH_ROWS = 1 << 17

IN_ORDER = (
    "SELECT user_row, item_index, time, "
    "time > min(time) OVER (PARTITION BY user_row, item_index) AS repeat "
    "FROM numbered_interactions WHERE NOT is_test ORDER BY user_row, time, item_index"
)


@dataclass(frozen=True)
class Sequences:
    """The training sequences, on the disk."""

    items: NDArray[np.int32]
    """(training interactions,): item_index by user, time; mapped from the disk."""
    training: Path
    """The Parquet file of the training interactions."""
    user_stop: Ints
    """(trained users,): where each trained user's sequence ends; user_row = position."""

    def last(self, length: int) -> tuple[Ints, Ints]:
        """Start and stop of each trained user's last ``length`` items as of the split."""
        begin = np.concatenate(([0], self.user_stop[:-1]))
        return np.maximum(begin, self.user_stop - length), self.user_stop


def order_training(
    database: duckdb.DuckDBPyConnection, work: Path, history_length: int, seed: int
) -> Sequences:
    """Write the training sequences.

    Args:
        database: holds ``numbered_interactions`` (user_row, item_index, time, is_test).
        work: folder for the two files.
        history_length: N, maximum length of a history.
        seed: random seed of the examples' order.
    """
    position = 0
    user_begin, group_begin = 0, 0
    last_user, last_time = -1, 0
    stops: list[Ints] = []
    training = work / "training.parquet"
    reader = database.sql(IN_ORDER).to_arrow_reader(BATCH_ROWS)
    schema = pa.schema([*reader.schema, *(pa.field(n, pa.int64()) for n in ("_start", "_stop"))])
    schema = schema.append(pa.field("shuffle", pa.uint64()))
    with pq.ParquetWriter(training, schema) as writer, (work / "sequence.int32").open("wb") as file:
        for batch in reader:
            if batch.num_rows == 0:
                continue
            user = batch["user_row"].to_numpy().astype(np.int64)
            time = batch["time"].to_numpy()
            new_user = np.diff(user, prepend=last_user) != 0
            new_group = new_user | (np.diff(time, prepend=last_time) != 0)
            row = position + np.arange(len(user))
            begin = _latest(row, new_user, user_begin)
            stop = _latest(row, new_group, group_begin)
            start = np.maximum(begin, stop - history_length)
            batch["item_index"].to_numpy().astype(np.int32).tofile(file)
            columns = [*batch.columns, start, stop, _scramble(row, seed)]
            writer.write_batch(pa.record_batch([pa.array(c) for c in columns], schema=schema))
            stops.append(row[new_user])
            position += len(user)
            user_begin, group_begin = int(begin[-1]), int(stop[-1])
            last_user, last_time = int(user[-1]), int(time[-1])
    items = np.memmap(work / "sequence.int32", np.int32, "r") if position else np.empty(0, np.int32)
    starts = np.concatenate([*stops, np.array([position])])
    return Sequences(items, training, starts[1:])


def _latest(row: Ints, marked: NDArray[np.bool_], before: int) -> Ints:
    """The last marked position at or before each; ``before`` where none is in the batch."""
    return np.maximum.accumulate(np.where(marked, row, before))


def _scramble(row: Ints, seed: int) -> NDArray[np.uint64]:
    """splitmix64 (Steele et al., OOPSLA 2014): output ``row`` of the stream called ``seed``."""
    with np.errstate(over="ignore"):
        state = np.full(1, seed % 2**64, np.uint64)
        for _ in range(2):
            state = _mix(state + np.uint64(0x9E3779B97F4A7C15))
        return _mix(state + (row.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
