"""A dataset and what follows it in, the same without the ids that are forgotten out.

An id is forgotten if its last training interaction is too old (``--forget-after``), or if it is
not among the ``--capacity`` ids that were seen last, of equally late ones most often. What follows
is as if the log had never had the forgotten ids' interactions: the dataset's pairs, counts, past
and histories are made anew without them, and its rows close up in their order. An id that is left
without a training interaction by that is forgotten too. Items stay in the catalogue, and users
known, as those who were never trained on: without an embedding row.
"""

from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

import duckdb

from dat_rec.data.database import count_rows
from dat_rec.data.prepare.base import Base, register_views
from dat_rec.data.prepare.options import Options
from dat_rec.data.prepare.parts import take_over
from dat_rec.data.prepare.trend import weight
from dat_rec.data.prepare.write import write_query
from dat_rec.data.scan import scan_parquet
from dat_rec.data.schema import HISTORY, ITEM, RECENT, USER
from dat_rec.data.source import HISTORY_CATEGORY, SEQUENCE, columns_of, named
from dat_rec.errors import UserError

LEAST_LEFT = 0.1
"""Share of the new interactions that --forget-after must leave."""
KEYS = {"user": "user_row", "item": "item_index"}


@dataclass(frozen=True)
class Forgotten:
    """What is left of a dataset."""

    users: int
    """Number of its trained users that are kept."""
    items: int
    """Number of its trained items that are kept."""
    past: int
    """Number of its training interactions that are kept."""
    left_out: int
    """Number of new training interactions with forgotten ids."""
    note: str
    """What was forgotten, in words."""


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
    database: duckdb.DuckDBPyConnection, base: Base, options: Options, day: int, folder: Path
) -> Forgotten:
    """Write what is left of the dataset to ``folder``, and leave forgotten ids out of training.

    Makes ``marked_interactions`` anew, and the views of the dataset of what was written.

    Args:
        database: holds ``marked_interactions`` and the dataset's views.
        base: the dataset.
        options: the rules.
        day: how much time a day is, in the unit of ``time``.
        folder: to write to.

    Raises:
        UserError: nothing would be left to train on.
    """
    folder.mkdir(exist_ok=True)
    sequence = f", {SEQUENCE}" if base.sequence else ""
    database.execute(f"CREATE VIEW base_training AS {_training(base, sequence)}")
    row = database.execute(
        "SELECT greatest((SELECT max(time) FROM base_training), "
        "(SELECT max(time) FROM marked_interactions WHERE part = 'train'))"
    ).fetchone()
    assert row is not None
    for name, key in KEYS.items():
        _keep(database, name, key, options, int(row[0]), day)
    both = "SEMI JOIN kept_user USING (user_id) SEMI JOIN kept_item USING (item_id)"
    left = count_rows(database, "marked_interactions WHERE part = 'train'")
    if options.forget_after is not None:
        _check_last(database, options.forget_after, int(row[0]), day, left)
    database.execute(
        "CREATE TABLE left_interactions AS FROM marked_interactions WHERE part <> 'train' "
        f"UNION ALL FROM (FROM marked_interactions WHERE part = 'train') {both}; "
        "CREATE TABLE kept_training AS SELECT user_row, item_index, time"
        f"{sequence} FROM base_training "
        "SEMI JOIN (SELECT _row AS user_row FROM kept_user) USING (user_row) "
        "SEMI JOIN (SELECT _row AS item_index FROM kept_item) USING (item_index)"
    )
    if not count_rows(database, "left_interactions WHERE part = 'train'") and not count_rows(
        database, "kept_training"
    ):
        given = {"--forget-after": options.forget_after, "--capacity": options.capacity}
        rules = " and ".join(f"{name} {value}" for name, value in given.items() if value)
        raise UserError(
            f"{rules}: no interaction is of a user and an item that are both kept: raise it"
        )
    kept = {name: _map(database, name, key) for name, key in KEYS.items()}
    database.execute(
        "CREATE TABLE moved_training AS SELECT u.row AS user_row, i.row AS item_index, time"
        f"{sequence} FROM kept_training t JOIN user_map u ON u._row = t.user_row "
        "JOIN item_map i ON i._row = t.item_index"
    )
    past = _write(database, base, folder, sequence)
    database.execute("ALTER TABLE left_interactions RENAME TO marked_interactions")
    still = count_rows(database, "marked_interactions WHERE part = 'train'")
    of = {"user": base.trained_users, "item": base.schema.trained_items}
    words = " and ".join(f"{of[name] - kept[name]} of {of[name]} {name}s" for name in KEYS)
    found = Forgotten(
        kept["user"],
        kept["item"],
        past,
        left - still,
        f"forgotten: {words}, with {base.schema.training - past} of their training interactions; "
        f"{left - still} new ones are left out, as their ids are not kept",
    )
    register_views(database, left_of(base, found, folder), columns_of(database, "interactions"))
    return found


