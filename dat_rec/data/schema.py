"""The contract between ``prepare`` and everything after it.

A prepared dataset is a folder; docs/dataset.md says what readers rely on::

    schema.json              this file's ``Schema``; its presence means "whole"
    sha256.json              the SHA-256 of every other file
    examples/part-*.parquet  training examples, shuffled: all features, item_index, time
    users.parquet            every user: user_id, trained, query features as of the split
    items.parquet            the catalogue; row number = item_index: item_id, title,
                             category_name, train_count, item features; trained items first
    seen.parquet             training pairs: user_row, item_index, count; sorted by user_row
    past.parquet             training interactions before --train-from: user_row, item_index,
                             time; optional
    seen/part-*.parquet      in place of seen.parquet, past/part-*.parquet of past.parquet, where
                             days were added one by one (--after)
    test.parquet             held-out interactions: user_row, item_index, time
    validation.parquet       the same, held out for validation; optional
    waiting.parquet          the same, of users or items without an embedding row yet; optional
    vocabularies/NAME.parquet   for each categorical feature: index, value

Features are embedding row numbers: 0 is "unknown or missing", known values count from 1. Dense
features are numbers and vectors as they are; they stand in users.parquet and items.parquet alone.
Any engine may write the same layout; the schema is checked here, all of it by ``validate``.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from dat_rec.data.log_table import LogTable
from dat_rec.data.trend import Trend
from dat_rec.errors import UserError
from dat_rec.files import STRICT, checked, write_json
from dat_rec.storage.address import Location
from dat_rec.storage.read import exists, read_json
from dat_rec.storage.snapshot import pinned

VERSION = 1
SCHEMA = "schema.json"
ANEW = "prepare the dataset anew"
UNKNOWN = 0
USER, ITEM, HISTORY, AUDIENCE = "user", "item", "history", "audience"
HISTORY_CATEGORY = "history_category"
RECENT = "recent_count"
"""Column of items.parquet: how often each was had lately (``dat_rec.data.trend``)."""
EXAMPLE_WEIGHT = "example_weight"
"""Column of the examples, and of what is held out: how much each counts as an example."""
RESERVED_COLUMNS = frozenset(
    {
        "user_id",
        "item_id",
        "title",
        "category_name",
        "train_count",
        RECENT,
        EXAMPLE_WEIGHT,
        "trained",
        "item_index",
        "user_row",
        "time",
        "split",
        "count",
    }
)

Side = Literal["query", "item"]
SIDES: tuple[Side, Side] = ("query", "item")


@dataclass(frozen=True)
class Feature:
    """One input of a tower: a column of embedding row numbers."""

    name: str
    """Column name in the Parquet files and key in the KeyedJaggedTensor."""
    side: Side
    """The tower that reads it."""
    table: str
    """Embedding table; features that name the same table share it."""
    rows: Annotated[int, Ge(1)]
    """Rows of that table, the unknown row 0 included: values are in [0, rows)."""
    multi_valued: bool = False
    """True: list<int> column, mean-pooled (history, tags). False: one int."""

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class DenseFeature:
    """One input of a tower that is no embedding: a column of numbers, or of vectors of one size.

    The tower gets W·x + b, where x = (value − mean) / scale, and zeros where there is no value
    (``dat_rec.model.dense``). Files hold the values as they are.
    """

    name: str
    """Column name in users.parquet or items.parquet."""
    side: Side
    """The tower that reads it, and so the file that holds it."""
    kind: Literal["number", "vector"]
    """number: a float or an integer. vector: a list of ``width`` floats."""
    width: Annotated[int, Ge(1)]
    """How many numbers a value has: 1 of a number."""
    mean: float
    """Of a number: the mean of the trained users' (or items') values. Of a vector: 0."""
    scale: Annotated[float, Gt(0)]
    """Of a number: the standard deviation of these values. Of a vector: the root of the mean square
    of all entries of their vectors. 1 where that would be 0."""

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class ExampleFile:
    """One Parquet file of training examples."""

    path: str
    """Path below the dataset's folder."""
    rows: int

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class Schema:
    """What a prepared dataset holds."""

    source: str
    """The source's name, as on the command line (``kuairand``, ``parquet``, …)."""
    features: tuple[Feature, ...]
    """Query features first: ``user``, …, ``history``; then item features: ``item``, …, and in a log
    without order ``audience``."""
    category: str
    """The single-valued item feature that names the category of equation (3)."""
    history_length: int
    """Maximum length of a history: the user's last items."""
    users: int
    """Rows of users.parquet."""
    items: int
    """Rows of items.parquet."""
    trained_items: Annotated[int, Ge(1)]
    """Items with a training interaction: rows 0 … trained_items − 1 of items.parquet."""
    examples: int
    """Training examples in all files: the training interactions that are not of the past."""
    tests: int
    """Rows of test.parquet."""
    example_files: tuple[ExampleFile, ...]
    split: str
    """How train and test were told apart, in words."""
    rows_read: int
    """Interactions read from the source, the rejected ones included."""
    rejected: dict[str, int]
    """Rejected rows by kind."""
    notes: tuple[str, ...] = ()
    """What else a reader of the figures should know (best possible HR, kept oddities)."""
    validation: Annotated[int, Ge(0)] = 0
    """Rows of validation.parquet; 0: there is no such file. schema.json says nothing of it then."""
    histories: Literal["earlier", "others"] = "earlier"
    """What an example's history holds: the user's items before it, or, where the log has no order,
    the user's other items. schema.json says it in the second case alone."""
    past: Annotated[int, Ge(0)] = 0
    """Rows of past.parquet: training interactions that are no examples; 0: there is no such file.
    schema.json says nothing of it then."""
    seen_files: tuple[str, ...] = ()
    """The files, paths below the folder, that make up seen.parquet together: a pair may stand in
    several, and its counts add up. Empty, and not in schema.json: there is seen.parquet."""
    past_files: tuple[str, ...] = ()
    """The same of past.parquet; each of its interactions stands in one of them."""
    train_from: int | None = None
    """Time from which on training interactions are examples; None, and not in schema.json: all
    are."""
    test_until: int | None = None
    """Time from which on the log was left out; None, and not in schema.json: it was read whole."""
    admit_after: Annotated[int, Ge(1)] = 1
    """Least number of training interactions with which a user or item is trained; 1, and not in
    schema.json: all are."""
    waiting: Annotated[int, Ge(0)] = 0
    """Rows of waiting.parquet, training interactions in wait of that; 0: there is no such file.
    schema.json says nothing of it then."""
    table: LogTable | None = None
    """The table of Delta or Iceberg, and its version, whose rows are all counted here; None, and
    not in schema.json: the log is none, or was read in part."""
    trend: Trend | None = None
    """How items.parquet's ``recent_count`` was counted; None, and not in schema.json: there is
    none."""
    dense: tuple[DenseFeature, ...] = ()
    """Query features first. schema.json says nothing of it where there are none."""
    example_weights: dict[str, float] | None = None
    """What examples weigh in the loss, by their labels; empty: what their files say, which no label
    tells. None, and not in schema.json: there are no weights."""
    facts: dict[str, float] | None = None
    """Figures known by construction: the planted world's best possible HR@50, HR@100."""
    version: int = VERSION

    __pydantic_config__ = STRICT

    def side(self, side: Side) -> tuple[Feature, ...]:
        """The features of one tower, in order."""
        return tuple(feature for feature in self.features if feature.side == side)

    def dense_side(self, side: Side) -> tuple[DenseFeature, ...]:
        """The dense features of one tower, in order."""
        return tuple(feature for feature in self.dense if feature.side == side)

    def feature(self, name: str) -> Feature:
        """The feature called ``name``."""
        for feature in self.features:
            if feature.name == name:
                return feature
        raise KeyError(name)

    @property
    def training(self) -> int:
        """Number of training interactions: the examples, and those of the past."""
        return self.examples + self.past

    @property
    def seen_paths(self) -> tuple[str, ...]:
        """The files of the pairs, below the folder."""
        return self.seen_files or ("seen.parquet",)

    @property
    def past_paths(self) -> tuple[str, ...]:
        """The files of the past, below the folder: none where there is no past."""
        return (self.past_files or ("past.parquet",)) if self.past else ()

    def save(self, folder: Path) -> None:
        """Write ``schema.json`` into ``folder``."""
        value = asdict(self)
        if not self.validation:
            del value["validation"]  # as in datasets, and of readers, that know of none
        if self.histories == "earlier":
            del value["histories"]
        for count in ("past", "waiting"):
            if not value[count]:
                del value[count]
        if self.admit_after == 1:
            del value["admit_after"]
        optional = ("train_from", "test_until", "seen_files", "past_files", "table", "trend")
        for name in (*optional, "dense", "example_weights"):
            if value[name] in (None, ()):
                del value[name]
        write_json(folder / SCHEMA, value)

    @staticmethod
    def load(folder: Location) -> "Schema":
        """Read and check ``folder``'s schema; in a store, that of the dataset published there now.

        Raises:
            UserError: no schema, another version, or fields that contradict one another.
        """
        path = pinned(folder, SCHEMA) / SCHEMA
        if not exists(path):
            raise UserError(
                f"{folder} is not a prepared dataset (no {SCHEMA}): make one with `dat-rec prepare`"
            )
        value = read_json(path, "the dataset's schema")
        version = value.get("version") if isinstance(value, dict) else VERSION
        if version != VERSION:
            raise UserError(
                f"{path}: schema version {version!r}, this program reads {VERSION}: {ANEW}"
            )
        schema = checked(Schema, value, str(path), ANEW)
        schema.check(path)
        return schema

    def check(self, path: Location) -> None:
        """Refuse a schema that contradicts itself.

        Raises:
            UserError: names the field, the value and the cure.
        """
        names = [feature.name for feature in self.features]
        of_all = [*names, *(feature.name for feature in self.dense)]
        if len(set(of_all)) != len(of_all):
            raise UserError(f"{path}: features: a name stands twice in {of_all}")
        for required, side in ((USER, "query"), (ITEM, "item"), (self.category, "item")):
            if required not in names or self.feature(required).side != side:
                raise UserError(f"{path}: features: no {side} feature {required!r}")
        if self.feature(self.category).multi_valued:
            raise UserError(f"{path}: category: {self.category!r} must be single-valued")
        for name in of_all:
            if name in RESERVED_COLUMNS or "@" in name or "." in name:
                raise UserError(f"{path}: feature {name!r}: the name is reserved; rename it")
        for dense in self.dense:
            if dense.kind == "number" and dense.width != 1:
                raise UserError(
                    f"{path}: dense feature {dense.name!r}: width is {dense.width}, and a number's "
                    "is 1: correct kind or width"
                )
        table_rows: dict[str, int] = {}
        for feature in self.features:
            if table_rows.setdefault(feature.table, feature.rows) != feature.rows:
                raise UserError(f"{path}: table {feature.table!r}: its features disagree on rows")
        if self.trained_items > self.items:
            raise UserError(
                f"{path}: trained_items is {self.trained_items}, items {self.items}: {ANEW}"
            )
        if self.past and self.train_from is None:
            raise UserError(f"{path}: past is {self.past}, and there is no train_from: {ANEW}")
        if self.past_files and not self.past:
            raise UserError(f"{path}: past_files are named, and past is 0: {ANEW}")
        if sum(file.rows for file in self.example_files) != self.examples:
            raise UserError(f"{path}: examples is not the sum of example_files: {ANEW}")
