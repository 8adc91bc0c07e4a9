"""A dataset and what follows it in, the same without the ids that are forgotten out.

An id is forgotten if its last training interaction is too old (``--forget-after``), or if it is
not among the ``--capacity`` ids that were seen last, of equally late ones most often. What follows
is as if the log had never had the forgotten ids' interactions: the dataset's pairs, counts, past
and histories are made anew without them (left.py). An id that is left without a training
interaction by that is forgotten too. Items stay in the catalogue, and users known, as those who
were never trained on: without an embedding row.

Interactions that wait (``--admit-after``, admit.py) are among those that are looked at. An id that
is not admitted takes no room of the capacity. Then, of what the others leave, it is told anew who
is admitted.
"""

from dataclasses import dataclass
from math import ceil, isfinite
from pathlib import Path

import duckdb

from dat_rec.data.database import count_rows
from dat_rec.data.prepare.admit import admit, counted, words_of_waiting
from dat_rec.data.prepare.base import WAITING, Base, register_views
from dat_rec.data.prepare.left import KEYS, Left, left_of, write_left
from dat_rec.data.prepare.options import Options
from dat_rec.data.scan import scan_parquet
from dat_rec.data.schema import USER
from dat_rec.data.source import SEQUENCE, columns_of, named
from dat_rec.errors import UserError

LEAST_LEFT = 0.1
"""Share of the new interactions that --forget-after must leave."""


@dataclass(frozen=True)
class Forgotten:
    """What the stage ``forget`` hands on, beside the marked interactions and the files."""

    left: Left
    """What is left of the dataset."""
    anew: bool
    """Whether it was written anew; else the dataset stays as it is."""
    notes: tuple[str, ...]
    """What was forgotten, and what waits, in words."""


def check_forgetting(options: Options) -> None:
    """Refuse rules of forgetting that are none, or that have nothing to forget.

    Raises:
        UserError: names the option and the cure.
    """
    for name, value in (("--forget-after", options.forget_after), ("--capacity", options.capacity)):
        if value is None:
            continue
        if not (isfinite(value) and value > 0):
            raise UserError(f"{name} {value}: must be above 0, and finite")
        if options.after is None:
            raise UserError(f"{name} {value}: needs --after, whose ids are forgotten: leave it out")


def forget(
    database: duckdb.DuckDBPyConnection,
    base: Base,
    options: Options,
    admit_after: int,
    day: int,
    folder: Path,
) -> Forgotten:
    """Write what is left of the dataset to ``folder``, and leave forgotten ids out of training.

    Makes ``marked_interactions`` anew, with part 'waiting' for those whose user or item is not
    admitted, and the views of the dataset of what was written.

    Args:
        database: holds ``marked_interactions`` and the dataset's views.
        base: the dataset.
        options: the rules.
        admit_after: training interactions with which an id is admitted.
        day: how much time a day is, in the unit of ``time``.
        folder: to write to.

    Raises:
        UserError: nothing would be left to train on.
    """
    folder.mkdir(exist_ok=True)
    sequence = f", {SEQUENCE}" if base.sequence else ""
    new = "marked_interactions WHERE part = 'train'"
    given = {"--forget-after": options.forget_after, "--capacity": options.capacity}
    given = {name: value for name, value in given.items() if value is not None}
    waiting = f" UNION ALL BY NAME SELECT *, 'waiting' AS part FROM {WAITING}"
    waiting = waiting if base.schema.waiting else ""
    before = count_rows(database, new)
    if not given and not before and admit_after == base.schema.admit_after:
        # Nobody's count has changed, as where the day is scored.
        database.execute(
            f"CREATE TABLE left_interactions AS FROM marked_interactions{waiting}; "
            "ALTER TABLE left_interactions RENAME TO marked_interactions"
        )
        left = Left(base.trained_users, base.schema.trained_items, base.schema.training)
        return Forgotten(left, anew=False, notes=words_of_waiting(database, admit_after))
    database.execute(
        f"CREATE VIEW base_training AS {_training(base, sequence)}; "
        f"CREATE VIEW new_training AS FROM (FROM {new}){waiting}"
    )
    row = database.execute(
        "SELECT max(time) FROM (SELECT time FROM base_training UNION ALL "
        "SELECT time FROM new_training)"
    ).fetchone()
    assert row is not None
    for name in KEYS:
        _keep(database, name, options, admit_after, int(row[0]), day)
    if options.forget_after is not None:
        _check_last(database, options.forget_after, int(row[0]), day, before)
    database.execute(
        "CREATE TABLE kept_new AS FROM new_training SEMI JOIN kept_user USING (user_id) "
        "SEMI JOIN kept_item USING (item_id); "
        f"CREATE TABLE kept_training AS SELECT user_row, item_index, time{sequence} "
        "FROM base_training "
        "SEMI JOIN (SELECT _row AS user_row FROM kept_user) USING (user_row) "
        "SEMI JOIN (SELECT _row AS item_index FROM kept_item) USING (item_index)"
    )
    said = _words(database, before)
    admit(database, admit_after, sequence)
    database.execute(
        "CREATE TABLE left_interactions AS FROM marked_interactions WHERE part <> 'train' "
        "UNION ALL BY NAME FROM kept_new"
    )
    if not count_rows(database, "left_interactions WHERE part = 'train'") and not count_rows(
        database, "kept_training"
    ):
        rules = " and ".join(f"{name} {value}" for name, value in given.items())
        cure = "raise it" if given else ""
        if admit_after > 1:
            rules += f"{' and ' if rules else ''}--admit-after {admit_after}"
            cure += f"{', or ' if cure else ''}lower --admit-after"
        raise UserError(
            f"{rules}: no interaction is of a user and an item that are both kept: {cure}"
        )
    left = write_left(database, base, folder)
    database.execute("ALTER TABLE left_interactions RENAME TO marked_interactions")
    notes = words_of_waiting(database, admit_after)
    if given:
        of = {"user": base.trained_users, "item": base.schema.trained_items}
        lost = " and ".join(
            f"{count_rows(database, f'{name}_map WHERE _trained AND NOT _kept')} of {of[name]} "
            f"{name}s"
            for name in KEYS
        )
        notes = (f"forgotten: {lost}, {said}", *notes)
    register_views(database, left_of(base, left, folder), columns_of(database, "interactions"))
    return Forgotten(left, anew=True, notes=notes)


