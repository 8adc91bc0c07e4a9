"""A dataset whose files have their columns in, the faults of its rows out: each row by itself.

Ids in the range of their table, rows where their numbers say, ids and values that differ, examples
that agree with the catalogue, files in their order. DuckDB looks at a file once for all conditions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dat_rec.data.scan import scan_parquet
from dat_rec.data.schema import (
    AUDIENCE,
    EXAMPLE_WEIGHT,
    HISTORY,
    HISTORY_CATEGORY,
    ITEM,
    RECENT,
    USER,
    DenseFeature,
    Feature,
    Schema,
)
from dat_rec.data.source import named
from dat_rec.data.validate.fault import Fault
from dat_rec.data.validate.files import WAITING, held_out_files

ROW = "file_row_number"
ANEW = "write the file anew"
SHUFFLED_ROWS, MOST_CORRELATION = 2_000, 0.3
"""A file of so many examples or more has to be shuffled: place and time or user are correlated less
than this. Of shuffled rows, one in a million files would be more."""


@dataclass(frozen=True)
class Rule:
    """What no row of a file may be."""

    broken: str
    """SQL that is true for a bad row; what it names may be NULL."""
    what: str
    cure: str
    shows: str = "NULL"
    """SQL of the value that is shown."""


def broken_rules(
    database: duckdb.DuckDBPyConnection, path: Path, rules: Sequence[Rule], relation: str = ""
) -> Iterator[Fault]:
    """The rules that a file's rows break, each with the first row.

    Args:
        database: reads the file.
        path: the file.
        rules: over the columns of the relation.
        relation: SQL to stand after FROM, with the file's row number; by default the file.
    """
    relation = relation or rows_of(path)
    counts = ", ".join(f"count(*) FILTER (WHERE {rule.broken})" for rule in rules)
    found = database.execute(f"SELECT {counts} FROM {relation}").fetchone()
    assert found is not None
    for rule, count in zip(rules, found, strict=True):
        if not count:
            continue
        # No WHERE: DuckDB would pass over row groups whose statistics deny the value.
        place = f"{{'row': {ROW}, 'value': ({rule.shows})::VARCHAR}}"
        row = database.execute(
            f"SELECT min({place}) FILTER (WHERE {rule.broken}) FROM {relation}"
        ).fetchone()
        assert row is not None
        first = tuple(row[0].values())
        shown = "" if first[1] is None else f" ({first[1]})"
        more = f", as in {count - 1:,} more rows" if count > 1 else ""
        yield Fault(f"{path}: row {first[0]}", f"{rule.what}{shown}{more}", rule.cure)


def rows_of(path: Path) -> str:
    """SQL to stand after FROM: the file's rows, with their numbers from 0."""
    return scan_parquet([path], f", {ROW}=true")


def row_faults(
    database: duckdb.DuckDBPyConnection, folder: Path, schema: Schema, sound: set[str]
) -> Iterator[Fault]:
    """The faults of all rows of the files ``sound``, which have their columns.

    A file that cannot be read to its end has this one fault more.
    """
    checks = _checks(database, folder, schema)
    if "items.parquet" in sound:
        checks["users.parquet"] = partial(_users_file, checks["users.parquet"], folder, schema)
        for file in schema.example_files:
            checks[file.path] = partial(_example_file, database, folder, file.path, schema)
    for name, check in checks.items():
        if name in sound:
            try:
                yield from check()
            except duckdb.OutOfMemoryException:
                raise
            except (duckdb.Error, pa.ArrowException, OSError) as error:
                reason = str(error).splitlines()[0]
                yield Fault(str(folder / name), f"cannot be read ({reason})", ANEW)


