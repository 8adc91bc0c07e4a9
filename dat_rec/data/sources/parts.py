"""Paths in, their Parquet files as one table out: listed once, schemas read once, and pinned."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from dat_rec.data.scan import scan_parquet
from dat_rec.data.source import named
from dat_rec.data.sources.aloud import say
from dat_rec.data.sources.folders import Folders
from dat_rec.data.sources.named_paths import in_words, named_paths
from dat_rec.data.sources.part_files import part_files, refuse_tables_around
from dat_rec.data.sources.partitions import Span
from dat_rec.data.sources.pins import pin, refuse_changed
from dat_rec.errors import UserError

NO_DAMAGE = (
    duckdb.ConversionException,
    duckdb.OutOfRangeException,
    duckdb.BinderException,
    duckdb.ParserException,
)
"""Errors of values and of statements, not of files."""


class Parts:
    """Parquet files as they were when they were listed.

    Args:
        paths: a Parquet file, a folder of them (see part_files.py), a pattern, or several.
        first: the first partition to read (see partitions.py); None: from the start.
        last: the last one; None: to the end.

    Raises:
        UserError: no such file, one that is no Parquet, a table's folder, or no such partition.
    """

    def __init__(
        self, paths: Path | Sequence[Path], first: str | None = None, last: str | None = None
    ) -> None:
        self.where = in_words(paths)
        """The paths, for messages."""
        self.note = ""
        """What schema.json says of them: whether some look like copies of others."""
        given = named_paths(paths)
        for one in given:
            for path in one.found:
                refuse_tables_around(path)
                if not path.exists():
                    raise UserError(f"{one.path}: no such file: correct the path")
                if not (path.is_dir() or path.is_file()):
                    raise UserError(f"{one.path}: is no regular file: write it to one")
        span = None if first is None and last is None else Span(first, last, self.where)
        found = {file: pin(file) for file in part_files(given, span)}
        self.schemas = {file: opened.schema for file, (_, opened) in found.items()}
        """The schema of each file, in the order of their names."""
        self.folders = Folders(given, tuple(found))
        self.table: None = None
        """Files are no table that tells what is new."""
        self.asked: set[str] = set()
        """Columns that were asked for."""
        self._pins = {file: pinned for file, (pinned, _) in found.items()}
        self._note_copies({file for file, (_, opened) in found.items() if opened.rows})

    def _note_copies(self, files: Iterable[Path]) -> None:
        first: dict[tuple[int, int], Path] = {}
        copies = [
            (file, other)
            for file in sorted(files)
            for found in (self._pins[file],)
            if (other := first.setdefault((found.size, found.footer), file)) != file
        ]
        if copies:
            more = f" (and {len(copies) - 1} more)" if len(copies) > 1 else ""
            self.note = (
                f"warning: {copies[0][0]}{more}: has the size and footer of {copies[0][1]}: if it "
                "is a copy, its rows count twice"
            )

    def has(self, column: str) -> bool:
        """Whether one of the files has the column, or a folder's name says it."""
        inside = any(column in schema.names for schema in self.schemas.values())
        return inside or self.folders.has(column)

    def type_of(self, column: str) -> pa.DataType | None:
        """The column's type in the first file that has it; None where only folders say it."""
        schemas = (schema for schema in self.schemas.values() if column in schema.names)
        return next((schema.field(column).type for schema in schemas), None)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """A block that reads the files' rows, and fails if they are no longer as they were.

        Raises:
            UserError: names the file that was changed or removed.
        """
        try:
            yield
        except (duckdb.InterruptException, duckdb.OutOfMemoryException):
            raise
        except (UserError, duckdb.Error) as error:
            # What the files have become may be why.
            refuse_changed(self._pins)
            if isinstance(error, duckdb.Error):
                self._refuse_damaged(error)
            raise
        refuse_changed(self._pins)

    def _refuse_damaged(self, error: duckdb.Error) -> None:
        """Name the file whose rows cannot be read, which DuckDB's error does not."""
        reason = str(error).splitlines()[0].lower()
        if isinstance(error, NO_DAMAGE) or "write" in reason or "space" in reason:
            return
        say(f"{self.where}: looking for the file that cannot be read")
        for file, schema in self.schemas.items():
            columns = [named(name) for name in schema.names if name in self.asked]
            counts = ", ".join(f"count(hash({column}))" for column in columns) or "count(*)"
            with closing(duckdb.connect()) as database:
                try:
                    database.execute(f"SELECT {counts} FROM {scan_parquet([file])}")
                except duckdb.Error as found:
                    raise UserError(
                        f"{file}: is damaged ({str(found).splitlines()[0]}): write it anew"
                    ) from error
