"""Parquet columns in, NumPy arrays of embedding row numbers out, checked at the door.

TorchRec answers an id beyond its table with row 0, and trains it, so every value is
compared with its table's size here, before any tensor is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dat_rec.data.schema import Feature
from dat_rec.errors import UserError


@dataclass(frozen=True)
class Column:
    """One feature for many rows."""

    values: NDArray[np.int64]
    """All values, row after row."""
    offsets: NDArray[np.int64] | None
    """(rows + 1,): row i holds values[offsets[i]:offsets[i + 1]]. None: one value a row."""

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    def take(self, rows: NDArray[np.int64]) -> "Column":
        """The column's ``rows``, in that order."""
        if self.offsets is None:
            return Column(self.values[rows], None)
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        source = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Column(self.values[source], offsets)

    def slice(self, start: int, stop: int) -> "Column":
        """Rows ``start`` to ``stop``, without a copy of the values."""
        if self.offsets is None:
            return Column(self.values[start:stop], None)
        offsets = self.offsets[start : stop + 1]
        return Column(self.values[offsets[0] : offsets[-1]], offsets - offsets[0])

    def lengths(self) -> NDArray[np.int64]:
        """(rows,): how many values each row holds."""
        if self.offsets is None:
            return np.ones(len(self.values), np.int64)
        return np.diff(self.offsets)


def read_columns(table: pa.Table, features: Sequence[Feature], where: str) -> dict[str, Column]:
    """Turn ``features``' columns of ``table`` into arrays.

    Args:
        table: holds one column for each feature: integers, or lists of them.
        features: what to read.
        where: the file's name, for messages.

    Raises:
        UserError: a column is missing, has the wrong type, holds nulls, or holds an id
            outside its table.
    """
    return {feature.name: _read_column(table, feature, where) for feature in features}


def _read_column(table: pa.Table, feature: Feature, where: str) -> Column:
    if feature.name not in table.column_names:
        raise UserError(f"{where}: column {feature.name!r} is missing: prepare the dataset anew")
    array = table.column(feature.name).combine_chunks()
    is_list = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
    flat = array.flatten() if is_list else array
    if is_list != feature.multi_valued or not pa.types.is_integer(flat.type):
        wanted = "a list of integers" if feature.multi_valued else "an integer"
        raise UserError(
            f"{where}: column {feature.name!r} is {array.type}, not {wanted}: "
            "prepare the dataset anew"
        )
    if array.null_count or flat.null_count:
        raise UserError(f"{where}: column {feature.name!r} holds nulls: use 0 for unknown")
    values = flat.to_numpy(zero_copy_only=False).astype(np.int64)
    if len(values) and not 0 <= (low := values.min()) <= (high := values.max()) < feature.rows:
        raise UserError(
            f"{where}: column {feature.name!r} holds id {low if low < 0 else high}, outside its "
            f"table of {feature.rows} rows: prepare the dataset anew, or correct schema.json"
        )
    if not is_list:
        return Column(values, None)
    lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
    return Column(values, np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))))
