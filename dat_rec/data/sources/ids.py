"""A column of ids in, BIGINT or VARCHAR out, exactly: no two ids become one.

Whole numbers of every kind (also floats and decimals, as pandas and databases write integers) are
BIGINT, text is VARCHAR; "7" and "007" are two texts.
"""

from dat_rec.data.source import named
from dat_rec.data.sources.tables import INTEGERS, Relation
from dat_rec.errors import UserError

INT64_MAX = 2**63 - 1
EXACT_IN_FLOAT = {"FLOAT": 2**24, "DOUBLE": 2**53}
"""From these on, two whole numbers may share a float."""
WHOLE = (*INTEGERS, "HUGEINT", "UHUGEINT")
NARROW = tuple(name for name in INTEGERS if name != "UBIGINT")
"""What BIGINT holds whatever the value."""
IN_WORDS = {
    "BLOB": "binary",
    "BOOLEAN": "true or false",
    "DATE": "a date",
    "TIMESTAMP": "a time",
    "TIME": "a time of day",
    "INTERVAL": "an interval",
    "STRUCT": "a struct",
    "MAP": "a map",
}


def id_sql(table: Relation, column: str, *, as_text: bool = False) -> str:
    """SQL: the column's ids as BIGINT or VARCHAR; NULL where there is none.

    Args:
        table: holds the column.
        column: the column's name.
        as_text: integers become text too.

    Raises:
        UserError: another type, or a number that is no integer that int64 holds exactly.
    """
    type_ = table.types[column]
    name = named(column)
    if type_ == "VARCHAR":
        return name
    if type_ == "UUID":
        return f"{name}::VARCHAR"
    if type_ in EXACT_IN_FLOAT:
        # NaN is pandas' word for none. Not isnan: DuckDB takes it for false where the Parquet
        # file's statistics, which leave NaN out, give a least and a largest value.
        name = f"CASE WHEN isfinite({name}) THEN {name} END"
    elif not (type_ in WHOLE or type_.startswith("DECIMAL")):
        raise UserError(
            f"{table.where}: id {column!r} is {in_words(type_)}: write it as integers or text, "
            f"e.g. CAST({column} AS VARCHAR)"
        )
    _refuse_inexact(table, column, name, as_text=as_text)
    if not as_text:
        return f"({name})::BIGINT"
    return f"({name})::VARCHAR" if type_ in WHOLE else f"({name})::DECIMAL(38, 0)::VARCHAR"


def in_words(type_: str) -> str:
    """A type of DuckDB as a message names it."""
    if type_.endswith("]"):
        return "a list"
    return next((words for start, words in IN_WORDS.items() if type_.startswith(start)), type_)


def _refuse_inexact(table: Relation, column: str, value: str, *, as_text: bool) -> None:
    """Refuse a number with a fraction, or one that BIGINT or its own float cannot tell apart."""
    type_ = table.types[column]
    fraction = far = "false"
    if type_ in EXACT_IN_FLOAT:
        fraction = f"(isinf({named(column)}) OR ({value}) <> trunc({value}))"
        far = f"abs({value}) >= {EXACT_IN_FLOAT[type_]}"
    else:
        if type_.startswith("DECIMAL"):
            fraction = f"{value} <> trunc({value})"
        if type_ not in NARROW and not as_text:
            far = f"({value})::HUGEINT NOT BETWEEN -{INT64_MAX} AND {INT64_MAX}"
    if fraction == far:
        return
    row = table.first(f"{fraction} OR {far}", named(column), fraction)
    if row is None:
        return
    place, found, has_fraction = row
    start = f"{place}: {column} {found}"
    if has_fraction:
        raise UserError(f"{start} is no whole number: write the ids as integers or text")
    if type_ in EXACT_IN_FLOAT:
        raise UserError(
            f"{start} is a float of {EXACT_IN_FLOAT[type_]} or more, where two ids may be one: "
            "write the ids as int64 or text"
        )
    raise UserError(
        f"{start} is over {INT64_MAX}: write the ids as int64 or text, or pass --text-ids"
    )