def _checks(
    database: duckdb.DuckDBPyConnection, folder: Path, schema: Schema
) -> dict[str, Callable[[], Iterator[Fault]]]:
    """What finds the faults of each file but the examples."""
    trained = schema.feature(USER).rows - 1

    def check(
        name: str, rules: Sequence[Rule], unique: Sequence[str] = (), order: Sequence[str] = ()
    ) -> Callable[[], Iterator[Fault]]:
        def faults() -> Iterator[Fault]:
            yield from broken_rules(database, folder / name, rules)
            for column in unique:
                yield from _twice(database, folder / name, column)
            if order:
                yield from _unordered(folder / name, order, strictly=len(order) > 1)

        return faults

    seen = [*_pair(trained, schema.trained_items, "trained ")]
    seen.append(Rule("count IS NULL OR count < 1", "count is below 1", ANEW, "count"))
    past = [*_pair(trained, schema.trained_items, "trained "), _null("time")]
    if schema.train_from is not None:
        past.append(_time_rule(f"time >= {schema.train_from}", "at or after train_from"))
    held_out = [*_pair(schema.users, schema.items), _null("time")]
    if schema.test_until is not None:
        held_out.append(_time_rule(f"time >= {schema.test_until}", "at or after test_until"))
    waiting = Rule(
        f"user_row < {trained} AND item_index < {schema.trained_items}",
        "user and item are both trained",
        "train on the interaction, or put one of the two behind the trained ones",
    )
    of_file = {WAITING: [*held_out, waiting]}
    held_out += _weight_rules(schema)
    found = {
        "users.parquet": check("users.parquet", _users(schema), ["user_id"]),
        "items.parquet": check("items.parquet", _items(schema), ["item_id"]),
        **{name: check(name, seen, order=["user_row", "item_index"]) for name in schema.seen_paths},
        **{
            name: check(name, of_file.get(name, held_out), order=["time"])
            for name in held_out_files(schema)
        },
        **{name: check(name, past) for name in schema.past_paths},
    }
    for feature in {feature.table: feature for feature in schema.features}.values():
        name = f"vocabularies/{feature.table}.parquet"
        found[name] = check(name, _vocabulary(feature), ["index", "value"])
    return found


def _null(column: str) -> Rule:
    return Rule(f"{named(column)} IS NULL", f"column {column!r} is null", ANEW)


def _time_rule(broken: str, where: str) -> Rule:
    """No time lies beyond a bound of schema.json."""
    cure = "move the row, or correct the bound in schema.json"
    return Rule(broken, f"time is {where} of schema.json", cure, "time")


def _weight_rules(schema: Schema) -> list[Rule]:
    """A weight is finite and above 0, and one of those that schema.json has for labels."""
    if schema.example_weights is None:
        return []
    good = f"isfinite({EXAMPLE_WEIGHT}) AND {EXAMPLE_WEIGHT} > 0"
    what = f"{EXAMPLE_WEIGHT} is no finite number above 0"
    if schema.example_weights:
        known = ", ".join(f"'{weight!r}'::FLOAT" for weight in schema.example_weights.values())
        good += f" AND {EXAMPLE_WEIGHT}::FLOAT IN ({known})"
        what += " that is one of example_weights of schema.json"
    cure = "write the file or schema.json anew"
    return [Rule(f"NOT coalesce({good}, false)", what, cure, EXAMPLE_WEIGHT)]


def _in_table(feature: Feature) -> list[Rule]:
    """Values lie in the feature's table, and none is null."""
    name, what = named(feature.name), f"column {feature.name!r}"
    outside = f"{what} holds an id outside its table of {feature.rows} rows"
    cure = "write the file or schema.json anew"
    if feature.multi_valued:
        null = f"{name} IS NULL OR list_count({name}) < len({name})"
        out = f"list_min({name}) < 0 OR list_max({name}) >= {feature.rows}"
        shows = f"CASE WHEN list_min({name}) < 0 THEN list_min({name}) ELSE list_max({name}) END"
    else:
        null, shows = f"{name} IS NULL", name
        out = f"{name} < 0 OR {name} >= {feature.rows}"
    return [
        Rule(null, f"{what} is null, or a list with nulls", "write 0 for unknown"),
        Rule(out, outside, cure, shows),
    ]


def _dense(feature: DenseFeature) -> list[Rule]:
    """Values have the feature's width, and their numbers are finite, or there is none."""
    name, what = named(feature.name), f"column {feature.name!r}"
    cure = "write null where there is no value"
    if feature.kind == "number":
        return [Rule(f"isinf({name}::DOUBLE)", f"{what} is not finite", cure, name)]
    odd = "lambda x: NOT coalesce(isfinite(try_cast(x AS FLOAT)), false)"
    return [
        Rule(
            f"len({name}) <> {feature.width}",
            f"{what} has another number of entries than {feature.width}, its width in schema.json",
            "write the file or schema.json anew",
            f"len({name})",
        ),
        Rule(f"len(list_filter({name}, {odd})) > 0", f"{what} holds what is not finite", cure),
    ]


def _history_rules(schema: Schema) -> list[Rule]:
    """The history's length, and that of its categories."""
    names = [feature.name for feature in schema.features]
    rules = []
    if HISTORY in names:
        cure = "cut it to the last, or correct history_length in schema.json"
        what = f"history is longer than {schema.history_length} items"
        rules.append(
            Rule(f"len({HISTORY}) > {schema.history_length}", what, cure, f"len({HISTORY})")
        )
        unknown = f"list_contains({HISTORY}, 0)"
        rules.append(Rule(unknown, "history holds 0, which is no trained item", ANEW))
        if HISTORY_CATEGORY in names:
            unequal = f"len({HISTORY}) <> len({HISTORY_CATEGORY})"
            rules.append(Rule(unequal, "history_category has another length than history", ANEW))
    return rules