def _check_last(
    database: duckdb.DuckDBPyConnection, forget_after: float, last: int, day: int, new: int
) -> None:
    """Refuse a last interaction by which nearly all new ones are too old.

    Raises:
        UserError: names it, and how many are.
    """
    old = count_rows(
        database,
        f"marked_interactions WHERE part = 'train' AND time <= {last - round(forget_after * day)}",
    )
    if old > new * (1 - LEAST_LEFT):
        raise UserError(
            f"--forget-after {forget_after}: leaves out {old} of {new} new interactions, as the "
            f"last one of all is much later, at {last}: correct that row's time, or forget later"
        )


def left_of(base: Base, found: Forgotten, folder: Path) -> Base:
    """What ``forget`` has written, as a dataset to go on from: all of its training is past."""
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
    database: duckdb.DuckDBPyConnection, name: str, key: str, options: Options, now: int, day: int
) -> None:
    """Make ``kept_NAME``: the ids that the rules keep, and their rows in the dataset, if any."""
    rules = "true"
    if options.forget_after is not None:
        rules = f"_last > {now - round(options.forget_after * day)}"
    most = ""
    if options.capacity is not None:
        most = (
            "QUALIFY row_number() OVER (ORDER BY _last DESC, _count DESC, "
            f"{name}_id) <= {options.capacity}"
        )
    database.execute(
        f"CREATE TABLE kept_{name} AS SELECT {name}_id, _row FROM "
        f"(SELECT {name}_id, max(_last) AS _last, sum(_count) AS _count, max(_row) AS _row FROM "
        f"(SELECT {name}_id, _last, _count, _row FROM (SELECT {key} AS _row, max(time) AS _last, "
        f"count(*) AS _count FROM base_training GROUP BY ALL) JOIN base_{name}s USING (_row) "
        f"UNION ALL SELECT {name}_id, max(time), count(*), NULL FROM marked_interactions "
        f"WHERE part = 'train' GROUP BY {name}_id) GROUP BY {name}_id) WHERE {rules} {most}"
    )


def _map(database: duckdb.DuckDBPyConnection, name: str, key: str) -> int:
    """Make ``NAME_map``: the dataset's rows and what they become; return how many are kept.

    Kept ones close up, and all others of the file follow; both in their order.
    """
    ids = f"SELECT {name}_id FROM left_interactions WHERE part = 'train'"
    database.execute(
        f"CREATE TABLE {name}_map AS SELECT _row, _kept, "
        "row_number() OVER (ORDER BY _kept DESC, _row) - 1 AS row FROM "
        f"(SELECT _row, _trained AND _row IN (SELECT _row FROM kept_{name} WHERE _row IS NOT NULL) "
        f"AND (_row IN (SELECT {key} FROM kept_training) OR {name}_id IN ({ids})) AS _kept "
        f"FROM base_{name}s)"
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
    """Write users.parquet; of histories that lost an item, earlier ones come in for it."""
    length = base.schema.history_length
    database.execute(
        "CREATE TABLE old_items AS SELECT user_map.row AS user_row, place, item_map.row "
        f"AS item_index, item_map._kept AS kept FROM (SELECT _row, unnest({HISTORY}) - 1 AS item, "
        f"generate_subscripts({HISTORY}, 1) AS place FROM base_users WHERE _trained) "
        "JOIN user_map USING (_row) JOIN item_map ON item_map._row = item WHERE user_map._kept; "
        "CREATE TABLE lost AS SELECT DISTINCT user_row FROM old_items WHERE NOT kept"
    )
    order = f"time DESC{', sequence DESC' if sequence else ''}, item_index DESC"
    write_query(
        database,
        f"SELECT base.* EXCLUDE (_row, _trained, {HISTORY}, {HISTORY_CATEGORY}) REPLACE "
        f"(_kept AS trained, CASE WHEN _kept THEN row + 1 ELSE 0 END::INTEGER AS {named(USER)}), "
        f"coalesce(_items, [])::INTEGER[] AS {HISTORY} FROM base_users base "
        "JOIN user_map USING (_row) LEFT JOIN ("
        "SELECT user_row AS row, list(item_index + 1 ORDER BY place) AS _items FROM old_items "
        "WHERE user_row NOT IN (FROM lost) GROUP BY ALL UNION ALL "
        "SELECT user_row, list(item_index + 1 ORDER BY place DESC) FROM (SELECT user_row, "
        f"item_index, row_number() OVER (PARTITION BY user_row ORDER BY {order}) AS place "
        f"FROM moved_training SEMI JOIN lost USING (user_row) QUALIFY place <= {length}) "
        "GROUP BY ALL) USING (row) ORDER BY row",
        folder / "users.parquet",
    )
