"""Paths in, the table that they stand for out: Parquet files, or one version of a Delta or Iceberg.

A table's folder, or an Iceberg table's metadata file, is named alone.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dat_rec.data.sources.delta import DeltaVersion
from dat_rec.data.sources.iceberg import IcebergSnapshot
from dat_rec.data.sources.parts import Parts
from dat_rec.data.sources.snapshots import Snapshot
from dat_rec.data.sources.table_folders import DELTA, HUDI, METADATA, format_of, refuse_table
from dat_rec.errors import UserError

Table = Parts | Snapshot


def named_table(
    paths: Path | Sequence[Path],
    role: str,
    version: int | None = None,
    first: str | None = None,
    last: str | None = None,
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

    Raises:
        UserError: a path names nothing that can be read, or there is no such version or partition.
    """
    listed = (paths,) if isinstance(paths, Path) else tuple(paths)
    formats = {path: kind for path in listed if (kind := _format(path))}
    for path, kind in formats.items():
        if kind == HUDI:
            refuse_table(path, path)
        if len(listed) > 1:
            raise UserError(f"{path}: is a table of {kind}, beside other paths: name it alone")
        found = DeltaVersion(path, version) if kind == DELTA else IcebergSnapshot(path, version)
        return Snapshot(str(path), found, role, first, last)
    if version is not None:
        option = "--version" if role == "interactions" else f"--{role}-version"
        raise UserError(
            f"{option} {version}: {listed[0] if listed else role}: is no table of Delta or Iceberg:"
            " leave it out"
        )
    return Parts(listed, first, last)


def _format(path: Path) -> str:
    if path.match(METADATA) and path.is_file():
        return "Iceberg"
    with suppress(OSError):
        return format_of(path)
    return ""
