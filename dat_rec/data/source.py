"""What a source hands to the pipeline: three raw relations, attributes, a rule for the split.

A source registers these DuckDB relations (tables or views) in the connection it is given:

    raw_interactions   user_id, item_id, time, file, row, problem, value, and what its split reads
    raw_items          item_id, title, file, row, and its attributes' columns
    raw_users          user_id, file, row, and its attributes' columns

Ids are BIGINT or VARCHAR, alike in all relations. ``time`` is BIGINT: microseconds since 1970 for
timestamps, else the source's own order. A column ``sequence``, BIGINT, may order a user's
interactions of equal time; without it they stand by item, and are counted. A column
``example_weight``, FLOAT, may weigh them as examples. ``row`` counts the file's rows from 1.
``problem`` is NULL, or says what is wrong with the row, and ``value`` shows it; raw_items and
raw_users may have the two as well.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb

from dat_rec.data.log_table import LogTable
from dat_rec.data.schema import HISTORY_CATEGORY, RESERVED_COLUMNS, Side
from dat_rec.errors import UserError

REPEAT, SEQUENCE = "repeat", "sequence"
POSITIVES = "positives: "
"""How the note begins that tells which interactions are positives."""
OWN_COLUMNS = RESERVED_COLUMNS | {
    "user",
    "item",
    "history",
    "audience",
    HISTORY_CATEGORY,
    REPEAT,
    SEQUENCE,
    "file",
    "row",
    "problem",
    "value",
}
Kind = Literal["category", "tags", "number", "dense"]


@dataclass(frozen=True)
class Attribute:
    """One column of raw_users or raw_items that becomes a feature."""

    name: str
    """The column's name, and the feature's."""
    side: Side
    kind: Kind = "category"
    """category: one value a row. tags: a list of values. number: cut into quantile buckets. dense:
    a number (DOUBLE) or a vector (FLOAT[], of one length), as it is; NULL where there is none."""
    width: int | None = None
    """Length of a dense vector; None for all else."""

    def __post_init__(self) -> None:
        # DuckDB tells no "Time" from "time", a name is also a file's name, and torch.export writes
        # it between quotes.
        taken = self.name.lower() in OWN_COLUMNS or self.name[:1] in ("", "_")
        if taken or set("@./'\"") & set(self.name) or not self.name.isprintable():
            raise UserError(
                f"attribute {self.name!r}: the name is reserved, or holds one of @ . / ' \" "
                "or what cannot be printed: rename the column"
            )


@dataclass(frozen=True)
class Split:
    """The rule that divides interactions into held-out and training ones."""

    is_test: str
    """SQL: a boolean over the columns of ``interactions``, never NULL."""
    words: str
    """The rule in words, for ``Schema.split``; what was held out is added to it."""
    share: float | None = None
    """Share that was asked for; None where the rule names none."""
    if_all: str = "give more data or hold out less"
    """Why all interactions were held out, and the cure."""
    if_none: str = "give more data or hold out more"
    """Why no interaction was held out, and the cure."""
    by_order: bool = False
    """Whether it tells a user's interactions of equal time apart, by their order."""
    kind: Literal["time", "random", "last"] = "time"
    """What chooses: the time, chance, or each user's order. A share for validation is chosen alike
    (``prepare/validation.py``)."""
    group: str | None = None
    """What the groups are called, of a split that holds out a share of each; None for others."""
    group_rule: str = ""
    """``is_test`` with ``{share}`` in place of that share."""
    may_be_empty: bool = False
    """Whether it may hold out nothing."""
    parts_equals: bool = False
    """Whether it may part interactions of one user, item and time (and sequence): they are then all
    held out, as the test if one of them is."""


@dataclass(frozen=True)
class Validation:
    """The rule that divides what the split leaves into validation and training."""

    is_validation: str
    """SQL: a boolean over the columns of ``training`` (the interactions that are not held out as
    the test, with the same columns), never NULL."""
    words: str
    """The rule in words, for ``Schema.split``; what was held out is added to it."""
    share: float | None = None
    """Share of ``training`` that was asked for; None where the rule names none."""


