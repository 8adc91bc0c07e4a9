"""Numbered tables, and the files of user_ranges.py, in; the dataset's Parquet files out.

Row groups have ROW_GROUP rows, the last of a file excepted, and example files FILE_ROWS.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.data.prepare.audience import with_audiences, without_own
from dat_rec.data.prepare.history import IDS, with_histories
from dat_rec.data.prepare.user_ranges import KEY, histories_of
from dat_rec.data.schema import AUDIENCE, EXAMPLE_WEIGHT, HISTORY, HISTORY_CATEGORY, RECENT, Feature
from dat_rec.data.source import REPEAT, SEQUENCE, named
from dat_rec.files import whole_file

ROW_GROUP = 16_384
FILE_ROWS = 256 * ROW_GROUP
EXAMPLES_COMPRESSION = "lz4"
"""Examples are read in every epoch: files a tenth larger than zstd's take a sixth less of the time
(benchmarks/LOG.md)."""


def write_items(
    database: duckdb.DuckDBPyConnection,
    features: Sequence[Feature],
    path: Path,
    pairs: Path | None = None,
    audience_length: int = 0,
    dense: Sequence[str] = (),
    *,
    recent: bool = False,
) -> int:
    """Write items.parquet in the order of item_index, and return the number of rows.

    Args:
        database: holds ``item_rows``.
        features: those of the items in it.
        path: the file.
        pairs: what ``audience.write_pairs`` wrote, for that column; None: there is none.
        audience_length: maximum number of users of an item.
        dense: names of the dense features.
        recent: whether ``item_rows`` says how often each was had lately.
    """
    columns = ["item_id", "title", "category_name", "train_count", *names_of(features), *dense]
    columns += [RECENT] if recent else []
    query = f"SELECT {_list(columns)} FROM item_rows ORDER BY item_index"
    if pairs is None:
        return write_query(database, query, path)
    reader = _reader(database, query)
    batches = with_audiences(reader, pairs, audience_length)
    schema = reader.schema.append(pa.field(AUDIENCE, IDS, nullable=False))
    return write_batches(batches, schema, path)


def write_user_rows(
    database: duckdb.DuckDBPyConnection,
    features: Sequence[Feature],
    path: Path,
    dense: Sequence[str] = (),
) -> int:
    """Write the rows of users.parquet, without histories, and return their number."""
    columns = ["user_id", "trained", *names_of(features), *dense]
    query = f"SELECT {_list(columns)} FROM user_rows ORDER BY user_row"
    return write_query(database, query, path)


def write_query(database: duckdb.DuckDBPyConnection, query: str, path: Path) -> int:
    """Write the rows of an ordered query, and return their number."""
    reader = _reader(database, query)
    return write_batches(reader, reader.schema, path)


def _reader(database: duckdb.DuckDBPyConnection, query: str) -> pa.RecordBatchReader:
    # DuckDB refuses sql() while a result of execute() has not been read to its end.
    database.complete()
    return database.sql(query).to_arrow_reader(ROW_GROUP)


def write_batches(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    path: Path,
    done: Callable[[int], None] | None = None,
    compression: str = "zstd",
) -> int:
    """Write a Parquet file, and return the number of rows.

    Args:
        batches: its rows, in any pieces.
        schema: theirs.
        path: the file, whole or not at all.
        done: is told how many rows have been written.
        compression: one that Parquet knows.
    """
    rows = 0
    with (
        whole_file(path) as partial,
        pq.ParquetWriter(partial, schema, compression=compression) as file,
    ):
        for batch in _in_row_groups(batches, schema):
            file.write_batch(batch, row_group_size=ROW_GROUP)
            rows += batch.num_rows
            if done is not None:
                done(batch.num_rows)
    return rows


def _in_row_groups(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """The same rows, ROW_GROUP at a time; one empty batch if there are none."""
    pending: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        pending.append(batch)
        rows += batch.num_rows
        if rows >= ROW_GROUP:
            table = pa.Table.from_batches(pending, schema)
            whole = rows - rows % ROW_GROUP
            for start in range(0, whole, ROW_GROUP):
                yield table.slice(start, ROW_GROUP).combine_chunks().to_batches()[0]
            pending = table.slice(whole).to_batches()
            rows -= whole
    table = pa.Table.from_batches(pending, schema).combine_chunks()
    yield from table.to_batches() if rows else [_empty(schema)]


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def write_pieces(pieces: Sequence[Path], path: Path) -> int:
    """Write the rows of the Arrow files ``pieces``, one after another; return their number.

    A file that is there is finished.
    """
    if path.exists():
        return int(pq.read_metadata(path).num_rows)

    def batches() -> Iterator[pa.RecordBatch]:
        for piece in pieces:
            with pa.memory_map(str(piece)) as mapped:
                yield from _open(mapped)

    with pa.memory_map(str(pieces[0])) as mapped:
        schema = pa.ipc.open_file(mapped).schema
    return write_batches(batches(), schema, path)


def _open(mapped: pa.MemoryMappedFile) -> Iterator[pa.RecordBatch]:
    file = pa.ipc.open_file(mapped)
    for number in range(file.num_record_batches):
        yield file.get_batch(number)


class ExampleWriter:
    """Writes any of the files examples/part-*.parquet: its training interactions, shuffled.

    Args:
        pieces: the example files of all user ranges.
        sequence: the sequence of all training interactions, mapped from the disk.
        catalogue: a row for each item_index: the item features.
        category: the feature among them that is the category.
        query_features: names of the query features but the history.
        has_sequence: whether a sequence orders the interactions of one time.
        weighted: whether examples have weights.
    """

    def __init__(
        self,
        pieces: Sequence[Path],
        sequence: NDArray[np.int32],
        catalogue: pa.RecordBatch,
        category: str,
        query_features: Sequence[str],
        *,
        has_sequence: bool = False,
        weighted: bool = False,
    ) -> None:
        self._pieces = pieces
        self._sequence = sequence
        self._catalogue = catalogue
        self._category = catalogue[category].to_numpy()
        self._order = [*query_features, HISTORY, HISTORY_CATEGORY, *catalogue.schema.names]
        self._order += ["item_index", "time", REPEAT, *([SEQUENCE] if has_sequence else [])]
        self._order += [EXAMPLE_WEIGHT] if weighted else []

    def write(self, number: int, path: Path, done: Callable[[int], None]) -> int:
        """Write example file ``number``, if it is not there, and return its number of rows."""
        if path.exists():
            rows = int(pq.read_metadata(path).num_rows)
            done(rows)
            return rows
        rows = self._rows(number)
        order = np.argsort(rows[KEY].to_numpy())
        batches = (
            self._with_features(rows.take(pa.array(order[start : start + ROW_GROUP])))
            for start in range(0, len(order), ROW_GROUP)
        )
        schema = self._with_features(rows.slice(0, 0)).schema
        return write_batches(batches, schema, path, done, EXAMPLES_COMPRESSION)

    def _rows(self, number: int) -> pa.RecordBatch:
        """The file's rows, in no order, without histories and item features."""
        found = []
        for piece in self._pieces:
            with pa.memory_map(str(piece)) as mapped:
                found.append(pa.ipc.open_file(mapped).get_batch(number))
        return pa.concat_batches(found)

    def _with_features(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        rows = with_histories(rows, histories_of(rows), self._sequence, self._category)
        for name, column in zip(
            self._catalogue.schema.names, self._catalogue.take(rows["item_index"]), strict=True
        ):
            rows = rows.append_column(name, column)
        if AUDIENCE in self._order:
            rows = without_own(rows)
        return rows.select(self._order)


def names_of(features: Iterable[Feature]) -> list[str]:
    """Their names."""
    return [feature.name for feature in features]


def _list(columns: Iterable[str]) -> str:
    return ", ".join(named(column) for column in columns)
