"""Queries of raw values in, what may stand in the list of each out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dat_rec.errors import UserError
from dat_rec.retrieval.exported import Export
from dat_rec.retrieval.fresh import FreshInputs
from dat_rec.retrieval.item_table import ID, Source, column_names, read_columns
from dat_rec.retrieval.queries import as_ids
from dat_rec.retrieval.restrictions import (
    ItemRules,
    Restrictions,
    UserRules,
    excluded_pairs,
    per_user_filter,
)
from dat_rec.retrieval.seen_items import ItemsOfUsers

Ints = NDArray[np.int64]
QUERY = "query"
"""Column that holds the number of a query, its row in the table of queries, from 0."""


def fresh_rules(
    wanted: Restrictions,
    rules: ItemRules,
    queries: pa.Table,
    inputs: FreshInputs,
    export: Export,
    seen: ItemsOfUsers | None,
) -> UserRules:
    """What restrictions mean for each of B queries.

    Args:
        wanted: the restrictions; ``exclude`` knows queries by number, or users by id.
        rules: for all queries.
        queries: B rows of raw values.
        inputs: that make the towers' inputs of them.
        export: whose users and items.
        seen: what the export's users had in training, if that is left out; then what stands in the
            queries' own lists of items is, too.

    Raises:
        UserError: the table of pairs, or the per-user filter, is not what it must be.
    """
    count = len(queries)
    rows = np.full(count, len(export.user_ids))
    pairs: list[tuple[Ints, Ints]] = []
    if seen is not None:
        known = inputs.users(queries)
        rows = np.where(known >= 0, known, rows)
        pairs.append(_pairs(np.arange(count), inputs.histories(queries)))
    if wanted.exclude is not None:
        pairs.append(_excluded(wanted.exclude, queries, inputs, export))
    per_user = None
    if wanted.per_user_filter is not None:
        per_user = per_user_filter(wanted.per_user_filter, rules.table, queries, slice(0, count))
    excluded = ItemsOfUsers.of_pairs(pairs, count) if pairs else None
    return UserRules(rows, seen, np.arange(count), excluded, per_user)


def _excluded(
    source: Source, queries: pa.Table, inputs: FreshInputs, export: Export
) -> tuple[Ints, Ints]:
    """The pairs of query and item_index that a table names, by the query's number or user_id."""
    if QUERY in column_names(source):
        return _by_number(source, len(queries), export)
    where = "exclude" if isinstance(source, pa.Table) else str(source)
    if "user_id" not in queries.column_names:
        raise UserError(
            f"{where}: names users, and queries have no user_id: give it, or pairs of {QUERY} (the "
            "row of queries, from 0) and item_id"
        )
    ids = inputs.user_ids(queries)
    asked = np.flatnonzero(ids.is_valid().to_numpy(zero_copy_only=False))
    numbers, excluded = excluded_pairs(source, ids.drop_null(), export, "user_id")
    items = [excluded.of(int(number)) for number in numbers]
    return _pairs(asked, items)


def _by_number(source: Source, count: int, export: Export) -> tuple[Ints, Ints]:
    where = "exclude" if isinstance(source, pa.Table) else str(source)
    table = read_columns(source, [QUERY, ID], where)
    item_ids = export.items.column(ID).combine_chunks()
    items = as_ids(where, ID, table[ID].combine_chunks(), item_ids.type, ID)
    item = pc.index_in(items, value_set=item_ids).fill_null(-1).to_numpy().astype(np.int64)
    number = as_ids(where, QUERY, table[QUERY].combine_chunks(), pa.int64(), QUERY).to_numpy()
    kept = (item >= 0) & (number >= 0) & (number < count)
    return number[kept], item[kept]


def _pairs(numbers: Ints, items: Sequence[NDArray[np.integer[Any]]]) -> tuple[Ints, Ints]:
    """One pair for each item of each query."""
    found = np.concatenate([np.zeros(0, np.int64), *items]).astype(np.int64)
    return np.repeat(numbers, [len(one) for one in items]), found
