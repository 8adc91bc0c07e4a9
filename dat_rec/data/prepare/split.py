"""Clean interactions in, the same marked out: what trains, what validates and what tests.

In: ``interactions``, ``items``, ``users``. Out: table ``marked_interactions`` (user_id, item_id,
time, part, and sequence and example_weight if there are), and the three anew where ``minimum``
drops rows. ``part`` is ``train``, ``validation``, ``test``, or ``waiting`` (admit.py).
"""

from dataclasses import dataclass

import duckdb

from dat_rec.data.database import count_rows
from dat_rec.data.prepare.admit import hold_back
from dat_rec.data.prepare.base import HELD_OUT, ITEMS, USERS
from dat_rec.data.schema import EXAMPLE_WEIGHT
from dat_rec.data.source import Split, Validation, columns_of
from dat_rec.errors import UserError

FAR = 1.5
"""Ratio of the share that is held out to the one that was asked for, or the reverse, above which a
warning says so."""

FEW_USERS = 0.05
"""Share of the users who are asked, under which a warning says so."""


def keep_frequent(database: duckdb.DuckDBPyConnection, minimum: int) -> tuple[str, ...]:
    """Drop users and items with fewer interactions than ``minimum`` until none is left.

    Returns:
        What was dropped, in words; nothing where all is kept.

    Raises:
        UserError: no interaction stays.
    """
    if minimum < 2:
        return ()
    # Tables of this stage, found before the relations that they are made of.
    for name in ("interactions", "items", "users"):
        database.execute(f"CREATE TABLE {name} AS FROM {name}")
    before = after = count_rows(database, "interactions")
    while True:
        for key in ("user_id", "item_id"):
            database.execute(
                f"DELETE FROM interactions WHERE {key} IN (SELECT {key} FROM interactions "
                f"GROUP BY {key} HAVING count(*) < {minimum})"
            )
        now = count_rows(database, "interactions")
        if now == after:
            break
        after = now
    if not after:
        raise UserError(
            f"no user and item has {minimum} interactions or more: lower --minimum, "
            "or give more data"
        )
    database.execute("DELETE FROM items WHERE item_id NOT IN (SELECT item_id FROM interactions)")
    database.execute("DELETE FROM users WHERE user_id NOT IN (SELECT user_id FROM interactions)")
    return (
        f"users and items with fewer than {minimum} interactions were dropped until none was left: "
        f"{after} of {before} interactions stayed",
    )


@dataclass(frozen=True)
class HeldOut:
    """How much a split has held out."""

    rows: int
    """Number of interactions held out."""
    of: int
    """Number of all interactions."""
    asked: float | None
    """Share that was asked for; None where the split names none."""
    part: str = "test"
    """``test`` or ``validation``."""
    ties: int = 0
    """Number of held-out interactions that their order alone tells from a training one."""
    users: int = 0
    """Number of all users."""
    asked_users: int = 0
    """Number of the trained ones who have a held-out interaction with a trained item."""
    joined: int = 0
    """Number of those that the split would train on, and that are equal to held-out ones."""

    def __str__(self) -> str:
        share = self.asked_users / max(1, self.users)
        if not self.rows:
            return f"all {self.of} are trained on"
        return (
            f"{self._held_out}, and {self.asked_users} of {self.users} users have a {self.part} "
            f"query that a model can answer ({share:.2%})"
        )

    @property
    def _held_out(self) -> str:
        return f"{self.rows} of {self.of} are held out ({self.rows / self.of:.2%})"

    @property
    def warnings(self) -> tuple[str, ...]:
        """A line each, if the share is far from the one asked for, there are ties, or few users."""
        lines: list[str] = []
        if not self.rows:
            return ()
        share = self.rows / self.of
        if self.joined:
            lines.append(
                f"{self.joined} interactions have the user, item and time of a held-out one, and "
                "are held out with it"
            )
        if self.ties:
            lines.append(
                f"warning: {self.ties} held-out interactions have the user and time of one that is "
                "trained on: the order of the rows chose them: name a column that orders them "
                "(--sequence of parquet)"
            )
        elif self.asked is not None and not self.asked / FAR <= share <= self.asked * FAR:
            lines.append(
                f"warning: {self._held_out}, where {self.asked:.2%} were asked for: interactions "
                "that the split cannot tell apart stay together, and one is the least"
            )
        if self.asked_users < FEW_USERS * self.users:
            lines.append(
                f"warning: the {self.part} asks {self.asked_users} of {self.users} users, fewer "
                f"than {FEW_USERS:.0%} (a query's user and item must be trained): hold out more, "
                "or of each user (parquet: --split last, or --split-group user_id)"
            )
        return tuple(lines)


