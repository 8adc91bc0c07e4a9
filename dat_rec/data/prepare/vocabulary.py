"""Clean tables in, numbered ones out: every id and attribute value becomes an embedding row.

In: ``marked_interactions``, ``items``, ``users``. Out: tables ``item_rows`` (item_index, item_id,
title, category_name, train_count, item features), ``user_rows`` (user_row, user_id, trained, query
features but the history), both with the dense features as they are; their ids alone in
``item_order`` (item_id, train_count, item_index) and ``user_order`` (user_id, train_count,
user_row), and ``vocabularies/NAME.parquet``. Embedding row 0 is "unknown", known values count from
1.
"""

from collections.abc import Sequence
from pathlib import Path

import duckdb

from dat_rec.data.database import count_rows
from dat_rec.data.prepare.dense import dense_names, is_dense
from dat_rec.data.prepare.write import write_query
from dat_rec.data.schema import ITEM, USER, Feature
from dat_rec.data.source import Attribute, named

BUCKETS = 20
"""Number of quantile buckets that a number is cut into."""
UNKNOWN_CATEGORY = "(unknown)"


def number_items(
    database: duckdb.DuckDBPyConnection,
    attributes: Sequence[Attribute],
    category: str,
    folder: Path,
) -> list[Feature]:
    """Make ``item_rows``: trained items first, most trained first, then by id.

    Args:
        database: holds the clean relations.
        attributes: those of all sides.
        category: the item attribute that is the category of equation (3).
        folder: the dataset's folder.

    Returns:
        The item features in order, each with its table's size.
    """
    database.execute(
        "CREATE TABLE item_order AS SELECT item_id, train_count, "
        "row_number() OVER (ORDER BY train_count DESC, item_id) - 1 AS item_index "
        "FROM (SELECT item_id, count(user_id) AS train_count FROM items "
        "LEFT JOIN (SELECT item_id, user_id FROM marked_interactions WHERE part = 'train') "
        "USING (item_id) GROUP BY item_id)"
    )
    trained = count_rows(database, "item_order WHERE train_count > 0")
    database.execute(
        "CREATE TABLE numbered AS SELECT item_index::INTEGER AS _number, train_count, "
        f"CASE WHEN train_count > 0 THEN item_index + 1 ELSE 0 END::INTEGER AS {ITEM}, items.* "
        "FROM items JOIN item_order USING (item_id)"
    )
    features = [Feature(ITEM, "item", ITEM, trained + 1)]
    dense = dense_names(attributes, "item")
    attributes = [a for a in attributes if a.side == "item" and not is_dense(a)]
    attributes.sort(key=lambda attribute: attribute.name != category)
    features += [encode(database, attribute, folder) for attribute in attributes]
    words = category_words(database, category)
    join_encoded(
        database,
        "item_rows",
        f"n._number AS item_index, item_id, title, {words} AS category_name, train_count, {ITEM}"
        f"{_as_they_are(dense)}",
        attributes,
    )
    return features


def number_users(
    database: duckdb.DuckDBPyConnection, attributes: Sequence[Attribute], folder: Path
) -> list[Feature]:
    """Make ``user_rows``: trained users first, then the others, each by id.

    Returns:
        The query features but the history, in order, each with its table's size.
    """
    database.execute(
        "CREATE TABLE user_order AS SELECT user_id, train_count, "
        "row_number() OVER (ORDER BY train_count > 0 DESC, user_id) - 1 AS user_row "
        "FROM (SELECT user_id, count(*) FILTER (WHERE trained) AS train_count FROM "
        "(SELECT user_id, part = 'train' AS trained FROM marked_interactions "
        "UNION ALL SELECT user_id, false FROM users) GROUP BY user_id)"
    )
    trained = count_rows(database, "user_order WHERE train_count > 0")
    database.execute(
        "CREATE TABLE numbered AS SELECT user_row::INTEGER AS _number, train_count > 0 AS trained, "
        f"CASE WHEN train_count > 0 THEN user_row + 1 ELSE 0 END::INTEGER AS {USER}, "
        "user_order.user_id, users.* EXCLUDE (user_id) "
        "FROM user_order LEFT JOIN users USING (user_id)"
    )
    dense = dense_names(attributes, "query")
    attributes = [a for a in attributes if a.side == "query" and not is_dense(a)]
    features = [Feature(USER, "query", USER, trained + 1)]
    features += [encode(database, attribute, folder) for attribute in attributes]
    columns = f"n._number AS user_row, user_id, trained, {USER}{_as_they_are(dense)}"
    join_encoded(database, "user_rows", columns, attributes)
    return features


def _as_they_are(dense: Sequence[str]) -> str:
    """SQL: the columns of dense features, behind others."""
    return "".join(f", n.{named(name)} AS {named(name)}" for name in dense)


def category_words(database: duckdb.DuckDBPyConnection, category: str) -> str:
    """SQL: the category of a row of ``numbered`` in words."""
    return f"coalesce(nullif({_text(database, category)}, ''), '{UNKNOWN_CATEGORY}')"


def _text(database: duckdb.DuckDBPyConnection, column: str) -> str:
    """SQL: the column of ``numbered`` as text; NULL where it has no value."""
    row = database.execute(f"SELECT typeof({named(column)}) FROM numbered LIMIT 1").fetchone()
    if row and row[0] in ("FLOAT", "DOUBLE"):
        return f"CASE WHEN NOT isnan({named(column)}) THEN {named(column)}::VARCHAR END"
    return f"nullif({named(column)}::VARCHAR, '')"


