"""A Delta table's folder in, one version of it out, read by the library deltalake.

DataFusion reads it, which knows deletion vectors and column mapping; the library's pyarrow dataset
knows neither.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from dat_rec.data.source import named
from dat_rec.data.sources.snapshots import Bound
from dat_rec.errors import UserError

INSTALL = "pip install 'dat_rec[delta]'"
ONE_BY_ONE = {"datafusion.execution.target_partitions": "1"}
"""Otherwise threads decide the order of the rows."""


class DeltaVersion:
    """One version of a Delta table.

    Args:
        folder: the table's.
        version: its number; None: the newest.

    Raises:
        UserError: no such version, a damaged log, or deltalake is missing.
    """

    def __init__(self, folder: Path, version: int | None) -> None:
        self._folder = folder
        if odd := set("[]^|\\\n\t") & set(str(folder.absolute())):
            raise UserError(
                f"{folder}: the path holds {min(odd)!r}, which deltalake cannot read: rename it"
            )
        try:
            from deltalake import DeltaTable
        except ImportError as error:
            raise UserError(
                f"{folder}: is a table of Delta, which deltalake reads: {INSTALL}"
            ) from error
        if version is not None and version < 0:
            raise UserError(f"--version {version}: versions of Delta count from 0: correct it")
        asked = "" if version is None else f"version {version}: "
        with _in_one_line(f"{folder}: {asked}"):
            # As an address: the library takes some signs in a path for parts of one.
            self._table: Any = DeltaTable(folder.absolute().as_uri(), version=version)
            self.schema: pa.Schema = pa.schema(self._table.schema().to_arrow())
            self.partitions: list[str] = list(self._table.metadata().partition_columns)
        self.words: str = f"Delta version {self._table.version()}"

    def batches(self, columns: Sequence[str], bounds: Sequence[Bound]) -> Iterator[pa.RecordBatch]:
        """See Version."""
        from deltalake import QueryBuilder

        within = " AND ".join(bound.sql() for bound in bounds) or "true"
        query = f"SELECT {', '.join(map(named, columns))} FROM log WHERE {within}"
        with _in_one_line(f"{self._folder} ({self.words}): "):
            builder = QueryBuilder(ONE_BY_ONE).register("log", self._table)
            found = builder.execute(query)
            yield from pa.RecordBatchReader.from_stream(found)


@contextmanager
def _in_one_line(where: str) -> Iterator[None]:
    from deltalake.exceptions import DeltaError

    try:
        yield
    except (DeltaError, pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{where}deltalake cannot read the table ({reason}): correct the path or the version, "
            "or restore the table"
        ) from error
