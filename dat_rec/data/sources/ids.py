"""A column of ids in, BIGINT or VARCHAR out, exactly: no two ids become one.

Whole numbers of every kind (also floats and decimals, as pandas and databases write integers) are
BIGINT, text is VARCHAR; "7" and "007" are two texts.
"""

import duckdb

from dat_rec.data.source import named
from dat_rec.data.sources.tables import INTEGERS, OWN_PLACE
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


def id_sql(
    database: duckdb.DuckDBPyConnection,
    relation: str,
    column: str,
    type_: str,
    *,
    where: str,
    as_text: bool = False,
) -> str:
    """SQL: the column's ids as BIGINT or VARCHAR; NULL where there is none.

    Args:
        database: holds the relation.
        relation: SQL to stand after FROM, with the columns _source_file and _source_row.
        column: the column's name.
        type_: its type in DuckDB.
        where: the file or folder, for messages.
        as_text: integers become text too.

    Raises:
        UserError: another type, or a number that is no integer that int64 holds exactly.
    """
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
            f"{where}: id {column!r} is {in_words(type_)}: write it as integers or text, "
            f"e.g. CAST({column} AS VARCHAR)"
        )
    _refuse_inexact(database, relation, column, name, type_, as_text=as_text)
    if not as_text:
        return f"({name})::BIGINT"
    return f"({name})::VARCHAR" if type_ in WHOLE else f"({name})::DECIMAL(38, 0)::VARCHAR"


def in_words(type_: str) -> str:
    """A type of DuckDB as a message names it."""
    if type_.endswith("]"):
        return "a list"
    return next((words for start, words in IN_WORDS.items() if type_.startswith(start)), type_)


def _refuse_inexact(
    database: duckdb.DuckDBPyConnection,
    relation: str,
    column: str,
    value: str,
    type_: str,
    *,
    as_text: bool,
) -> None:
    """Refuse a number with a fraction, or one that BIGINT or its own float cannot tell apart."""
    tests = []
    if type_ in EXACT_IN_FLOAT:
        fraction = f"(isinf({named(column)}) OR ({value}) <> trunc({value}))"
        tests = [fraction, f"abs({value}) >= {EXACT_IN_FLOAT[type_]}"]
    elif type_.startswith("DECIMAL"):
        tests = [f"{value} <> trunc({value})"]
    if type_ not in EXACT_IN_FLOAT and type_ not in NARROW and not as_text:
        tests.append(f"({value})::HUGEINT NOT BETWEEN -{INT64_MAX} AND {INT64_MAX}")
    if not tests:
        return
    row = database.execute(
        f"SELECT {OWN_PLACE}, {named(column)}, {tests[0]} FROM {relation} "
        f"WHERE {' OR '.join(tests)} ORDER BY _source_file, _source_row LIMIT 1"
    ).fetchone()
    if row is None:
        return
    file, number, found, first = row
    location = f"{file}: row {number}: {column} {found}"
    if first and (type_ in EXACT_IN_FLOAT or type_.startswith("DECIMAL")):
        raise UserError(f"{location} is no whole number: write the ids as integers or text")
    if type_ in EXACT_IN_FLOAT:
        raise UserError(
            f"{location} is a float of {EXACT_IN_FLOAT[type_]} or more, where two ids may be one: "
            "write the ids as int64 or text"
        )
    raise UserError(
        f"{location} is over {INT64_MAX}: write the ids as int64 or text, or pass --text-ids"
    )
