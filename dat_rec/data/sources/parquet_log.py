"""The user's own Parquet files: interactions, and items and users if there are any.

Which column holds what is said on the command line. The type of an attribute's column decides
how it is read (feature_kinds.py).
"""

import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb

from dat_rec.data.prepare import Options
from dat_rec.data.schema import Side
from dat_rec.data.source import (
    Attribute,
    Source,
    Split,
    columns_of,
    last_share_of_time,
    named,
    quoted,
)
from dat_rec.data.sources.feature_kinds import is_number, kind_of
from dat_rec.data.sources.tables import INTEGERS, OWN_PLACE, PLACE, at_least, finite, parquet
from dat_rec.errors import UserError

NO_CATEGORY = "category"
INT64_MAX = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class ParquetLog(Options):
    """Your own Parquet files, with a mapping of their columns."""

    interactions: Path
    """File, or folder with Parquet files at any depth: one row for each interaction. Of folders
    called COLUMN=VALUE (partitions), a column that the files lack is read."""
    items: Path | None = None
    """The catalogue, one row for each item; without it, the items of the interactions."""
    users: Path | None = None
    """One row for each user; without it, users have no attributes."""
    user_id: str = "user_id"
    """Column of the user's id, in interactions and users: an integer from 0, or text."""
    item_id: str = "item_id"
    """Column of the item's id, in interactions and items: an integer from 0, or text."""
    time: str = "time"
    """Column of the interactions' time: timestamp, date, text of one, or integers in order."""
    title: str | None = None
    """Column of items that names an item to a reader."""
    category: str | None = None
    """Column of items that is the category (category alignment, metrics by category)."""
    user_features: tuple[str, ...] = ()
    """Columns of users that become query features."""
    item_features: tuple[str, ...] = ()
    """Columns of items that become item features, besides the category."""
    numbers: tuple[str, ...] = ()
    """Features among these two that are integers to be cut into quantile buckets."""
    label: str | None = None
    """Column of the interactions that tells how good one was; without it, all are positives."""
    min_label: float = 1.0
    """Interactions with a label of at least this are positives; the others are left out."""
    test_share: float = 0.1
    """Share of the interactions, the last by time, that is held out."""
    test_from: str | None = None
    """Hold out all from this time on instead: a timestamp, or an integer if times are integers."""

    def register(self, database: duckdb.DuckDBPyConnection, work: Path) -> Source:  # noqa: ARG002
        """See Options."""
        self._check()
        time_type = self._register_interactions(database)
        attributes = self._register_items(database) + self._register_users(database)
        unknown = set(self.numbers) - {attribute.name for attribute in attributes}
        if unknown:
            raise UserError(
                f"--numbers {sorted(unknown)[0]}: is not among the features: name it there"
            )
        positives = f"{self.label} >= {self.min_label:g}" if self.label else "all"
        return Source(
            name="parquet",
            category=self.category or NO_CATEGORY,
            attributes=tuple(attributes),
            split=self._split(database, time_type),
            notes=(f"positives: {positives}",),
        )

    def _check(self) -> None:
        finite("--min-label", self.min_label)
        for field in ("category", "title", "item_features"):
            if self.items is None and getattr(self, field):
                raise UserError(f"--{field.replace('_', '-')} needs --items: name the items' file")
        if self.users is None and self.user_features:
            raise UserError("--user-features needs --users: name the users' file")
        if self.category in self.item_features:
            raise UserError(f"--item-features {self.category}: is the category already: remove it")
        if self.category is None and NO_CATEGORY in self.item_features:
            raise UserError(f"--item-features {NO_CATEGORY}: pass it as --category {NO_CATEGORY}")

    def _register_interactions(self, database: duckdb.DuckDBPyConnection) -> str:
        columns = [self.user_id, self.item_id, self.time, *([self.label] if self.label else [])]
        log = parquet(database, self.interactions, columns)
        types = columns_of(database, log)
        where, problem = self._label(types)
        database.execute(
            f"CREATE VIEW raw_interactions AS SELECT "
            f"{_id(database, log, self.user_id, types)} AS user_id, "
            f"{_id(database, log, self.item_id, types)} AS item_id, "
            f"{_microseconds(named(self.time), types[self.time], self.interactions)} AS time, "
            f"{problem}, {PLACE} FROM {log} {where}"
        )
        return types[self.time]

    def _label(self, types: dict[str, str]) -> tuple[str, str]:
        """SQL: which rows to read, and the columns ``problem`` and ``value``."""
        text = f"{named(self.time)}::VARCHAR"
        if self.label is None:
            return "", f"NULL::VARCHAR AS problem, {text} AS value"
        if not is_number(types[self.label]):
            raise UserError(
                f"{self.interactions}: label {self.label!r} is {types[self.label]}: name a number"
            )
        label = f"{named(self.label)}::DOUBLE"
        missing = f"NOT coalesce(isfinite({label}), false)"
        least = self.min_label
        if types[self.label] == "FLOAT":
            # 4.1 in 32 bits is less than 4.1 in 64. What overflows is beyond all labels as it is.
            with suppress(OverflowError):
                least = struct.unpack("<f", struct.pack("<f", least))[0]
        return f"WHERE {at_least(label, least)}", (
            f"CASE WHEN {missing} THEN 'missing label' END AS problem, "
            f"CASE WHEN {missing} THEN {named(self.label)}::VARCHAR ELSE {text} END AS value"
        )

    def _register_items(self, database: duckdb.DuckDBPyConnection) -> list[Attribute]:
        if self.items is None:
            # Ids that no catalogue can list are left to the checks of the interactions.
            type_ = columns_of(database, "raw_interactions")["item_id"]
            listed = {"BIGINT": " AND item_id >= 0", "VARCHAR": " AND item_id <> ''"}.get(type_, "")
            database.execute(
                "CREATE VIEW raw_items AS SELECT item_id, item_id::VARCHAR AS title, "
                f"NULL::VARCHAR AS {NO_CATEGORY}, min(file) AS file, min(row) AS row "
                f"FROM raw_interactions WHERE item_id IS NOT NULL{listed} GROUP BY item_id"
            )
            return [Attribute(NO_CATEGORY, "item")]
        names = [*([self.category] if self.category else []), *self.item_features]
        needed = [self.item_id, *names, *([self.title] if self.title else [])]
        table = parquet(database, self.items, needed)
        types = columns_of(database, table)
        extra = "" if self.category else f", NULL::VARCHAR AS {NO_CATEGORY}"
        title = f"{named(self.title)}::VARCHAR" if self.title else f"{named(self.item_id)}::VARCHAR"
        chosen = "".join(f", {named(name)}" for name in names)
        attributes = [self._attribute(name, "item", types) for name in names]
        if not self.category:
            attributes.insert(0, Attribute(NO_CATEGORY, "item"))
        elif attributes[0].kind != "category":
            raise UserError(
                f"{self.items}: category {self.category!r} is {types[self.category]}: "
                "name a column of text or integers"
            )
        item_id = _id(database, table, self.item_id, types)
        database.execute(
            f"CREATE VIEW raw_items AS SELECT {item_id} AS item_id, "
            f"{title} AS title{extra}{chosen}, {PLACE} FROM {table}"
        )
        return attributes

    def _register_users(self, database: duckdb.DuckDBPyConnection) -> list[Attribute]:
        if self.users is None:
            database.execute(
                "CREATE VIEW raw_users AS SELECT user_id, file, row "
                "FROM raw_interactions WHERE false"
            )
            return []
        table = parquet(database, self.users, [self.user_id, *self.user_features])
        types = columns_of(database, table)
        chosen = "".join(f", {named(name)}" for name in self.user_features)
        attributes = [self._attribute(name, "query", types) for name in self.user_features]
        user_id = _id(database, table, self.user_id, types)
        database.execute(
            f"CREATE VIEW raw_users AS SELECT {user_id} AS user_id{chosen}, {PLACE} FROM {table}"
        )
        return attributes

    def _attribute(self, name: str, side: Side, types: dict[str, str]) -> Attribute:
        path = self.items if side == "item" else self.users
        return Attribute(name, side, kind_of(name, types[name], self.numbers, path))

    def _split(self, database: duckdb.DuckDBPyConnection, time_type: str) -> Split:
        if self.test_from is None:
            return last_share_of_time(self.test_share)
        text = quoted(self.test_from)
        whole = time_type in INTEGERS
        sql = f"try_cast({text} AS BIGINT)" if whole else _of_text(text)
        row = database.execute(f"SELECT {sql}").fetchone()
        if row is None or row[0] is None:
            kind = "integer" if whole else "timestamp"
            raise UserError(
                f"--test-from {self.test_from}: is no {kind}, as the times are: write one"
            )
        return Split(f"time >= {row[0]}", f"test: from {self.test_from} on")


