"""Paths in, DuckDB's ``read_parquet`` and ``read_csv`` out: a path is a name.

Told a path, DuckDB takes ``*``, ``?`` and ``[`` for a pattern, each folder called ``key=value``
for a column that replaces the file's own, and some beginnings (``~``, ``file:``) for another place.
Whatever is read through DuckDB is therefore named here, and nowhere else.
"""

from collections.abc import Sequence
from pathlib import Path

from dat_rec.errors import UserError

PATTERN = "*?["


def scan_parquet(paths: Sequence[Path], options: str = "") -> str:
    """SQL to stand after FROM: the rows of these Parquet files, which have one schema.

    Args:
        paths: the files.
        options: further arguments of read_parquet, each with a comma before it.
    """
    listed = ", ".join(file_name(path) for path in paths)
    return f"read_parquet([{listed}], hive_partitioning=false{options})"


def scan_csv(path: Path, options: str) -> str:
    """SQL to stand after FROM: the rows of the CSV file; ``options`` as in ``scan_parquet``."""
    return f"read_csv({file_name(path)}, hive_partitioning=false{options})"


def plain_path(path: Path) -> Path:
    """``path`` itself; without ``..``, and absolute if DuckDB would look for it elsewhere.

    DuckDB resolves ``..`` in some names of files that it gives back.
    """
    if ".." in path.parts:
        return path.resolve()
    odd = path.parts and (path.parts[0].startswith("~") or ":" in path.parts[0])
    return path.absolute() if odd else path


def file_name(path: Path) -> str:
    """SQL: the path as a text that DuckDB takes for this one file.

    Raises:
        UserError: DuckDB has no way to write it.
    """
    text = str(plain_path(path))
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = text.encode(errors="backslashreplace").decode()
        raise UserError(f"{shown}: the path is no UTF-8: rename it") from error
    if any(sign in text for sign in PATTERN):
        if "\\" in text:
            raise UserError(
                f"{text}: the path holds a backslash beside one of {' '.join(PATTERN)}, which "
                "DuckDB cannot read: rename it"
            )
        text = "".join(f"[{sign}]" if sign in PATTERN else sign for sign in text)
    return "'" + text.replace("'", "''") + "'"
