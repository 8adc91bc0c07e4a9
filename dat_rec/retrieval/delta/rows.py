"""Two tables of rows with ids in, their difference out, of which and the base come the new rows.

``order.parquet`` has a row for each row of the new table: ``base_row``, the equal row of the base
with the same id, or null. ``changed.parquet`` holds the rows where it is null, in their order, as
they are: what a store that keeps rows by id has to insert or replace.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.errors import UserError

Rows = NDArray[np.int64]
ORDER, CHANGED, BASE_ROW = "order.parquet", "changed.parquet", "base_row"
NONE = -1
"""In arrays of base rows: there is none."""
BLOCK_ROWS = 2**16
"""Maximum number of rows that are compared at a time."""


class Difference(NamedTuple):
    """N rows, of which C are not in the base."""

    base_rows: Rows
    """(N,), −1 where the next changed row stands."""
    changed: pa.Table
    """(C rows)"""


def read_parts(paths: Sequence[Path], columns: Sequence[str] | None = None) -> pa.Table:
    """Read columns of Parquet files of one schema, one behind the other; None for all columns."""
    names = None if columns is None else list(columns)
    # Of one chunk rows are taken without a search.
    return pa.concat_tables([pq.ParquetFile(path).read(names) for path in paths]).combine_chunks()


def comparable(schema: pa.Schema) -> bool:
    """Whether rows of the schema can be compared: numbers, texts and lists of them."""
    kinds = [field.type.value_type if _is_list(field.type) else field.type for field in schema]
    return all(
        pa.types.is_primitive(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
        for kind in kinds
    )


def same_ids(new: pa.ChunkedArray, base: pa.ChunkedArray) -> Rows:
    """(N,): the base's row of each id, −1 where it has none."""
    if new.type != base.type:
        return np.full(len(new), NONE)
    found = pc.index_in(new, value_set=base).fill_null(NONE)
    return np.asarray(found.to_numpy(), np.int64)


def equal_rows(new: pa.Table, base: pa.Table, key: str) -> Rows:
    """(N,): the base's row of the same id, where all of it is equal to the last bit; else −1.

    Args:
        new: N rows.
        base: of any number of rows.
        key: the column that holds the ids.
    """
    if not new.schema.equals(base.schema):
        return np.full(len(new), NONE)
    rows = same_ids(new[key], base[key])
    for start in range(0, len(rows), BLOCK_ROWS):
        known = start + np.flatnonzero(rows[start : start + BLOCK_ROWS] != NONE)
        ours, theirs = new.take(pa.array(known)), base.take(pa.array(rows[known]))
        same = np.ones(len(known), np.bool_)
        for name in new.column_names:
            same &= _equal(_joined(ours[name]), _joined(theirs[name]))
        rows[known[~same]] = NONE
    return rows


def write_difference(folder: Path, new: pa.Table, base_rows: Rows) -> None:
    """Write a table's order and changed rows.

    Args:
        folder: to be made.
        new: N rows.
        base_rows: (N,) of ``equal_rows``.
    """
    folder.mkdir(parents=True)
    write_order(folder / ORDER, [base_rows])
    changed = new.take(pa.array(np.flatnonzero(base_rows == NONE)))
    pq.write_table(changed, folder / CHANGED, compression="zstd")


def write_order(path: Path, blocks: Sequence[Rows]) -> None:
    """Write base rows, a row group for each block."""
    schema = pa.schema({BASE_ROW: pa.int64()})
    encoding = {BASE_ROW: "DELTA_BINARY_PACKED"}
    options = {"compression": "zstd", "use_dictionary": False, "column_encoding": encoding}
    with pq.ParquetWriter(path, schema, **options) as writer:
        for rows in blocks:
            column = pa.array(rows, mask=rows == NONE)
            writer.write_table(pa.table([column], schema=schema), row_group_size=max(1, len(rows)))


