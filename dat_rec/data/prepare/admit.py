"""Training interactions in, those of ids with few out: they wait until there are more.

An id, a user's or an item's, is admitted once it has ``--admit-after`` training interactions:
repeats count, and so do those with ids that are not admitted. An interaction is trained on if both
its ids are admitted. Else it waits: it is in no example, history, pair or count, and stands in
waiting.parquet. An id that is not admitted, or all of whose interactions wait, is one that was
never trained on: it has no embedding row, reads the unknown one, and is cold in a test.

What had waited, and whose ids are both admitted by what follows the dataset, is its past from then
on. So which interactions train is told by all of them, and not by the days on which they came.
"""

import duckdb

from dat_rec.data.database import count_rows
from dat_rec.data.prepare.base import Base
from dat_rec.data.prepare.left import KEYS
from dat_rec.data.prepare.options import Options
from dat_rec.errors import UserError

BOTH = (
    "user_id IN (SELECT user_id FROM admitted_user) "
    "AND item_id IN (SELECT item_id FROM admitted_item)"
)


def check_admission(options: Options) -> None:
    """Refuse a number of interactions that is none.

    Raises:
        UserError: names the option and the cure.
    """
    if options.admit_after is not None and options.admit_after < 1:
        raise UserError(f"--admit-after {options.admit_after}: must be at least 1, which is all")


def admission_of(options: Options, base: Base | None) -> int:
    """With how many training interactions an id is admitted."""
    if options.admit_after is not None:
        return options.admit_after
    return 1 if base is None else base.schema.admit_after


def hold_back(database: duckdb.DuckDBPyConnection, admit_after: int) -> None:
    """Let training interactions of ids that are not admitted wait, of a log from its begin on.

    Args:
        database: holds ``marked_interactions``.
        admit_after: training interactions with which an id is admitted.

    Raises:
        UserError: all would wait.
    """
    if admit_after == 1:
        return
    for name in KEYS:
        database.execute(
            f"CREATE TABLE admitted_{name} AS SELECT {name}_id FROM marked_interactions "
            f"WHERE part = 'train' GROUP BY {name}_id HAVING count(*) >= {admit_after}"
        )
    database.execute(
        f"UPDATE marked_interactions SET part = 'waiting' WHERE part = 'train' AND NOT ({BOTH})"
    )
    if not count_rows(database, "marked_interactions WHERE part = 'train'"):
        raise UserError(
            f"--admit-after {admit_after}: no interaction is of a user and an item that both have "
            "so many training interactions: lower it, or give more data"
        )


def admit(database: duckdb.DuckDBPyConnection, admit_after: int, sequence: str) -> None:
    """Move interactions between training and waiting, of a dataset and of what follows it.

    Args:
        database: holds ``kept_training`` (user_row, item_index, time, and sequence: the dataset's
            training), ``kept_new`` (user_id, item_id, time, sequence, part: 'train' for what
            follows it, 'waiting' for what has waited) and the dataset's views. Both tables have
            afterwards what is admitted; what waits is in ``kept_new`` as 'waiting'. Makes
            ``released`` (user_row): of those that had waited and are in ``kept_training`` now.
        admit_after: training interactions with which an id is admitted.
        sequence: ", sequence" if there is one, or nothing.
    """
    row = "u._row AS user_row, i._row AS item_index"
    numbered = "JOIN base_users u USING (user_id) JOIN base_items i USING (item_id)"
    waited = f"SELECT {row}, time{sequence} FROM kept_new {numbered} WHERE part = 'waiting'"
    if admit_after == 1:  # whatever has waited does so no longer
        database.execute(
            f"CREATE TABLE released AS {waited}; DELETE FROM kept_new WHERE part = 'waiting'; "
            "INSERT INTO kept_training BY NAME FROM released"
        )
        return
    for name in KEYS:
        database.execute(
            f"CREATE TABLE admitted_{name} AS SELECT {name}_id FROM "
            f"({counted(name, 'kept_training', 'kept_new')}) WHERE _count >= {admit_after}"
        )
    by_row = "JOIN base_users u ON u._row = user_row JOIN base_items i ON i._row = item_index"
    database.execute(
        f"CREATE TABLE released AS {waited} AND {BOTH}; "
        f"DELETE FROM kept_new WHERE part = 'waiting' AND {BOTH}; "
        f"INSERT INTO kept_new BY NAME SELECT user_id, item_id, time{sequence}, 'waiting' AS part "
        f"FROM kept_training {by_row} WHERE NOT ({BOTH}); "
        f"UPDATE kept_new SET part = 'waiting' WHERE NOT ({BOTH}); "
        "DELETE FROM kept_training WHERE "
        f"user_row NOT IN (SELECT _row FROM base_users SEMI JOIN admitted_user USING (user_id)) OR "
        f"item_index NOT IN (SELECT _row FROM base_items SEMI JOIN admitted_item USING (item_id)); "
        "INSERT INTO kept_training BY NAME FROM released"
    )


def counted(name: str, base: str, new: str) -> str:
    """SQL: the ids of training interactions: NAME_id, ``_row``, ``_last`` and ``_count``.

    Args:
        name: ``user`` or ``item``.
        base: relation of interactions of the dataset, by its rows.
        new: relation of others, by ids.
    """
    return (
        f"SELECT {name}_id, max(_row) AS _row, max(_last) AS _last, sum(_count) AS _count FROM "
        f"(SELECT {name}_id, _last, _count, _row FROM (SELECT {KEYS[name]} AS _row, "
        f"max(time) AS _last, count(*) AS _count FROM {base} GROUP BY ALL) "
        f"JOIN base_{name}s USING (_row) "
        f"UNION ALL SELECT {name}_id, max(time), count(*), NULL FROM {new} GROUP BY {name}_id) "
        f"GROUP BY {name}_id"
    )


def words_of_waiting(database: duckdb.DuckDBPyConnection, admit_after: int) -> tuple[str, ...]:
    """A line, if ids have to be admitted.

    Args:
        database: holds ``marked_interactions``.
        admit_after: training interactions with which an id is admitted.
    """
    if admit_after == 1:
        return ()
    waiting = "FROM marked_interactions WHERE part = 'waiting'"
    row = database.execute(
        f"SELECT count(*), count(DISTINCT user_id), count(DISTINCT item_id) {waiting}"
    ).fetchone()
    assert row is not None
    return (
        f"waiting: {row[0]} training interactions, of {row[1]} users with {row[2]} items: either "
        f"has fewer than {admit_after} (--admit-after)",
    )
