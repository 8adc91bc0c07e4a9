"""Columns of raw values in, texts and numbers out, as ``prepare`` reads them from a log."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dat_rec.data.rows import is_text
from dat_rec.errors import UserError
from dat_rec.retrieval.raw_inputs import RawInput


def as_plain(array: pa.Array) -> pa.Array:
    """The values without dictionaries, views, runs and extensions."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_run_end_encoded(array.type):
        array = pc.run_end_decode(array)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if array.type == pa.uuid():
        return pa.array([None if value is None else str(value) for value in array.to_pylist()])
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    return array.cast(pa.large_string()) if pa.types.is_string_view(array.type) else array


def as_texts(values: pa.Array, one: RawInput, where: str) -> pa.Array:
    """The text that stands for each value in a vocabulary; null for none.

    Raises:
        UserError: the values are of a type that no category has.
    """
    values = as_plain(values)
    kind = values.type
    if pa.types.is_null(kind) or is_text(kind):
        return values.cast(pa.large_string())
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_date32(kind):
        return values.cast(pa.large_string())
    if pa.types.is_timestamp(kind) or pa.types.is_date64(kind) or pa.types.is_binary(kind):
        return _by_duckdb(values)
    raise UserError(
        f"{where}: column {one.column!r} is {kind}: give text, as the log has it, an integer, a "
        "date or true and false"
    )


def as_numbers(values: pa.Array, column: str, where: str) -> NDArray[np.float64]:
    """(V,) the numbers, NaN for none.

    Raises:
        UserError: they are no numbers.
    """
    values = as_plain(values)
    kind = values.type
    if pa.types.is_null(kind):
        return np.full(len(values), math.nan)
    if pa.types.is_boolean(kind):
        values = values.cast(pa.int8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise UserError(f"{where}: column {column!r} is {kind}: give a number in each row")
    numbers: NDArray[np.float64] = (
        values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
    )
    return numbers


def _by_duckdb(values: pa.Array) -> pa.Array:
    """The values as DuckDB writes them, which ``prepare`` reads logs with."""
    import duckdb

    with duckdb.connect(":memory:", config={"threads": "1"}) as database:
        database.execute("SET TimeZone = 'UTC'")
        found = database.from_arrow(pa.table({"value": values})).select(
            duckdb.SQLExpression("value::VARCHAR").alias("text")
        )
        texts = found.to_arrow_table()["text"].combine_chunks()
    return texts.cast(pa.large_string())
