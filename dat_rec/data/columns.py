"""Parquet columns in, NumPy arrays of embedding row numbers out, checked at the door.

TorchRec answers an id beyond its table with row 0, and trains it, so every value is
compared with its table's size here, before any tensor is made. ``BadIds`` says what becomes
of those that are outside.
"""

import sys
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dat_rec.data.schema import UNKNOWN, Feature
from dat_rec.errors import UserError

CURE = "prepare the dataset anew, or correct schema.json"


Ids = NDArray[np.signedinteger[Any]]
"""Row numbers of embedding tables: int64, or int32, which takes half the memory."""


@dataclass(frozen=True)
class Column:
    """One feature for many rows."""

    values: Ids
    """All values, row after row."""
    offsets: NDArray[np.int64] | None
    """(rows + 1,): row i holds values[offsets[i]:offsets[i + 1]]. None: one value a row."""

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    def take(self, rows: NDArray[np.int64]) -> "Column":
        """The column's ``rows``, in that order."""
        if self.offsets is None:
            return Column(self.values[rows], None)
        if len(rows) == 1 and rows[0] >= 0:
            start, stop = self.offsets[rows[0] : rows[0] + 2].tolist()
            return Column(self.values[start:stop].copy(), np.array([0, stop - start]))
        # Bags as strings of bytes, which Arrow copies whole: five times as fast as value by value.
        values, size = np.ascontiguousarray(self.values), self.values.itemsize
        buffers = [None, pa.py_buffer(self.offsets * size), pa.py_buffer(values)]
        bags = pa.Array.from_buffers(pa.large_binary(), len(self), buffers)
        _, ends, content = bags.take(pa.array(rows, pa.int64())).buffers()
        offsets = np.frombuffer(ends, np.int64)[: len(rows) + 1] // size
        taken = np.frombuffer(content, values.dtype) if content else values[:0]
        return Column(taken[: offsets[-1]], offsets)

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


def join_columns(parts: Sequence[tuple[Column, int, int]]) -> Column:
    """The rows ``start`` to ``stop`` of one or more columns of one feature, in their order."""
    if parts[0][0].offsets is None:
        return Column(np.concatenate([column.values[i:j] for column, i, j in parts]), None)
    values, offsets, end = [], [np.zeros(1, np.int64)], 0
    for column, start, stop in parts:
        ends = column.offsets
        if ends is None:
            ends = np.arange(stop + 1)
        first, last = int(ends[start]), int(ends[stop])
        values.append(column.values[first:last])
        offsets.append(ends[start + 1 : stop + 1] + (end - first))
        end += last - first
    return Column(np.concatenate(values), np.concatenate(offsets))


def concatenate_columns(columns: Sequence[Column]) -> Column:
    """All rows of one or more columns of one feature, in their order."""
    return join_columns([(column, 0, len(column)) for column in columns])


class BadIds:
    """What becomes of ids outside their table: refused, or made UNKNOWN and counted.

    Args:
        policy: ``refuse`` or ``unknown``.
        cure: what a refusal advises.
        says: say on stderr when a feature has the first bad id, unless it stands in this set,
            which several may share; None: say nothing.
    """

    def __init__(
        self,
        policy: Literal["refuse", "unknown"] = "refuse",
        cure: str = CURE,
        *,
        says: set[str] | None = None,
    ) -> None:
        self.counts: dict[str, int] = {}
        """Values made UNKNOWN, by feature; those of one place that is read again count once."""
        self._policy = policy
        self._cure = cure
        self._says = says
        self._seen: set[tuple[str, int, str]] = set()
        self._lock = threading.Lock()

    @property
    def refuses(self) -> bool:
        """Whether they are refused."""
        return self._policy == "refuse"

    def found(self, feature: str, where: str, first_row: int, what: str, count: int) -> None:
        """Count ``count`` bad ids of ``feature``, or refuse them; ``what`` names the first.

        ``where`` and the first row there that was read are the place. Threads may call.

        Raises:
            UserError: they are refused.
        """
        if self._policy == "refuse":
            raise UserError(f"{where}: {what}: {self._cure}")
        with self._lock:
            if (where, first_row, feature) in self._seen:
                return
            self._seen.add((where, first_row, feature))
            if self._says is not None and feature not in self._says:
                self._says.add(feature)
                print(f"{where}: {what}: trained as unknown, as are all such ids", file=sys.stderr)
            self.counts[feature] = self.counts.get(feature, 0) + count


