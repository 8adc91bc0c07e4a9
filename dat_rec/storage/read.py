"""Read what stands at a location: bytes, JSON, Parquet; on a disk, or in a store by its version.

An object is read in ranges, all of the version that the first of them was of, or that was pinned
before. pyarrow asks for the ranges of a row group at once, and joins those that are neighbours.
"""

import io
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dat_rec.errors import UserError
from dat_rec.files import read_json as read_local_json
from dat_rec.storage.address import Address, Location, Pin
from dat_rec.storage.client import client
from dat_rec.storage.problems import ChangedError, MissingError

MISSING = "look what is at the address, or write it anew"
TAIL_BYTES = 2**16
"""Bytes of an object's end that are read at first: in most Parquet files they hold the footer."""
RANGE_BYTES = 32 * 2**20
"""Maximum bytes of one request."""


class PinnedFile(io.RawIOBase):
    """One version of an object as a file that Python and pyarrow read, from several threads.

    Args:
        address: the object's; without a pin, the version of the first request is taken.

    Raises:
        UserError: as ``ObjectStoreClient.get``.
    """

    def __init__(self, address: Address) -> None:
        super().__init__()
        self._address = address
        self._client = client(address)
        if address.pins is not None and address.pin is None:
            raise MissingError(f"{address}: was not there when the folder was pinned: {MISSING}")
        self._pin = address.pin or self._client.head(address)
        self._in_tail = max(0, self._pin.size - TAIL_BYTES)
        self._tail: bytes | None = None
        # A thread's seek and read belong together, and pyarrow holds no lock over the two.
        self._here = threading.local()

    @property
    def pin(self) -> Pin:
        """The version that is read."""
        return self._pin

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The position of this thread."""
        return int(getattr(self._here, "position", 0))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position of this thread."""
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self._pin.size}[whence]
        self._here.position = max(0, begin + offset)
        return self.tell()

    def size(self) -> int:
        """Bytes of the object."""
        return self._pin.size

    def read(self, size: int | None = -1) -> bytes:
        """The bytes from this thread's position on; ``size`` of them, or all.

        Raises:
            UserError: the object has changed, or the store does not give it.
        """
        begin = min(self.tell(), self._pin.size)
        stop = self._pin.size if size is None or size < 0 else min(begin + size, self._pin.size)
        if begin == stop:
            return b""
        if begin >= self._in_tail:
            if self._tail is None:
                self._tail = self._range(self._in_tail, self._pin.size)
            data = self._tail[begin - self._in_tail : stop - self._in_tail]
        else:
            parts = [
                self._range(start, min(start + RANGE_BYTES, stop))
                for start in range(begin, stop, RANGE_BYTES)
            ]
            data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._here.position = stop
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer``; the number of bytes read."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """All bytes from this thread's position on."""
        return self.read()

    def _range(self, start: int, stop: int) -> bytes:
        try:
            data = self._client.get(self._address, start, stop, self._pin)
        except (ChangedError, MissingError) as error:
            raise self._changed() from error
        if len(data) != stop - start:
            raise self._changed()
        return data

    def _changed(self) -> ChangedError:
        """The error for an object that is no longer the pinned one."""
        where, pin = self._address, self._pin
        try:
            found = self._client.head(where)
        except MissingError:
            what, now = "was removed", "it is not there"
        else:
            shorter = found.size < pin.size
            what = "is truncated, or was written anew" if shorter else "was written anew"
            now = f"it has {found.size:,} bytes, not {pin.size:,}"
            if found.size == pin.size:
                now = f"its ETag is {found.tag}, not {pin.tag}"
        return ChangedError(
            f"{where}: {what} since it was pinned ({now}): start again when nobody writes there"
        )


def open_parquet(where: Location, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """Open a Parquet file; pages that have checksums are checked as they are read.

    Args:
        where: the file's.
        metadata: of the file, if they were read before: an object's are not asked for again.

    Raises:
        OSError: a local file cannot be opened.
        pyarrow.ArrowException: it is no Parquet.
        UserError: an object cannot be read.
    """
    source = where if isinstance(where, Path) else PinnedFile(where)
    return pq.ParquetFile(
        source, metadata=metadata, pre_buffer=True, page_checksum_verification=True
    )


def is_folder(where: Location) -> bool:
    """Whether there is a folder, or objects lie below the address."""
    if isinstance(where, Path):
        return where.is_dir()
    return not where.key or bool(client(where).list_below(where))


def exists(where: Location) -> bool:
    """Whether there is a file or a folder, or an object of this very name."""
    if isinstance(where, Path):
        return where.exists()
    if where.pins is not None or not where.key:
        return where.pin is not None
    try:
        client(where).head(where)
    except MissingError:
        return False
    return True


def read_bytes(address: Address) -> bytes:
    """All bytes of an object; errors as of ``PinnedFile``."""
    return PinnedFile(address).read()


def read_json(where: Location, what: str) -> Any:
    """Read JSON, as ``files.read_json`` does."""
    if isinstance(where, Path):
        return read_local_json(where, what)
    data = read_bytes(where)
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: {what} is not valid JSON ({error}): make it anew") from error


def parquet_files(folder: Location) -> Sequence[Location]:
    """The Parquet files that lie directly in a folder, by name."""
    if isinstance(folder, Path):
        return sorted(folder.glob("*.parquet"))
    pins = client(folder).list_below(folder) if folder.pins is None else folder.pins
    begin = f"{folder.key}/"
    names = sorted(key.removeprefix(begin) for key in pins if key.startswith(begin))
    return [folder / name for name in names if "/" not in name and name.endswith(".parquet")]
