"""Clean interactions in, the same with the held-out ones marked out: what trains and what tests.

In: ``interactions``, ``items``, ``users``. Out: table ``marked_interactions`` (user_id, item_id,
time, sequence if there is one, is_test), and the three anew where ``minimum`` drops rows.
"""

from dataclasses import dataclass

import duckdb

from dat_rec.data.database import count_rows
from dat_rec.data.source import Split, columns_of
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


def hold_out(database: duckdb.DuckDBPyConnection, split: Split) -> HeldOut:
    """Make ``marked_interactions``: is_test says which ones are held out.

    Raises:
        UserError: nothing would be left to train on, or nothing to test on.
    """
    ordered = "sequence" in columns_of(database, "interactions")
    sequence = ", sequence" if ordered else ""
    database.execute(
        f"CREATE TABLE marked_interactions AS SELECT user_id, item_id, time{sequence}, "
        f"({split.is_test})::BOOLEAN AS is_test FROM interactions"
    )
    rows = count_rows(database, "marked_interactions")
    held = count_rows(database, "marked_interactions WHERE is_test")
    if rows == 1:
        raise UserError("there is one interaction, to train on or to test on: give more data")
    if held == rows:
        raise UserError(f"no interaction is left to train on ({split.words}): {split.if_all}")
    if held == 0:
        raise UserError(f"no interaction is held out to test on ({split.words}): {split.if_none}")
    ties = 0
    if split.by_order:
        held_out, trained = (
            f"(FROM marked_interactions WHERE {test})" for test in ("is_test", "NOT is_test")
        )
        ties = count_rows(
            database,
            f"{held_out} held SEMI JOIN {trained} trained USING (user_id, time{sequence})",
        )
    return HeldOut(held, rows, split.share, ties)
