"""Parquet columns of dense features in, NumPy arrays of their values out, checked at the door.

A value that is missing (null; of a number, NaN too) is NaN throughout in the array. What else is
not finite, and a vector of another size, is refused. Values are as they are in the file:
``dat_rec.model.dense`` subtracts the mean and divides by the scale.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dat_rec.data.columns import BadIds, Column, concatenate_columns, read_columns
from dat_rec.data.schema import DenseFeature, Feature
from dat_rec.errors import UserError
from dat_rec.storage.address import Location
from dat_rec.storage.read import open_parquet

ANEW = "write the file anew"
VALUE_TYPES: dict[str, np.dtype[Any]] = {
    "number": np.dtype(np.float64),
    "vector": np.dtype(np.float32),
}
"""A number may need more digits than a float32 has until its mean is subtracted, as a time does."""


@dataclass(frozen=True)
class DenseColumn:
    """One dense feature for R rows."""

    values: NDArray[np.floating[Any]]
    """(R, width) float64 of numbers, float32 of vectors; NaN throughout in rows without a value."""

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: NDArray[np.int64]) -> "DenseColumn":
        """The column's ``rows``, in that order; none, which is −1, has no value."""
        found = self.values[rows]
        found[rows < 0] = np.nan
        return DenseColumn(found)

    def lengths(self) -> NDArray[np.int64]:
        """(R,): 1 where there is a value, else 0."""
        known: NDArray[np.int64] = (~np.isnan(self.values[:, 0])).astype(np.int64)
        return known

    def with_missing(self, rows: int) -> "DenseColumn":
        """The column with so many rows without a value behind it."""
        return DenseColumn(np.pad(self.values, ((0, rows), (0, 0)), constant_values=np.nan))


AnyColumn = Column | DenseColumn
"""What one feature, of either kind, holds for many rows."""


def concatenate(columns: Sequence[AnyColumn]) -> AnyColumn:
    """All rows of one or more columns of one feature, in their order."""
    dense = [column.values for column in columns if isinstance(column, DenseColumn)]
    if dense:
        return DenseColumn(np.concatenate(dense))
    return concatenate_columns([column for column in columns if isinstance(column, Column)])


def parted(
    columns: Mapping[str, AnyColumn],
) -> tuple[dict[str, Column], dict[str, DenseColumn]]:
    """The columns of ids, and those of dense features."""
    of_ids = {name: one for name, one in columns.items() if isinstance(one, Column)}
    return of_ids, {name: one for name, one in columns.items() if isinstance(one, DenseColumn)}


def read_all(
    table: pa.Table,
    features: Sequence[Feature],
    dense: Sequence[DenseFeature],
    where: str,
    bad_ids: BadIds | None = None,
) -> dict[str, AnyColumn]:
    """Turn the columns of both kinds of features into arrays, as ``read_columns``, ``read_dense``.

    Raises:
        UserError: as they do.
    """
    return {**read_columns(table, features, where, bad_ids), **read_dense(table, dense, where)}


def no_values(feature: DenseFeature, rows: int) -> DenseColumn:
    """``rows`` rows without a value."""
    return DenseColumn(np.full((rows, feature.width), np.nan, VALUE_TYPES[feature.kind]))


def read_dense(
    table: pa.Table,
    features: Sequence[DenseFeature],
    where: str,
    first_row: int = 0,
    cure: str = ANEW,
) -> dict[str, DenseColumn]:
    """Turn ``features``' columns of ``table`` into arrays.

    Args:
        table: holds one column for each feature: floats or integers, or lists of floats.
        features: what to read.
        where: the file's name, for messages.
        first_row: number in ``where`` of the table's first row, for messages.
        cure: what a refusal of a value advises.

    Raises:
        UserError: a column is missing, has the wrong type, or holds a value that is not finite or
            of another size.
    """
    return {one.name: _read(table, one, where, first_row, cure) for one in features}


def read_dense_rows(
    path: Location, features: Sequence[DenseFeature], rows: int
) -> dict[str, DenseColumn]:
    """Read the first ``rows`` rows of a file, a row group at a time.

    Memory holds rows · width · 4 bytes of each vector feature, 8 of each number.

    Raises:
        UserError: the file cannot be read, has fewer rows, or as ``read_dense``.
    """
    found = {one.name: no_values(one, rows) for one in features}
    if not features:
        return found
    row, names = 0, [one.name for one in features]
    try:
        with open_parquet(path) as file:
            for name in names:
                if file.schema_arrow.names.count(name) != 1:
                    raise UserError(f"{path}: column {name!r} is missing or twice: {ANEW}")
            for group in range(file.metadata.num_row_groups):
                if row >= rows:
                    break
                table = file.read_row_group(group, columns=names)
                for name, column in read_dense(table, features, str(path), row).items():
                    found[name].values[row : row + len(column)] = column.values[: rows - row]
                row += table.num_rows
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as Parquet ({reason}): {ANEW}") from error
    if row < rows:
        raise UserError(f"{path}: {row} rows, and {rows} are needed: {ANEW}")
    return found


def holds_numbers(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold a dense number."""
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def holds_vectors(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold dense vectors."""
    is_list = (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
    return bool(is_list and pa.types.is_floating(kind.value_type))


def _read(
    table: pa.Table, feature: DenseFeature, where: str, first_row: int, cure: str
) -> DenseColumn:
    what = f"column {feature.name!r}"
    if feature.name not in table.column_names:
        raise UserError(f"{where}: {what} is missing: prepare the dataset anew")
    array = table.column(feature.name).combine_chunks()
    fits = holds_numbers if feature.kind == "number" else holds_vectors
    if not fits(array.type):
        wanted = "a number" if feature.kind == "number" else "a list of floats"
        raise UserError(f"{where}: {what} is {array.type}, not {wanted}: prepare the dataset anew")
    column = no_values(feature, len(array))
    if feature.kind == "number":
        known = array.is_valid().to_numpy(zero_copy_only=False)
        found = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)[:, None]
        bad = known & np.isinf(found[:, 0])
        column.values[known] = found[known]
    else:
        known = array.is_valid().to_numpy(zero_copy_only=False)
        lengths = pc.list_value_length(array).fill_null(feature.width).to_numpy()
        if (odd := np.flatnonzero(lengths != feature.width)).size:
            raise UserError(
                f"{where}: row {first_row + odd[0]} (from 0): {what} has {lengths[odd[0]]} numbers "
                f"and not {feature.width}: {cure}"
            )
        flat = array.flatten().cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
        column.values[known] = flat.reshape(-1, feature.width)
        bad = known & ~np.isfinite(column.values).all(axis=1)
    if bad.any():
        raise UserError(
            f"{where}: row {first_row + int(bad.argmax())} (from 0): {what} holds what is not "
            f"finite: {cure}"
        )
    return column
