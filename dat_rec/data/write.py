"""Numbered tables and training sequences in, the dataset's Parquet files out.

DuckDB joins and sorts (it spills to the disk), one batch at a time streams through here, gets its
histories from the mapped sequence, and is written.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.data.history import Sequences
from dat_rec.data.scan import scan_parquet
from dat_rec.data.schema import HISTORY, ExampleFile, Feature
from dat_rec.data.source import HISTORY_CATEGORY, REPEAT, named

ROW_GROUP = 16_384
FILE_ROWS = 256 * ROW_GROUP


def write_items(
    database: duckdb.DuckDBPyConnection, features: Sequence[Feature], path: Path
) -> int:
    """Write items.parquet in the order of item_index, and return the number of rows."""
    columns = ["item_id", "title", "category_name", "train_count", *_names(features)]
    query = f"SELECT {_list(columns)} FROM item_rows ORDER BY item_index"
    return _write(path, _stream(database, query))


def write_users(
    database: duckdb.DuckDBPyConnection,
    features: Sequence[Feature],
    histories: "Histories",
    length: int,
    path: Path,
) -> int:
    """Write users.parquet by user_row, histories as of the split; return the number of rows."""
    columns = ["user_id", "trained", *_names(features)]
    query = f"SELECT {_list(columns)} FROM user_rows ORDER BY user_row"
    start, stop = histories.sequences.last(length)

    def batches() -> Iterator[pa.RecordBatch]:
        row = 0
        for batch in _stream(database, query):
            rows = np.minimum(np.arange(row, row + batch.num_rows), len(start) - 1)
            trained = batch["trained"].to_numpy(zero_copy_only=False)
            yield histories.append(batch, start[rows], np.where(trained, stop[rows], start[rows]))
            row += batch.num_rows

    return _write(path, batches())


def write_seen(database: duckdb.DuckDBPyConnection, path: Path) -> int:
    """Write seen.parquet: the pairs of the training span with their counts; return the rows."""
    query = (
        "SELECT user_row, item_index, count(*)::INTEGER AS count FROM numbered_interactions "
        "WHERE NOT is_test GROUP BY user_row, item_index ORDER BY user_row, item_index"
    )
    return _write(path, _stream(database, query))


def write_test(database: duckdb.DuckDBPyConnection, path: Path) -> int:
    """Write test.parquet: the held-out interactions by time; return the number of rows."""
    query = (
        "SELECT user_row, item_index, time FROM numbered_interactions WHERE is_test "
        "ORDER BY time, user_row, item_index"
    )
    return _write(path, _stream(database, query))


def write_examples(
    database: duckdb.DuckDBPyConnection,
    query_features: Sequence[Feature],
    item_features: Sequence[Feature],
    histories: "Histories",
    folder: Path,
) -> tuple[ExampleFile, ...]:
    """Write examples/part-*.parquet: every training interaction with all its features, shuffled.

    Args:
        database: holds ``user_rows`` and ``item_rows``.
        query_features: the columns of ``user_rows``.
        item_features: the columns of ``item_rows``.
        histories: append each example's history.
        folder: the dataset's folder.
    """
    names = [*_names(query_features), *_names(item_features)]
    wanted = [f"u.{named(name)}" for name in _names(query_features)]
    wanted += [f"i.{named(name)}" for name in _names(item_features)]
    query = (
        f"SELECT {', '.join(wanted)}, t.item_index, t.time, t.{REPEAT}, t._start, t._stop "
        f"FROM {scan_parquet([histories.sequences.training])} t "
        "JOIN user_rows u USING (user_row) JOIN item_rows i USING (item_index) "
        "ORDER BY t.shuffle, t.user_row, t.time, t.item_index"
    )
    order = [*_names(query_features), HISTORY, HISTORY_CATEGORY, *_names(item_features)]
    order += ["item_index", "time", REPEAT]

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in _stream(database, query):
            start, stop = (batch[name].to_numpy() for name in ("_start", "_stop"))
            joined = histories.append(
                batch.select([*names, "item_index", "time", REPEAT]), start, stop
            )
            yield joined.select(order)

    return tuple(_write_parts(folder, batches()))


class Histories:
    """Appends the columns ``history`` and ``history_category`` to a batch.

    Args:
        sequences: the training sequences.
        category: (items,) int32: the category's embedding row of each item_index.
    """

    def __init__(self, sequences: Sequences, category: NDArray[np.int32]) -> None:
        self.sequences = sequences
        self._category = category

    def append(
        self, batch: pa.RecordBatch, start: NDArray[np.int64], stop: NDArray[np.int64]
    ) -> pa.RecordBatch:
        """Row i gets the items ``sequence[start[i]:stop[i]]`` and their categories."""
        lengths = stop - start
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        positions = np.repeat(start - offsets[:-1], lengths) + np.arange(offsets[-1])
        items = np.asarray(self.sequences.items[positions])
        for name, values in (
            (HISTORY, items + np.int32(1)),
            (HISTORY_CATEGORY, self._category[items]),
        ):
            column = pa.ListArray.from_arrays(
                pa.array(offsets, pa.int32()), pa.array(values, pa.int32())
            )
            batch = batch.append_column(name, column)
        return batch


def _names(features: Iterable[Feature]) -> list[str]:
    return [feature.name for feature in features]


def _list(columns: Iterable[str]) -> str:
    return ", ".join(named(column) for column in columns)


def _stream(database: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.RecordBatch]:
    """The query's rows, ROW_GROUP at a time; one empty batch if there are none."""
    reader = database.sql(query).to_arrow_reader(ROW_GROUP)
    pending: list[pa.RecordBatch] = []
    rows = 0
    for batch in reader:
        pending.append(batch)
        rows += batch.num_rows
        while rows >= ROW_GROUP:
            table = pa.Table.from_batches(pending).combine_chunks()
            yield table.slice(0, ROW_GROUP).to_batches()[0]
            pending = table.slice(ROW_GROUP).to_batches()
            rows -= ROW_GROUP
    table = pa.Table.from_batches(pending, reader.schema).combine_chunks()
    yield from table.to_batches() if rows else [_empty(reader.schema)]


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def _write(path: Path, batches: Iterator[pa.RecordBatch]) -> int:
    """Write a row group for each batch, and return the number of rows."""
    rows = 0
    first = next(batches)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        for batch in _chain(first, batches):
            writer.write_batch(batch, row_group_size=ROW_GROUP)
            rows += batch.num_rows
    return rows


def _chain(first: pa.RecordBatch, others: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from others


def _write_parts(folder: Path, batches: Iterator[pa.RecordBatch]) -> Iterator[ExampleFile]:
    """Write files of FILE_ROWS rows."""
    batch = next(batches, None)
    number = 0
    while batch is not None:
        name = f"examples/part-{number:05}.parquet"
        rows = 0
        with pq.ParquetWriter(folder / name, batch.schema, compression="zstd") as writer:
            while batch is not None and rows < FILE_ROWS:
                writer.write_batch(batch, row_group_size=ROW_GROUP)
                rows += batch.num_rows
                batch = next(batches, None)
        yield ExampleFile(name, rows)
        number += 1
