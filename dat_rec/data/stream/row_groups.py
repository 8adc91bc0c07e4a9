"""Example files as row groups, and how one is read: files are opened here and nowhere else."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.data.schema import Feature
from dat_rec.errors import UserError
from dat_rec.storage.address import Location
from dat_rec.storage.read import open_parquet

METADATA_KEPT = 64
"""Maximum number of files whose metadata a reader keeps."""


@dataclass(frozen=True)
class RowGroup:
    """A row group of an example file; it is read at once."""

    path: Location
    number: int
    rows: int
    """Number of rows to train on, without repeats where the options leave them out."""

    def __str__(self) -> str:
        return f"{self.path} (row group {self.number})"


class ExampleFiles:
    """Reads row groups; keeps the metadata of the files that were read last.

    They are as long as a file's row groups are many, so that to read them for each would take a
    good part of its time.
    """

    def __init__(self) -> None:
        self._metadata: dict[Location, pq.FileMetaData] = {}

    def metadata(self, path: Location) -> pq.FileMetaData:
        """An example file's metadata.

        Raises:
            UserError: the file cannot be read.
        """
        found = self._metadata.get(path)
        if found is None:
            with _readable(str(path)), open_parquet(path) as file:
                found = file.metadata
            # A new one: other threads read the old one.
            kept = list(self._metadata.items())[-METADATA_KEPT:]
            self._metadata = dict([*kept, (path, found)])
        return found

    def read(self, group: RowGroup, names: list[str]) -> pa.Table:
        """Read these columns of a row group, with the thread that calls.

        Raises:
            UserError: one is missing, or the file cannot be read.
        """
        metadata = self.metadata(group.path)
        with _readable(str(group)), open_parquet(group.path, metadata) as file:
            there = set(file.schema_arrow.names)
            missing = [name for name in names if name not in there]
            if missing:
                raise UserError(f"{group}: column {missing[0]!r} is missing: prepare it anew")
            return file.read_row_group(group.number, columns=names, use_threads=False)


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Say in one line what could not be read."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{what}: cannot be read ({reason}): prepare it anew") from error


def index_feature(trained_items: int) -> Feature:
    """The column that holds each example's catalogue row, as a feature that can be checked."""
    return Feature("item_index", "item", "", trained_items)


def new_pairs(table: pa.Table, group: RowGroup) -> NDArray[np.int64]:
    """The numbers of the rows that are no repeats: pairs that are new to the user."""
    repeat = table["repeat"]
    if repeat.type != pa.bool_() or repeat.null_count:
        raise UserError(f"{group}: column 'repeat' is not true or false: prepare it anew")
    return np.flatnonzero(~repeat.to_numpy())
