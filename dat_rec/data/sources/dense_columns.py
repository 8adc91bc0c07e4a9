"""A column that ``--dense`` names in, the feature and the SQL that reads it out; or a refusal.

A number is read as DOUBLE, a vector as FLOAT[]. NULL, and NaN in place of a number, are no value;
whatever else is not finite, and a vector of another length than most, is refused. A column without
any value says nothing of what it holds: it is what the dataset before (``--after``) has.
"""

from dat_rec.data.schema import DenseFeature, Side
from dat_rec.data.source import Attribute, named
from dat_rec.data.sources.feature_kinds import FRACTIONS, is_number
from dat_rec.data.sources.tables import INTEGERS, Relation
from dat_rec.errors import UserError

MOST_FLOAT = 3.4028234663852886e38
"""The largest number of 32 bits."""
CURE = "correct it, or write NULL where there is none"


def dense_column(
    table: Relation, column: str, name: str, side: Side, before: DenseFeature | None = None
) -> tuple[Attribute, str]:
    """The feature that a column becomes, and SQL of its value.

    Args:
        table: holds the column.
        column: its name.
        name: the feature's.
        side: whose it is.
        before: what the feature is in the dataset that is gone on from, if it has it.

    Raises:
        UserError: the column is no number and no list of numbers, has no value at all, or has one
            that is refused; names the first one's file and row.
    """
    type_, value = table.types[column], named(column)
    if before is not None and _is_empty(table, column):
        if before.kind == "number":
            return Attribute(name, side, "dense"), "NULL::DOUBLE"
        return Attribute(name, side, "dense", before.width), "NULL::FLOAT[]"
    if is_number(type_):
        _refuse(table, f"isinf({value}::DOUBLE)", f"{value}::VARCHAR", column)
        number = f"{value}::DOUBLE"
        sql = f"CASE WHEN NOT isnan({number}) THEN {number} END"
        return Attribute(name, side, "dense"), sql
    if not _is_vector(type_):
        raise UserError(
            f"{table.where}: --dense {column}: the column is {type_}: name a column of numbers, or "
            "of lists of numbers"
        )
    row = table.database.execute(
        f"SELECT mode(len({value}) ORDER BY len({value})), count({value}) FROM {table}"
    ).fetchone()
    assert row is not None
    width = row[0]
    if not width:
        raise UserError(
            f"{table.where}: --dense {column}: no row has a list with a number in it: name another "
            "column"
        )
    found = table.first(f"len({value}) <> {width}", f"len({value})")
    if found is not None:
        raise UserError(
            f"{found[0]}: --dense {column}: a list of {found[1]} numbers, and most have {width}: "
            "write lists of one length, or NULL where there is none"
        )
    entries = f"{value}::DOUBLE[]"
    odd = f"lambda x: x IS NULL OR isnan(x) OR abs(x) > {MOST_FLOAT!r}"
    _refuse(
        table,
        f"len(list_filter({entries}, {odd})) > 0",
        f"coalesce(list_filter({entries}, {odd})[1]::VARCHAR, 'NULL')",
        column,
    )
    return Attribute(name, side, "dense", int(width)), f"{value}::FLOAT[]"


def _is_empty(table: Relation, column: str) -> bool:
    """Whether no row has a value."""
    value = named(column)
    there = f"{value} IS NOT NULL"
    if table.types[column].startswith(FRACTIONS) and not table.types[column].endswith("]"):
        there += f" AND NOT isnan({value}::DOUBLE)"
    row = table.database.execute(f"SELECT count(*) FROM {table} WHERE {there}").fetchone()
    return row == (0,)


def _is_vector(type_: str) -> bool:
    """Whether it is a list of numbers, of any length (FLOAT[]) or of one (FLOAT[3])."""
    inner, bracket, _ = type_.rpartition("[")
    return bool(bracket) and (inner in INTEGERS or inner.startswith(FRACTIONS)) and "[" not in inner


def _refuse(table: Relation, test: str, shows: str, column: str) -> None:
    found = table.first(test, shows)
    if found is not None:
        raise UserError(f"{found[0]}: --dense {column}: holds {found[1]}: {CURE}")