def _users(schema: Schema) -> list[Rule]:
    trained = schema.feature(USER).rows - 1
    number = f"CASE WHEN {ROW} < {trained} THEN {ROW} + 1 ELSE 0 END"
    first = "put the users with a training interaction first, and number them from 1"
    rules = [_null("user_id"), _null("trained")]
    what = f"trained must be true for the first {trained} users alone"
    rules.append(Rule(f"trained <> ({ROW} < {trained})", what, first, "trained"))
    what = "user must be the row's number + 1 where trained is true, and 0 elsewhere"
    rules.append(Rule(f"{named(USER)} <> {number}", what, first, named(USER)))
    features = schema.side("query")
    rules += [rule for feature in features for rule in _in_table(feature)]
    rules += [rule for feature in schema.dense_side("query") for rule in _dense(feature)]
    if any(feature.name == HISTORY for feature in features):
        what = "an untrained user has a history"
        rules.append(Rule(f"NOT trained AND len({HISTORY}) > 0", what, "leave it empty"))
    return rules + _history_rules(schema)


def _items(schema: Schema) -> list[Rule]:
    trained = schema.trained_items
    first = "put the items with a training interaction first, and number them from 1"
    number = f"CASE WHEN {ROW} < {trained} THEN {ROW} + 1 ELSE 0 END"
    what = f"train_count must be above 0 for the first {trained} items alone"
    rules = [_null("item_id"), _null("train_count")]
    rules.append(Rule(f"(train_count > 0) <> ({ROW} < {trained})", what, first, "train_count"))
    what = "item must be the row's number + 1 for trained items, and 0 elsewhere"
    rules.append(Rule(f"{named(ITEM)} <> {number}", what, first, named(ITEM)))
    if schema.trend is not None:
        what = f"{RECENT} is no number of 0 or more"
        rules.append(
            Rule(f"NOT coalesce(isfinite({RECENT}) AND {RECENT} >= 0, false)", what, ANEW, RECENT)
        )
    features = schema.side("item")
    if any(_is_audience(feature) for feature in features):
        what = "an untrained item has an audience"
        rules.append(Rule(f"train_count = 0 AND len({AUDIENCE}) > 0", what, "leave it empty"))
        unknown = f"list_contains({AUDIENCE}, 0)"
        rules.append(Rule(unknown, "audience holds 0, which is no trained user", ANEW))
    rules += [rule for feature in schema.dense_side("item") for rule in _dense(feature)]
    return rules + [rule for feature in features for rule in _in_table(feature)]


def _is_audience(feature: Feature) -> bool:
    """Whether it is what ``prepare`` calls so: others may mean something else by the name."""
    return feature.name == AUDIENCE and feature.multi_valued and feature.table == USER


def _pair(users: int, items: int, which: str = "") -> list[Rule]:
    rules = []
    for name, rows, of in (("user_row", users, "users"), ("item_index", items, "items")):
        out = f"{name} IS NULL OR {name} < 0 OR {name} >= {rows}"
        what = f"{name} is none of the {rows} {which}{of}"
        rules.append(Rule(out, what, ANEW, name))
    return rules


def _vocabulary(feature: Feature) -> list[Rule]:
    return [
        Rule(
            f"index IS NULL OR index < 0 OR index >= {feature.rows}",
            f"index lies outside the table of {feature.rows} rows",
            "write the file or schema.json anew",
            "index",
        ),
        Rule(
            "(value IS NULL) <> (index = 0)",
            "value must be null for index 0, which is unknown, and for no other",
            ANEW,
            "value",
        ),
    ]


def _twice(database: duckdb.DuckDBPyConnection, path: Path, column: str) -> Iterator[Fault]:
    """A value that stands in two rows."""
    row = database.execute(
        f"SELECT {named(column)}::VARCHAR, min({ROW}), max({ROW}) FROM {rows_of(path)} "
        f"WHERE {named(column)} IS NOT NULL GROUP BY {named(column)} HAVING count(*) > 1 "
        "ORDER BY 2 LIMIT 1"
    ).fetchone()
    if row:
        what = f"{column} {row[0]!r} stands in row {row[1]} too"
        yield Fault(f"{path}: row {row[2]}", what, "keep one row for each")


