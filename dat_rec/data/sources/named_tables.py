"""Paths in, the table that they stand for out: Parquet files, or one version of a Delta or Iceberg.

A table's folder, an Iceberg table's metadata file, or its name in a catalog, is named alone.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dat_rec.data.schema import Schema
from dat_rec.data.sources.changes import Changes
from dat_rec.data.sources.delta import DeltaVersion
from dat_rec.data.sources.iceberg import IcebergSnapshot
from dat_rec.data.sources.parts import Parts
from dat_rec.data.sources.snapshots import Snapshot
from dat_rec.data.sources.table_folders import (
    DELTA,
    HUDI,
    ICEBERG,
    METADATA,
    format_of,
    refuse_table,
)
from dat_rec.errors import UserError

Table = Parts | Snapshot


def named_table(
    paths: Path | Sequence[Path],
    role: str,
    version: int | None = None,
    first: str | None = None,
    last: str | None = None,
    catalog: str | None = None,
    after: Path | None = None,
) -> Table:
    """The table that the paths stand for.

    Args:
        paths: files, folders or patterns (see parts.py); or the folder of a table, or the metadata
            file of an Iceberg table.
        role: ``interactions``, ``items`` or ``users``.
        version: the version of a Delta table, or the id of an Iceberg table's snapshot; None: the
            newest.
        first: the first partition to read; None: from the start.
        last: the last one; None: to the end.
        catalog: the Iceberg catalog in which a path that does not exist is a table's name.
        after: a dataset; if it was made of all of the same table, and no partitions are named, what
            came to the table since is read alone.

    Raises:
        NoRowsError: nothing has come since.
        UserError: a path names nothing that can be read, or there is no such version or partition,
            or the table does not tell what came since.
    """
    listed = (paths,) if isinstance(paths, Path) else tuple(paths)
    if not listed:
        raise UserError(f"--{role}: names no path: name a Parquet file, a folder or a table")
    formats = {path: kind for path in listed if (kind := _format(path, catalog))}
    for path, kind in formats.items():
        if kind == HUDI:
            refuse_table(path, path)
        if len(listed) > 1:
            raise UserError(f"{path}: is a table of {kind}, beside other paths: name it alone")
        found: DeltaVersion | IcebergSnapshot
        if kind == DELTA:
            found = DeltaVersion(path, version)
        else:
            found = IcebergSnapshot(path, version, None if path.exists() else catalog)
        before = Schema.load(after).table if after is not None else None
        whole = first is None and last is None
        if whole and after is not None and before is not None and before.id == found.table.id:
            return Changes(str(path), found.since(before.version), role, after)
        return Snapshot(str(path), found, role, first, last)
    if version is not None:
        option = "--version" if role == "interactions" else f"--{role}-version"
        raise UserError(
            f"{option} {version}: {listed[0]}: is no table of Delta or Iceberg: leave it out"
        )
    return Parts(listed, first, last)


def _format(path: Path, catalog: str | None) -> str:
    if (path.match(METADATA) and path.is_file()) or (catalog and not path.exists()):
        return ICEBERG
    with suppress(OSError):
        return format_of(path)
    return ""
