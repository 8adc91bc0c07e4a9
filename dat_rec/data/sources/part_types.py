"""The column types of several part files in, the one type that holds every value exactly out.

Left to itself, DuckDB casts all parts to the first one's types: 3.6 becomes 4, "007" becomes 7.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from dat_rec.data.rows import is_list
from dat_rec.errors import UserError

MANTISSA_BITS = {16: 11, 32: 24, 64: 53}
"""Mantissa of floats by their width: integers of as many bits are exact in them."""
INTEGER_DIGITS = {8: 3, 16: 5, 32: 10, 64: 20}
MOST_DIGITS = 38
"""Maximum number of digits in DuckDB's decimals."""
UNITS = ("s", "ms", "us", "ns")
SQL = {
    "bool": "BOOLEAN",
    "int8": "TINYINT",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "uint8": "UTINYINT",
    "uint16": "USMALLINT",
    "uint32": "UINTEGER",
    "uint64": "UBIGINT",
    "halffloat": "FLOAT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "string": "VARCHAR",
    "binary": "BLOB",
    "date32[day]": "DATE",
}


def common_type(column: str, types: Sequence[tuple[Path, pa.DataType]]) -> pa.DataType:
    """The type that holds the values of ``column`` in all files exactly.

    Args:
        column: for the message.
        types: each file and its type, as ``plain`` gives it.

    Raises:
        UserError: there is none; names two files and their types.
    """
    first: dict[pa.DataType, Path] = {}
    for path, type_ in types:
        first.setdefault(type_, path)
    result: pa.DataType | None = None
    seen: list[pa.DataType] = []
    for type_ in first:
        result = type_ if result is None else widen(result, type_)
        if result is None:
            other = next((one for one in seen if widen(one, type_) is None), seen[-1])
            raise UserError(
                f"{first[type_]}: column {column!r} is {type_}, and {other} in {first[other]}: "
                "reading both as one would change values: write all parts with one type"
            )
        seen.append(type_)
    assert result is not None
    return result


def plain(type_: pa.DataType) -> pa.DataType:
    """The type of the values, however they are stored: text in a dictionary is text."""
    types = pa.types
    if isinstance(type_, pa.DictionaryType):
        return plain(type_.value_type)
    if types.is_large_string(type_) or types.is_string_view(type_):
        return pa.string()
    if types.is_large_binary(type_) or types.is_binary_view(type_):
        return pa.binary()
    if types.is_fixed_size_binary(type_) and not types.is_decimal(type_):
        return pa.binary()
    if types.is_date(type_):
        return pa.date32()
    if isinstance(type_, pa.JsonType):
        return pa.string()
    if is_list(type_):
        return pa.list_(plain(type_.value_type))
    return type_


def widen(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both plain types exactly; none if there is none."""
    types = pa.types
    if one == other or types.is_null(other):
        return one
    if types.is_null(one):
        return other
    if types.is_list(one) and types.is_list(other):
        inner = widen(one.value_type, other.value_type)
        return None if inner is None else pa.list_(inner)
    if types.is_timestamp(one) and types.is_timestamp(other):
        if (one.tz is None) != (other.tz is None):
            return None
        unit = max(one.unit, other.unit, key=UNITS.index)
        return pa.timestamp(unit, "UTC" if one.tz else None)
    if types.is_integer(one) and types.is_integer(other):
        return _integers(one, other)
    if types.is_decimal(one) or types.is_decimal(other):
        return _decimals(one, other)
    if types.is_floating(one) or types.is_floating(other):
        return _floats(one, other)
    return None


def _integers(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    signed = [type_ for type_ in (one, other) if pa.types.is_signed_integer(type_)]
    bits = max(one.bit_width, other.bit_width)
    if len(signed) == 1:
        # The unsigned one needs one bit more for the sign.
        unsigned = other if signed[0] == one else one
        bits = max(signed[0].bit_width, 2 * unsigned.bit_width)
    prefix = "int" if signed else "uint"
    return None if bits > 64 else getattr(pa, f"{prefix}{bits}")()


def _floats(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    bits, least = 0, 0
    for type_ in (one, other):
        if pa.types.is_floating(type_):
            least = max(least, type_.bit_width)
        elif pa.types.is_integer(type_):
            bits = type_.bit_width - pa.types.is_signed_integer(type_)
        else:
            return None
    fitting = [width for width, exact in MANTISSA_BITS.items() if width >= least and exact >= bits]
    return getattr(pa, f"float{fitting[0]}")() if fitting else None


def _decimals(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    whole, scale = 0, 0
    for type_ in (one, other):
        if pa.types.is_decimal(type_):
            whole = max(whole, type_.precision - type_.scale)
            scale = max(scale, type_.scale)
        elif pa.types.is_integer(type_):
            whole = max(whole, INTEGER_DIGITS[type_.bit_width])
        else:
            return None
    return None if whole + scale > MOST_DIGITS else pa.decimal128(whole + scale, scale)


def sql_type(type_: pa.DataType) -> str | None:
    """DuckDB's name of a type that ``widen`` has made; none if it makes no such type."""
    if pa.types.is_list(type_):
        inner = sql_type(type_.value_type)
        return None if inner is None else f"{inner}[]"
    if pa.types.is_decimal(type_):
        return f"DECIMAL({type_.precision}, {type_.scale})"
    if pa.types.is_timestamp(type_):
        return f"TIMESTAMP{'TZ' if type_.tz else ''}{'_NS' if type_.unit == 'ns' else ''}"
    return SQL.get(str(type_))
