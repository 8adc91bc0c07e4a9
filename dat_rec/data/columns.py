"""Parquet columns in, NumPy arrays of embedding row numbers out, checked at the door.

TorchRec answers an id beyond its table with row 0, and trains it, so every value is
compared with its table's size here, before any tensor is made. ``BadIds`` says what becomes
of those that are outside.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dat_rec.data.schema import UNKNOWN, Feature
from dat_rec.errors import UserError

CURE = "prepare the dataset anew, or correct schema.json"


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

    def padded(self, rows: int) -> "Column":
        """The column with empty rows up to ``rows``; as it is where there are none."""
        lacking = rows - len(self)
        if lacking == 0:
            return self
        offsets = np.arange(len(self) + 1) if self.offsets is None else self.offsets
        return Column(self.values, np.pad(offsets, (0, lacking), mode="edge"))

    def lengths(self) -> NDArray[np.int64]:
        """(rows,): how many values each row holds."""
        if self.offsets is None:
            return np.ones(len(self.values), np.int64)
        return np.diff(self.offsets)


def concatenate_columns(columns: Sequence[Column]) -> Column:
    """All rows of one or more columns of one feature, in their order."""
    values = np.concatenate([column.values for column in columns])
    if columns[0].offsets is None:
        return Column(values, None)
    lengths = np.concatenate([column.lengths() for column in columns])
    return Column(values, np.concatenate(([0], np.cumsum(lengths))))


class BadIds:
    """What becomes of ids outside their table: refused, or made UNKNOWN and counted.

    Args:
        policy: ``refuse`` or ``unknown``.
        cure: what a refusal advises.
        says: whether to say on stderr when a feature has the first bad id.
    """

    def __init__(
        self,
        policy: Literal["refuse", "unknown"] = "refuse",
        cure: str = CURE,
        *,
        says: bool = False,
    ) -> None:
        self.counts: dict[str, int] = {}
        """Values made UNKNOWN, by feature; those that are read again count once."""
        self._policy = policy
        self._cure = cure
        self._says = says
        self._seen: set[tuple[str, str]] = set()

    def found(self, feature: str, where: str, what: str, count: int) -> None:
        """Count ``count`` bad ids of ``feature``, or refuse them; ``what`` names the first.

        Raises:
            UserError: they are refused.
        """
        if self._policy == "refuse":
            raise UserError(f"{where}: {what}: {self._cure}")
        if (where, feature) in self._seen:
            return
        self._seen.add((where, feature))
        if self._says and feature not in self.counts:
            print(f"{where}: {what}: trained as unknown, as are all such ids", file=sys.stderr)
        self.counts[feature] = self.counts.get(feature, 0) + count


def read_columns(
    table: pa.Table, features: Sequence[Feature], where: str, bad_ids: BadIds | None = None
) -> dict[str, Column]:
    """Turn ``features``' columns of ``table`` into arrays.

    Args:
        table: holds one column for each feature: integers, or lists of them.
        features: what to read.
        where: the file's name, and the row group's number if ``table`` is one, for messages.
        bad_ids: what becomes of ids outside their table; None: they are refused.

    Raises:
        UserError: a column is missing, has the wrong type, holds nulls, or holds an id
            outside its table that is refused.
    """
    bad_ids = bad_ids or BadIds()
    return {feature.name: _read_column(table, feature, where, bad_ids) for feature in features}


def _read_column(table: pa.Table, feature: Feature, where: str, bad_ids: BadIds) -> Column:
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
    values = flat.to_numpy(zero_copy_only=False)
    offsets = None
    if is_list:
        lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
        offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    # Compared in the file's own type: uint64 beyond int64 would come out negative.
    if len(values) and not 0 <= values.min() <= values.max() < feature.rows:
        bad = (values < 0) | (values >= feature.rows)
        first = int(bad.argmax())
        row = first if offsets is None else int(np.searchsorted(offsets, first, "right")) - 1
        what = (
            f"column {feature.name!r}, row {row} (from 0), holds id {values[first]}, outside its "
            f"table of {feature.rows} rows"
        )
        bad_ids.found(feature.name, where, what, int(bad.sum()))
        values = np.where(bad, UNKNOWN, values)
    return Column(values.astype(np.int64), offsets)
