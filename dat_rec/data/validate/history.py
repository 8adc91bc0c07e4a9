"""A dataset whose files are sound in, what they say of one another out.

Counts of items and pairs agree with the training interactions, which are the examples and those of
the past; a history is the user's last items strictly
earlier in training, and repeat says what it should; nothing of the test was trained on. What is
compared of a history is its length and, by their hashes, its items and their order. In a log
without order a history is so many of the user's other items.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from dat_rec.data.scan import scan_parquet
from dat_rec.data.schema import HISTORY, USER, Schema
from dat_rec.data.source import SEQUENCE, named
from dat_rec.data.validate.fault import Fault
from dat_rec.data.validate.files import held_out_files
from dat_rec.data.validate.rows import ROW, rows_of

HASH = "(hash({}::BIGINT) >> 32)::HUGEINT"


def history_faults(
    database: duckdb.DuckDBPyConnection, folder: Path, schema: Schema
) -> Iterator[Fault]:
    """The faults that show when files are compared; all of them have sound rows."""
    sequences = has_sequence(folder, schema)
    examples = scan_parquet([folder / file.path for file in schema.example_files])
    columns = f"item_index, time{', sequence' if sequences else ''}"
    past = "".join(
        f" UNION ALL SELECT user_row, {columns} FROM {rows_of(folder / name)}"
        for name in schema.past_paths
    )
    database.execute(
        f"CREATE OR REPLACE TEMP VIEW training AS SELECT {named(USER)} - 1 AS user_row, {columns} "
        f"FROM {examples}{past}"
    )
    yield from _wrong_rows(folder, schema)
    yield from _wrong_counts(database, folder)
    yield from _idle_users(database, folder, schema)
    yield from _wrong_pairs(database, folder, schema)
    yield from _leaks(database, folder, schema, sequences=sequences)
    yield from _wrong_repeats(database, folder, schema, sequences=sequences)
    if HISTORY in {feature.name for feature in schema.features}:
        if schema.histories == "earlier":
            yield from _wrong_histories(database, folder, schema, sequences=sequences)
        else:
            yield from _wrong_others(database, folder, schema)


def has_sequence(folder: Path, schema: Schema) -> bool:
    """Whether a sequence orders interactions of one time: in all files of interactions."""
    names = [file.path for file in schema.example_files]
    names += [*held_out_files(schema), *schema.past_paths]
    return all(SEQUENCE in pq.read_schema(folder / name).names for name in names)


def _wrong_rows(folder: Path, schema: Schema) -> Iterator[Fault]:
    """The parts of the past have as many rows together as the schema says."""
    rows = sum(pq.read_metadata(folder / name).num_rows for name in schema.past_paths)
    if rows != schema.past:
        what = f"{rows} rows, and schema.json says {schema.past}"
        yield Fault(str(folder / "past"), what, "write the files or schema.json anew")


def _wrong_counts(database: duckdb.DuckDBPyConnection, folder: Path) -> Iterator[Fault]:
    path = folder / "items.parquet"
    row = database.execute(
        f"SELECT {ROW}, train_count, coalesce(_found, 0) FROM {rows_of(path)} LEFT JOIN "
        "(SELECT item_index AS _index, count(*) AS _found FROM training GROUP BY item_index) "
        f"ON _index = {ROW} WHERE train_count <> coalesce(_found, 0) ORDER BY {ROW} LIMIT 1"
    ).fetchone()
    if row:
        what = f"train_count is {row[1]}, and {row[2]} training interactions are of the item"
        yield Fault(f"{path}: row {row[0]}", what, "count the training interactions alone")


def _idle_users(
    database: duckdb.DuckDBPyConnection, folder: Path, schema: Schema
) -> Iterator[Fault]:
    row = database.execute(
        f"SELECT min(range), count(*) FROM range({schema.feature(USER).rows - 1}) "
        "WHERE range NOT IN (SELECT user_row FROM training)"
    ).fetchone()
    if row and row[1]:
        what = "the user is trained and has no training interaction" + (
            f", as have {row[1] - 1:,} more" if row[1] > 1 else ""
        )
        cure = "write the user's interactions, or put the user behind the trained ones"
        yield Fault(f"{folder / 'users.parquet'}: row {row[0]}", what, cure)


def _wrong_pairs(
    database: duckdb.DuckDBPyConnection, folder: Path, schema: Schema
) -> Iterator[Fault]:
    """Seen and training have the same pairs as often, which the sum of hashes tells."""
    seen = scan_parquet([folder / name for name in schema.seen_paths])
    path = folder / ("seen" if schema.seen_files else "seen.parquet")
    # DuckDB's hash of 0 is 0, which would hide how often the first pair occurs.
    pair = "hash(user_row::BIGINT + 1, item_index::BIGINT + 1)::HUGEINT"
    sums = [f"SELECT sum({pair}) FROM training", f"SELECT sum({pair} * count) FROM {seen}"]
    found = [database.execute(query).fetchone() for query in sums]
    if found[0] == found[1]:
        return
    row = database.execute(
        "SELECT user_row, item_index, coalesce(said, 0), coalesce(found, 0) FROM "
        f"(SELECT user_row, item_index, sum(count) AS said FROM {seen} GROUP BY ALL) FULL JOIN "
        "(SELECT user_row, item_index, count(*) AS found FROM training GROUP BY ALL) "
        "USING (user_row, item_index) WHERE said IS DISTINCT FROM found ORDER BY 1, 2 LIMIT 1"
    ).fetchone()
    if row:
        what = f"user_row {row[0]}, item_index {row[1]}: count is {row[2]}, and {row[3]} training "
        what += "interactions are of the pair"
        yield Fault(str(path), what, "count the training interactions alone")


def _leaks(
    database: duckdb.DuckDBPyConnection, folder: Path, schema: Schema, *, sequences: bool
) -> Iterator[Fault]:
    """Interactions that stand in two of training, validation and test."""
    key = ["user_row", "item_index", "time", *(["sequence"] if sequences else [])]
    same = " AND ".join(f"held_out.{name} = other.{name}" for name in key)
    earlier = {"trained on": "training"}
    for name in held_out_files(schema):
        path = folder / name
        span = name.removesuffix(".parquet")
        for what, relation in earlier.items():
            row = database.execute(
                f"SELECT min(held_out.{ROW}), count(*) FROM {rows_of(path)} held_out "
                f"SEMI JOIN {relation} other ON {same}"
            ).fetchone()
            if row and row[1]:
                more = f", as are {row[1] - 1:,} more" if row[1] > 1 else ""
                into = "training" if relation == "training" else "the validation"
                leak = f"the interaction is {what} too: the {span} leaks into {into}{more}"
                cure = (
                    "hold out interactions of one user, item and time together, or add their "
                    "sequence"
                )
                yield Fault(f"{path}: row {row[0]}", leak, cure)
        earlier[f"one of the {span}"] = rows_of(path)


def _example_files(folder: Path, schema: Schema, columns: str) -> str:
    """SQL: columns of all examples, with each one's file (its number) and row."""
    parts = (
        f"SELECT {number} AS file, {ROW} AS row, {columns} FROM {rows_of(folder / file.path)}"
        for number, file in enumerate(schema.example_files)
    )
    return " UNION ALL ".join(parts)


