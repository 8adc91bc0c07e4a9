"""Queries of raw values in, what may stand in the list of each out."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dat_rec.errors import UserError
from dat_rec.retrieval.exported import Export
from dat_rec.retrieval.fresh import FreshInputs
from dat_rec.retrieval.item_table import ID, Source, column_names, read_columns
from dat_rec.retrieval.queries import as_ids
from dat_rec.retrieval.restrictions import ItemRules, Restrictions, UserRules, per_user_filter
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
        own = inputs.histories(queries)
        pairs.append((np.repeat(np.arange(count), list(map(len, own))), np.concatenate([*own, NO])))
    if wanted.exclude is not None:
        pairs.append(_excluded(wanted.exclude, queries, export))
    per_user = None
    if wanted.per_user_filter is not None:
        per_user = per_user_filter(wanted.per_user_filter, rules.table, queries, slice(0, count))
    excluded = ItemsOfUsers.of_pairs(pairs, count) if pairs else None
    return UserRules(rows, seen, np.arange(count), excluded, per_user)


NO: Ints = np.zeros(0, np.int64)


def _excluded(source: Source, queries: pa.Table, export: Export) -> tuple[Ints, Ints]:
    """The pairs of query and item_index that a table names, by the query's number or user_id."""
    where = "exclude" if isinstance(source, pa.Table) else str(source)
    by_number = QUERY in column_names(source)
    key = QUERY if by_number else "user_id"
    table = read_columns(source, [key, ID], where)
    item_ids = export.items.column(ID).combine_chunks()
    items = as_ids(where, ID, table[ID].combine_chunks(), item_ids.type, ID)
    item = pc.index_in(items, value_set=item_ids)
    if by_number:
        number = as_ids(where, QUERY, table[QUERY].combine_chunks(), pa.int64(), QUERY).to_numpy()
        kept = item.is_valid().to_numpy(zero_copy_only=False)
        kept &= (number >= 0) & (number < len(queries))
        return number[kept], item.to_numpy(zero_copy_only=False)[kept].astype(np.int64)
    if "user_id" not in queries.column_names:
        raise UserError(
            f"{where}: names users, and queries have no user_id: give it, or pairs of {QUERY} (the "
            "row of queries, from 0) and item_id"
        )
    users = as_ids(where, "user_id", table["user_id"].combine_chunks(), export.user_ids.type)
    asked = queries["user_id"].combine_chunks()
    joined: list[tuple[Ints, Ints]] = []
    for number, user in enumerate(asked.cast(export.user_ids.type).to_pylist()):
        if user is not None:
            mine = item.filter(pc.and_(pc.equal(users, user), item.is_valid())).to_numpy()
            joined.append((np.full(len(mine), number), mine.astype(np.int64)))
    numbers, found = zip(*joined, strict=True) if joined else ((), ())
    return np.concatenate([*numbers, NO]), np.concatenate([*found, NO])
