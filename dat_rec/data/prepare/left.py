"""A dataset's training interactions that are left in, the files of a dataset to go on from out.

Who leaves and who is admitted, forget.py and admit.py decide: a training interaction may have gone,
and one that had waited may have come. The pairs, counts, past and histories are made anew of those
that are left, and rows close up in their order: those that have a training interaction now, behind
them the others of the file. Items stay in the catalogue, and users known.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from dat_rec.data.database import count_rows
from dat_rec.data.prepare.base import Base
from dat_rec.data.prepare.parts import take_over
from dat_rec.data.prepare.trend import weight
from dat_rec.data.prepare.write import write_query
from dat_rec.data.schema import HISTORY, HISTORY_CATEGORY, ITEM, RECENT, USER
from dat_rec.data.source import SEQUENCE, named

KEYS = {"user": "user_row", "item": "item_index"}


@dataclass(frozen=True)
class Left:
    """What is left of a dataset."""

    users: int
    """Number of its users that are trained."""
    items: int
    """Number of its items that are trained."""
    past: int
    """Number of its training interactions."""


def write_left(database: duckdb.DuckDBPyConnection, base: Base, folder: Path) -> Left:
    """Write what is left of the dataset.

    Args:
        database: holds ``kept_training`` (user_row, item_index, time, sequence if there is one; of
            the dataset's rows), ``left_interactions``, of which part 'train' follows it, and
            ``released`` (user_row), users of whose interactions some are new in ``kept_training``.
        base: the dataset.
        folder: to write to.
    """
    sequence = f", {SEQUENCE}" if base.sequence else ""
    kept = {name: _map(database, name, key) for name, key in KEYS.items()}
    database.execute(
        "CREATE TABLE moved_training AS SELECT u.row AS user_row, i.row AS item_index, time"
        f"{sequence} FROM kept_training t JOIN user_map u ON u._row = t.user_row "
        "JOIN item_map i ON i._row = t.item_index"
    )
    return Left(kept["user"], kept["item"], _write(database, base, folder, sequence))


def left_of(base: Base, found: Left, folder: Path) -> Base:
    """What ``write_left`` has written, as a dataset to go on from: all of its training is past."""
    rows = {USER: found.users + 1, ITEM: found.items + 1}
    features = tuple(
        replace(one, rows=rows.get(one.table, one.rows)) for one in base.schema.features
    )
    schema = replace(
        base.schema,
        features=features,
        trained_items=found.items,
        examples=0,
        example_files=(),
        past=found.past,
        seen_files=(),
        past_files=(),
    )
    return Base(folder, schema, base.sequence)


def _map(database: duckdb.DuckDBPyConnection, name: str, key: str) -> int:
    """Make ``NAME_map``: the dataset's rows and what they become; return how many are trained.

    Trained ones close up, and all others of the file follow; both in their order.
    """
    ids = f"SELECT {name}_id FROM left_interactions WHERE part = 'train'"
    database.execute(
        f"CREATE TABLE {name}_map AS SELECT _row, _trained, _kept, "
        "row_number() OVER (ORDER BY _kept DESC, _row) - 1 AS row FROM "
        f"(SELECT _row, _trained, _row IN (SELECT {key} FROM kept_training) "
        f"OR (_trained AND {name}_id IN ({ids})) AS _kept FROM base_{name}s)"
    )
    return count_rows(database, f"{name}_map WHERE _kept")


def _write(database: duckdb.DuckDBPyConnection, base: Base, folder: Path, sequence: str) -> int:
    """Write the files of the dataset that is left; return its number of training interactions."""
    for file in sorted((base.folder / "vocabularies").glob("*.parquet")):
        take_over(file, folder / "vocabularies" / file.name)
    numbers = "user_row::INTEGER AS user_row, item_index::INTEGER AS item_index"
    write_query(
        database,
        f"SELECT {numbers}, count(*)::INTEGER AS count FROM moved_training GROUP BY ALL "
        "ORDER BY ALL",
        folder / "seen.parquet",
    )
    past = write_query(
        database,
        f"SELECT {numbers}, time{sequence} FROM moved_training "
        f"ORDER BY time{sequence}, user_row, item_index",
        folder / "past.parquet",
    )
    counts, recent = "count(*) AS _found", ""
    if (trend := base.schema.trend) is not None:
        counts += f", {weight(trend)} AS _recent"
        recent = f", coalesce(_recent, 0)::DOUBLE AS {RECENT}"
    write_query(
        database,
        "SELECT base.* EXCLUDE (_row, _trained) REPLACE (coalesce(_found, 0)::INTEGER AS "
        f"train_count, CASE WHEN _kept THEN row + 1 ELSE 0 END::INTEGER AS {named(ITEM)}{recent}) "
        f"FROM base_items base JOIN item_map USING (_row) LEFT JOIN (SELECT item_index AS row, "
        f"{counts} FROM moved_training GROUP BY ALL) USING (row) ORDER BY row",
        folder / "items.parquet",
    )
    _write_users(database, base, folder, sequence)
    return past


def _write_users(
    database: duckdb.DuckDBPyConnection, base: Base, folder: Path, sequence: str
) -> None:
    """Write users.parquet; histories that lost or got an item are made of the past."""
    length = base.schema.history_length
    database.execute(
        "CREATE TABLE old_items AS SELECT user_map.row AS user_row, place, item_map.row "
        f"AS item_index, item_map._kept AS kept FROM (SELECT _row, unnest({HISTORY}) - 1 AS item, "
        f"generate_subscripts({HISTORY}, 1) AS place FROM base_users WHERE _trained) "
        "JOIN user_map USING (_row) JOIN item_map ON item_map._row = item WHERE user_map._kept; "
        "CREATE TABLE changed AS SELECT DISTINCT user_row FROM old_items WHERE NOT kept UNION "
        "SELECT user_map.row FROM released JOIN user_map ON user_map._row = released.user_row"
    )
    order = f"time DESC{', sequence DESC' if sequence else ''}, item_index DESC"
    write_query(
        database,
        f"SELECT base.* EXCLUDE (_row, _trained, {HISTORY}, {HISTORY_CATEGORY}) REPLACE "
        f"(_kept AS trained, CASE WHEN _kept THEN row + 1 ELSE 0 END::INTEGER AS {named(USER)}), "
        f"coalesce(_items, [])::INTEGER[] AS {HISTORY} FROM base_users base "
        "JOIN user_map USING (_row) LEFT JOIN ("
        "SELECT user_row AS row, list(item_index + 1 ORDER BY place) AS _items FROM old_items "
        "WHERE user_row NOT IN (FROM changed) GROUP BY ALL UNION ALL "
        "SELECT user_row, list(item_index + 1 ORDER BY place DESC) FROM (SELECT user_row, "
        f"item_index, row_number() OVER (PARTITION BY user_row ORDER BY {order}) AS place "
        f"FROM moved_training SEMI JOIN changed USING (user_row) QUALIFY place <= {length}) "
        "GROUP BY ALL) USING (row) ORDER BY row",
        folder / "users.parquet",
    )
