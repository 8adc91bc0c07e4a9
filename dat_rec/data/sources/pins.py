"""A Parquet file in; its schema, and what tells later whether the file is still the same, out.

The only place where a part file is opened from Python. DuckDB, which reads the rows, takes what
lies there at each read: of a file that was written anew meanwhile it would read a part of both.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import pyarrow as pa
import pyarrow.parquet as pq

from dat_rec.data.sources.not_parquet import MAGIC, refuse_other
from dat_rec.errors import UserError

CURE = "begin again when nothing writes there, or read a copy"


@dataclass(frozen=True)
class Pin:
    """A file as it was at one moment."""

    size: int
    """Bytes."""
    mtime_ns: int
    footer: int
    """CRC-32 of Parquet's footer, which holds place, count and extremes of all values."""


@dataclass(frozen=True)
class Opened:
    """What the footer of a Parquet file says."""

    schema: pa.Schema
    rows: int


def ends(path: Path) -> tuple[bytes, bytes]:
    """The file's first and last four bytes.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(4)
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4))
            return begin, file.read(4)
    except OSError as error:
        raise _unreadable(path, error) from error


def pin(path: Path) -> tuple[Pin, Opened]:
    """The file as it is now, and what it holds, of its last bytes alone.

    Raises:
        UserError: it cannot be read, or is no whole Parquet file.
    """
    refuse_other(path, *ends(path))
    try:
        found, footer = _footer(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        file = pq.ParquetFile(pa.BufferReader(footer))
        return found, Opened(file.schema.to_arrow_schema(), file.metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as Parquet ({reason}): write it anew") from error


def refuse_changed(pins: dict[Path, Pin]) -> None:
    """Refuse files that are no longer as they were.

    Raises:
        UserError: names the first one, and what became of it.
    """
    changed = {path: what for path, before in pins.items() if (what := _change(path, before))}
    if changed:
        path, what = next(iter(changed.items()))
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise UserError(f"{path}{more}: {what} while it was read: {CURE}")


def _change(path: Path, before: Pin) -> str:
    try:
        now, _ = _footer(path)
    except FileNotFoundError:
        return "was removed"
    except OSError as error:
        return f"became unreadable ({error.strerror})"
    if now == before:
        return ""
    sizes = f" ({before.size} bytes, now {now.size})" if now.size != before.size else ""
    return f"was written anew{sizes}"


def _footer(path: Path) -> tuple[Pin, bytes]:
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        file.seek(max(0, stat.st_size - 8))
        length = int.from_bytes(file.read(4), "little") + 8
        file.seek(max(0, stat.st_size - length))
        footer = file.read()
    return Pin(stat.st_size, stat.st_mtime_ns, crc32(footer)), MAGIC + footer


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: {error.strerror}: correct the path, or its rights")
