"""The dataset of ``--after`` in, what ``prepare`` goes on from out: its ids, counts and moments.

A dataset tells all that the next one needs to know of the interactions in it: the ids and values of
its rows, how often each item was trained on, which pairs were, and each user's last items. So the
log that it was made of is never read again.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from dat_rec.data.database import count_rows
from dat_rec.data.prepare.dense import is_dense
from dat_rec.data.prepare.options import Options
from dat_rec.data.scan import scan_parquet
from dat_rec.data.schema import (
    EXAMPLE_WEIGHT,
    HISTORY,
    HISTORY_CATEGORY,
    ITEM,
    SCHEMA,
    USER,
    Schema,
)
from dat_rec.data.source import SEQUENCE, Attribute, Source, columns_of
from dat_rec.errors import UserError

LEAST_TIMESTAMP = 10**13
"""Microseconds since 1970; lesser times are no timestamps of a log, but integers."""
ITEMS, USERS, HELD_OUT = "base_items", "base_users", "base_held_out"
WAITING = "base_waiting"
"""Views of the dataset's files. ``base_items`` and ``base_users`` have the columns of their files,
``_row`` (from 0) and ``_trained``; ``base_held_out``, and ``base_waiting`` if there are such
interactions, have user_id, item_id, time, and sequence if there is one; the former example_weight
too."""


@dataclass(frozen=True)
class Base:
    """A dataset to go on from."""

    folder: Path
    schema: Schema
    sequence: bool
    """Whether a sequence orders its interactions of one time."""

    @property
    def trained_users(self) -> int:
        """Number of its users that have an embedding row."""
        return self.schema.feature(USER).rows - 1

    @property
    def held_out(self) -> list[Path]:
        """Its files of interactions that it does not train on."""
        names = ["test", *(["validation"] if self.schema.validation else [])]
        return [self.folder / f"{name}.parquet" for name in names]

    @property
    def waiting(self) -> list[Path]:
        """Its file of interactions that wait for their user or item to be trained, if any."""
        return [self.folder / "waiting.parquet"] if self.schema.waiting else []

    @property
    def examples(self) -> list[Path]:
        """Its files of examples."""
        return [self.folder / file.path for file in self.schema.example_files]


@contextmanager
def unchanged(base: Base | None) -> Iterator[None]:
    """A block that reads the dataset, if there is one.

    Raises:
        UserError: it was replaced meanwhile.
    """
    if base is None:
        yield
        return
    before = _stats(base)
    yield
    if _stats(base) != before:
        raise UserError(
            f"--after {base.folder}: was replaced while it was read: start again when it is whole"
        )


def _stats(base: Base) -> list[list[int]]:
    """What is another one where another dataset stands in its place."""
    names = [SCHEMA, "users.parquet", "items.parquet", *base.schema.seen_paths]
    found = []
    for path in (base.folder / name for name in names):
        with suppress(OSError):
            stat = path.stat()
            found.append([stat.st_ino, stat.st_size, stat.st_mtime_ns])
    return found


def open_base(options: Options) -> Base | None:
    """The dataset that the options name; None: they name none.

    Raises:
        UserError: it is no dataset, or options beside it say what it has decided.
    """
    folder = options.after
    if folder is None:
        return None
    schema = Schema.load(folder)
    if folder.resolve() in options.out.resolve().parents:
        raise UserError(f"--out {options.out} lies in --after {folder}: name another folder")
    if options.train_from is not None:
        raise UserError(
            f"--train-from {options.train_from} and --after: examples begin where the training of "
            f"{folder} ended: leave --train-from out"
        )
    if schema.histories == "others":
        raise UserError(
            f"--after {folder}: its log has no order, and so no day follows another: prepare all "
            "days at once"
        )
    if options.history_length != schema.history_length:
        raise UserError(
            f"--history-length {options.history_length}: is {schema.history_length} in "
            f"{folder}: pass that"
        )
    _check_features(folder, schema)
    base = Base(folder, schema, sequence=False)
    try:
        files = [pq.read_schema(path) for path in (*base.examples, *base.held_out, *base.waiting)]
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--after {folder}: cannot be read ({reason}): prepare it anew") from error
    return replace(base, sequence=all(SEQUENCE in file.names for file in files))


def _check_features(folder: Path, schema: Schema) -> None:
    """Refuse a dataset of another engine whose features are not as ``prepare`` makes them.

    Raises:
        UserError: names the first that is not.
    """
    names = {feature.name for feature in schema.features}
    for name in (HISTORY, HISTORY_CATEGORY):
        if name not in names:
            raise UserError(
                f"--after {folder}: has no feature {name!r}, of which the next day's are made: add "
                "it, or prepare all days at once"
            )
    tables = {HISTORY: ITEM, HISTORY_CATEGORY: schema.category}
    for feature in schema.features:
        if feature.table != tables.get(feature.name, feature.name):
            raise UserError(
                f"--after {folder}: feature {feature.name!r} looks up the table of another one, "
                f"{feature.table!r}: give it its own, or prepare all days at once"
            )


def register_base(database: duckdb.DuckDBPyConnection, base: Base, source: Source) -> None:
    """Make the views of the dataset's files.

    Raises:
        UserError: its ids are of another type than the log's.
    """
    register_views(database, base, columns_of(database, "raw_interactions"))
    sequence = f", {SEQUENCE}" if base.sequence else ""
    weight = f", {EXAMPLE_WEIGHT}" if base.schema.example_weights is not None else ""
    for view, files, more in (
        (HELD_OUT, base.held_out, f"{sequence}{weight}"),
        # What has waited is no example any more.
        (WAITING, base.waiting, sequence),
    ):
        if files:
            database.execute(
                f"CREATE VIEW {view} AS SELECT user_id, item_id, time{more} "
                f"FROM {scan_parquet(files, ', union_by_name=true')} "
                f"JOIN {USERS} ON {USERS}._row = user_row JOIN {ITEMS} ON {ITEMS}._row = item_index"
            )
    _check_kinds(database, base, source.attributes)


def register_views(database: duckdb.DuckDBPyConnection, base: Base, types: dict[str, str]) -> None:
    """Make the views of the dataset's users and items.

    Args:
        database: gets them.
        base: the dataset.
        types: DuckDB types of user_id and item_id in the log.

    Raises:
        UserError: the dataset's ids are of another type.
    """
    for view, name, key, trained in (
        (ITEMS, "items", "item_id", base.schema.trained_items),
        (USERS, "users", "user_id", base.trained_users),
    ):
        path = base.folder / f"{name}.parquet"
        scan = scan_parquet([path], ", file_row_number=true")
        kind = columns_of(database, scan)[key]
        text = kind == "VARCHAR"
        if text != (types[key] == "VARCHAR"):
            raise UserError(
                f"--after {base.folder}: {key} is {kind} there, and {types[key]} in this log: "
                "write both with the same type"
            )
        database.execute(
            f"CREATE VIEW {view} AS SELECT * EXCLUDE (file_row_number) "
            f"REPLACE ({key}::{types[key]} AS {key}), file_row_number AS _row, "
            f"file_row_number < {trained} AS _trained FROM {scan}"
        )


def _check_kinds(
    database: duckdb.DuckDBPyConnection, base: Base, attributes: tuple[Attribute, ...]
) -> None:
    """Refuse a number where the dataset has values, and the reverse."""
    for one in attributes:
        if is_dense(one):
            continue
        row = database.execute(
            f"SELECT value FROM {vocabulary_scan(base, one.name)} WHERE index = 1"
        ).fetchone()
        number = row is not None and str(row[0]).startswith("[-inf, ")
        if row is not None and number != (one.kind == "number"):
            raise UserError(
                f"--after {base.folder}: feature {one.name!r} is "
                + (
                    "a number there: read it as that (--numbers)"
                    if number
                    else "a category there, and a number here: write it with the type that it had, "
                    "or leave it out of --numbers"
                )
            )


def vocabulary_scan(base: Base, table: str) -> str:
    """SQL to stand after FROM: what the rows of a table of values stand for."""
    return scan_parquet([base.folder / "vocabularies" / f"{table}.parquet"])


def moments_of(database: duckdb.DuckDBPyConnection, base: Base) -> tuple[int, int]:
    """Where the dataset's training ended, and where its log did.

    Returns:
        The time from which on interactions are examples: that of the first one which the dataset
        holds out, or where its log ends. And the first time that a new interaction may have: the
        dataset's ``test_until``, or after its last interaction.

    Raises:
        UserError: it trains on what is later than what it holds out.
    """
    schema = base.schema
    times = {
        "held out": scan_parquet(base.held_out, ", union_by_name=true"),
        "examples": scan_parquet(base.examples) if schema.examples else None,
        "waiting": scan_parquet(base.waiting) if schema.waiting else None,
    }
    if not schema.examples and not (schema.tests + schema.validation):
        times["past"] = scan_parquet([base.folder / path for path in schema.past_paths])
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for name, scan in times.items():
        found = scan and database.execute(f"SELECT min(time), max(time) FROM {scan}").fetchone()
        if found and found[0] is not None:
            first[name], last[name] = int(found[0]), int(found[1])
    end = max(last.values()) + 1
    if schema.test_until is not None:
        end = max(end, schema.test_until)
    begin = first.get("held out", end)
    trained = max(last.get("examples", begin - 1), (schema.train_from or begin) - 1)
    if trained >= begin:
        raise UserError(
            f"--after {base.folder}: trains on what is as late as what it holds out, or later: go "
            "on from a dataset whose test, and validation, are the last of its log by time"
        )
    return begin, end


def check_unit(base: Base, end: int, day: int) -> None:
    """Refuse timestamps behind a log whose times are integers of another unit.

    Args:
        base: the dataset.
        end: where its log ends.
        day: how much time a day is in the new log, in the unit of ``time``.

    Raises:
        UserError: its times are not of the new log's unit.
    """
    if day > 1 and end < LEAST_TIMESTAMP:
        raise UserError(
            f"--after {base.folder}: its times are integers, up to {end - 1}, and this log's are "
            "timestamps: write both alike"
        )


def words_of_base(database: duckdb.DuckDBPyConnection, base: Base) -> str:
    """What becomes of the dataset's interactions, in words; of ``marked_interactions``."""
    held_out = count_rows(database, HELD_OUT)
    examples = count_rows(database, "marked_interactions WHERE part = 'train'")
    return (
        f"examples: {examples} interactions since an earlier dataset's training, of which it held "
        f"{held_out} out; its {base.schema.training} training interactions make histories alone"
    )
