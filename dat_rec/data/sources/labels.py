"""The column that tells how good an interaction was in, SQL of which ones are positives out.

A row without a label is read too: the checks count it as bad.
"""

import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb

from dat_rec.data.source import named, quoted
from dat_rec.data.sources.feature_kinds import is_number
from dat_rec.data.sources.tables import INTEGERS, WIDTH, at_least
from dat_rec.errors import UserError

SHOWN = 8
"""Maximum number of a label's values that a message shows."""


@dataclass(frozen=True)
class Labels:
    """One column of labels.

    Each method gives SQL twice: a WHERE of the rows to read, and whether one of them lacks its
    label.
    """

    database: duckdb.DuckDBPyConnection
    log: str
    """SQL to stand after FROM, of ``tables.parquet`` with ``width_of`` the column."""
    path: Path
    """The log, for messages."""
    column: str
    type_: str
    """The column's type in DuckDB."""

    def at_least(self, least: float) -> tuple[str, str]:
        """Positives are the labels of at least ``least``.

        Raises:
            UserError: the column holds no numbers.
        """
        column = named(self.column)
        if not is_number(self.type_):
            if self.type_ == "VARCHAR":
                raise UserError(
                    f"{self.path}: label {self.column!r} is text: name its positives by "
                    f"--positive-labels; it holds {self._values()}"
                )
            raise UserError(
                f"{self.path}: label {self.column!r} is {self.type_}: name a number or text"
            )
        label = f"{column}::DOUBLE"
        bound = repr(least)
        if self.type_ in ("FLOAT", "DOUBLE"):
            # 4.1 in 32 bits is less than 4.1 in 64: each file's labels are compared in its width.
            narrow = "".join(f" WHEN {width} THEN {_rounded(least, width)!r}" for width in (16, 32))
            bound = f"CASE {WIDTH}{narrow} ELSE {bound} END::DOUBLE"
        return f"WHERE {at_least(label, bound)}", f"NOT coalesce(isfinite({label}), false)"

    def among(self, positives: tuple[str, ...]) -> tuple[str, str]:
        """Positives are the labels that are named.

        Raises:
            UserError: the column holds neither text nor integers, or no row has one of the labels.
        """
        column = named(self.column)
        if self.type_ not in ("VARCHAR", "BOOLEAN", *INTEGERS):
            raise UserError(
                f"--positive-labels: {self.path}: label {self.column!r} is {self.type_}: "
                "name a column of text or integers, or pass --min-label"
            )
        # As True or TRUE stand elsewhere, so may they here.
        given = {label.lower() if self.type_ == "BOOLEAN" else label: label for label in positives}
        wanted = ", ".join(quoted(label) for label in given)
        test = f"{column}::VARCHAR IN ({wanted})"
        found = self.database.execute(
            f"SELECT DISTINCT {column}::VARCHAR FROM {self.log} WHERE {test}"
        )
        absent = given.keys() - {row[0] for row in found.fetchall()}
        if absent:
            raise UserError(
                f"--positive-labels {given[min(absent)]}: {self.path}: no row has it: "
                f"{self.column!r} holds {self._values()}: correct or leave it out"
            )
        missing = f"coalesce({column}::VARCHAR, '') = ''"
        return f"WHERE {missing} OR {test}", missing

    def _values(self) -> str:
        """The most frequent labels, for a message."""
        column = named(self.column)
        rows = self.database.execute(
            f"SELECT {column}::VARCHAR, count(*) FROM {self.log} WHERE {column} IS NOT NULL "
            f"GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {SHOWN + 1}"
        ).fetchall()
        more = ", …" if len(rows) > SHOWN else ""
        return ", ".join(str(row[0])[:40] for row in rows[:SHOWN]) + more


def _rounded(number: float, width: int) -> float:
    """The float of ``width`` bits next to ``number``; ``number`` itself if none is that large."""
    code = {16: "<e", 32: "<f"}[width]
    with suppress(OverflowError):
        return float(struct.unpack(code, struct.pack(code, number))[0])
    return number
