"""Numbered tables, and the files of user_ranges.py, in; the dataset's Parquet files out.

Row groups have ROW_GROUP rows, the last of a file excepted, and example files FILE_ROWS. They are
made and written PIECE rows at a time, which a processor's cache holds.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.data.prepare.audience import with_audiences, without_own
from dat_rec.data.prepare.history import IDS, history_columns
from dat_rec.data.prepare.user_ranges import KEY, PLACES, histories_of
from dat_rec.data.schema import (
    AUDIENCE,
    EXAMPLE_WEIGHT,
    HISTORY,
    HISTORY_CATEGORY,
    ITEM,
    RECENT,
    USER,
    Feature,
)
from dat_rec.data.source import REPEAT, SEQUENCE, named
from dat_rec.files import whole_file

ROW_GROUP = 16_384
PIECE = 2_048
FILE_ROWS = 256 * ROW_GROUP
PAGE_BYTES = 1 << 17
"""Of a page before compression: a cache holds what it is made of."""
COUNTED = {"user_row", "item_index", "user_id", "item_id", "index", "time", SEQUENCE}
COUNTED |= {USER, ITEM, HISTORY, AUDIENCE}
"""Columns of many values: if they are integers, the differences of those that follow each other
take less room and time than a dictionary (benchmarks/LOG.md)."""
QUICK = "lz4"
"""Compression of what is read often and holds numbers: examples, in every epoch, take a sixth less
of the time than with zstd, from files a tenth larger (benchmarks/LOG.md)."""


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
        compression: one that Parquet knows, for what is not COUNTED.
    """
    rows = 0
    with (
        whole_file(path) as partial,
        pq.ParquetWriter(
            partial,
            schema,
            data_page_size=PAGE_BYTES,
            # Differences have no form of their own that damage would break.
            write_page_checksum=True,
            **_encodings(schema, compression),
        ) as file,
    ):
        for table in _in_row_groups(batches, schema):
            file.write_table(table, row_group_size=ROW_GROUP)
            rows += table.num_rows
            if done is not None:
                done(table.num_rows)
    return rows


def _encodings(schema: pa.Schema, compression: str) -> dict[str, Any]:
    """As ``ParquetWriter`` has it: differences for COUNTED integers, dictionaries for all else."""
    compressions, encodings = {}, {}
    for field in schema:
        nested = pa.types.is_nested(field.type)
        kind = field.type.value_type if nested else field.type
        path = f"{field.name}.list.element" if nested else field.name
        if field.name in COUNTED and pa.types.is_integer(kind):
            # Nothing is left in them that could be compressed.
            compressions[path], encodings[path] = "none", "DELTA_BINARY_PACKED"
        else:
            compressions[path] = compression
    dictionaries = [path for path in compressions if path not in encodings]
    return {
        "compression": compressions,
        "column_encoding": encodings,
        "use_dictionary": dictionaries,
    }


def _in_row_groups(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """The same rows, ROW_GROUP at a time; an empty table if there are none."""
    pending: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        pending.append(batch)
        rows += batch.num_rows
        if rows >= ROW_GROUP:
            table = pa.Table.from_batches(pending, schema)
            whole = rows - rows % ROW_GROUP
            for start in range(0, whole, ROW_GROUP):
                yield _in_pieces(table.slice(start, ROW_GROUP))
            pending = table.slice(whole).to_batches()
            rows -= whole
    yield _in_pieces(pa.Table.from_batches(pending, schema))


def _in_pieces(table: pa.Table) -> pa.Table:
    """The same in chunks of PIECE rows, whatever they were before, as the file depends on them."""
    pieces = [
        table.slice(start, PIECE).combine_chunks().to_batches()[0]
        for start in range(0, table.num_rows, PIECE)
    ]
    return pa.Table.from_batches(pieces, table.schema)


def write_pieces(
    pieces: Sequence[Path],
    path: Path,
    change: Callable[[pa.RecordBatch], pa.RecordBatch] = lambda rows: rows,
) -> int:
    """Write the rows of the Arrow files ``pieces``, one after another; return their number.

    A file that is there is finished.

    Args:
        pieces: the files.
        path: the Parquet file.
        change: makes rows of it of rows of theirs.
    """
    if path.exists():
        return int(pq.read_metadata(path).num_rows)

    def batches() -> Iterator[pa.RecordBatch]:
        for piece in pieces:
            with pa.memory_map(str(piece)) as mapped:
                for batch in _open(mapped):
                    for start in range(0, batch.num_rows, PIECE):
                        yield change(batch.slice(start, PIECE))

    with pa.memory_map(str(pieces[0])) as mapped:
        schema = change(next(_open(mapped)).slice(0, 0)).schema
    return write_batches(batches(), schema, path, compression=QUICK)


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
            self._with_features(rows.take(pa.array(order[start : start + PIECE])))
            for start in range(0, len(order), PIECE)
        )
        schema = self._with_features(rows.slice(0, 0)).schema
        return write_batches(batches, schema, path, done, QUICK)

    def _rows(self, number: int) -> pa.RecordBatch:
        """The file's rows, in no order, without histories and item features."""
        found = []
        for piece in self._pieces:
            with pa.memory_map(str(piece)) as mapped:
                found.append(pa.ipc.open_file(mapped).get_batch(number))
        return pa.concat_batches(found)

    def with_histories(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Rows of users/R.arrow with histories in place of where these are."""
        columns = self._columns(rows)
        return _batch(columns, [name for name in columns if name not in PLACES])

    def _with_features(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        of_items = self._catalogue.take(rows["item_index"])
        columns = self._columns(rows) | dict(
            zip(of_items.schema.names, of_items.columns, strict=True)
        )
        made = _batch(columns, self._order)
        return without_own(made) if AUDIENCE in self._order else made

    def _columns(self, rows: pa.RecordBatch) -> dict[str, pa.Array]:
        histories = history_columns(histories_of(rows), self._sequence, self._category)
        return dict(zip(rows.schema.names, rows.columns, strict=True)) | histories


def _batch(columns: dict[str, pa.Array], order: Sequence[str]) -> pa.RecordBatch:
    """The columns in order; lists of ids are never null."""
    fields = [pa.field(name, columns[name].type, columns[name].type != IDS) for name in order]
    return pa.RecordBatch.from_arrays([columns[name] for name in order], schema=pa.schema(fields))


def names_of(features: Iterable[Feature]) -> list[str]:
    """Their names."""
    return [feature.name for feature in features]


def _list(columns: Iterable[str]) -> str:
    return ", ".join(named(column) for column in columns)