def _unordered(path: Path, columns: Sequence[str], *, strictly: bool) -> Iterator[Fault]:
    """The first row that does not come after the one before; a batch in memory at a time."""
    last: tuple[int, ...] | None = None
    row = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(1 << 17, columns=list(columns)):
            if any(batch[name].null_count for name in columns):
                return
            values = [batch[name].to_numpy().astype(np.int64) for name in columns]
            if last is not None:
                values = [np.concatenate([[a], b]) for a, b in zip(last, values, strict=True)]
            after = np.full(max(0, len(values[0]) - 1), not strictly)
            for column in reversed(values):
                after = (column[1:] > column[:-1]) | ((column[1:] == column[:-1]) & after)
            if not after.all():
                place = row + int(np.argmin(after)) + (0 if last is not None else 1)
                order = " and ".join(columns)
                what = f"the rows are not sorted by {order}"
                what += ", or a pair stands there twice" if strictly else ""
                yield Fault(f"{path}: row {place}", what, "sort the file")
                return
            row += batch.num_rows
            last = tuple(int(column[-1]) for column in values) if len(values[0]) else last


def _users_file(
    check: Callable[[], Iterator[Fault]], folder: Path, schema: Schema
) -> Iterator[Fault]:
    yield from check()
    yield from _wrong_categories(folder, folder / "users.parquet", schema)


def _example_file(
    database: duckdb.DuckDBPyConnection, folder: Path, name: str, schema: Schema
) -> Iterator[Fault]:
    path = folder / name
    index = f"item_index IS NULL OR item_index < 0 OR item_index >= {schema.trained_items}"
    what = f"item_index is none of the {schema.trained_items} trained items"
    rules = [_null("time"), _null("repeat"), Rule(index, what, ANEW, "item_index")]
    rules += [rule for feature in schema.features for rule in _in_table(feature)]
    rules += [*_history_rules(schema), *_weight_rules(schema)]
    if schema.train_from is not None:
        rules.append(_time_rule(f"time < {schema.train_from}", "before train_from"))
    if schema.test_until is not None:
        rules.append(_time_rule(f"time >= {schema.test_until}", "at or after test_until"))
    what = "user is 0: an example's user has a training interaction, and so a row"
    rules.append(Rule(f"{named(USER)} = 0", what, ANEW))
    chosen = []
    for number, feature in enumerate(schema.side("item")):
        chosen.append(f"{named(feature.name)} AS _c{number}")
        what = f"{feature.name} is another than in row item_index of items.parquet"
        there = named(feature.name)
        if _is_audience(feature):
            what += " without the example's user"
            other = f"list_filter(_c{number}, lambda u: u <> {named(USER)})"
        else:
            other = f"_c{number}"
        broken = f"_row IS NOT NULL AND {other} IS DISTINCT FROM {there}"
        rules.append(Rule(broken, what, "join the catalogue anew", named(feature.name)))
    items = rows_of(folder / "items.parquet")
    catalogue = f"SELECT {ROW} AS _row, {', '.join(chosen)} FROM {items}"
    relation = f"{rows_of(path)} LEFT JOIN ({catalogue}) ON _row = item_index"
    yield from broken_rules(database, path, rules, relation)
    yield from _unshuffled(database, path)
    yield from _wrong_categories(folder, path, schema)


def _unshuffled(database: duckdb.DuckDBPyConnection, path: Path) -> Iterator[Fault]:
    found = database.execute(
        f"SELECT count(*), abs(corr({ROW}, time)), abs(corr({ROW}, {named(USER)})) "
        f"FROM {rows_of(path)}"
    ).fetchone()
    assert found is not None
    for name, correlation in zip(("time", USER), found[1:], strict=True):
        if found[0] >= SHUFFLED_ROWS and (correlation or 0) > MOST_CORRELATION:
            what = f"the examples are not shuffled (row number and {name} are correlated"
            yield Fault(str(path), f"{what} by {correlation:.2f})", "shuffle them over all files")


def _wrong_categories(folder: Path, path: Path, schema: Schema) -> Iterator[Fault]:
    """The first history whose categories are not those of its items; a batch at a time."""
    if not {HISTORY, HISTORY_CATEGORY} <= {feature.name for feature in schema.features}:
        return
    table = pq.read_table(folder / "items.parquet", columns=[schema.category])
    category = table[schema.category].to_numpy()[: schema.trained_items]
    row = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(1 << 14, columns=[HISTORY, HISTORY_CATEGORY]):
            history, found = batch[HISTORY], batch[HISTORY_CATEGORY]
            items = history.flatten().to_numpy(zero_copy_only=False) - 1
            values = found.flatten().to_numpy(zero_copy_only=False)
            inside = (items >= 0) & (items < len(category))
            # What is out of range, or of other lengths, is said already.
            if len(items) == len(values) and inside.all() and np.any(category[items] != values):
                place = int(np.argmax(category[items] != values))
                lengths = history.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
                first = row + int(np.searchsorted(np.cumsum(lengths), place, "right"))
                what = "history_category holds another category than that of the item in history"
                yield Fault(f"{path}: row {first}", what, "look the categories up anew")
                return
            row += batch.num_rows