@dataclass(frozen=True)
class BadIdCounts:
    """How many values a rank has made UNKNOWN, by feature."""

    items: dict[str, int]
    """Those of the catalogue, which every rank reads whole."""
    examples: dict[int, dict[str, int]]
    """Those of the examples, by epoch: ranks read other examples, and other ones in each epoch."""


def total_bad_ids(ranks: Sequence[BadIdCounts]) -> dict[str, int]:
    """By feature, how many of the values that all ranks have read were made UNKNOWN.

    Each counts once: of several epochs, the one counts in which most were found, that is any that
    was read whole.
    """
    total = Counter(ranks[0].items)
    most: Counter[str] = Counter()
    for epoch in {epoch for rank in ranks for epoch in rank.examples}:
        found: Counter[str] = Counter()
        for rank in ranks:
            found.update(rank.examples.get(epoch, {}))
        most |= found
    return dict(total + most)


def read_columns(
    table: pa.Table,
    features: Sequence[Feature],
    where: str,
    bad_ids: BadIds | None = None,
    *,
    first_row: int = 0,
    widen: bool = True,
) -> dict[str, Column]:
    """Turn ``features``' columns of ``table`` into arrays.

    Args:
        table: holds one column for each feature: integers, or lists of them.
        features: what to read.
        where: the file's name, and the row group's number if ``table`` is of one, for messages.
        bad_ids: what becomes of ids outside their table; None: they are refused.
        first_row: number in ``where`` of the table's first row, for messages.
        widen: return int64; else int32, which takes half the memory, where the table allows.

    Raises:
        UserError: a column is missing, has the wrong type, holds nulls, or holds an id
            outside its table that is refused.
    """
    bad_ids = bad_ids or BadIds()
    columns = {}
    for feature in features:
        column = _read_column(table, feature, where, first_row, bad_ids)
        wide = widen or feature.rows > 2**31
        values: Ids = column.values.astype(np.int64 if wide else np.int32, copy=False)
        columns[feature.name] = Column(values, column.offsets)
    return columns


def _read_column(
    table: pa.Table, feature: Feature, where: str, first_row: int, bad_ids: BadIds
) -> Column:
    if feature.name not in table.column_names:
        raise UserError(f"{where}: column {feature.name!r} is missing: prepare the dataset anew")
    chunks = table.column(feature.name)
    array = chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()
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
        offsets = np.zeros(len(array) + 1, np.int64)
        if len(array):
            ends = array.offsets.to_numpy()
            np.subtract(ends, ends[0], out=offsets, casting="same_kind")
    if not _all_inside(values, feature.rows):
        bad = (values < 0) | (values >= feature.rows)
        first = int(bad.argmax())
        row = first if offsets is None else int(np.searchsorted(offsets, first, "right")) - 1
        what = (
            f"column {feature.name!r}, row {first_row + row} (from 0), holds id {values[first]}, "
            f"outside its table of {feature.rows} rows"
        )
        bad_ids.found(feature.name, where, first_row, what, int(bad.sum()))
        values = np.where(bad, values.dtype.type(UNKNOWN), values)
    return Column(values, offsets)


def _all_inside(values: NDArray[Any], rows: int) -> bool:
    """Whether all values lie in [0, rows); in the file's own type, which may be beyond int64."""
    if len(values) == 0:
        return True
    if rows > 1 << (8 * values.itemsize - 1):
        return bool(0 <= values.min() <= values.max() < rows)
    # One look at each value: as unsigned numbers, negative ones are beyond such a table.
    return bool(values.view(f"u{values.itemsize}").max() < rows)
