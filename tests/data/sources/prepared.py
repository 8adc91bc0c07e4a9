"""Logs written and prepared, the folder decoded into plain rows, and the refusal of bad input."""

from collections import Counter
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.prepare.checks import reject_bad_rows
from dat_rec.data.prepare.options import Options
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.schema import AUDIENCE, HISTORY, ITEM, USER
from dat_rec.data.sources.parquet_log import ParquetLog
from dat_rec.data.sources.tables import parquet
from dat_rec.errors import UserError

Row = dict[str, Any]
Triple = tuple[Any, Any, int]
"""User, item and time."""


def by_time(rows: Iterable[Triple]) -> list[Triple]:
    return sorted(rows, key=lambda row: (row[2], row[0], row[1]))


def last_of_each_user(rows: list[Triple]) -> tuple[list[Triple], list[Triple]]:
    """Train and test by time; of equal times the later row is the last; an only one is trained.

    Rows that are equal in all are one.
    """
    last: dict[Any, Triple] = {}
    for row in rows:
        if row[0] not in last or row[2] >= last[row[0]][2]:
            last[row[0]] = row
    counts = Counter(user for user, _, _ in set(rows))
    held = {row for user, row in last.items() if counts[user] > 1}
    return by_time(row for row in rows if row not in held), by_time(r for r in rows if r in held)


def write(path: Path, **columns: Any) -> Path:
    """A Parquet file of the columns."""
    pq.write_table(pa.table(columns), path)
    return path


def own(folder: Path, **changes: Any) -> ParquetLog:
    """The options that make log.parquet of the folder the dataset ``out``."""
    return ParquetLog(**{"out": folder / "out", "interactions": folder / "log.parquet", **changes})


def digest(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file, by its path in the folder."""
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def read(path: Path, *columns: str) -> list[tuple[Any, ...]]:
    """The columns of a Parquet file or folder as ``tables.parquet`` reads them, by file and row."""
    with duckdb.connect() as database:
        table = parquet(database, path, [name for name in columns if name[0] != "_"])
        query = f"SELECT {', '.join(columns)} FROM {table} ORDER BY _source_file, _source_row"
        return database.execute(query).fetchall()


def raw(options: Options, *columns: str) -> list[tuple[Any, ...]]:
    """The columns of ``raw_interactions`` by file and row: what the source reads, unchecked."""
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        options.register(database, options.out.parent)
        query = f"SELECT {', '.join(columns)} FROM raw_interactions ORDER BY file, row"
        return database.execute(query).fetchall()


def bad_rows(options: Options) -> list[tuple[Any, ...]]:
    """(file, row, kind, value) of each bad interaction, where the error names the first alone."""
    with duckdb.connect() as database:
        options.register(database, options.out.parent)
        error_of(reject_bad_rows, database, 0.0)
        # The table of the last check, which stays where an error ends it.
        tables = "SELECT table_name FROM duckdb_tables() WHERE table_name LIKE 'checked%'"
        (name,) = database.execute(f"{tables} ORDER BY table_oid DESC LIMIT 1").fetchall()[0]
        return database.execute(
            f"SELECT _bad_file, row, _kind, _bad_value FROM {name} WHERE _kind IS NOT NULL "
            "ORDER BY _bad_file, row"
        ).fetchall()


class Prepared:
    """``prepare(options)``, with ids and words where the files hold numbers.

    A row of ``users``, ``items``, ``train``, ``test`` and ``validation`` has the attributes as
    text, the history as item ids, the audience as user ids, and the history's categories as words.
    """

    def __init__(self, options: Options) -> None:
        self.schema = prepare(options)
        self._folder = options.out
        self._words: dict[str, list[str | None]] = {}
        for feature in self.schema.features:
            if feature.table not in (USER, ITEM):
                vocabulary = self._rows(f"vocabularies/{feature.table}.parquet")
                self._words[feature.name] = [row["value"] for row in vocabulary]
        user_rows, item_rows = self._rows("users.parquet"), self._rows("items.parquet")
        self._item_ids = [row["item_id"] for row in item_rows]
        self._user_ids = [row["user_id"] for row in user_rows]
        self.users = {row["user_id"]: self._decode(row) for row in user_rows}
        self.items = {row["item_id"]: self._decode(row) for row in item_rows}
        self.train = [
            {
                **self._decode(row),
                "user_id": self._user_ids[row["user"] - 1],
                "item_id": self._item_ids[row["item_index"]],
            }
            for row in self._rows("examples")
        ]
        self.test = self._held_out("test.parquet")
        self.validation = self._held_out("validation.parquet") if self.schema.validation else []

    def triples(self, part: str) -> list[Triple]:
        """(user, item, time) of ``train``, ``test`` or ``validation``, by time."""
        rows = getattr(self, part)
        return by_time((row["user_id"], row["item_id"], row["time"]) for row in rows)

    def attributes(self, item_id: Any, *names: str) -> tuple[Any, ...]:
        """An item's attributes."""
        return tuple(self.items[item_id][name] for name in names)

    def _held_out(self, name: str) -> list[Row]:
        return [
            {
                "user_id": self._user_ids[row["user_row"]],
                "item_id": self._item_ids[row["item_index"]],
                "time": row["time"],
            }
            for row in self._rows(name)
        ]

    def _rows(self, name: str) -> list[Row]:
        rows: list[Row] = pq.read_table(self._folder / name).to_pylist()
        return rows

    def _decode(self, row: Row) -> Row:
        decoded = dict(row)
        for feature in self.schema.features:
            if feature.name not in row:
                continue
            value = row[feature.name]
            if feature.name == HISTORY:
                decoded[HISTORY] = [self._item_ids[number - 1] for number in value]
            elif feature.name == AUDIENCE:
                decoded[AUDIENCE] = [self._user_ids[number - 1] for number in value]
            elif feature.name in self._words:
                words = self._words[feature.name]
                numbers = value if feature.multi_valued else [value]
                found = [words[number] for number in numbers]
                decoded[feature.name] = found if feature.multi_valued else found[0]
        return decoded


def error_of(call: Callable[..., object], *arguments: object) -> str:
    """The one line of the UserError that the call raises."""
    with pytest.raises(UserError) as error:
        call(*arguments)
    message = str(error.value)
    assert "\n" not in message
    return message


def refused(options: Options, *words: str) -> str:
    """The error: one line that holds all words; and nothing is left where OUT would stand."""
    before = _beside(options.out)
    message = error_of(prepare, options)
    for word in words:
        assert word in message, message
    assert _beside(options.out) == before
    return message


def _beside(path: Path) -> set[str]:
    return {entry.name for entry in path.parent.iterdir()}