@dataclass(frozen=True)
class Bounds:
    """The moments between which the log trains and tests, in the unit of ``time``."""

    train_from: int | None = None
    """Of the training interactions, those from then on become examples; None: all do."""
    test_until: int | None = None
    """The log ends before then; None: it is read whole."""


def last_share_of_time(share: float, cure: str = "give more data") -> Split:
    """Hold out the last ``share`` of the interactions by time, equal times together.

    Args:
        share: share of all interactions to hold out.
        cure: what to do where all are of one time.

    Raises:
        UserError: the share is not between 0 and 1.
    """
    words = f"test: the last {share * 100:g} % of interactions by time"
    check_share("test share", share)
    return Split(f"time >= {cut('time', share)}", words, share, f"all are of one time: {cure}")


def random_share(share: float, seed: int) -> Split:
    """Hold out a random ``share`` of the interactions, equal ones together.

    They are those with the largest MD5 of seed, user, item and time, so that neither the order
    of the rows nor the machine matters.

    Raises:
        UserError: the share is not between 0 and 1.
    """
    check_share("test share", share)
    number = random_number(seed)
    words = f"test: a random {share * 100:g} % of interactions (seed {seed})"
    all_alike = "all are of one user, item and time: give more data"
    rule = f"{number} >= {cut(number, share)}"
    return Split(rule, words, share, all_alike, kind="random")


def random_number(seed: int) -> str:
    """SQL: a number of each interaction that its user, item and time and the seed decide."""
    return f"md5_number_lower(concat_ws('|', {seed}, user_id, item_id, time))"


def share_of_each_group(
    kind: Literal["time", "random"],
    share: float,
    group: str,
    name: str,
    *,
    seed: int = 0,
    sequence: bool = False,
    minimum: int = 2,
) -> Split:
    """Hold out a ``share`` of each group's interactions: the last by time, or random ones.

    It is rounded, and one at least; equal times (and sequences), or equal interactions, stay
    together. What would leave a group none to train on is trained on.

    Args:
        kind: what chooses.
        share: share of each group's interactions.
        group: the column of ``interactions`` that tells the groups apart.
        name: the user's name of it, for the words.
        seed: random seed.
        sequence: whether ``interactions`` have a sequence.
        minimum: minimum number of interactions of a group of which some are held out.

    Raises:
        UserError: the share is not between 0 and 1.
    """
    check_share("test share", share)
    order = ["time", *(["sequence"] if sequence else [])]
    if kind == "random":
        order = [random_number(seed)]
    down = ", ".join(f"{value} DESC" for value in order)
    rule = (
        f"rank() OVER (PARTITION BY {group} ORDER BY {down}) <= "
        f"greatest(1, round({{share}} * count(*) OVER (PARTITION BY {group}))) "
        f"AND rank() OVER (PARTITION BY {group} ORDER BY {', '.join(order)}) > 1"
        f"{_of_minimum(group, minimum)}"
    )
    how = "the last" if kind == "time" else "a random"
    words = f"test: {how} {share * 100:g} % of the interactions of each {name}"
    words += f" that has {minimum} or more" if minimum > 2 else ""
    words += f" (seed {seed})" if kind == "random" else ""
    cure = f"no {name} has {minimum} that differ: lower --split-minimum, or leave --split-group out"
    return Split(
        rule.format(share=share),
        words,
        share,
        if_none=cure,
        kind=kind,
        group=name,
        group_rule=rule,
        parts_equals=group != "user_id",
    )


def _of_minimum(group: str, minimum: int) -> str:
    """SQL: whether the group has so many interactions, held out or not."""
    if minimum <= 2:
        return ""
    many = f"SELECT {group} FROM interactions GROUP BY {group} HAVING count(*) >= {minimum}"
    return f" AND {group} IN ({many})"


