"""Raw relations in, clean ones out: bad rows are counted by kind, and located.

In: raw_interactions, raw_items, raw_users (see source.py). Out: ``interactions`` (user_id, item_id,
time, row, and what the split reads), ``items`` and ``users``, without a bad row.
"""

from collections import Counter
from dataclasses import dataclass

import duckdb

from dat_rec.data.database import count_rows
from dat_rec.data.source import columns_of, named
from dat_rec.errors import NoRowsError, UserError

ID_TYPES = ("BIGINT", "VARCHAR")

LATE = "late: before the end of the dataset of --after"
CURES = {
    "missing": "fill it in or remove the row",
    "negative": "ids count from 0: correct the id or remove the row; hashes are read as text "
    "(--text-ids of parquet, or CAST(… AS VARCHAR))",
    "item not in the catalogue": "add the item to the items table or remove the row",
    "duplicate": "keep one row for each id",
    "time in another form": "write all times in one form or remove the row",
    LATE: "leave the days of that dataset out (--from of parquet)",
}
OTHER_CURE = "correct or remove the row"


@dataclass(frozen=True)
class Counts:
    """How many rows the checks read and rejected."""

    interactions_read: int
    """Number of rows of raw_interactions, the rejected ones included."""
    rejected: dict[str, int]
    """Number of rejected rows by kind, in all three relations."""


def reject_bad_rows(
    database: duckdb.DuckDBPyConnection,
    max_rejected: float,
    known_items: str | None = None,
    begin: int | None = None,
) -> Counts:
    """Make the clean relations.

    Args:
        database: holds the raw relations.
        max_rejected: maximum share of bad rows.
        known_items: relation of items (item_id) that are in the catalogue beside ``raw_items``.
        begin: time before which an interaction is too late to be taken; None: there is none.

    Raises:
        NoRowsError: there are no interactions.
        UserError: there are no items, a relation has wrong types, or more than the share
            ``max_rejected`` of its rows are bad: names the first one's file, row, kind, value and
            the cure.
    """
    types = {
        name: columns_of(database, f"raw_{name}") for name in ("interactions", "items", "users")
    }
    for side in ("user", "item"):
        key, table = f"{side}_id", f"{side}s"
        if types["interactions"][key] != types[table][key]:
            raise UserError(
                f"{key} is {types['interactions'][key]} in the interactions and "
                f"{types[table][key]} in the {table} table: write both with the same type"
            )
        if types[table][key] not in ID_TYPES:
            raise UserError(f"{key} is {types[table][key]}: write it as an integer or a string")
    rejected: Counter[str] = Counter()
    read = 0
    for name in ("items", "users", "interactions"):
        columns = types[name]
        kind = (
            _kind_of_interaction(columns, known_items, begin)
            if name == "interactions"
            else _kind_of_row(name, columns)
        )
        may_be_empty = name == "users" or (name == "items" and known_items is not None)
        read = _check_table(
            database, name, kind, columns, max_rejected, rejected, may_be_empty=may_be_empty
        )
    return Counts(read, dict(sorted(rejected.items())))


def _bad_id(column: str, columns: dict[str, str], where: str = "") -> str:
    sql = f"WHEN {column} IS NULL"
    if columns[column] == "VARCHAR":
        sql += f" OR {column} = ''"
    sql += f" THEN 'missing {column}{where}'"
    if columns[column] == "BIGINT":
        sql += f" WHEN {column} < 0 THEN 'negative {column}{where}'"
    return sql


def _kind_of_interaction(
    columns: dict[str, str], known_items: str | None, begin: int | None
) -> str:
    """SQL: NULL for a good row, else what is wrong with it."""
    late = "" if begin is None else f"WHEN time < {begin} THEN '{LATE}' "
    known = (
        "" if known_items is None else f" AND item_id NOT IN (SELECT item_id FROM {known_items})"
    )
    return (
        f"CASE WHEN problem IS NOT NULL THEN problem {_bad_id('user_id', columns)} "
        f"{_bad_id('item_id', columns)} WHEN time IS NULL THEN 'unparsable time' "
        f"{late}WHEN item_id NOT IN (SELECT item_id FROM items){known} "
        "THEN 'item not in the catalogue' END"
    )


