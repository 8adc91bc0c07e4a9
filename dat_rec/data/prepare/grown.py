"""A dataset's ids and values, and new ones, in; the tables of vocabulary.py out, its rows kept.

What has an embedding row in the dataset keeps it. Ids that are trained for the first time follow,
as vocabulary.py orders them, then those without a row. A table of items or users, where one is
given, tells the attributes of those in it as of today; others keep what the dataset has of them.
"""

from collections.abc import Sequence
from pathlib import Path

import duckdb

from dat_rec.data.database import count_rows
from dat_rec.data.prepare.base import ITEMS, USERS, Base, vocabulary_scan
from dat_rec.data.prepare.dense import dense_names, is_dense
from dat_rec.data.prepare.vocabulary import category_words, encode, join_encoded
from dat_rec.data.schema import ITEM, USER, Feature
from dat_rec.data.source import Attribute, named


def grow_items(
    database: duckdb.DuckDBPyConnection,
    attributes: Sequence[Attribute],
    category: str,
    folder: Path,
    base: Base,
) -> list[Feature]:
    """Make ``item_rows``, as ``number_items``: the dataset's trained items first, in their rows.

    Args:
        database: holds the clean relations and the dataset's views.
        attributes: those of all sides.
        category: the item attribute that is the category of equation (3).
        folder: the new dataset's folder.
        base: the dataset.

    Returns:
        The item features in order, each with its table's size.
    """
    old = base.schema.trained_items
    database.execute(
        "CREATE TABLE item_order AS SELECT item_id, train_count, "
        f"CASE WHEN _trained THEN _row ELSE {old} - 1 + row_number() OVER "
        "(PARTITION BY _trained ORDER BY train_count DESC, item_id) END AS item_index FROM "
        "(SELECT item_id, coalesce(_trained, false) AS _trained, _row, "
        "coalesce(base.train_count, 0) + coalesce(_found, 0) AS train_count "
        f"FROM items FULL JOIN {ITEMS} base USING (item_id) LEFT JOIN (SELECT item_id, "
        "count(*) AS _found FROM marked_interactions WHERE part = 'train' GROUP BY item_id) "
        "USING (item_id))"
    )
    trained = count_rows(database, "item_order WHERE train_count > 0")
    dense = dense_names(attributes, "item")
    database.execute(
        "CREATE TABLE numbered AS SELECT item_index::INTEGER AS _number, item_order.train_count, "
        f"CASE WHEN item_order.train_count > 0 THEN item_index + 1 ELSE 0 END::INTEGER AS {ITEM}, "
        "item_order.item_id, coalesce(_today, false) AS _known, base._row AS _row, "
        "CASE WHEN _today THEN today.title ELSE base.title END AS title, "
        f"base.category_name AS _category_name{_before(dense)}, "
        "today.* EXCLUDE (item_id, title, _today) "
        "FROM item_order LEFT JOIN (SELECT *, true AS _today FROM items) today USING (item_id) "
        f"LEFT JOIN {ITEMS} base USING (item_id)"
    )
    features = [Feature(ITEM, "item", ITEM, trained + 1)]
    attributes = [a for a in attributes if a.side == "item" and not is_dense(a)]
    attributes.sort(key=lambda attribute: attribute.name != category)
    features += [_encode(database, attribute, folder, base, ITEMS) for attribute in attributes]
    words = f"CASE WHEN _known THEN {category_words(database, category)} ELSE _category_name END"
    join_encoded(
        database,
        "item_rows",
        f"n._number AS item_index, item_id, title, {words} AS category_name, train_count, {ITEM}"
        f"{_as_today(dense)}",
        attributes,
    )
    return features


def grow_users(
    database: duckdb.DuckDBPyConnection,
    attributes: Sequence[Attribute],
    folder: Path,
    base: Base,
) -> list[Feature]:
    """Make ``user_rows``, as ``number_users``: the dataset's trained users first, in their rows.

    The ``train_count`` of ``user_order`` counts what a user's sequence may hold here: as many items
    as a history has, and the interactions that follow.

    Returns:
        The query features but the history, in order, each with its table's size.
    """
    old = base.trained_users
    database.execute(
        "CREATE TABLE user_order AS SELECT user_id, train_count, trained, _row, "
        f"CASE WHEN _trained THEN _row ELSE {old} - 1 + row_number() OVER "
        "(PARTITION BY _trained ORDER BY trained DESC, user_id) END AS user_row FROM "
        "(SELECT user_id, coalesce(_trained, false) AS _trained, _row, "
        "coalesce(_trained, false) OR coalesce(_found, 0) > 0 AS trained, "
        f"coalesce(_found, 0) + CASE WHEN _trained THEN {base.schema.history_length} ELSE 0 END "
        "AS train_count "
        "FROM (SELECT user_id, count(*) FILTER (WHERE trained) AS _found FROM "
        "(SELECT user_id, part = 'train' AS trained FROM marked_interactions "
        "UNION ALL SELECT user_id, false FROM users) GROUP BY user_id) "
        f"FULL JOIN {USERS} base USING (user_id))"
    )
    trained = count_rows(database, "user_order WHERE trained")
    dense = dense_names(attributes, "query")
    database.execute(
        "CREATE TABLE numbered AS SELECT user_row::INTEGER AS _number, user_order.trained, "
        f"CASE WHEN user_order.trained THEN user_row + 1 ELSE 0 END::INTEGER AS {USER}, "
        "user_order.user_id, coalesce(_today, false) AS _known, user_order._row AS _row"
        f"{_before(dense)}, "
        "today.* EXCLUDE (user_id, _today) "
        "FROM user_order LEFT JOIN (SELECT *, true AS _today FROM users) today USING (user_id)"
        + (f" LEFT JOIN {USERS} base ON base._row = user_order._row" if dense else "")
    )
    attributes = [a for a in attributes if a.side == "query" and not is_dense(a)]
    features = [Feature(USER, "query", USER, trained + 1)]
    features += [_encode(database, attribute, folder, base, USERS) for attribute in attributes]
    columns = f"n._number AS user_row, user_id, trained, {USER}{_as_today(dense)}"
    join_encoded(database, "user_rows", columns, attributes)
    return features


def _before(dense: Sequence[str]) -> str:
    """SQL: the dataset's values of dense features, behind other columns of ``numbered``."""
    return "".join(f", base.{named(name)} AS {named(f'_before {name}')}" for name in dense)


def _as_today(dense: Sequence[str]) -> str:
    """SQL: their values now, behind other columns."""
    return "".join(
        f", CASE WHEN n._known THEN n.{named(name)} ELSE n.{named(f'_before {name}')} END "
        f"AS {named(name)}"
        for name in dense
    )


def _encode(
    database: duckdb.DuckDBPyConnection, attribute: Attribute, folder: Path, base: Base, view: str
) -> Feature:
    """Encode today's values, and take over the codes of ids that today's table does not have."""
    feature = encode(database, attribute, folder, vocabulary_scan(base, attribute.name))
    name = named(attribute.name)
    code = f"{name}::INTEGER[]" if feature.multi_valued else f"{name}::INTEGER"
    database.execute(
        f"INSERT INTO {named(f'encoded_{attribute.name}')} SELECT _number, _code FROM numbered "
        f"JOIN (SELECT _row, {code} AS _code FROM {view}) USING (_row) WHERE NOT _known"
    )
    return feature
