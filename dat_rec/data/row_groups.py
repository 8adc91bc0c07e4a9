"""Example files as row groups: which there are, what they hold, and which rows are no repeats."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.data.columns import read_columns
from dat_rec.data.dataset import Dataset
from dat_rec.data.schema import Feature
from dat_rec.errors import UserError


@dataclass(frozen=True)
class RowGroup:
    """A row group of an example file; it is read at once."""

    path: Path
    number: int
    rows: int
    """Number of rows to train on, without repeats where the options leave them out."""

    def __str__(self) -> str:
        return f"{self.path} (row group {self.number})"


def row_groups(dataset: Dataset) -> list[RowGroup]:
    """All row groups of a dataset's examples.

    Raises:
        UserError: a file cannot be read, or has not the rows that the schema tells.
    """
    groups = []
    for file in dataset.schema.example_files:
        path = dataset.folder / file.path
        try:
            metadata = pq.read_metadata(path)
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: cannot be read ({reason}): prepare it anew") from error
        if metadata.num_rows != file.rows:
            raise UserError(
                f"{path}: {metadata.num_rows} rows, schema.json says {file.rows}: "
                "prepare the dataset anew"
            )
        for number in range(metadata.num_row_groups):
            groups.append(RowGroup(path, number, metadata.row_group(number).num_rows))
    return groups


def without_repeats(
    groups: list[RowGroup], trained_items: int
) -> tuple[list[RowGroup], NDArray[np.int64]]:
    """The row groups with the number of rows that are no repeats, and what these rows hold.

    Returns:
        The row groups, and (trained items,) how often each item is a positive in them.

    Raises:
        UserError: a file cannot be read, or a column is missing or malformed.
    """
    counts = np.zeros(trained_items, np.int64)
    left = []
    index = index_feature(trained_items)
    for group in groups:
        table = read_row_group(group, [index.name, "repeat"])
        items = read_columns(table, [index], str(group))[index.name].values
        items = items[new_pairs(table, group)]
        counts += np.bincount(items, minlength=trained_items)
        left.append(RowGroup(group.path, group.number, len(items)))
    return left, counts


def index_feature(trained_items: int) -> Feature:
    """The column that holds each example's catalogue row, as a feature that can be checked."""
    return Feature("item_index", "item", "", trained_items)


def new_pairs(table: pa.Table, group: RowGroup) -> NDArray[np.int64]:
    """The numbers of the rows that are no repeats: pairs that are new to the user."""
    repeat = table["repeat"]
    if repeat.type != pa.bool_() or repeat.null_count:
        raise UserError(f"{group}: column 'repeat' is not true or false: prepare it anew")
    return np.flatnonzero(~repeat.to_numpy())


def read_row_group(group: RowGroup, names: list[str]) -> pa.Table:
    """Read these columns of a row group.

    Raises:
        UserError: one is missing, or the file cannot be read.
    """
    try:
        with pq.ParquetFile(group.path) as file:
            there = set(file.schema_arrow.names)
            missing = [name for name in names if name not in there]
            if missing:
                raise UserError(f"{group}: column {missing[0]!r} is missing: prepare it anew")
            return file.read_row_group(group.number, columns=names)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{group}: cannot be read ({reason}): prepare it anew") from error
