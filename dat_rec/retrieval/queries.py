"""A file of user ids in, the same ids in the export's type out, each once."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from dat_rec.data.composite_ids import columns_of_id, decode, encode
from dat_rec.data.dataset import read_parquet
from dat_rec.data.rows import is_text
from dat_rec.errors import UserError
from dat_rec.storage.address import Location
from dat_rec.storage.read import open_parquet
from dat_rec.storage.snapshot import pinned_file

EXACT_IN_FLOAT = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}
"""Smallest whole number by type of float that another may share its float with."""


def read_queries(path: Location, column: str, known: pa.Array) -> pa.Array:
    """The column's ids in the type of ``known``, in the file's order.

    Args:
        path: a Parquet file.
        column: text of any kind, UUIDs, or whole numbers of any kind: what the export's ids are.
            Or several, as store,customer, which together are an id (composite_ids.py).
        known: ids of the export: text or integers.

    Raises:
        UserError: the file lacks the column, or the column holds nulls, duplicates, another type
            than the export's, or a number that is no such integer.
    """
    path = pinned_file(path)
    columns = id_columns(path, column)
    return once(user_ids(path, read_parquet(path, columns), columns, known), path, column)


def user_ids(
    path: Location | str, table: pa.Table, columns: Sequence[str], known: pa.Array
) -> pa.Array:
    """The ids of users that columns of a table hold, or make together, in the type of ``known``.

    Args:
        path: of the table, for messages.
        table: holds the columns.
        columns: of ``id_columns``.
        known: ids of the export: text or integers.

    Raises:
        UserError: as ``read_queries``, but for duplicates.
    """
    if len(columns) > 1:
        return _composite(path, table, columns, known)
    return as_ids(path, columns[0], table[columns[0]].combine_chunks(), known.type)


def _composite(
    path: Location | str, table: pa.Table, columns: Sequence[str], known: pa.Array
) -> pa.Array:
    """The ids that the columns make, of integers and texts as those of the export."""
    wanted = decode(known[0].as_py()) if is_text(known.type) and len(known) else None
    found = 1 if wanted is None else len(wanted)
    if wanted is None or found != len(columns):
        raise UserError(
            f"{path}: --user-id {','.join(columns)}: the export's ids are of {found} columns, "
            f"as {known[0].as_py() if len(known) else 'none'}: name as many"
        )
    kinds = [pa.int64() if isinstance(one, int) else pa.string() for one in wanted]
    parts = [
        as_ids(path, column, table[column].combine_chunks(), kind).to_pylist()
        for column, kind in zip(columns, kinds, strict=True)
    ]
    return pa.array([encode(row) for row in zip(*parts, strict=True)], known.type)


def once(ids: pa.Array, path: Location | str, column: str, who: str = "user") -> pa.Array:
    """The ids, each of which stands there once.

    Raises:
        UserError: one stands there twice.
    """
    counted = ids.value_counts()
    repeated = counted.filter(pc.greater(counted.field("counts"), 1))
    if len(repeated):
        raise UserError(
            f"{path}: {column} {repeated[0]['values'].as_py()!r} stands there "
            f"{repeated[0]['counts'].as_py()} times: name each {who} once"
        )
    return ids


def as_ids(
    path: Location | str, column: str, ids: pa.Array, wanted: pa.DataType, what: str = "user_id"
) -> pa.Array:
    """One column's values as ``wanted``: the type of the export's ``what``.

    Raises:
        UserError: as ``read_queries``, but for duplicates.
    """
    ids = _plain(ids)
    kind = ids.type
    if pa.types.is_null(kind) and not len(ids):  # pandas' type of nothing
        return pa.array([], wanted)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if not (number if pa.types.is_integer(wanted) else is_text(kind)):
        cure = (
            "integers" if pa.types.is_integer(wanted) else f"text, e.g. CAST({column} AS VARCHAR)"
        )
        raise UserError(
            f"{path}: {column} is {kind}, the export's {what} is {wanted}: write it as {cure}"
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
    if kind == wanted:
        return ids
    try:
        cast: pa.Array = ids.cast(wanted)
    except pa.ArrowInvalid as error:
        row, value = next(
            (row, value) for row, value in enumerate(ids, 1) if not _can_be(value, wanted)
        )
        raise UserError(
            f"{path}: row {row}: {column} {value.as_py()} is no {wanted}, as the export's ids are: "
            "correct or remove it"
        ) from error
    return cast


def id_columns(path: Location, text: str) -> tuple[str, ...]:
    """The columns that ``--user-id`` names, all of which the file has.

    Raises:
        UserError: it lacks one, or the names are malformed.
    """
    try:
        with open_parquet(path) as file:
            found = file.schema_arrow.names
    except (OSError, pa.ArrowException):
        return (text,)  # what is wrong with the file is said when it is read
    columns = columns_of_id("--user-id", text, found.__contains__)
    for column in columns:
        if column not in found:
            raise UserError(
                f"{path}: column {column!r} is missing: it has {', '.join(found)}; "
                "name the one with the users' ids by --user-id"
            )
    return columns


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