def _words(database: duckdb.DuckDBPyConnection, new: int) -> str:
    """How many training interactions of forgotten ids there are, in words; ``new`` follow."""
    gone = count_rows(database, "base_training") - count_rows(database, "kept_training")
    left_out = new - count_rows(database, "kept_new WHERE part = 'train'")
    return (
        f"with {gone} of their training interactions; {left_out} new ones are left out, as their "
        "ids are not kept"
    )


def _check_last(
    database: duckdb.DuckDBPyConnection, forget_after: float, last: int, day: int, new: int
) -> None:
    """Refuse a last interaction by which nearly all new ones are too old.

    Raises:
        UserError: names it, and how many are.
    """
    old = count_rows(
        database,
        f"marked_interactions WHERE part = 'train' AND time <= {last - ceil(forget_after * day)}",
    )
    if old > new * (1 - LEAST_LEFT):
        raise UserError(
            f"--forget-after {forget_after}: leaves out {old} of {new} new interactions, as the "
            f"last one of all is much later, at {last}: correct that row's time, or forget later"
        )


def _training(base: Base, sequence: str) -> str:
    """SQL: the dataset's training interactions."""
    parts = []
    if base.schema.past:
        past = scan_parquet([base.folder / path for path in base.schema.past_paths])
        parts.append(f"SELECT user_row, item_index, time{sequence} FROM {past}")
    if base.schema.examples:
        examples = scan_parquet(base.examples)
        parts.append(
            f"SELECT {named(USER)} - 1 AS user_row, item_index, time{sequence} FROM {examples}"
        )
    return " UNION ALL ".join(parts)


def _keep(
    database: duckdb.DuckDBPyConnection,
    name: str,
    options: Options,
    admit_after: int,
    now: int,
    day: int,
) -> None:
    """Make ``kept_NAME``: the ids that the rules keep, and their rows in the dataset, if any."""
    rules = "true"
    if options.forget_after is not None:
        rules = f"_last > {now - ceil(options.forget_after * day)}"
    most = ""
    if options.capacity is not None:
        waits = f"_count < {admit_after}"
        most = (
            f"QUALIFY {waits} OR row_number() OVER (PARTITION BY {waits} "
            f"ORDER BY _last DESC, _count DESC, {name}_id) <= {options.capacity}"
        )
    database.execute(
        f"CREATE TABLE kept_{name} AS SELECT {name}_id, _row FROM "
        f"({counted(name, 'base_training', 'new_training')}) WHERE {rules} {most}"
    )