def _past(folder: Path, schema: Schema, columns: str) -> str:
    """SQL to stand behind ``_example_files``: the same of the past's rows, which are of no file."""
    return "".join(
        f" UNION ALL SELECT NULL, {ROW}, {columns} FROM {rows_of(folder / name)}"
        for name in schema.past_paths
    )


def _first(
    database: duckdb.DuckDBPyConnection, query: str, paths: Sequence[Path], what: str, cure: str
) -> Iterator[Fault]:
    """The first (file, row) of the query as a fault."""
    row = database.execute(
        f"SELECT min({{'file': file, 'row': row}}), count(*) FROM ({query})"
    ).fetchone()
    assert row is not None
    if row[1]:
        more = f", as in {row[1] - 1:,} more rows" if row[1] > 1 else ""
        yield Fault(f"{paths[row[0]['file']]}: row {row[0]['row']}", what + more, cure)


def _moment(*, sequences: bool) -> str:
    """SQL: when an interaction was."""
    return "{'time': time, 'sequence': sequence}" if sequences else "time"


def _wrong_repeats(
    database: duckdb.DuckDBPyConnection, folder: Path, schema: Schema, *, sequences: bool
) -> Iterator[Fault]:
    facts = f"{named(USER)} AS user, item_index, {_moment(sequences=sequences)} AS moment, repeat"
    rows = _example_files(folder, schema, facts)
    past = f"user_row + 1, item_index, {_moment(sequences=sequences)}, NULL"  # nothing to compare
    rows += _past(folder, schema, past)
    query = (
        "SELECT file, row FROM (SELECT file, row, repeat, "
        "moment > min(moment) OVER (PARTITION BY user, item_index) AS wanted "
        f"FROM ({rows})) WHERE repeat <> wanted"
    )
    what = "repeat must be true where the user had the item earlier, and false elsewhere"
    paths = [folder / file.path for file in schema.example_files]
    yield from _first(database, query, paths, what, "compare with the training interactions alone")


