"""A user's Parquet and CSV files as DuckDB relations, with every row's file and number."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from dat_rec.data.scan import scan_csv, scan_parquet
from dat_rec.data.source import columns_of, named, quoted
from dat_rec.data.sources.aloud import say
from dat_rec.data.sources.folders import Folders
from dat_rec.data.sources.part_types import common_type, plain, sql_type
from dat_rec.data.sources.parts import Parts
from dat_rec.data.sources.snapshots import Snapshot
from dat_rec.errors import UserError

INTEGERS = (
    "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"
)  # fmt: skip
OWN_PLACE = "_source_file, _source_row"
"""The columns that ``parquet`` and ``delimited`` add; a user's file may well have a ``row``."""
WIDTH = "_source_width"
"""The column that ``parquet`` adds where it is asked to: 16 or 32 for floats of so many bits, else
64, whatever type the parts have in common."""
PLACE = "_source_file AS file, _source_row AS row"
"""The same under the names of the raw relations."""


@dataclass(frozen=True)
class Relation:
    """A user's file or files as a relation; as text, it is SQL to stand after FROM."""

    database: duckdb.DuckDBPyConnection
    where: str
    """What the user named: a file or a folder, for messages."""
    sql: str
    """With the columns OWN_PLACE."""
    types: dict[str, str]
    """Column name → type in DuckDB."""

    def __str__(self) -> str:
        return self.sql

    def first(self, test: str, *values: str) -> tuple[Any, ...] | None:
        """The first row for which SQL ``test`` holds: "FILE: row N", SQL ``values``; or none."""
        row = self.database.execute(
            f"SELECT {OWN_PLACE}, {', '.join(values)} FROM {self} WHERE {test} "
            "ORDER BY _source_file, _source_row LIMIT 1"
        ).fetchone()
        return row and (f"{row[0]}: row {row[1]}", *row[2:])


def parquet(
    database: duckdb.DuckDBPyConnection,
    source: Path | Parts | Snapshot,
    columns: Sequence[str],
    *,
    width_of: str | None = None,
) -> Relation:
    """These columns of a table, and OWN_PLACE (rows from 1).

    A column that no file has is read from the folders' names, if all files stand in folders
    ``column=value``.

    Args:
        database: reads the files' types; a snapshot's rows are copied into it.
        source: Parquet files, or a path that names them (see parts.py); or a version of a table.
        columns: those that must be there; no others are read.
        width_of: one of the columns; WIDTH says how many bits its numbers have in their file.

    Raises:
        UserError: no such file, no Parquet, or a column is missing, has a namesake, has types in
            two files that no one type holds, or another value than the folder's name says.
    """
    if isinstance(source, Snapshot):
        return _snapshot(database, source, columns, width_of)
    parts = source if isinstance(source, Parts) else Parts(source)
    schemas, folders = parts.schemas, parts.folders
    # A column that neither the files nor the folders have is refused by _require.
    held = {name for schema in schemas.values() for name in schema.names}
    inside = [n for n in dict.fromkeys(columns) if n in held or not folders.has(n)]
    parts.asked.update(inside)
    for names, file in {tuple(s.names): f for f, s in reversed(schemas.items())}.items():
        _require(file, inside, names)
        _refuse_namesakes(file, inside, names)
        for name in names:
            # Unlike `filename`, the option cannot be told another name for its column.
            if name.lower() in ("file_row_number", "_source_file", WIDTH):
                raise UserError(
                    f"{file}: column {name!r}: the name is kept for the reader: rename the column"
                )
    outside = {name: folders.sql(name) for name in columns if name not in inside}
    sql = _union(schemas, inside, outside, width_of)
    try:
        table = Relation(database, parts.where, sql, columns_of(database, sql))
        for name in filter(folders.below, inside):
            _refuse_clash(table, name, folders)
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{parts.where}: cannot be read as Parquet ({reason}): write it anew"
        ) from error
    for name in outside:
        say(f"{parts.where}: column {name!r} is read from the names of the folders")
    return table