def _id(database: duckdb.DuckDBPyConnection, table: str, column: str, types: dict[str, str]) -> str:
    """SQL: an id as BIGINT if it is an integer, else as it is (the checks refuse other types)."""
    if types[column] == "UBIGINT":
        row = database.execute(
            f"SELECT {OWN_PLACE}, {named(column)} FROM {table} "
            f"WHERE {named(column)} > {INT64_MAX} ORDER BY ALL LIMIT 1"
        ).fetchone()
        if row:
            raise UserError(
                f"{row[0]}: row {row[1]}: {column} {row[2]} is over {INT64_MAX}: "
                "write the ids as int64 or text"
            )
    if types[column] in INTEGERS:
        return f"{named(column)}::BIGINT"
    if types[column] == "UUID":
        return f"{named(column)}::VARCHAR"
    return named(column)


def _microseconds(column: str, type_: str, path: Path) -> str:
    """SQL: a time as BIGINT: microseconds, or the integers as they are."""
    if type_ in INTEGERS:
        return f"try_cast({column} AS BIGINT)"
    if type_ == "TIMESTAMPTZ_NS":  # which epoch_us does not take
        return f"try(epoch_us({column}::TIMESTAMPTZ))"
    if type_.startswith("TIMESTAMP") or type_ == "DATE":
        return f"try(epoch_us({column}))"
    if type_ == "VARCHAR":
        return _of_text(column)
    raise UserError(f"{path}: time {column} is {type_}: write a timestamp, or integers in order")


def _of_text(text: str) -> str:
    """SQL: a text's time as microseconds; UTC where the text names no offset."""
    return f"try(epoch_us(try_cast({text} AS TIMESTAMPTZ)))"