def _wrong_histories(
    database: duckdb.DuckDBPyConnection, folder: Path, schema: Schema, *, sequences: bool
) -> Iterator[Fault]:
    """Prefix sums of hashes over each user's sequence tell what a history has to hold.

    With each hash times its place they tell the order.

    The users' own rows stand behind all examples: theirs is the history as of the split.
    """
    item = HASH.format("item_index + 1")
    sums = ", ".join(
        f"coalesce(list_sum(list_transform({HISTORY}, lambda x, i: {HASH.format('x')}{by})), 0) "
        f"AS {name}"
        for name, by in (("hashes", ""), ("in_order", " * i"))
    )
    facts = f"len({HISTORY}) AS length, {sums}"
    user = f"{named(USER)} AS user"
    moment = f"false AS late, {_moment(sequences=sequences)} AS moment"
    rows = _example_files(
        folder, schema, f"{user}, {moment}, item_index, {item} AS item_hash, {facts}"
    )
    past = f"user_row + 1, {moment}, item_index, {item}, NULL, NULL, NULL"  # nothing to compare
    rows += _past(folder, schema, past)
    users = len(schema.example_files)
    rows += (
        f" UNION ALL SELECT {users}, {ROW}, {user}, true, NULL, NULL, 0::HUGEINT, {facts} "
        f"FROM {rows_of(folder / 'users.parquet')} WHERE trained"
    )
    order = "PARTITION BY user ORDER BY late, moment, item_index"
    # stop: how many interactions are strictly earlier; least: how many of them a history lacks.
    placed = (
        "SELECT *, rank() OVER (PARTITION BY user ORDER BY late, moment) - 1 AS stop, "
        f"row_number() OVER ({order}) AS place, greatest(stop - {schema.history_length}, 0) "
        f"AS begin FROM ({rows})"
    )
    upto = (
        "SELECT *, sum(item_hash) OVER w AS upto, sum(item_hash * place) OVER w AS upto_in_order "
        f"FROM ({placed}) WINDOW w AS (PARTITION BY user ORDER BY place ROWS UNBOUNDED PRECEDING)"
    )
    between, between_in_order = (
        f"lag({name}, place - stop, 0::HUGEINT) OVER w - "
        f"lag({name}, place - begin, 0::HUGEINT) OVER w"
        for name in ("upto", "upto_in_order")
    )
    wanted = (
        f"SELECT file, row, length, hashes, in_order, stop, begin, {between} AS wanted, "
        f"{between_in_order} - begin * wanted AS wanted_in_order "
        f"FROM ({upto}) WINDOW w AS (PARTITION BY user ORDER BY place)"
    )
    query = (
        f"SELECT file, row FROM ({wanted}) WHERE length <> stop - begin "
        "OR hashes <> wanted OR in_order <> wanted_in_order"
    )
    what = (
        f"history must be the user's last {schema.history_length} training items strictly earlier, "
        "most recent last, those of one time (and sequence) by item_index"
    )
    files = _files_with_histories(folder, schema)
    yield from _first(database, query, files, what, "make the histories of the examples alone")


def _wrong_others(
    database: duckdb.DuckDBPyConnection, folder: Path, schema: Schema
) -> Iterator[Fault]:
    """A history holds interactions with other items than the example's, none more than once."""
    user = f"{named(USER)} AS user"
    rows = _example_files(folder, schema, f"{user}, item_index, {HISTORY} AS history")
    users = len(schema.example_files)
    rows += (
        f" UNION ALL SELECT {users}, {ROW}, {user}, -1, {HISTORY} "
        f"FROM {rows_of(folder / 'users.parquet')} WHERE trained"
    )
    pairs = scan_parquet([folder / name for name in schema.seen_paths])
    seen = (
        "SELECT user_row + 1 AS user, item_index + 1 AS value, sum(count) AS count "
        f"FROM {pairs} GROUP BY ALL"
    )
    length = (
        f"SELECT file, row FROM ({rows}) all_rows "
        f"JOIN (SELECT user, sum(count) AS items FROM ({seen}) GROUP BY user) USING (user) "
        f"LEFT JOIN ({seen}) own ON own.user = all_rows.user AND value = item_index + 1 "
        f"WHERE len(history) <> least({schema.history_length}, items - coalesce(count, 0))"
    )
    values = (
        "SELECT file, row, user, item_index, value, count(*) AS times FROM (SELECT file, row, "
        f"user, item_index, unnest(history) AS value FROM ({rows})) GROUP BY ALL"
    )
    wrong = (
        f"SELECT DISTINCT file, row FROM ({values}) LEFT JOIN ({seen}) USING (user, value) "
        "WHERE value = item_index + 1 OR times > coalesce(count, 0)"
    )
    what = (
        "in a log without order a history must hold the user's training items but the example's "
        f"own, or {schema.history_length} of them where there are more"
    )
    cure = "make the histories of the training interactions alone"
    files = _files_with_histories(folder, schema)
    yield from _first(database, f"{length} UNION {wrong}", files, what, cure)


def _files_with_histories(folder: Path, schema: Schema) -> list[Path]:
    """By their numbers in SQL: the example files, and the users' behind them."""
    return [*(folder / file.path for file in schema.example_files), folder / "users.parquet"]