def encode(
    database: duckdb.DuckDBPyConnection,
    attribute: Attribute,
    folder: Path,
    known: str | None = None,
) -> Feature:
    """Make ``encoded_NAME`` (_number, _code) and the vocabulary's file.

    The vocabulary is that of the whole table, in the order of the text, so it does not depend on
    the order of the rows.

    Args:
        database: holds ``numbered``.
        attribute: its column in it.
        folder: the dataset's folder.
        known: relation (index, value) of a vocabulary whose rows stay as they are, and which new
            values stand behind; of a number, its buckets. None: there is none.
    """
    name = attribute.name
    encoded, column = named(f"encoded_{name}"), named(name)
    if attribute.kind == "number":
        size = _encode_number(database, attribute, encoded, known)
    else:
        if attribute.kind == "tags":
            values = (
                f"SELECT _number, nullif(unnest({column})::VARCHAR, '') AS value, "
                f"generate_subscripts({column}, 1) AS place FROM numbered"
            )
        else:
            values = f"SELECT _number, {_text(database, name)} AS value, 1 AS place FROM numbered"
        distinct = f"SELECT DISTINCT value FROM ({values}) WHERE value IS NOT NULL"
        number, old = "row_number() OVER (ORDER BY value)", ""
        if known is not None:
            old = f"SELECT value, index::INTEGER AS code FROM {known} WHERE index > 0 UNION ALL "
            number += f" + (SELECT count(*) FROM {known} WHERE index > 0)"
            distinct += f" AND value NOT IN (SELECT value FROM {known} WHERE index > 0)"
        database.execute(
            f"CREATE TABLE vocabulary AS {old}SELECT value, ({number})::INTEGER AS code "
            f"FROM ({distinct})"
        )
        size = count_rows(database, "vocabulary") + 1
        codes = f"SELECT _number, code, min(place) AS place FROM ({values}) JOIN vocabulary "
        codes += "USING (value) GROUP BY _number, code"
        if attribute.kind == "tags":
            codes = (
                f"SELECT _number, list(code ORDER BY place) AS code FROM ({codes}) GROUP BY _number"
            )
        database.execute(f"CREATE TABLE {encoded} AS SELECT _number, code AS _code FROM ({codes})")
    values = "SELECT 0::INTEGER AS index, NULL::VARCHAR AS value UNION ALL "
    values += "SELECT code, value FROM vocabulary ORDER BY index"
    write_query(database, values, folder / "vocabularies" / f"{name}.parquet")
    database.execute("DROP TABLE vocabulary")
    return Feature(name, attribute.side, name, size, attribute.kind == "tags")


def _encode_number(
    database: duckdb.DuckDBPyConnection, attribute: Attribute, encoded: str, known: str | None
) -> int:
    """Cut a number at its quantiles: bucket i holds edges[i−1] ≤ number < edges[i]."""
    value = f"{named(attribute.name)}::DOUBLE"
    finite = f"FROM numbered WHERE {value} IS NOT NULL AND isfinite({value})"
    if known is None:
        edges = _quantiles(database, value, finite)
    else:
        buckets = database.execute(f"SELECT value FROM {known} WHERE index > 1 ORDER BY index")
        edges = [float(text[1:].partition(",")[0]) for (text,) in buckets.fetchall()]
    starts = [float("-inf"), *edges]
    database.execute("CREATE TABLE vocabulary (code INTEGER, value VARCHAR)")
    for code, start in enumerate(starts, 1):
        stop = starts[code] if code < len(starts) else float("inf")
        database.execute(
            "INSERT INTO vocabulary VALUES (?, ?)", [code, f"[{_short(start)}, {_short(stop)})"]
        )
    bucket = " + ".join(["1", *(f"({value} >= {edge!r})::INTEGER" for edge in edges)])
    database.execute(
        f"CREATE TABLE {encoded} AS SELECT _number, ({bucket})::INTEGER AS _code {finite}"
    )
    return len(starts) + 1


def _quantiles(database: duckdb.DuckDBPyConnection, value: str, finite: str) -> list[float]:
    """The edges of buckets of about equal size; none at or below the least value."""
    shares = [number / BUCKETS for number in range(1, BUCKETS)]
    row = database.execute(
        f"SELECT quantile_disc({value}, {shares}), min({value}) {finite}"
    ).fetchone()
    if row and row[0]:
        return sorted({float(edge) for edge in row[0] if edge > row[1]})
    return []


def _short(number: float) -> str:
    """A bucket's edge in few digits where they are exact, so that no two edges read the same."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def join_encoded(
    database: duckdb.DuckDBPyConnection, table: str, columns: str, attributes: Sequence[Attribute]
) -> None:
    """Make ``table`` of columns of ``numbered`` (called ``n``) and the codes of the attributes."""
    joins = ""
    for number, attribute in enumerate(attributes):
        empty = "[]::INTEGER[]" if attribute.kind == "tags" else "0"
        columns += f", coalesce(e{number}._code, {empty}) AS {named(attribute.name)}"
        encoded = named(f"encoded_{attribute.name}")
        joins += f" LEFT JOIN {encoded} e{number} ON e{number}._number = n._number"
    database.execute(f"CREATE TABLE {table} AS SELECT {columns} FROM numbered n{joins}")
    for attribute in attributes:
        database.execute(f"DROP TABLE {named(f'encoded_{attribute.name}')}")
    database.execute("DROP TABLE numbered")
