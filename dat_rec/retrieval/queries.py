"""A file of user ids in, the same ids in the export's type out, each once."""

import pyarrow as pa
import pyarrow.compute as pc

from dat_rec.data.dataset import read_parquet
from dat_rec.data.rows import is_text
from dat_rec.errors import UserError
from dat_rec.storage.address import Location
from dat_rec.storage.read import open_parquet
from dat_rec.storage.snapshot import pinned_file

EXACT_IN_FLOAT = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}
"""Smallest whole number by type of float that another may share its float with."""


def read_queries(path: Location, column: str, wanted: pa.DataType) -> pa.Array:
    """The column's ids as ``wanted``, in the file's order.

    Args:
        path: a Parquet file.
        column: text of any kind, UUIDs, or whole numbers of any kind: what the export's ids are.
        wanted: type of the export's ids, text or an integer.

    Raises:
        UserError: the file lacks the column, or the column holds nulls, duplicates, another type
            than the export's, or a number that is no such integer.
    """
    ids = _plain(_read(pinned_file(path), column))
    kind = ids.type
    if pa.types.is_null(kind) and not len(ids):  # pandas' type of nothing
        return pa.array([], wanted)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if not (number if pa.types.is_integer(wanted) else is_text(kind)):
        cure = (
            "integers" if pa.types.is_integer(wanted) else f"text, e.g. CAST({column} AS VARCHAR)"
        )
        raise UserError(
            f"{path}: {column} is {kind}, the export's user_id is {wanted}: write it as {cure}"
        )
    if pa.types.is_floating(kind):
        # pandas' word for none.
        ids = pc.if_else(pc.is_nan(ids), pa.scalar(None, kind), ids)
    if ids.null_count:
        raise UserError(f"{path}: row {_first(ids.is_null())}: {column} is null: remove the row")
    if pa.types.is_floating(kind):
        inexact = pc.greater_equal(pc.abs(ids), pa.scalar(float(EXACT_IN_FLOAT[kind]), kind))
        if pc.any(inexact).as_py():
            row = _first(inexact)
            raise UserError(
                f"{path}: row {row}: {column} {ids[row - 1].as_py()} is a float too large to be "
                "one id: write int64"
            )
    try:
        cast = ids.cast(wanted)
    except pa.ArrowInvalid as error:
        row, value = next(
            (row, value) for row, value in enumerate(ids, 1) if not _can_be(value, wanted)
        )
        raise UserError(
            f"{path}: row {row}: {column} {value.as_py()} is no {wanted}, as the export's ids are: "
            "correct or remove it"
        ) from error
    counted = cast.value_counts()
    repeated = counted.filter(pc.greater(counted.field("counts"), 1))
    if len(repeated):
        raise UserError(
            f"{path}: {column} {repeated[0]['values'].as_py()!r} stands there "
            f"{repeated[0]['counts'].as_py()} times: name each user once"
        )
    return cast


def _read(path: Location, column: str) -> pa.Array:
    try:
        with open_parquet(path) as file:
            found = file.schema_arrow.names
    except (OSError, pa.ArrowException):
        found = [column]  # what is wrong with the file is said below
    if column not in found:
        raise UserError(
            f"{path}: column {column!r} is missing: it has {', '.join(found)}; "
            "name the one with the users' ids by --user-id"
        )
    return read_parquet(path, [column]).column(column).combine_chunks()


def _plain(ids: pa.Array) -> pa.Array:
    """The ids without dictionaries (pandas' and polars' categories), views and UUIDs."""
    if pa.types.is_dictionary(ids.type):
        ids = ids.dictionary_decode()
    if ids.type == pa.uuid():
        return pa.array([None if value is None else str(value) for value in ids.to_pylist()])
    return ids.cast(pa.large_string()) if pa.types.is_string_view(ids.type) else ids


def _can_be(value: pa.Scalar, wanted: pa.DataType) -> bool:
    try:
        value.cast(wanted)
    except pa.ArrowInvalid:
        return False
    return True


def _first(marked: pa.Array) -> int:
    """The number of the first row that is marked, from 1."""
    return int(pc.index(marked, True).as_py()) + 1