def _kind_of_row(name: str, columns: dict[str, str]) -> str:
    key = f"{name[:-1]}_id"
    own = f"WHEN problem IS NOT NULL THEN problem || ' in {name}' " if "problem" in columns else ""
    return (
        f"CASE {own}{_bad_id(key, columns, f' in {name}')} "
        f"WHEN row_number() OVER (PARTITION BY {key} ORDER BY file, row) > 1 "
        f"THEN 'duplicate {key} in {name}' END"
    )


def _check_table(
    database: duckdb.DuckDBPyConnection,
    name: str,
    kind: str,
    columns: dict[str, str],
    max_rejected: float,
    rejected: Counter[str],
    *,
    may_be_empty: bool,
) -> int:
    """Make ``name`` of raw_``name``, count its bad rows, and return the rows read."""
    if name == "interactions":
        value = (
            "CASE WHEN problem IS NOT NULL OR _kind = 'unparsable time' THEN value "
            f"WHEN _kind = '{LATE}' THEN coalesce(value::VARCHAR, time::VARCHAR) "
            "WHEN _kind LIKE '%user_id' THEN user_id::VARCHAR ELSE item_id::VARCHAR END"
        )
    else:
        value = f"{name[:-1]}_id::VARCHAR"
        if "problem" in columns:
            value = f"CASE WHEN problem IS NOT NULL THEN value ELSE {value} END"
    kept = ", ".join(named(c) for c in columns if c not in ("file", "problem", "value"))
    # A view leaves the bad rows out, so that a long log is written once.
    database.execute(
        f"CREATE TABLE checked_{name} AS SELECT {kept}, _kind, "
        "CASE WHEN _kind IS NOT NULL THEN file END AS _bad_file, "
        f"CASE WHEN _kind IS NOT NULL THEN coalesce({value}, 'nothing') END AS _bad_value "
        f"FROM (SELECT *, {kind} AS _kind FROM raw_{name}); "
        f"CREATE VIEW {name} AS SELECT {kept} FROM checked_{name} WHERE _kind IS NULL"
    )
    counts = database.execute(
        f"SELECT _kind, count(*) FROM checked_{name} GROUP BY _kind"
    ).fetchall()
    rows = sum(int(count) for _, count in counts)
    bad = {str(kind): count for kind, count in counts if kind is not None}
    if rows == 0 and not may_be_empty:
        # Without a catalogue, the items are those of the interactions.
        error = UserError if count_rows(database, "raw_interactions") else NoRowsError
        raise error(f"the {name} are empty: check the input, its label and its filters")
    if bad and sum(bad.values()) > max_rejected * rows:
        raise _too_many(database, name, bad, rows, max_rejected)
    rejected.update(bad)
    return rows


def _too_many(
    database: duckdb.DuckDBPyConnection,
    name: str,
    bad: dict[str, int],
    rows: int,
    max_rejected: float,
) -> UserError:
    first = database.execute(
        f"SELECT _bad_file, row, _kind, _bad_value FROM checked_{name} WHERE _kind IS NOT NULL "
        "ORDER BY _bad_file, row LIMIT 1"
    ).fetchone()
    assert first is not None
    file, row, kind, value = first
    cure = next((text for start, text in CURES.items() if kind.startswith(start)), OTHER_CURE)
    total = sum(bad.values())
    return UserError(
        f"{file}: row {row}: {kind} (value: {value}): {cure}. {total} of {rows} rows of the {name} "
        f"are bad, over the limit of {max_rejected:.2%} (--max-rejected)"
    )
