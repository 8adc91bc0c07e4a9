"""An Iceberg table's folder in, one snapshot of it out, read by the library pyiceberg.

Without a catalog, the newest metadata file of the folder says what the table is; a metadata file
may be named itself; or the table, in a catalog of pyiceberg's configuration. Columns are told apart
by field id, so that a renamed one keeps its values.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from dat_rec.data.log_table import LogTable
from dat_rec.data.sources.changes import SIGN
from dat_rec.data.sources.snapshots import Bound, beyond
from dat_rec.data.sources.table_folders import metadata_files, version_of
from dat_rec.errors import NoRowsError, UserError

INSTALL = "pip install 'dat_rec[iceberg]'"


class IcebergSnapshot:
    """One snapshot of an Iceberg table.

    Args:
        path: the table's folder, or one of its metadata files; or its name in the catalog.
        snapshot: its id; None: the newest.
        catalog: the catalog's name; None: the path is one of files.

    Raises:
        UserError: no such table or snapshot, two newest metadata files, or pyiceberg is missing.
    """

    def __init__(self, path: Path, snapshot: int | None, catalog: str | None = None) -> None:
        try:
            from pyiceberg.catalog import load_catalog
            from pyiceberg.io.pyarrow import schema_to_pyarrow
            from pyiceberg.table import StaticTable
        except ImportError as error:
            raise UserError(
                f"{path}: is a table of Iceberg, which pyiceberg reads: {INSTALL}"
            ) from error
        self._path = path
        self._table: Any
        with _in_one_line(f"{path}: "):
            if catalog is not None:
                self._table = load_catalog(catalog).load_table(str(path))
            else:
                metadata = _newest(path) if path.is_dir() else path
                self._table = StaticTable.from_metadata(str(metadata.absolute()))
            chosen = (
                self._table.current_snapshot()
                if snapshot is None
                else self._table.snapshot_by_id(snapshot)
            )
        if chosen is None and snapshot is not None:
            known = ", ".join(str(one.snapshot_id) for one in self._table.snapshots()[-3:])
            raise UserError(
                f"--version {snapshot}: {path}: has no such snapshot: its last ones are {known}"
            )
        if chosen is None:
            raise UserError(f"{path}: is an Iceberg table without a snapshot: write to it first")
        self._id: int = chosen.snapshot_id
        self.words: str = f"Iceberg snapshot {self._id}"
        self.table = LogTable("Iceberg", str(self._table.metadata.table_uuid), self._id)
        with _in_one_line(f"{path}: "):
            schema = self._table.scan(snapshot_id=self._id).projection()
            self.schema: pa.Schema = schema_to_pyarrow(schema, include_field_ids=False)
            self._today = schema.schema_id == self._table.schema().schema_id
            sources = [
                schema.find_column_name(field.source_id)
                for field in self._table.spec().fields
                if str(field.transform) == "identity"
            ]
            self.partitions = [name for name in sources if name is not None]

    def since(self, snapshot: int) -> "IcebergChanges":
        """What came and went since a snapshot.

        Raises:
            NoRowsError: it is this one.
            UserError: the table no longer has it.
        """
        return IcebergChanges(self._path, self._table, self, snapshot)

    def batches(self, columns: Sequence[str], bounds: Sequence[Bound]) -> Iterator[pa.RecordBatch]:
        """See Version."""
        from pyiceberg.expressions import AlwaysTrue
        from pyiceberg.io.pyarrow import ArrowScan

        with _in_one_line(f"{self._path} ({self.words}): "):
            scan = self._table.scan(self._within(bounds), tuple(columns), snapshot_id=self._id)
            arrow = ArrowScan(self._table.metadata, self._table.io, scan.projection(), AlwaysTrue())
            # One after the other: together, the library would hold all files in memory.
            for task in sorted(scan.plan_files(), key=lambda task: task.file.file_path):
                yield from arrow.to_record_batches([task])

    def _within(self, bounds: Sequence[Bound]) -> Any:
        """The files that may hold rows within the bounds."""
        from pyiceberg import expressions

        # Its types know no names of columns.
        made: Any = expressions
        within = made.AlwaysTrue()
        # Old snapshots are filtered by today's names, which may be another column's.
        for bound in bounds if self._today else ():
            name, value = bound.values[0]
            end = value if bound.first else beyond(value)
            test = made.GreaterThanOrEqual if bound.first else made.LessThanOrEqual
            within = made.And(within, test(name, end if isinstance(end, int) else str(end)))
        return within


class IcebergChanges:
    """The files that one of two snapshots has, and not the other: theirs are all rows that differ.

    The library's scan of appends would give rewritten and since deleted rows as new.

    Args:
        path: the table.
        table: as the library has it.
        last: the later snapshot.
        since: id of the earlier one.

    Raises:
        NoRowsError: both are the same.
        UserError: the table no longer has the earlier one.
    """

    def __init__(self, path: Path, table: Any, last: IcebergSnapshot, since: int) -> None:
        self._path, self._table, self._since = path, table, since
        self.table, self.partitions = last.table, last.partitions
        self.schema = last.schema.append(pa.field(SIGN, pa.int64()))
        self.words = f"{last.words}, its changes since {since}"
        if since == last.table.version:
            raise NoRowsError(f"{path}: no snapshot follows {since}, which --after was made of")
        if table.snapshot_by_id(since) is None:
            raise UserError(
                f"{path}: has expired snapshot {since}, which --after was made of: name partitions "
                "by --from and --to, or prepare the whole table anew, without --after"
            )
        if since not in _ancestors(table, last.table.version):
            raise UserError(
                f"{path}: snapshot {since}, which --after was made of, does not precede "
                f"{last.table.version}: name a later one by --version, or prepare the whole table "
                "anew, without --after"
            )

    def batches(
        self,
        columns: Sequence[str],
        bounds: Sequence[Bound],  # noqa: ARG002
    ) -> Iterator[pa.RecordBatch]:
        """See Version."""
        from pyiceberg.expressions import AlwaysTrue
        from pyiceberg.io.pyarrow import ArrowScan

        names = tuple(name for name in columns if name != SIGN)
        with _in_one_line(f"{self._path} ({self.words}): "):
            scan = self._table.scan(snapshot_id=self.table.version, selected_fields=names)
            arrow = ArrowScan(self._table.metadata, self._table.io, scan.projection(), AlwaysTrue())
            now, before = (_tasks(self._table, one) for one in (self.table.version, self._since))
            for sign, ours, others in ((1, now, before), (-1, before, now)):
                for key in sorted(ours.keys() - others.keys()):
                    for batch in arrow.to_record_batches([ours[key]]):
                        signs = pa.array([sign] * batch.num_rows, pa.int64())
                        yield pa.record_batch(
                            [*(batch[name] for name in names), signs], names=[*names, SIGN]
                        )


def _tasks(table: Any, snapshot: int) -> dict[tuple[str, ...], Any]:
    """The files of a snapshot, each by its path and those of the deletions from it."""
    return {
        (task.file.file_path, *sorted(one.file_path for one in task.delete_files)): task
        for task in table.scan(snapshot_id=snapshot).plan_files()
    }


def _newest(folder: Path) -> Path:
    files = metadata_files(folder)
    newest = [file for file in files if version_of(file)[0] == version_of(files[-1])[0]]
    if len(newest) > 1:
        raise UserError(
            f"{folder}: two metadata files are the newest ({newest[0].name}, {newest[1].name}), of "
            f"which the table's catalog knows one: name that file: {newest[1]}"
        )
    return newest[0]


@contextmanager
def _in_one_line(where: str) -> Iterator[None]:
    from pyiceberg import exceptions

    try:
        yield
    except (
        exceptions.NoSuchTableError,
        exceptions.NoSuchNamespaceError,
        exceptions.NotInstalledError,
        exceptions.RESTError,
        exceptions.ValidationError,
        pa.ArrowException,
        OSError,
        ValueError,
        NotImplementedError,
    ) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{where}pyiceberg cannot read the table ({reason}): correct the path or the version, "
            "or restore the table"
        ) from error


def _ancestors(table: Any, snapshot: int) -> Iterator[int]:
    """A snapshot and those that it was made of, as far back as the table knows."""
    found = table.snapshot_by_id(snapshot)
    while found is not None:
        yield int(found.snapshot_id)
        parent = found.parent_snapshot_id
        found = None if parent is None else table.snapshot_by_id(parent)
