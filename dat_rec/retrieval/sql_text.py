"""An SQL expression in, the columns that it names out; and what no restriction may ask for."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dat_rec.errors import UserError

if TYPE_CHECKING:
    import duckdb

ROW, KIND = "_dat_rec_row", "_dat_rec_kind"
"""Columns that filters add to the tables that they ask."""
MOST_QUOTED = 120
"""Maximum length of an expression in a message."""
MOST_LEVELS = 400
"""Of objects and lists in what DuckDB makes of an expression: two for each operator."""
PLAIN = {
    *("BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT"),
    *("FUNCTION", "OPERATOR", "TYPE"),
}
"""Classes of DuckDB's expressions that a plain condition is made of."""
CHEAP = {
    *("+", "-", "*", "/", "//", "%", "abs", "ceil", "floor", "greatest", "least", "round", "sign"),
    *("~~", "!~~", "~~*", "!~~*", "like_escape", "not_like_escape", "ilike_escape"),
    *("not_ilike_escape", "contains", "prefix", "suffix", "starts_with", "ends_with", "lower"),
    *("upper", "trim", "ltrim", "rtrim", "length", "strlen", "len", "left", "right", "substring"),
    *("list_contains", "list_has", "array_contains", "array_has", "list_has_any", "list_has_all"),
    *("list_value", "array_length", "list_position", "coalesce", "ifnull", "nullif", "isnan"),
    *("now", "today", "current_date", "date_part", "datepart", "date_trunc", "datetrunc", "trunc"),
    *("year", "month", "day", "hour", "date_diff", "datediff", "to_days", "to_hours", "to_minutes"),
    *("to_months", "to_years", "to_weeks", "to_seconds", "epoch"),
}
"""Functions whose time and memory follow what they are given: none makes much of little."""


def mentioned(names: Sequence[str], expression: object, option: str, who: str) -> list[str]:
    """The columns that an expression may use: those whose names stand in it; the first if none.

    Args:
        names: of all columns of a table.
        expression: of SQL, for which names that differ in case alone are the same.
        option: that gave it, for messages.
        who: what the table has a row of: items or users.

    Raises:
        UserError: it is no text in UTF-8, or names a column that is there twice, or one of ours.
    """
    if not isinstance(expression, str):
        raise UserError(
            f"{quoted(option, expression)}: is no text: write a condition, as 'price < 20'"
        )
    if any("\ud800" <= letter <= "\udfff" for letter in expression):
        raise UserError(f"{quoted(option, expression)}: is no UTF-8: write it anew")
    if ours := [one for one in (ROW, KIND) if one in expression.lower()]:
        raise UserError(
            f"{quoted(option, expression)}: {ours[0]} is the program's own: leave it out"
        )
    if taken := [name for name in names if name.lower() in (ROW, KIND)]:
        raise UserError(f"{quoted(option, expression)}: {who} have a column {taken[0]}: rename it")
    found = [name for name in names if _stands_in(name, expression)]
    first = {name.lower(): name for name in reversed(found)}
    for name in found:
        if (other := first[name.lower()]) != name:
            raise UserError(
                f"{quoted(option, expression)}: {who} have {other} and {name}, which are one name "
                "in SQL: rename one"
            )
    return found or list(names[:1])


def refuse_unsteady(database: "duckdb.DuckDBPyConnection", expression: str, option: str) -> None:
    """Refuse an expression whose value is another each time, or that takes columns by a pattern.

    Args:
        database: knows the functions.
        expression: of SQL, that the database takes.
        option: that gave it, for messages.

    Raises:
        UserError: it is one.
    """
    tree = _parsed(database, expression, option)
    sql = "SELECT function_name FROM duckdb_functions() WHERE stability = 'VOLATILE'"
    volatile = {name for (name,) in database.execute(sql).fetchall()}
    for node in _nodes(tree):
        if node.get("class") == "STAR" and node.get("columns"):
            raise UserError(f"{quoted(option, expression)}: COLUMNS names no column: name each")
        if (name := node.get("function_name")) in volatile:
            raise UserError(
                f"{quoted(option, expression)}: {name} is another each time: lists must not depend "
                "on when they are made"
            )


def refuse_costly(database: "duckdb.DuckDBPyConnection", expression: str, option: str) -> None:
    """Refuse what is no plain condition: DuckDB bounds neither time nor memory of a single value.

    Args:
        database: parses it.
        expression: of SQL, by somebody who is not trusted.
        option: that gave it, for messages.

    Raises:
        UserError: names what may not stand there.
    """
    tree = _parsed(database, expression, option)
    if tree["error"]:
        reason = " ".join(str(tree.get("error_message", "no SQL")).split())
        raise UserError(f"{quoted(option, expression)}: {reason}")
    selects = [node for node in _nodes(tree) if node.get("type") == "SELECT_NODE"]
    if len(selects) != 1 or selects[0]["from_table"]["type"] != "EMPTY":
        raise UserError(f"{quoted(option, expression)}: SELECT and FROM are not allowed here")
    for node in _nodes(tree):
        if (kind := node.get("class", "CONSTANT")) not in PLAIN:
            raise UserError(f"{quoted(option, expression)}: {kind.lower()} is not allowed here")
        if kind == "FUNCTION" and (name := node["function_name"].lower()) not in CHEAP:
            raise UserError(f"{quoted(option, expression)}: function {name} is not allowed here")


def _stands_in(name: str, expression: str) -> bool:
    written = re.escape(name.replace('"', '""'))
    return bool(re.search(rf"(?<!\w){written}(?!\w)", expression, re.IGNORECASE))


def quoted(option: str, expression: object) -> str:
    """An option and what it was given, as messages name them: of long ones the begin."""
    text = repr(expression)
    return f"{option} {text if len(text) <= MOST_QUOTED else text[:MOST_QUOTED] + '…'}"


def _parsed(database: "duckdb.DuckDBPyConnection", expression: str, option: str) -> dict[str, Any]:
    """What DuckDB makes of an expression.

    Raises:
        UserError: it is nested too deeply.
    """
    sql = "SELECT json_serialize_sql(?)"
    (text,) = database.execute(sql, [f"SELECT {expression}"]).fetchall()[0]
    reason = "is nested too deeply: write it flatter, as x IN (…)"
    try:
        tree: dict[str, Any] = json.loads(text)
    except RecursionError as error:
        raise UserError(f"{quoted(option, expression)}: {reason}") from error
    # How far Python recurses is another's to set: torch._inductor doubles it.
    if _levels(tree) > MOST_LEVELS:
        raise UserError(f"{quoted(option, expression)}: {reason}")
    return tree


def _levels(tree: Any) -> int:
    """How many objects and lists of a JSON value stand in each other, at most."""
    deepest, left = 0, [(tree, 1)]
    while left:
        one, level = left.pop()
        if isinstance(one, dict | list):
            deepest = max(deepest, level)
            inner = one.values() if isinstance(one, dict) else one
            left += ((value, level + 1) for value in inner)
    return deepest


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All objects of a JSON value, each before those that it holds."""
    left = [tree]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            yield one
            left += reversed(one.values())
        elif isinstance(one, list):
            left += reversed(one)
