"""A Delta table's folder in, one version of it out, read by the library deltalake.

DataFusion reads it, which knows deletion vectors and column mapping; the library's pyarrow dataset
knows neither.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from dat_rec.data.log_table import LogTable
from dat_rec.data.source import named
from dat_rec.data.sources.changes import SIGN
from dat_rec.data.sources.snapshots import Bound
from dat_rec.errors import NoRowsError, UserError

INSTALL = "pip install 'dat_rec[delta]'"
ENABLED = "delta.enableChangeDataFeed"
CHANGE_COLUMNS = ("_change_type", "_commit_version", "_commit_timestamp")
"""Columns of a change feed beside the table's."""
SIGNS = {"insert": 1, "update_postimage": 1, "delete": -1, "update_preimage": -1}
PARTITIONS = "name partitions by --from and --to, or prepare the whole table anew, without --after"
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
            self.metadata: Any = self._table.metadata()
            self.partitions: list[str] = list(self.metadata.partition_columns)
            self.table = LogTable("Delta", str(self.metadata.id), self._table.version())
        self.words: str = f"Delta version {self.table.version}"

    def since(self, version: int) -> "DeltaChanges":
        """What came and went since a version.

        Raises:
            NoRowsError: it is this one.
            UserError: it is later, or the table does not tell its changes.
        """
        return DeltaChanges(self._folder, self._table, self, version)

    def batches(self, columns: Sequence[str], bounds: Sequence[Bound]) -> Iterator[pa.RecordBatch]:
        """See Version."""
        from deltalake import QueryBuilder

        within = " AND ".join(bound.sql() for bound in bounds) or "true"
        query = f"SELECT {', '.join(map(named, columns))} FROM log WHERE {within}"
        with _in_one_line(f"{self._folder} ({self.words}): "):
            builder = QueryBuilder(ONE_BY_ONE).register("log", self._table)
            found = builder.execute(query)
            yield from pa.RecordBatchReader.from_stream(found)


class DeltaChanges:
    """What the change feed of a Delta table tells of the versions after one.

    Args:
        folder: the table's.
        table: its version that is the last one, as the library has it.
        last: the same.
        since: the version before the first one.

    Raises:
        NoRowsError: there is none between.
        UserError: ``since`` is later, or no longer in the log, or the feed is not enabled.
    """

    def __init__(self, folder: Path, table: Any, last: DeltaVersion, since: int) -> None:
        self._folder, self._table, self._since = folder, table, since
        self.table, self.partitions = last.table, last.partitions
        self.schema = last.schema.append(pa.field(SIGN, pa.int64()))
        self.words: str = f"{last.words}, its changes since version {since}"
        if last.table.version < since:
            raise UserError(
                f"{folder}: is read at version {last.table.version}, and the dataset of --after "
                f"was made of version {since}: name a later one"
            )
        if last.table.version == since:
            raise NoRowsError(f"{folder}: no version follows {since}, which --after was made of")
        if "deletionVectors" in (table.protocol().reader_features or ()):
            raise UserError(
                f"{folder}: has deletion vectors, with which deltalake's change feed does not tell "
                f"all: {PARTITIONS}"
            )
        # The next one may enable it: nothing has changed by that.
        if not any(self._enabled(version) for version in (since, since + 1)):
            raise self._not_enabled(since)

    def _enabled(self, version: int) -> bool:
        """Whether the feed was enabled as of a version."""
        try:
            metadata = DeltaVersion(self._folder, version).metadata
        except UserError as error:  # the last version could be read
            raise UserError(
                f"{self._folder}: no longer has version {version} in its log, and --after was made "
                f"of {self._since}: {PARTITIONS}"
            ) from error
        return str(metadata.configuration.get(ENABLED, "")).lower() == "true"

    def _not_enabled(self, version: int) -> UserError:
        return UserError(
            f"{self._folder}: its change feed is not enabled in all versions after {version}: set "
            f"{ENABLED} for those to come, and for these {PARTITIONS}"
        )

    def batches(
        self,
        columns: Sequence[str],
        bounds: Sequence[Bound],  # noqa: ARG002
    ) -> Iterator[pa.RecordBatch]:
        """See Version."""
        from deltalake.exceptions import DeltaError

        names = [name for name in columns if name != SIGN]
        with _in_one_line(f"{self._folder} ({self.words}): "):
            try:
                found = self._table.load_cdf(
                    starting_version=self._since + 1,
                    ending_version=self.table.version,
                    columns=[*names, *CHANGE_COLUMNS],
                )
                for batch in pa.RecordBatchReader.from_stream(found):
                    kinds = batch[CHANGE_COLUMNS[0]].to_pylist()
                    signs = pa.array([SIGNS[kind] for kind in kinds], pa.int64())
                    yield pa.record_batch(
                        [*(batch[name] for name in names), signs], names=[*names, SIGN]
                    )
            except DeltaError as error:
                if "not enabled" in str(error):
                    raise self._not_enabled(self._since) from error
                raise


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