def _snapshot(
    database: duckdb.DuckDBPyConnection,
    snapshot: Snapshot,
    columns: Sequence[str],
    width_of: str | None,
) -> Relation:
    _require(snapshot.where, columns, snapshot.names)
    _refuse_namesakes(snapshot.where, columns, snapshot.names)
    added = f"{quoted(snapshot.where)} AS _source_file, _source_row"
    if width_of is not None:
        added += f", {_width(snapshot.type_of(width_of))} AS {WIDTH}"
    chosen = ", ".join(named(column) for column in dict.fromkeys(columns))
    sql = f"(SELECT {chosen}, {added} FROM {snapshot.load(database, columns)})"
    return Relation(database, snapshot.where, sql, columns_of(database, sql))


def _width(type_: pa.DataType | None) -> int:
    """What WIDTH says of a file whose column has the type."""
    return type_.bit_width if type_ is not None and pa.types.is_floating(type_) else 64


def _union(
    schemas: dict[Path, pa.Schema],
    inside: Sequence[str],
    outside: dict[str, str],
    width_of: str | None,
) -> str:
    """SQL: all files, those with other types cast to the types that hold all values exactly."""
    own = {f: {n: plain(s.field(n).type) for n in inside} for f, s in schemas.items()}
    common = {n: common_type(n, [(file, types[n]) for file, types in own.items()]) for n in inside}
    # DuckDB casts the files of one call to the first one's types: those of one call are alike.
    groups: dict[tuple[str, ...], list[Path]] = {}
    for file, types in own.items():
        groups.setdefault(tuple(map(str, types.values())), []).append(file)
    added = [f"{sql} AS {named(name)}" for name, sql in outside.items()]
    added += ["_source_file", "file_row_number + 1 AS _source_row"]
    options = ", filename='_source_file', file_row_number=true"
    selects = []
    for files in groups.values():
        types = own[files[0]]
        read = [_cast(name, types[name], common[name]) for name in inside]
        if width_of is not None:
            read.append(f"{_width(types.get(width_of))} AS {WIDTH}")
        selects.append(f"SELECT {', '.join([*read, *added])} FROM {scan_parquet(files, options)}")
    return f"({' UNION ALL '.join(selects)})"


def _cast(name: str, own: pa.DataType, common: pa.DataType) -> str:
    target = None if own == common else sql_type(common)
    return named(name) if target is None else f"{named(name)}::{target} AS {named(name)}"


def _refuse_clash(table: Relation, name: str, folders: Folders) -> None:
    """Refuse a file whose column says another value than its folder's name."""
    said = f"({folders.text(name)})"
    read = f"try_cast({said} AS {table.types[name]})"
    if table.types[name] in INTEGERS:
        # DuckDB's own cast makes 4 of 3.6.
        read = f"CASE WHEN regexp_full_match({said}, '[+-]?\\d+') THEN {read} END"
    clash = table.first(
        f"{said} IS NOT NULL AND {read} IS DISTINCT FROM {named(name)}",
        f"{named(name)}::VARCHAR",
        said,
    )
    if clash is not None:
        place, value, folder = clash
        raise UserError(
            f"{place}: column {name!r} is {value}, and its folder says "
            f"{name}={folder}: rename the folder, or name another column"
        )


def delimited(
    database: duckdb.DuckDBPyConnection,
    path: Path,
    columns: Sequence[str],
    *,
    separator: str = ",",
    header: Sequence[str] | None = None,
) -> Relation:
    """These columns of the text file, all VARCHAR, and OWN_PLACE.

    A short row is filled with NULL. Data rows count from 1.

    Args:
        database: reads the file.
        path: a CSV file.
        columns: those that must be there; no others are read.
        separator: between the fields.
        header: the columns' names if the file's first line does not name them.

    Raises:
        UserError: no such file, it is empty, or a column is missing or has a namesake.
    """
    names = list(header) if header else _header(path, separator)
    _require(path, columns, names)
    _refuse_namesakes(path, names, names)
    types = ", ".join(f"{quoted(name)}: 'VARCHAR'" for name in names)
    chosen = ", ".join(named(column) for column in dict.fromkeys(columns))
    options = (
        f", auto_detect=false, header={header is None}, delim={quoted(separator)}, quote='\"', "
        f"escape='\"', null_padding=true, columns={{{types}}}"
    )
    sql = (
        f"(SELECT {chosen}, {quoted(path)} AS _source_file, "
        f"row_number() OVER () AS _source_row FROM {scan_csv(path, options)})"
    )
    return Relation(database, str(path), sql, dict.fromkeys(columns, "VARCHAR"))


