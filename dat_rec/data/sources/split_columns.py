"""Columns of a log that divide it in, SQL of what they say of a row out.

``--split-column`` says of each row whether it is trained on, validates or tests, in the words that
public data sets have; ``--split-group`` tells groups apart of which each gives a part to the test.
"""

from dataclasses import dataclass

from dat_rec.data.source import named, quoted
from dat_rec.data.sources.feature_kinds import CATEGORIES
from dat_rec.data.sources.ids import in_words
from dat_rec.data.sources.problems import Problem
from dat_rec.data.sources.tables import Relation
from dat_rec.errors import UserError

PART, GROUP = "said_part", "split_group"
"""Columns of raw_interactions."""
WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""What a row may say, in small letters or large."""
IN_WORDS = "train, validation (valid, val, dev) and test"


@dataclass(frozen=True)
class SplitColumn:
    """A column of raw_interactions that a split reads."""

    sql: str
    """SQL to stand in a SELECT behind other columns: `, … AS name`."""
    problem: Problem
    says_validation: bool = False
    """Whether a row says that it validates."""


def said_parts(table: Relation, column: str) -> SplitColumn:
    """The part that each row says it is of: ``train``, ``validation`` or ``test``.

    Raises:
        UserError: the column holds no text, or another word.
    """
    option, name = f"--split-column {column}", named(column)
    if table.types[column] != "VARCHAR":
        kind = in_words(table.types[column])
        raise UserError(
            f"{option}: {table.where}: the column is {kind}: name one of text that says "
            f"{IN_WORDS}, or pass --test-from where it is a time"
        )
    word = f"lower(trim({name}))"
    known = ", ".join(quoted(one) for words in WORDS.values() for one in words)
    other = table.first(f"{word} NOT IN ({known}, '')", name)
    if other is not None:
        raise UserError(
            f"{option}: {other[0]}: says {other[1]!r}: it may say {IN_WORDS}: correct it, or leave "
            "such rows out"
        )
    cases = "".join(
        f" WHEN {word} IN ({', '.join(map(quoted, words))}) THEN {quoted(part)}"
        for part, words in WORDS.items()
    )
    validation = f"{word} IN ({', '.join(map(quoted, WORDS['validation']))})"
    return SplitColumn(
        f", CASE{cases} END AS {PART}",
        Problem(f"coalesce({word}, '') = ''", f"missing {column}", "NULL"),
        table.first(validation, "1") is not None,
    )


def groups(table: Relation, column: str) -> SplitColumn:
    """The group of each row, as text.

    Raises:
        UserError: the column holds fractions, or lists, or what has other values inside.
    """
    type_ = table.types[column]
    if type_ not in CATEGORIES and not (type_.startswith("TIMESTAMP") and type_[-1] != "]"):
        raise UserError(
            f"--split-group {column}: {table.where}: the column is {in_words(type_)}: name one of "
            "text or integers"
        )
    value = f"{named(column)}::VARCHAR"
    missing = Problem(f"coalesce({value}, '') = ''", f"missing {column}", "NULL")
    return SplitColumn(f", {value} AS {GROUP}", missing)
