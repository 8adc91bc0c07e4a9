"""Clean interactions in, the same marked out: what trains, what validates and what tests.

In: ``interactions``, ``items``, ``users``. Out: table ``marked_interactions`` (user_id, item_id,
time, sequence if there is one, part), and the three anew where ``minimum`` drops rows. ``part`` is
``train``, ``validation`` or ``test``.
"""

from dataclasses import dataclass

import duckdb

from dat_rec.data.database import count_rows
from dat_rec.data.source import Split, Validation, columns_of
from dat_rec.errors import UserError

FAR = 1.5
"""Ratio of the share that is held out to the one that was asked for, or the reverse, above which a
warning says so."""


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
    ties: int = 0
    """Number of held-out interactions that their order alone tells from a training one."""

    def __str__(self) -> str:
        return f"{self.rows} of {self.of} are held out ({self.rows / self.of:.2%})"

    @property
    def warnings(self) -> tuple[str, ...]:
        """A line, if the share is far from the one that was asked for, or there are ties."""
        if self.ties:
            return (
                f"warning: {self.ties} held-out interactions have the user and time of one that is "
                "trained on: the order of the rows chose them: name a column that orders them "
                "(--sequence of parquet)",
            )
        share = self.rows / self.of
        if self.asked is None or self.asked / FAR <= share <= self.asked * FAR:
            return ()
        return (
            f"warning: {self}, where {self.asked:.2%} were asked for: interactions that the split "
            "cannot tell apart stay together, and one is the least",
        )


def hold_out(
    database: duckdb.DuckDBPyConnection, split: Split, validation: Validation | None = None
) -> tuple[HeldOut, ...]:
    """Make ``marked_interactions``: ``part`` says which ones are held out.

    Returns:
        What is held out as the test, then for validation if there is one.

    Raises:
        UserError: nothing would be left to train on, or nothing to test or to validate on.
    """
    ordered = "sequence" in columns_of(database, "interactions")
    moment = "time, sequence" if ordered else "time"
    columns = f"user_id, item_id, {moment}"
    if validation is None:
        database.execute(
            f"CREATE TABLE marked_interactions AS SELECT {columns}, "
            f"CASE WHEN {split.is_test} THEN 'test' ELSE 'train' END AS part FROM interactions"
        )
    else:
        _mark_in_turn(database, split, validation, columns)
    rows = count_rows(database, "marked_interactions")
    tested = count_rows(database, "marked_interactions WHERE part = 'test'")
    if rows == 1:
        raise UserError("there is one interaction, to train on or to test on: give more data")
    if tested == rows:
        raise UserError(f"no interaction is left to train on ({split.words}): {split.if_all}")
    if tested == 0:
        raise UserError(f"no interaction is held out to test on ({split.words}): {split.if_none}")
    ties = _ties(database, "test", moment) if split.by_order else 0
    held_out = HeldOut(tested, rows, split.share, ties)
    if validation is None:
        return (held_out,)
    validating = count_rows(database, "marked_interactions WHERE part = 'validation'")
    left = rows - tested
    if validating == left:
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
    return held_out, HeldOut(validating, left, validation.share, ties)


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


def _ties(database: duckdb.DuckDBPyConnection, part: str, moment: str) -> int:
    """Count a part's interactions that have the user, and the moment, of one that is trained on."""
    held_out = f"(FROM marked_interactions WHERE part = '{part}') held_out"
    trained = "(FROM marked_interactions WHERE part = 'train') trained"
    return count_rows(database, f"{held_out} SEMI JOIN {trained} USING (user_id, {moment})")