def _header(path: Path, separator: str) -> list[str]:
    try:
        with path.open("rb") as file:
            line = file.readline().decode("utf-8-sig")
        names = next(csv.reader([line], delimiter=separator), [])
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: correct the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: line 1 is no CSV in UTF-8 ({error}): convert it") from error
    if not names:
        raise UserError(f"{path}: the file is empty: download it anew")
    # pandas leaves its index without a name.
    return [name or f"unnamed {position}" for position, name in enumerate(names)]


def _require(path: Path | str, columns: Sequence[str], found: Sequence[str]) -> None:
    for column in columns:
        if column not in found:
            raise UserError(
                f"{path}: column {column!r} is missing: it has {', '.join(found)}; "
                "name the right file or column"
            )


def _refuse_namesakes(path: Path | str, columns: Sequence[str], found: Sequence[str]) -> None:
    """DuckDB tells no ``Cat`` from ``cat``: it would read the first of them."""
    for column in columns:
        alike = [name for name in found if name.lower() == column.lower()]
        if len(alike) > 1:
            raise UserError(
                f"{path}: the columns {' and '.join(map(repr, alike))} have one name in DuckDB: "
                "rename one"
            )


def integer(column: str) -> str:
    """SQL: a text column as BIGINT, NULL where it is no integer.

    DuckDB's own cast makes 2 of 1.5 and 10 of 1e1.
    """
    name = named(column)
    whole = f"regexp_full_match(trim({name}), '[+-]?\\d+(\\.0+)?')"
    return f"CASE WHEN {whole} THEN try_cast({name} AS BIGINT) END"


def microseconds(units: str, in_one: int | str) -> str:
    """SQL: a time in units of so many microseconds (or SQL of it); NULL beyond int64."""
    return f"try(({units}) * {in_one})"


def number(column: str) -> str:
    """SQL: a text column as DOUBLE, NULL where it is no number."""
    return f"try_cast({named(column)} AS DOUBLE)"


def finite(option: str, value: float) -> float:
    """``value``.

    Raises:
        UserError: it is infinite or no number.
    """
    if not isfinite(value):
        raise UserError(f"{option} {value}: must be a finite number")
    return value


def at_least(value: str, least: float | str) -> str:
    """SQL: a number ≥ ``least``, or none that could be compared: that is for the checks to count.

    ``least`` may be SQL. DuckDB holds NaN ≥ x for true.
    """
    return f"NOT coalesce(isfinite({value}) AND {value} < {least}, false)"


def problem(
    *integers: str,
    time: str,
    numbers: Sequence[str] = (),
    needed: Sequence[str] = (),
) -> str:
    """SQL: the columns ``problem`` and ``value`` for text columns that must hold such values.

    Args:
        integers: columns of integers; where an id is missing is for the checks to say.
        time: a column which is the value where the checks find the time bad.
        numbers: columns of finite numbers.
        needed: columns that must not be empty.
    """
    wanted = [(name, f"coalesce({named(name)}, '') = ''", f"missing {name}") for name in needed]
    wanted += [
        (name, f"{named(name)} IS NOT NULL AND ({integer(name)}) IS NULL", f"{name} is no integer")
        for name in integers
    ]
    wanted += [
        (name, f"NOT coalesce(isfinite({number(name)}), false)", f"{name} is no number")
        for name in numbers
    ]
    kinds = "".join(f" WHEN {test} THEN {quoted(what)}" for _, test, what in wanted)
    values = "".join(f" WHEN {test} THEN {named(name)}" for name, test, _ in wanted)
    return f"CASE{kinds} END AS problem, CASE{values} ELSE {named(time)} END AS value"


NO_USERS = "CREATE VIEW raw_users AS SELECT user_id, file, row FROM raw_interactions WHERE false"
"""SQL: users of whom the interactions alone tell."""
NO_PROBLEM = "NULL::VARCHAR AS problem, NULL::VARCHAR AS value"
