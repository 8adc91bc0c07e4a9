"""A folder in, the table format that it belongs to out: Delta, Iceberg, Hudi, or none.

Beside a table's rows, its files hold those that were deleted or overwritten: as loose Parquet they
would come back.
"""

import re
from pathlib import Path

from dat_rec.errors import UserError

DELTA, ICEBERG, HUDI = "Delta", "Iceberg", "Hudi"
METADATA = "*.metadata.json"
METADATA_NAME = re.compile(
    r"(v\d+|\d{5,}-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})(\.gz)?\.metadata\.json"
)
"""What Iceberg's writers call a table's metadata; other tools' may be called so by the ending."""


def format_of(folder: Path) -> str:
    """The format of the table whose folder it is; nothing if it is none's.

    Raises:
        OSError: the folder cannot be listed.
    """
    if (folder / "_delta_log").is_dir():
        return DELTA
    if (folder / ".hoodie").is_dir():
        return HUDI
    return ICEBERG if any(map(_is_metadata, (folder / "metadata").glob(METADATA))) else ""


def metadata_files(folder: Path) -> list[Path]:
    """The metadata files of an Iceberg table, the newest version last."""
    return sorted(filter(_is_metadata, (folder / "metadata").glob(METADATA)), key=version_of)


def version_of(path: Path) -> tuple[int, str]:
    """The version of an Iceberg table's metadata file, ``00002-<uuid>`` or ``v2``, to sort by."""
    number = re.match(r"v?(\d+)", path.name)
    return int(number[1]) if number else -1, path.name


def refuse_table(path: Path, folder: Path) -> None:
    """Refuse ``path``, which holds the folder of a table or lies in it, or is Hudi's.

    Args:
        path: what the user names.
        folder: the folder that may be a table's.

    Raises:
        UserError: it is.
        OSError: the folder cannot be listed.
    """
    kind = format_of(folder)
    if not kind:
        return
    where = "" if folder == path else f" ({folder})"
    cure = f"name the table's folder itself: {folder}"
    if kind == HUDI:
        out = f"{folder.name or 'table'}.parquet"
        spark = f"spark.read.format('hudi').load({str(folder)!r}).write.parquet({out!r})"
        cure = f"dat-rec reads none of Hudi: export a snapshot and name that: in Spark: {spark}"
    raise UserError(
        f"{path}: belongs to a table of {kind}{where}, whose files hold deleted rows too: {cure}"
    )


def _is_metadata(path: Path) -> bool:
    """Whether the file describes an Iceberg table: by its name, or by its first keys."""
    if METADATA_NAME.fullmatch(path.name):
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(1 << 16)
    return b'"format-version"' in head and b'"table-uuid"' in head