def last_of_each_user(
    order: str, cure: str = "give more data", *, sequence: bool = False, minimum: int = 2
) -> Split:
    """Hold out each user's last interaction by time; a user's only one is trained on.

    Those of one user, item and time (and sequence) stay together: if not, the test would leak into
    training.

    Args:
        order: a column of ``interactions`` that orders those of the same time.
        cure: what to do where no user has two.
        sequence: whether ``interactions`` have a sequence.
        minimum: minimum number of interactions of a user of whom one is held out.
    """
    user = "PARTITION BY user_id"
    last = f"OVER ({user} ORDER BY time DESC, {order} DESC)"
    alike = ["item_id", "time", *(["sequence"] if sequence else [])]
    many = "two" if minimum == 2 else str(minimum)
    are_last = " AND ".join(f"{name} = first_value({name}) {last}" for name in alike)
    return Split(
        f"{are_last} AND count(*) OVER ({user}) > count(*) OVER ({user}, {', '.join(alike)})"
        f"{_of_minimum('user_id', minimum)}",
        f"test: the last interaction of each user who has {many} or more",
        if_none=f"no user has {many} that differ: {cure}",
        by_order=True,
        kind="last",
    )


def check_share(name: str, share: float) -> None:
    """Refuse a share that would hold out nothing, or all.

    Raises:
        UserError: names it.
    """
    if not 0 < share < 1:
        raise UserError(f"{name} {share}: must lie between 0 and 1, e.g. 0.1")


def cut(value: str, share: float, relation: str = "interactions") -> str:
    """SQL: from where on the largest values are at least ``share`` of the relation's rows.

    The least value of all stays below it, unless there is no other.
    """
    rows = f"(SELECT count(*) FROM {relation})"
    return (
        f"(SELECT coalesce(min(value) FILTER (upto > floor((1 - {share!r}::DOUBLE) * {rows}) "
        "AND place > 1), min(value)) FROM (SELECT value, sum(number) OVER (ORDER BY value) AS "
        "upto, row_number() OVER (ORDER BY value) AS place FROM "
        f"(SELECT {value} AS value, count(*) AS number FROM {relation} GROUP BY 1)))"
    )


@dataclass(frozen=True)
class Source:
    """What the pipeline needs to know beyond the raw relations."""

    name: str
    """The source's name, as on the command line."""
    category: str
    """The item attribute that is the category of equation (3)."""
    attributes: tuple[Attribute, ...]
    split: Split
    validation: Validation | None = None
    """What is held out for validation, where the source reads the options of it itself; None: as
    ``prepare/validation.py`` reads them."""
    bounds: Bounds | None = None
    """Moments of --train-from and --test-until, where the source reads times in a form of its own;
    None: as ``prepare/bounds.py`` reads them."""
    notes: tuple[str, ...] = ()
    facts: dict[str, float] | None = None
    table: LogTable | None = None
    """The table, and its version, of which all rows are in the raw interactions, or in the dataset
    that they follow."""
    example_weights: dict[str, float] | None = None
    """What examples weigh, by their labels; None: raw_interactions have no weights."""
    day: int = 86_400_000_000
    """How much time is a day, in the unit of ``time``; 1 where it is one of the source's own."""
    common_time: bool = True
    """Whether times of different users can be compared; else they order each user's rows alone."""
    minimum: int = 0
    """Minimum number of interactions of a user or item; those with fewer are dropped until none is
    left, from the catalogue too. 0: keep all."""
    unchanged: Callable[[], AbstractContextManager[object]] = nullcontext
    """Block in which the raw relations are read: it fails if their files were changed meanwhile."""

    def __post_init__(self) -> None:
        names = [attribute.name.lower() for attribute in self.attributes]
        for attribute in self.attributes:
            if names.count(attribute.name.lower()) > 1:
                raise UserError(f"feature {attribute.name!r} is named twice: rename a column")


def columns_of(database: duckdb.DuckDBPyConnection, relation: str) -> dict[str, str]:
    """Column name → DuckDB type of ``relation`` (a name, or SQL that can stand after FROM)."""
    rows = database.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    return {row[0]: str(row[1]) for row in rows}


def quoted(text: str | Path) -> str:
    """``text`` as an SQL string literal."""
    return "'" + str(text).replace("'", "''") + "'"


def named(name: str) -> str:
    """``name`` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
