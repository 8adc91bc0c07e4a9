"""Marked interactions and numbered ids in, numbered interactions out: held out, and trained on.

The training interactions are divided by ranges of users, which user_ranges.py works on one by one.
"""

import shutil
from pathlib import Path
from typing import Literal

import duckdb

from dat_rec.data.prepare.user_ranges import UserRange
from dat_rec.data.prepare.write import write_query
from dat_rec.data.scan import scan_parquet
from dat_rec.data.schema import EXAMPLE_WEIGHT
from dat_rec.data.source import SEQUENCE, columns_of, quoted
from dat_rec.files import fsync_tree

RANGE_ROWS = 1 << 21
"""Users and training interactions of a range; one user's interactions always stay together."""


def find_ranges(
    database: duckdb.DuckDBPyConnection, train_from: int | None
) -> tuple[UserRange, ...]:
    """Add the column ``range`` to ``user_order``, and return the ranges in the order of users.

    Args:
        database: holds ``user_order`` and ``marked_interactions``.
        train_from: time from which on training interactions are examples; None: all are.
    """
    size = "sum(train_count + 1) OVER (ORDER BY user_row) - train_count - 1"
    database.execute(
        "CREATE TABLE user_ranges AS SELECT user_id, user_row, train_count, "
        f"(({size}) // {RANGE_ROWS})::INTEGER AS range FROM user_order"
    )
    found = database.execute(
        "SELECT range, min(user_row), count(*), sum(train_count) FROM user_ranges GROUP BY range "
        "ORDER BY range"
    ).fetchall()
    examples = {number: int(rows) for number, _, _, rows in found}
    if train_from is not None:
        of_ranges = database.execute(
            "SELECT range, count(*) FROM marked_interactions JOIN user_ranges USING (user_id) "
            f"WHERE part = 'train' AND time >= {train_from} GROUP BY range"
        ).fetchall()
        examples = dict.fromkeys(examples, 0) | dict(of_ranges)
    ranges: list[UserRange] = []
    first_row = first_example = 0
    for number, first_user, users, rows in found:
        ranges.append(
            UserRange(
                number, first_user, users, first_row, int(rows), first_example, examples[number]
            )
        )
        first_row += int(rows)
        first_example += examples[number]
    return tuple(ranges)


def has_sequence(database: duckdb.DuckDBPyConnection) -> bool:
    """Whether a sequence orders the interactions of one time."""
    return SEQUENCE in columns_of(database, "marked_interactions")


def _of_interactions(database: duckdb.DuckDBPyConnection) -> list[str]:
    """The columns of an interaction beside its ids: time, and those that not every log has."""
    there = columns_of(database, "marked_interactions")
    return ["time", *(name for name in (SEQUENCE, EXAMPLE_WEIGHT) if name in there)]


def write_training(database: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Write ``folder``/range=R/*.parquet, in no order: user_row, item_index, time.

    Also sequence and example_weight, if the log has them.

    Args:
        database: holds the marked interactions and the numbers of their ids.
        folder: to write to.
    """
    shutil.rmtree(folder, ignore_errors=True)
    columns = "".join(f"{name}, " for name in _of_interactions(database))
    numbered = (
        f"SELECT user_row::INTEGER AS user_row, item_index::INTEGER AS item_index, {columns}range "
        "FROM marked_interactions JOIN user_ranges USING (user_id) JOIN item_order USING (item_id) "
        "WHERE part = 'train'"
    )
    database.execute(
        f"COPY ({numbered}) TO {quoted(folder)} (FORMAT parquet, PARTITION_BY (range))"
    )
    fsync_tree(folder)


def is_unordered(database: duckdb.DuckDBPyConnection, training: Path) -> bool:
    """Whether no user has training interactions of two times, or of one time and two sequences.

    Args:
        database: any.
        training: folder of ``write_training``.
    """
    moment = "time, sequence" if has_sequence(database) else "time"
    # A range is enough where there is an order, as almost always.
    for folder in sorted(training.iterdir()):
        rows = scan_parquet(sorted(folder.iterdir()))
        two = f"SELECT 1 FROM {rows} GROUP BY user_row HAVING min(({moment})) < max(({moment}))"
        if database.execute(f"{two} LIMIT 1").fetchone():
            return False
    return True


def write_held_out(
    database: duckdb.DuckDBPyConnection, part: Literal["validation", "test", "waiting"], path: Path
) -> int:
    """Write a part's interactions by time; return the number of rows."""
    moment = f"time, {SEQUENCE}" if has_sequence(database) else "time"
    columns = moment if part == "waiting" else ", ".join(_of_interactions(database))
    query = (
        "SELECT user_row::INTEGER AS user_row, item_index::INTEGER AS item_index, "
        f"{columns} FROM marked_interactions JOIN user_order USING (user_id) "
        "JOIN item_order USING (item_id) "
        f"WHERE part = '{part}' ORDER BY {moment}, user_row, item_index, {columns}"
    )
    return write_query(database, query, path)
