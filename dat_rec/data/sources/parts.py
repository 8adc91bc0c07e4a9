"""Paths in, their Parquet files as one table out: listed once, schemas read once, and pinned."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from dat_rec.data.sources.folders import Folders
from dat_rec.data.sources.named_paths import in_words, named_paths
from dat_rec.data.sources.part_files import part_files, refuse_tables_around
from dat_rec.data.sources.partitions import Span
from dat_rec.data.sources.pins import pin, refuse_changed
from dat_rec.errors import UserError


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
        """What schema.json says of them: nothing."""
        named = named_paths(paths)
        for one in named:
            for path in one.found:
                refuse_tables_around(path)
                if not path.exists():
                    raise UserError(f"{one.path}: no such file: correct the path")
                if not (path.is_dir() or path.is_file()):
                    raise UserError(f"{one.path}: is no regular file: write it to one")
        span = None if first is None and last is None else Span(first, last, self.where)
        found = {file: pin(file) for file in part_files(named, span)}
        self.schemas = {file: schema for file, (_, schema) in found.items()}
        """The schema of each file, in the order of their names."""
        self.folders = Folders(named, tuple(found))
        self._pins = {file: pinned for file, (pinned, _) in found.items()}

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
        except duckdb.InterruptException:
            raise
        except (UserError, duckdb.Error):
            # What the files have become may be why.
            refuse_changed(self._pins)
            raise
        refuse_changed(self._pins)