def as_base_rows(order: pa.Table, base: int, changed: int, where: Path) -> Rows:
    """(N,) base rows of an order, −1 for null.

    Args:
        order: N rows of ``order.parquet``.
        base: number of the base's rows.
        changed: number of changed rows.
        where: the order's file, for the message.

    Raises:
        UserError: a row is not in the base, or there are more or fewer changed rows.
    """
    rows = np.asarray(order[BASE_ROW].fill_null(NONE).to_numpy(), np.int64)
    known = rows[rows != NONE]
    if len(known) and not 0 <= known.min() <= known.max() < base:
        raise UserError(f"{where}: names rows that the base lacks: make the delta anew")
    if len(rows) - len(known) != changed:
        raise UserError(f"{where}: does not fit {CHANGED}: make the delta anew")
    return rows


def read_difference(folder: Path, base: int) -> Difference:
    """Read what ``write_difference`` wrote.

    Args:
        folder: the difference's.
        base: number of the base's rows.

    Raises:
        UserError: the files do not fit each other or the base.
    """
    changed = pq.ParquetFile(folder / CHANGED).read()
    order = pq.ParquetFile(folder / ORDER).read()
    return Difference(as_base_rows(order, base, len(changed), folder / ORDER), changed)


class NewRows:
    """The new table's rows, some at a time.

    Args:
        base: the base's rows.
        difference: of ``read_difference``.
    """

    def __init__(self, base: pa.Table, difference: Difference) -> None:
        self._base_rows, self._changed = difference
        self.schema = self._changed.schema
        is_new = self._base_rows == NONE
        # Where all rows are new, the base's columns may have been others.
        base = self.schema.empty_table() if is_new.all() else base
        self._base = base.replace_schema_metadata(None)
        self._new_before = np.append(0, np.cumsum(is_new))

    def rows(self, start: int, stop: int) -> pa.Table:
        """The rows ``start`` … ``stop`` − 1."""
        base_rows = self._base_rows[start:stop]
        is_new = base_rows == NONE
        kept = self._base.take(pa.array(base_rows[~is_new]))
        first, last = (int(self._new_before[place]) for place in (start, stop))
        both = pa.concat_tables([kept, self._changed.slice(first, last - first)])
        place = np.where(is_new, len(kept) - 1 + np.cumsum(is_new), np.cumsum(~is_new) - 1)
        rows = both.take(pa.array(place)).combine_chunks()
        return rows.replace_schema_metadata(self.schema.metadata)


def _joined(column: pa.ChunkedArray) -> pa.Array:
    joined = column.combine_chunks()
    return joined if isinstance(joined, pa.Array) else pa.concat_arrays(joined.chunks)


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _equal(ours: pa.Array, theirs: pa.Array) -> NDArray[np.bool_]:
    """(N,) whether values are equal to the last bit; null equals null."""
    neither = pc.and_(ours.is_null(), theirs.is_null()).to_numpy(zero_copy_only=False)
    both = pc.and_(ours.is_valid(), theirs.is_valid()).to_numpy(zero_copy_only=False)
    if _is_list(ours.type):
        lengths = pc.equal(*map(pc.list_value_length, (ours, theirs))).fill_null(False)
        both &= lengths.to_numpy(zero_copy_only=False)
        kept = pa.array(both)
        ours, theirs = ours.filter(kept), theirs.filter(kept)
        ends = np.append(0, np.cumsum(pc.list_value_length(ours).to_numpy(zero_copy_only=False)))
        differ = np.append(0, np.cumsum(~_equal(ours.flatten(), theirs.flatten())))
        both[both] = differ[ends[1:]] == differ[ends[:-1]]
        return np.asarray(neither | both)
    if pa.types.is_floating(ours.type):
        bits = pa.type_for_alias(f"int{ours.type.bit_width}")
        ours, theirs = ours.view(bits), theirs.view(bits)
    equal = pc.equal(ours, theirs).fill_null(False).to_numpy(zero_copy_only=False)
    return np.asarray(neither | equal)
