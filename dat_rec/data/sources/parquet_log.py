"""The user's own Parquet files: interactions, and items and users if there are any.

The options say which column holds what. The type of an attribute's column decides how it is read
(feature_kinds.py).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import duckdb
from tyro.conf import arg

from dat_rec.data.prepare.options import Options
from dat_rec.data.schema import Schema
from dat_rec.data.source import Source
from dat_rec.data.sources.features import Reading
from dat_rec.data.sources.iceberg import IcebergSnapshot
from dat_rec.data.sources.label_weights import read_weights
from dat_rec.data.sources.log_split import (
    TEST_SHARE,
    TIME,
    bounds_of,
    check_split,
    split_of,
    validation_of,
)
from dat_rec.data.sources.named_paths import start_of
from dat_rec.data.sources.named_tables import named_table
from dat_rec.data.sources.raw_tables import NO_CATEGORY, RawTables
from dat_rec.data.sources.tables import finite
from dat_rec.data.sources.times import Times
from dat_rec.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ParquetLog(Options):
    """Make a dataset of your own Parquet files, with a mapping of their columns."""

    interactions: Annotated[Path | tuple[Path, ...], arg(metavar="PATH|ADDRESS [PATH|ADDRESS ...]")]
    """Parquet files with one row for each interaction, or folders of such files at any depth.
    Folders named COLUMN=VALUE are partitions: a column that the files lack is read from their
    names. A path that exists is a name; of others, * is any text in one name, ** any folders.
    Or the folder of a Delta or Iceberg table, or a metadata file of the latter."""
    from_: Annotated[str | None, arg(name="from", metavar="PARTITION")] = None
    """First partition of the interactions to read: a value, e.g. 2026-11-01, or as the folders are
    called, e.g. year=2026/month=11. No file of the earlier ones is opened."""
    to: Annotated[str | None, arg(metavar="PARTITION")] = None
    """Last partition to read, that one included."""
    version: int | None = None
    """Version of the interactions' Delta table, or id of the Iceberg table's snapshot. Without it,
    the newest, which schema.json records."""
    items: Annotated[
        Path | tuple[Path, ...] | None, arg(metavar="PATH|ADDRESS [PATH|ADDRESS ...]")
    ] = None
    """Parquet files, folders or a table with the catalogue, one row for each item. Without it, the
    items of the interactions, which have no attributes."""
    items_version: int | None = None
    """Version, or snapshot, of the items' table."""
    users: Annotated[
        Path | tuple[Path, ...] | None, arg(metavar="PATH|ADDRESS [PATH|ADDRESS ...]")
    ] = None
    """Parquet files, folders or a table with one row for each user. Without it, users have no
    attributes."""
    users_version: int | None = None
    """Version, or snapshot, of the users' table."""
    catalog: str | None = None
    """Iceberg catalog, as pyiceberg's own configuration calls it, in which a path that does not
    exist is the name of a table, e.g. shop.events."""
    user_id: str = "user_id"
    """Column of interactions and users that holds the user's id: integers from 0, or text. Several
    make one id together, e.g. store,customer: a JSON array of their values, ["north",17]."""
    item_id: str = "item_id"
    """Column of interactions and items that holds the item's id, or several, e.g. tenant,sku."""
    text_ids: bool = False
    """Read integer ids as text, e.g. hashes, which may be negative or beyond int64."""
    time: str = TIME
    """Column of interactions that holds the time: timestamp, date, text of either, seconds
    (milliseconds, …) since 1970, or integers in order. Optional with --split last or random."""
    sequence: str | None = None
    """Column of interactions that orders those of one user and time: integers or timestamps.
    Without it they stand by item, and how many there are is said."""
    unordered: bool = False
    """Read no times: no interaction is earlier than another, and a history holds the user's other
    items. With --split random or --split-column."""
    time_format: str | None = None
    """Format of times in text, in the strptime codes that DuckDB knows, e.g. '%d.%m.%Y %H:%M'.
    Without it, the format is found in the data, where the year comes first."""
    title: str | None = None
    """Column of items that holds the title, which reports show."""
    category: str | None = None
    """Column of items that holds the category, for category alignment and metrics by category."""
    user_features: tuple[str, ...] = ()
    """Columns of users that become query features."""
    item_features: tuple[str, ...] = ()
    """Columns of items that become item features, besides the category. A name that users and items
    share gives two features, as user_country and item_country."""
    numbers: tuple[str, ...] = ()
    """Columns among the user and item features to cut into quantile buckets although they are
    integers; fractions always are."""
    dense: tuple[str, ...] = ()
    """Columns among the user and item features that the towers read as they are, through a learned
    projection: numbers (scaled to mean 0 and standard deviation 1), and lists of numbers of one
    length, as embeddings of texts or images."""
    separator: Annotated[tuple[str, ...], arg(metavar="TEXT|COLUMN=TEXT [...]")] = ()
    """What stands between several values in a column of text, e.g. '|' in Comedy|Drama: of all
    such user and item features, or with COLUMN= in front of that one, e.g. genres='|'."""
    label: str | None = None
    """Column of interactions that holds a rating, a count or the kind of event. Without it,
    every interaction is a positive."""
    min_label: float | None = None
    """Minimum label of a positive; interactions below it are left out. Without it, 1."""
    positive_labels: tuple[str, ...] = ()
    """Labels of the positives, in place of --min-label, e.g. purchase add_to_cart; interactions
    with others are left out."""
    label_weights: Annotated[str | None, arg(metavar="LABEL=WEIGHT[,...]")] = None
    """Labels of the positives and how much each counts in the training loss, e.g.
    click=1,cart=3,purchase=5; interactions with others are left out."""
    split: Literal["time", "random", "last", "none", "all"] = "time"
    """How the test set is held out: the last share of interactions by time, a random share, each
    user's last interaction, none, or, with --after, all that are new. Without times, interactions
    are in the order of their rows."""
    split_column: str | None = None
    """Column of interactions that says of each which part it is of, in place of --split: train,
    validation (or valid, val, dev) or test."""
    split_group: str | None = None
    """Column of interactions, with --split time or random: the share is held out of each of its
    values' interactions, e.g. of each user's with --split-group user_id."""
    split_minimum: int | None = None
    """Minimum number of interactions of a user, or group, of which some are held out, with --split
    last or --split-group; those with fewer are trained on whole. Without it, 2."""
    test_share: float = TEST_SHARE
    """Share of the interactions that is held out for testing, with --split time or random."""
    test_from: str | None = None
    """Start of the test set, in place of --test-share: a timestamp, or an integer if the times are
    integers. All interactions from then on are held out."""

    def register(self, database: duckdb.DuckDBPyConnection, work: Path) -> Source:  # noqa: ARG002
        """See Options."""
        self._check()
        catalog = self.catalog
        log = named_table(
            self.interactions,
            "interactions",
            self.version,
            self.from_,
            self.to,
            catalog,
            after=self.after,
        )
        items = users = None
        if self.items is not None:
            items = named_table(self.items, "items", self.items_version, catalog=catalog)
        if self.users is not None:
            users = named_table(self.users, "users", self.users_version, catalog=catalog)

        @contextmanager
        def unchanged() -> Iterator[None]:
            with ExitStack() as stack:
                for table in (log, items, users):
                    if table is not None:
                        stack.enter_context(table.unchanged())
                yield

        with unchanged():
            reading = self._reading()
            raw = RawTables(self, database, reading)
            times = raw.interactions(log)
            sides = (raw.items(items), raw.users(users))
        reading.refuse_unused((*self.item_columns(), *self.user_features), sides)
        return Source(
            name="parquet",
            category=reading.name(self.category or NO_CATEGORY, "item"),
            attributes=tuple(attribute for side in sides for attribute in side.attributes),
            split=split_of(self, database, times),
            validation=validation_of(self, database, times, said=raw.says_validation),
            bounds=bounds_of(self, database, times),
            day=1 if times is not None and times.integers else Source.day,
            example_weights=raw.example_weights,
            notes=(
                *self._notes(times, raw.label_note),
                *reading.notes,
                *(note for side in sides for note in side.notes),
                *(table.note for table in (log, items, users) if table and table.note),
            ),
            table=log.table,
            unchanged=unchanged,
        )

    def inputs(self) -> tuple[Path, ...]:
        """See Options."""
        paths = self._paths()
        return tuple(start_of(path) for path in paths if not self._is_in_catalog(path))

    def versions(self) -> tuple[str, ...]:
        """See Options."""
        paths = filter(self._is_in_catalog, self._paths())
        return tuple(f"{path}: {IcebergSnapshot(path, None, self.catalog).words}" for path in paths)

    def _reading(self) -> Reading:
        item = self.item_columns() if self.category else [NO_CATEGORY, *self.item_features]
        before = Schema.load(self.after).dense if self.after is not None and self.dense else ()
        return Reading.of(
            self.user_features, item, self.numbers, self.separator, self.dense, before
        )

    def item_columns(self) -> list[str]:
        """The items' columns that become features, the category first."""
        return [*([self.category] if self.category else []), *self.item_features]

    def _paths(self) -> list[Path]:
        named = (self.interactions, self.items, self.users)
        listed = [(paths,) if isinstance(paths, Path) else paths or () for paths in named]
        return [path for paths in listed for path in paths]

    def _is_in_catalog(self, path: Path) -> bool:
        """Whether it is the name of a table: what does not exist is one, if a catalog is given."""
        return self.catalog is not None and not path.exists()

    def _notes(self, times: Times | None, of_labels: str) -> list[str]:
        positives = "all"
        if self.positive_labels:
            positives = f"{self.label} is {' or '.join(self.positive_labels)}"
        elif self.label:
            positives = f"{self.label} >= {self.least():g}"
        notes = [of_labels or f"positives: {positives}"]
        if self.from_ is not None or self.to is not None:
            words = [f"from {self.from_}"] * (self.from_ is not None)
            words += [f"to {self.to}"] * (self.to is not None)
            notes.append(f"partitions: {' '.join(words)}")
        if times is None and not self.unordered:
            notes.append("the log has no times: the order of its rows, files by name, stands in")
        if not self.unordered and (self.split == "random" or self.split_column is not None):
            notes.append("histories may hold what came after a held-out interaction")
        return notes

    def least(self) -> float:
        """The minimum label of a positive."""
        return 1.0 if self.min_label is None else self.min_label

    def _check(self) -> None:
        finite("--min-label", self.least())
        if self.min_label is not None and self.positive_labels:
            raise UserError("--min-label and --positive-labels: both name the positives: pass one")
        if self.label is None and self.min_label is not None:
            raise UserError("--min-label needs --label: name the column")
        if self.label is None and self.positive_labels:
            raise UserError("--positive-labels needs --label: name the column")
        if self.label_weights is not None:
            self._check_weights(self.label_weights)
        check_split(self)
        for field in ("category", "title", "item_features"):
            if self.items is None and getattr(self, field):
                raise UserError(f"--{field.replace('_', '-')} needs --items: name the items' file")
        if self.users is None and self.user_features:
            raise UserError("--user-features needs --users: name the users' file")
        if self.category in self.item_features:
            raise UserError(f"--item-features {self.category}: is the category already: remove it")
        if self.category is None and NO_CATEGORY in self.item_features:
            raise UserError(f"--item-features {NO_CATEGORY}: pass it as --category {NO_CATEGORY}")

    def _check_weights(self, text: str) -> None:
        if self.label is None:
            raise UserError("--label-weights needs --label: name the column")
        other = "--min-label" if self.min_label is not None else "--positive-labels"
        if self.min_label is not None or self.positive_labels:
            raise UserError(f"{other} and --label-weights: both name the positives: pass one")
        read_weights(text)