def hold_out(
    database: duckdb.DuckDBPyConnection,
    split: Split,
    validation: Validation | None = None,
    *,
    after: bool = False,
    admit_after: int = 1,
) -> tuple[HeldOut, ...]:
    """Make ``marked_interactions``: ``part`` says which ones are held out.

    Args:
        database: holds the clean relations; with ``after`` also the views of ``base.py``.
        split: the rule of the test.
        validation: that of the validation; None: there is none.
        after: whether the interactions follow those of a dataset: what it holds out is added to
            the training ones, and nothing else need be left to train on.
        admit_after: training interactions with which an id is admitted; of interactions that follow
            a dataset, ``forget`` decides it.

    Returns:
        What is held out as the test, then for validation if there is one.

    Raises:
        UserError: nothing would be left to train on, or nothing to test or to validate on.
    """
    ordered = "sequence" in columns_of(database, "interactions")
    moment = "time, sequence" if ordered else "time"
    key = columns = f"user_id, item_id, {moment}"
    if EXAMPLE_WEIGHT in columns_of(database, "interactions"):
        columns += f", {EXAMPLE_WEIGHT}"
    if validation is None:
        database.execute(
            f"CREATE TABLE marked_interactions AS SELECT {columns}, "
            f"CASE WHEN {split.is_test} THEN 'test' ELSE 'train' END AS part FROM interactions"
        )
    else:
        _mark_in_turn(database, split, validation, columns)
    joined = _join_equals(database, key, columns) if split.parts_equals else 0
    rows = count_rows(database, "marked_interactions")
    tested = count_rows(database, "marked_interactions WHERE part = 'test'")
    if rows == 1 and not after:
        raise UserError("there is one interaction, to train on or to test on: give more data")
    if tested == rows and not after:
        raise UserError(f"no interaction is left to train on ({split.words}): {split.if_all}")
    if tested == 0 and not split.may_be_empty:
        raise UserError(f"no interaction is held out to test on ({split.words}): {split.if_none}")
    ties = _ties(database, "test", moment) if split.by_order else 0
    users = count_rows(database, "(SELECT DISTINCT user_id FROM marked_interactions)")
    if after:
        _add_held_out(database, columns)
    else:
        hold_back(database, admit_after)
    asked = _asked_users(database, "test", after=after)
    held_out = HeldOut(tested, rows, split.share, "test", ties, users, asked, joined)
    if validation is None:
        return (held_out,)
    validating = count_rows(database, "marked_interactions WHERE part = 'validation'")
    left = rows - tested
    if validating == left and not after:
        raise UserError(
            f"no interaction is left to train on ({validation.words}): give more data, or hold out "
            "less for validation"
        )
    if validating == 0:
        raise UserError(
            f"no interaction is held out for validation ({validation.words}): give more data, or "
            "hold out more"
        )
    ties = _ties(database, "validation", moment) if split.by_order else 0
    asked = _asked_users(database, "validation", after=after)
    return held_out, HeldOut(validating, left, validation.share, "validation", ties, users, asked)


def _mark_in_turn(
    database: duckdb.DuckDBPyConnection, split: Split, validation: Validation, columns: str
) -> None:
    """Make ``marked_interactions``: first what is tested, then what validates among the others."""
    database.execute(
        f"CREATE TABLE tested AS SELECT *, ({split.is_test})::BOOLEAN AS _is_test "
        "FROM interactions; "
        "CREATE VIEW training AS SELECT * EXCLUDE (_is_test) FROM tested WHERE NOT _is_test; "
        f"CREATE TABLE marked_interactions AS SELECT {columns}, 'test' AS part "
        f"FROM tested WHERE _is_test UNION ALL SELECT {columns}, "
        f"CASE WHEN {validation.is_validation} THEN 'validation' ELSE 'train' END FROM training; "
        "DROP VIEW training; DROP TABLE tested"
    )


def _join_equals(database: duckdb.DuckDBPyConnection, key: str, columns: str) -> int:
    """Let equal interactions be of one part: else the test would leak into training.

    Returns:
        How many are no longer trained on.
    """
    before = count_rows(database, "marked_interactions WHERE part = 'train'")
    equal = f"OVER (PARTITION BY {key})"
    database.execute(
        "ALTER TABLE marked_interactions RENAME TO parted; "
        f"CREATE TABLE marked_interactions AS SELECT {columns}, CASE "
        f"WHEN bool_or(part = 'test') {equal} THEN 'test' "
        f"WHEN bool_or(part = 'validation') {equal} THEN 'validation' ELSE 'train' END AS part "
        "FROM parted; DROP TABLE parted"
    )
    return before - count_rows(database, "marked_interactions WHERE part = 'train'")


def _add_held_out(database: duckdb.DuckDBPyConnection, columns: str) -> None:
    """Train on what the dataset before has held out."""
    database.execute(
        f"INSERT INTO marked_interactions ({columns}, part) "
        f"SELECT {columns}, 'train' FROM {HELD_OUT}"
    )


def _asked_users(database: duckdb.DuckDBPyConnection, part: str, *, after: bool) -> int:
    """The number of trained users who have an interaction of the part with a trained item."""
    known = {"user_id": USERS, "item_id": ITEMS} if after else {}
    trained = " AND ".join(
        f"({key} IN (SELECT {key} FROM marked_interactions WHERE part = 'train')"
        + (f" OR {key} IN (SELECT {key} FROM {known[key]} WHERE _trained))" if known else ")")
        for key in ("user_id", "item_id")
    )
    query = f"SELECT DISTINCT user_id FROM marked_interactions WHERE part = '{part}' AND {trained}"
    return count_rows(database, f"({query})")


def _ties(database: duckdb.DuckDBPyConnection, part: str, moment: str) -> int:
    """Count a part's interactions that have the user, and the moment, of one that is trained on."""
    held_out = f"(FROM marked_interactions WHERE part = '{part}') held_out"
    trained = "(FROM marked_interactions WHERE part = 'train') trained"
    return count_rows(database, f"{held_out} SEMI JOIN {trained} USING (user_id, {moment})")
