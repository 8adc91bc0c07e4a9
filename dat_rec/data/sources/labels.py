"""The column that tells how good an interaction was in, SQL of which ones are positives out.

A row without a label is read too: the checks count it as bad.
"""

import struct
from contextlib import suppress

from dat_rec.data.source import named, quoted
from dat_rec.data.sources.feature_kinds import is_number
from dat_rec.data.sources.tables import INTEGERS, WIDTH, Relation, at_least
from dat_rec.errors import UserError

POSITIVE = "--positive-labels"
SHOWN = 8
"""Maximum number of a label's values that a message shows."""


Positives = tuple[str, str]
"""SQL: a WHERE of the rows to read, and whether one of them lacks its label."""


def labels_from(table: Relation, column: str, least: float) -> Positives:
    """Positives are the labels of at least ``least``.

    Args:
        table: of ``tables.parquet`` with ``width_of`` the column.
        column: that of the labels.
        least: minimum label of a positive.

    Raises:
        UserError: the column holds no numbers.
    """
    type_ = table.types[column]
    if not is_number(type_):
        what = f"{type_}: name a number or text"
        if type_ == "VARCHAR":
            held = _values(table, column)
            what = f"text: name its positives by --positive-labels; it holds {held}"
        raise UserError(f"{table.where}: label {column!r} is {what}")
    label = f"{named(column)}::DOUBLE"
    bound = repr(least)
    if type_ in ("FLOAT", "DOUBLE"):
        # 4.1 in 32 bits is less than 4.1 in 64: each file's labels are compared in its width.
        narrow = "".join(f" WHEN {width} THEN {_rounded(least, width)!r}" for width in (16, 32))
        bound = f"CASE {WIDTH}{narrow} ELSE {bound} END::DOUBLE"
    return f"WHERE {at_least(label, bound)}", f"NOT coalesce(isfinite({label}), false)"


def labels_among(
    table: Relation,
    column: str,
    positives: tuple[str, ...],
    *,
    option: str = POSITIVE,
    may_lack: bool = False,
) -> Positives:
    """Positives are the labels that are named.

    Args:
        table: of ``tables.parquet``.
        column: that of the labels.
        positives: the labels.
        option: that names them.
        may_lack: whether no row need have one of the labels.

    Raises:
        UserError: the column holds neither text nor integers, or no row has one of the labels and
            that is not allowed.
    """
    type_, text = table.types[column], f"{named(column)}::VARCHAR"
    if type_ not in ("VARCHAR", "BOOLEAN", *INTEGERS):
        raise UserError(
            f"{option}: {table.where}: label {column!r} is {type_}: "
            "name a column of text or integers"
            f"{', or pass --min-label' if option == POSITIVE else ''}"
        )
    # As True or TRUE stand elsewhere, so may they here.
    given = {label.lower() if type_ == "BOOLEAN" else label: label for label in positives}
    test = f"{text} IN ({', '.join(quoted(label) for label in given)})"
    if not may_lack:
        _refuse_absent(table, column, given, test, option)
    missing = f"coalesce({text}, '') = ''"
    return f"WHERE {missing} OR {test}", missing


def _refuse_absent(
    table: Relation, column: str, given: dict[str, str], test: str, option: str
) -> None:
    text = f"{named(column)}::VARCHAR"
    found = table.database.execute(f"SELECT DISTINCT {text} FROM {table} WHERE {test}").fetchall()
    absent = given.keys() - {row[0] for row in found}
    if absent:
        raise UserError(
            f"{option} {given[min(absent)]}: {table.where}: no row has it: "
            f"{column!r} holds {_values(table, column)}: correct or leave it out"
        )


def _values(table: Relation, column: str) -> str:
    """The most frequent labels, for a message."""
    rows = table.database.execute(
        f"SELECT {named(column)}::VARCHAR, count(*) FROM {table} "
        f"WHERE {named(column)} IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {SHOWN + 1}"
    ).fetchall()
    more = ", …" if len(rows) > SHOWN else ""
    return ", ".join(" ".join(str(row[0]).split())[:40] for row in rows[:SHOWN]) + more


def _rounded(number: float, width: int) -> float:
    """The float of ``width`` bits next to ``number``; ``number`` itself if none is that large."""
    code = {16: "<e", 32: "<f"}[width]
    with suppress(OverflowError):
        return float(struct.unpack(code, struct.pack(code, number))[0])
    return number
