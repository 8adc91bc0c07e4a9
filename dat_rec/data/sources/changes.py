"""What was added to a table since a version that a dataset was made of in, its rows in DuckDB out.

The table's library tells rows that came and rows that went (``DeltaChanges`` of delta.py,
``IcebergChanges`` of iceberg.py). What counts is what is left of them: of rows that are equal in
the columns that are read, those that went cancel those that came. So a row that was written and
deleted since, and one that was only written to another file, are nothing. If more went than came, a
row went that the dataset has counted, which cannot be taken back.
"""

from collections.abc import Sequence
from pathlib import Path

import duckdb

from dat_rec.data.source import named
from dat_rec.data.sources.snapshots import Snapshot, Version
from dat_rec.errors import NoRowsError, UserError

SIGN = "_change_sign"
"""Column of a ``Version`` of changes: 1 for a row that came, −1 for one that went."""


class Changes(Snapshot):
    """The rows of a table that came since a version.

    Args:
        path: the table, for messages.
        version: gives the changes, with the column ``SIGN``.
        role: what they are to prepare.
        after: the dataset that was made of the earlier version.
    """

    def __init__(self, path: str, version: Version, role: str, after: Path) -> None:
        super().__init__(path, version, role)
        self._after = after

    @property
    def names(self) -> list[str]:
        """The table's columns."""
        return [name for name in super().names if name != SIGN]

    def load(self, database: duckdb.DuckDBPyConnection, columns: Sequence[str]) -> str:
        """See Snapshot.

        Raises:
            NoRowsError: nothing is left of the changes.
            UserError: rows went that the dataset has counted.
        """
        columns = list(dict.fromkeys(columns))
        try:
            table = super().load(database, [*columns, SIGN])
        except NoRowsError as error:
            raise NoRowsError(f"{self.where}: no row is new") from error
        chosen = ", ".join(map(named, columns))
        database.execute(
            f"CREATE TABLE net_{table} AS SELECT {chosen}, sum({SIGN})::BIGINT AS _net "
            f"FROM {table} GROUP BY ALL HAVING _net <> 0; DROP TABLE {table}"
        )
        row = database.execute(
            "SELECT coalesce(sum(_net) FILTER (_net > 0), 0), "
            f"coalesce(-sum(_net) FILTER (_net < 0), 0) FROM net_{table}"
        ).fetchone()
        assert row is not None
        if row[1]:
            raise UserError(
                f"{self.where}: {row[1]} rows of {self._after} have been deleted or updated since, "
                "and what is counted cannot be taken back: prepare the whole table anew, without "
                "--after"
            )
        if not row[0]:
            raise NoRowsError(f"{self.where}: no row is new")
        database.execute(
            f"CREATE TABLE {table} AS SELECT {chosen}, row_number() OVER (ORDER BY {chosen}) "
            f"AS _source_row FROM (SELECT {chosen}, unnest(range(_net)) FROM net_{table}); "
            f"DROP TABLE net_{table}"
        )
        return table
