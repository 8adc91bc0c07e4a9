"""What each stage of ``dat-rec prepare`` (stages.py) hands on to the next, kept in the journal."""

from dataclasses import dataclass

from dat_rec.data.log_table import LogTable
from dat_rec.data.prepare.checks import Counts
from dat_rec.data.prepare.user_ranges import UserRange
from dat_rec.data.schema import DenseFeature, ExampleFile, Feature
from dat_rec.data.source import Attribute, Bounds, Split, Validation
from dat_rec.data.trend import Trend


@dataclass(frozen=True)
class Checked:
    """What the stage ``check`` hands on, beside the clean relations."""

    counts: Counts
    source: str
    category: str
    attributes: tuple[Attribute, ...]
    split: Split
    validation: Validation | None
    bounds: Bounds
    day: int
    """How much time is a day, in the unit of times."""
    later: int
    """Number of interactions that lie behind the end of the log."""
    minimum: int
    common_time: bool
    notes: tuple[str, ...]
    facts: dict[str, float] | None
    table: LogTable | None
    example_weights: dict[str, float] | None = None
    """What examples weigh, by their labels; None: interactions have no weights."""


@dataclass(frozen=True)
class Marked:
    """What the stage ``split`` hands on, beside the marked interactions."""

    split: str
    """The split in words, and how much it holds out."""
    notes: tuple[str, ...]
    rows: int


@dataclass(frozen=True)
class Numbered:
    """What the stage ``number`` hands on, beside its files."""

    query_features: tuple[Feature, ...]
    item_features: tuple[Feature, ...]
    ranges: tuple[UserRange, ...]
    users: int
    items: int
    tests: int
    validation: int
    has_sequence: bool
    """Whether a sequence orders the interactions of one time."""
    unordered: bool
    """Whether no user has training interactions of two times."""
    trend: Trend | None
    dense: tuple[DenseFeature, ...]
    waiting: int
    """Number of training interactions whose user or item is not admitted."""
    before: int | None = None
    """Number of training interactions of the dataset that is gone on from; None: there is none."""

    @property
    def rows(self) -> int:
        """Number of rows of the users' sequences.

        They are the training interactions; where a dataset is gone on from, the new ones, and the
        items of the histories in it, were these full.
        """
        return sum(found.rows for found in self.ranges)

    @property
    def examples(self) -> int:
        """Number of those that are examples."""
        return sum(found.examples for found in self.ranges)

    @property
    def past(self) -> int:
        """Number of the others, which come before."""
        return self.rows - self.examples if self.before is None else self.before

    @property
    def read(self) -> int:
        """Number of training interactions that are read."""
        return self.rows if self.before is None else self.examples


@dataclass(frozen=True)
class Ordered:
    """What the stage ``users`` hands on, beside its files."""

    ties: int
    """Number of training interactions that nothing but the item orders after the one before."""

    def notes(self, rows: int) -> tuple[str, ...]:
        """A line, if there are ties."""
        if not self.ties:
            return ()
        return (
            f"{self.ties} of {rows} training interactions have the user and time of another one "
            "before them: neither is in the other's history, and later ones have them in the order "
            "of the items",
        )


@dataclass(frozen=True)
class Written:
    """What the stage ``examples`` hands on, beside its files."""

    files: tuple[ExampleFile, ...]
