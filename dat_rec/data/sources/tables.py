"""A user's Parquet and CSV files as DuckDB relations, with every row's file and number."""

import csv
from collections.abc import Sequence
from pathlib import Path

import duckdb

from dat_rec.data.source import columns_of, named, quoted
from dat_rec.errors import UserError

INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
PLACE = "file, row"
"""The columns that ``parquet`` and ``delimited`` add."""


def parquet(database: duckdb.DuckDBPyConnection, path: Path, columns: Sequence[str]) -> str:
    """SQL to stand after FROM: the Parquet file's rows, with ``file`` and ``row`` (from 1).

    Args:
        database: reads the file's schema.
        path: a Parquet file, or a folder of them.
        columns: those that must be there.

    Raises:
        UserError: no such file, no Parquet, no rows, or a column is missing.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file: correct the path")
    pattern = path / "*.parquet" if path.is_dir() else path
    read = f"read_parquet({quoted(pattern)}, filename=true, file_row_number=true)"
    relation = f"(SELECT *, filename AS file, file_row_number + 1 AS row FROM {read})"
    try:
        found = columns_of(database, relation)
    except (duckdb.IOException, duckdb.InvalidInputException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as Parquet ({reason}): write it anew") from error
    _require(path, columns, found)
    return relation


def delimited(
    path: Path,
    columns: Sequence[str],
    *,
    separator: str = ",",
    header: Sequence[str] | None = None,
) -> str:
    """SQL to stand after FROM: the text file's rows, all VARCHAR, with ``file`` and ``row``.

    A short row is filled with NULL. ``row`` counts data rows from 1.

    Args:
        path: a CSV file, plain or .gz.
        columns: those that must be there.
        separator: between the fields.
        header: the columns' names if the file's first line does not name them.

    Raises:
        UserError: no such file, it is empty, or a column is missing.
    """
    names = list(header) if header else _header(path, separator)
    _require(path, columns, names)
    types = ", ".join(f"{quoted(name)}: 'VARCHAR'" for name in names)
    read = (
        f"read_csv({quoted(path)}, auto_detect=false, header={header is None}, "
        f"delim={quoted(separator)}, quote='\"', escape='\"', null_padding=true, "
        f"columns={{{types}}})"
    )
    return f"(SELECT *, {quoted(path)} AS file, row_number() OVER () AS row FROM {read})"


def _header(path: Path, separator: str) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader(file, delimiter=separator), [])
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: correct the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}): convert it") from error
    if not names:
        raise UserError(f"{path}: the file is empty: download it anew")
    return names


def _require(path: Path, columns: Sequence[str], found: Sequence[str] | dict[str, str]) -> None:
    for column in columns:
        if column not in found:
            raise UserError(
                f"{path}: column {column!r} is missing: it has {', '.join(found)}; "
                "name the right file or column"
            )


def integer(column: str) -> str:
    """SQL: a text column as BIGINT, NULL where it is no integer."""
    return f"try_cast({named(column)} AS BIGINT)"


def problem(*integers: str, numbers: Sequence[str] = ()) -> str:
    """SQL: the columns ``problem`` and ``value`` for text columns that must hold such values."""
    wanted = [(name, "BIGINT", "no integer") for name in integers]
    wanted += [(name, "DOUBLE", "no number") for name in numbers]
    kinds, values = "", ""
    for name, type_, what in wanted:
        column = named(name)
        test = f"WHEN {column} IS NOT NULL AND try_cast({column} AS {type_}) IS NULL THEN"
        kinds += f" {test} {quoted(f'{name} is {what}')}"
        values += f" {test} {column}"
    return f"CASE{kinds} END AS problem, CASE{values} END AS value"


NO_PROBLEM = "NULL::VARCHAR AS problem, NULL::VARCHAR AS value"
