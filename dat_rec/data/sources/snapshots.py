"""One version of a table of Delta or Iceberg in, its rows in DuckDB out.

The table's own library reads it (delta.py, iceberg.py): deleted rows stay away, columns keep their
names, and a version stays what it is while others write. The columns that are asked for stream
batch by batch into a table in the work folder, which spills as all else does, and every later pass
reads that.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Protocol

import duckdb
import numpy as np
import pyarrow as pa

from dat_rec.data.log_table import LogTable
from dat_rec.data.source import named, quoted
from dat_rec.data.sources.partitions import WHOLE, bound_of
from dat_rec.errors import NoRowsError, UserError

Value = int | date | str


@dataclass(frozen=True)
class Bound:
    """The first or the last partition that is read."""

    first: bool
    """Whether it is the first one."""
    values: tuple[tuple[str, Value], ...]
    """Columns and values, the outermost first."""

    def sql(self) -> str:
        """SQL, alike in DuckDB and DataFusion: whether a row lies on the right side of it."""
        tests, equal = [], ""
        for place, (name, value) in enumerate(self.values):
            last = place == len(self.values) - 1
            sign, end = (">", value) if self.first else ("<", beyond(value))
            test = f"{named(name)} {sign}{'=' if last and end == value else ''} {_literal(end)}"
            if not last and end != value:
                test += f" AND {named(name)} <> {_literal(value)}"
            tests.append(f"({equal}{test})")
            equal += f"{named(name)} = {_literal(value)} AND "
        return f"({' OR '.join(tests)})"


def beyond(value: Value) -> Value:
    """The first text behind all that begin with a text: 2026-11-01-13 lies in 2026-11-01.

    Other values are their own, and texts of an integer: 10 lies not in 1.
    """
    if not isinstance(value, str) or not value or WHOLE.fullmatch(value):
        return value
    code = ord(value[-1]) + 1
    # Surrogates are no characters; behind the last one, there is none.
    code = 0xE000 if code == 0xD800 else min(code, 0x10FFFF)
    return value[:-1] + chr(code)


def _literal(value: Value) -> str:
    literal = str(value) if isinstance(value, int) else quoted(str(value))
    return f"DATE {literal}" if isinstance(value, date) else literal


class Version(Protocol):
    """One version of a table, as its library gives it."""

    words: str
    """Format and version, e.g. ``Delta version 7``."""
    schema: pa.Schema
    partitions: list[str]
    """Columns that the table is partitioned by, the outermost first."""
    table: LogTable

    def batches(self, columns: Sequence[str], bounds: Sequence[Bound]) -> Iterator[pa.RecordBatch]:
        """The rows of the columns, in the same order whenever they are read.

        Args:
            columns: names in ``schema``, those of the bounds included.
            bounds: what rows are wanted; others may come too.
        """
        ...


class Snapshot:
    """One version of a table, as ``Parts`` are the files of paths.

    Args:
        path: the table, for messages.
        version: what its library gives.
        role: what it is to prepare, e.g. ``items``: a word of the table's name in DuckDB.
        first: the first partition to read; None: from the start.
        last: the last one; None: to the end.

    Raises:
        UserError: the table has no such partition columns.
    """

    def __init__(
        self,
        path: str,
        version: Version,
        role: str,
        first: str | None = None,
        last: str | None = None,
    ) -> None:
        self.where = f"{path} ({version.words})"
        """The table and its version, for messages."""
        self.note = f"{path}: {version.words}"
        """What schema.json says of it."""
        self.table = version.table if first is None and last is None else None
        """The table, if all of its rows are read."""
        self._table = f"snapshot_of_{role}"
        self._version = version
        self._bounds = [
            _bound(option, text, version, self.where)
            for option, text in (("--from", first), ("--to", last))
            if text is not None
        ]

    def has(self, column: str) -> bool:
        """Whether the table has the column."""
        return column in self._version.schema.names

    def type_of(self, column: str) -> pa.DataType | None:
        """The column's type."""
        return self._version.schema.field(column).type if self.has(column) else None

    @property
    def names(self) -> list[str]:
        """The table's columns."""
        names: list[str] = self._version.schema.names
        return names

    def load(self, database: duckdb.DuckDBPyConnection, columns: Sequence[str]) -> str:
        """Make a table of the columns, and ``_source_row``, which counts the rows from 1.

        Returns:
            The table's name.

        Raises:
            NoRowsError: no row lies within the span.
            UserError: a file of the table is missing or damaged.
        """
        compared = [name for bound in self._bounds for name, _ in bound.values]
        read = list(dict.fromkeys([*columns, *compared]))
        failures: list[BaseException] = []
        batches = self._numbered(read, failures)
        first = next(batches, None)
        if failures:
            raise failures[0]
        if first is None:
            span = "no row lies within --from and --to" if self._bounds else "has no rows"
            raise NoRowsError(f"{self.where}: {span}: correct what is asked for")

        def all_batches() -> Iterator[pa.RecordBatch]:
            yield first
            yield from batches

        reader = pa.RecordBatchReader.from_batches(first.schema, all_batches())
        chosen = ", ".join(named(name) for name in [*dict.fromkeys(columns), "_source_row"])
        within = " AND ".join(bound.sql() for bound in self._bounds)
        # DuckDB refuses register() while a result of execute() has not been read to its end.
        database.complete()
        try:
            database.register("_batches", reader)
            database.execute(
                f"CREATE TABLE {self._table} AS SELECT {chosen} FROM _batches "
                f"WHERE {within or 'true'}"
            )
        except duckdb.Error:
            if failures:
                raise failures[0] from None
            raise
        finally:
            database.unregister("_batches")
        if failures:
            raise failures[0]
        return self._table

    def _numbered(
        self, columns: list[str], failures: list[BaseException]
    ) -> Iterator[pa.RecordBatch]:
        """The batches with each row's number; an error goes to ``failures``, and ends them."""
        schema = pa.schema([_plain(self._version.schema.field(name)) for name in columns])
        schema = schema.append(pa.field("_source_row", pa.int64()))
        row = 1
        try:
            for batch in self._version.batches(columns, self._bounds):
                arrays = [batch[name].cast(schema.field(name).type) for name in columns]
                numbers = pa.array(np.arange(row, row + batch.num_rows))
                row += batch.num_rows
                yield pa.record_batch([*arrays, numbers], schema=schema)
        except GeneratorExit:
            raise
        except BaseException as error:  # Ctrl-C too: DuckDB would make its own words of it.
            failures.append(error)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """A block that reads the rows: they are in the work folder, where nothing changes them."""
        yield


def _plain(field: pa.Field) -> pa.Field:
    return pa.field(field.name, field.type)


def _bound(option: str, text: str, version: Version, where: str) -> Bound:
    if not version.partitions:
        raise UserError(
            f"{option} {text}: {where}: the table is partitioned by no column: leave it out"
        )
    pairs = bound_of(option, text, version.partitions, where)
    values = [
        (name, _value(f"{option} {text}", name, value, version.schema.field(name).type))
        for name, value in pairs
    ]
    return Bound(option == "--from", tuple(values))


def _value(said: str, name: str, text: str, type_: pa.DataType) -> Value:
    types = pa.types
    kind = "text"
    try:
        if types.is_integer(type_):
            kind = "integer"
            return int(text)
        if types.is_date(type_):
            kind = "date"
            return date.fromisoformat(text)
    except ValueError as error:
        raise UserError(
            f"{said}: {text!r} is no {kind}, as the values of {name!r} are: write one"
        ) from error
    if types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_):
        return text
    raise UserError(
        f"{said}: partition column {name!r} is {type_}: name one of text, dates or integers"
    )
