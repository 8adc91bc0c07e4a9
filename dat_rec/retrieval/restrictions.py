"""What lists may hold, in a user's words, in; which items each user may be shown, out."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dat_rec.errors import UserError
from dat_rec.retrieval.allowed_items import NO_ITEMS, Asked
from dat_rec.retrieval.exported import Export
from dat_rec.retrieval.given import as_array
from dat_rec.retrieval.item_table import ID, ItemTable, Source, column_names, read_columns
from dat_rec.retrieval.option_names import OPTIONS, Names
from dat_rec.retrieval.queries import as_ids, id_columns, user_ids
from dat_rec.retrieval.quotas import Quota
from dat_rec.retrieval.seen_items import ItemsOfUsers
from dat_rec.retrieval.sql_filter import PerUserFilter, passing_items
from dat_rec.retrieval.sql_text import mentioned
from dat_rec.storage.address import Address
from dat_rec.storage.read import open_parquet
from dat_rec.storage.snapshot import pinned_file

Ints = NDArray[np.int64]
Ids: TypeAlias = Sequence[int] | Sequence[str] | NDArray[Any] | pa.Array


@dataclass(frozen=True)
class Restrictions:
    """What lists may hold; by default the whole catalogue. What is given holds all together."""

    exclude_seen: bool = False
    """Leave out the items that a user had in training."""
    exclude: Source | None = None
    """Pairs of ``user_id`` and ``item_id`` to leave out."""
    filter: str | None = None
    """SQL that is true of the items that may be shown: ``price < 20 AND category = 'TOYS'``."""
    item_table: Source | None = None
    """A table with ``item_id`` and columns that are fresher than the export's, or new."""
    allow: Source | Ids | None = None
    """Ids, or a table with ``item_id``, of the items that may be shown."""
    per_user_filter: str | None = None
    """SQL that is true of the items that a user may be shown: ``item.region = user.region``."""
    quotas: Mapping[str, int] = field(default_factory=dict)
    """For a column of items the maximum number of items in a list that have one value of it."""


ALL_ITEMS = Restrictions()


@dataclass(frozen=True)
class ItemRules:
    """What holds for all users alike."""

    table: ItemTable
    allowed: Ints | None
    """(M,) item_index, rising; None: all items."""
    quotas: tuple[Quota, ...]
    unknown: int
    """Number of the allowed list's ids that the export does not know."""

    @staticmethod
    def of(
        own: Source,
        item_ids: pa.Array,
        wanted: Restrictions,
        filter_s: float | None = None,
        called: Names = OPTIONS,
    ) -> "ItemRules":
        """Read what the restrictions say of items.

        Args:
            own: the export's items.parquet, or what it holds.
            item_ids: (N,) of the export.
            wanted: the restrictions.
            filter_s: as of ``passing_items``.
            called: how messages call the restrictions.

        Raises:
            UserError: a file cannot be read, an expression is none, or a column cannot be used.
        """
        table = ItemTable(own, item_ids, wanted.item_table)
        quotas = tuple(
            _quota(table, column, most, called.quota.format(column=column, most=most))
            for column, most in wanted.quotas.items()
        )
        if wanted.allow is None and wanted.filter is None:
            return ItemRules(table, None, quotas, 0)
        shown = np.ones(len(item_ids), np.bool_)
        unknown = 0
        if wanted.allow is not None:
            ids = _allowed_ids(wanted.allow, item_ids.type)
            shown &= pc.is_in(item_ids, value_set=ids).to_numpy(zero_copy_only=False)
            known = pc.is_in(ids, value_set=item_ids)
            unknown = len(ids) - int(pc.sum(known).as_py() or 0)
        if wanted.filter is not None:
            names = mentioned(table.names, wanted.filter, called.filter, "items")
            shown &= passing_items(
                table.read(names), wanted.filter, table.names, filter_s, option=called.filter
            )
        return ItemRules(table, np.flatnonzero(shown), quotas, unknown)

    def digest(self) -> str:
        """SHA-256 of what the rules let in: hosts may see different files."""
        digest = hashlib.sha256(repr(self.allowed is None).encode())
        if self.allowed is not None:
            digest.update(self.allowed.data)
        for quota in self.quotas:
            digest.update(quota.code_N.data)
        return digest.hexdigest()


@dataclass(frozen=True)
class UserRules:
    """What holds for each of B users."""

    rows: Ints
    """(B,) in the export's users; the last row is the unknown one."""
    seen: ItemsOfUsers | None
    """By row."""
    numbers: Ints
    """(B,) by which ``excluded`` knows the users."""
    excluded: ItemsOfUsers | None
    per_user: PerUserFilter | None

    def asked(
        self, export: Export, users: range, query_BD: NDArray[np.float32], *, blend_history: bool
    ) -> list[Asked]:
        """Some users, and what may be in their lists.

        Args:
            export: whose users.
            users: their numbers in 0 … B − 1.
            query_BD: their vectors.
            blend_history: whether own history is blended in, which the export can.
        """
        passing = self.per_user.of(users) if self.per_user else [None] * len(users)
        found = []
        for user, query_D, passing_N in zip(users, query_BD, passing, strict=True):
            row, left_out = int(self.rows[user]), []
            if self.seen is not None:
                left_out.append(self.seen.of(row))
            if self.excluded is not None:
                left_out.append(self.excluded.of(int(self.numbers[user])))
            excluded = np.unique(np.concatenate(left_out)) if left_out else NO_ITEMS[0]
            own = export.own.of(row) if blend_history and export.own is not None else NO_ITEMS
            found.append(Asked(query_D, excluded.astype(np.int64), own, passing_N))
        return found

    @property
    def restrict(self) -> bool:
        """Whether there is any."""
        return any(one is not None for one in (self.seen, self.excluded, self.per_user))


def excluded_pairs(
    source: Source, ids: pa.Array, export: Export, user_id: str
) -> tuple[Ints, ItemsOfUsers]:
    """(B,) numbers of users, and by these the items that a table of pairs names.

    Args:
        source: holds the users' columns and ``item_id``; pairs of others are passed over.
        ids: (B,) of users.
        export: whose ids they are.
        user_id: the columns that hold the users' ids, as ``read_queries`` takes them.

    Raises:
        UserError: the table cannot be read, or its ids are no such ids.
    """
    item_ids = export.items.column(ID).combine_chunks()
    distinct = ids.dictionary_encode()
    numbers = distinct.indices.to_numpy().astype(np.int64)
    pairs = []
    for where, table, columns in _pair_tables(source, user_id):
        asked = user_ids(where, table, columns, export.user_ids)
        user = pc.index_in(asked, value_set=distinct.dictionary)
        named = as_ids(where, ID, table[ID].combine_chunks(), item_ids.type, ID)
        item = pc.index_in(named, value_set=item_ids)
        kept = pc.and_(user.is_valid(), item.is_valid())
        pairs.append(tuple(one.filter(kept).to_numpy().astype(np.int64) for one in (user, item)))
    return numbers, ItemsOfUsers.of_pairs(pairs, len(distinct.dictionary))


def per_user_filter(
    expression: str, items: ItemTable, users: Source | None, ids: slice
) -> PerUserFilter:
    """The condition on columns of users and items.

    Args:
        expression: of SQL.
        items: the items' columns.
        users: a table with a row for each user.
        ids: which rows are those of the users that are asked about.

    Raises:
        UserError: there is no table of users, or it is no such expression.
    """
    if users is None:
        raise UserError(
            f"--per-user-filter {expression!r}: needs the users' columns: name a file of users "
            "that has them by --queries"
        )
    names, option = column_names(users), "--per-user-filter"
    table = read_columns(users, mentioned(names, expression, option, "users"), "users")[ids]
    columns = items.read(mentioned(items.names, expression, option, "items"))
    return PerUserFilter(columns, table, expression, (items.names, names))


def _pair_tables(source: Source, user_id: str) -> Iterator[tuple[str, pa.Table, Sequence[str]]]:
    """The parts of a table of pairs, each with its name and the users' columns."""
    if isinstance(source, pa.Table):
        yield "exclude", read_columns(source, ["user_id", ID], "exclude"), ["user_id"]
        return
    source = pinned_file(source)
    columns = [*id_columns(source, user_id)]
    found = column_names(source)
    if ID not in found:
        raise UserError(f"{source}: column 'item_id' is missing: it has {', '.join(found)}")
    with open_parquet(source) as file:
        groups = file.metadata.num_row_groups
        for group in range(groups):
            where = str(source) if groups == 1 else f"{source}, row group {group}"
            yield where, file.read_row_group(group, [*columns, ID]), columns


def _allowed_ids(allow: Source | Ids, kind: pa.DataType) -> pa.Array:
    """The ids of an allowed list, each once."""
    if isinstance(allow, pa.Table | Path | Address):
        where = "available" if isinstance(allow, pa.Table) else str(allow)
        ids = read_columns(allow, [ID], where)[ID].combine_chunks()
    else:
        where = "available"
        ids = as_array(allow, where)
    return as_ids(where, ID, ids, kind, ID).unique()


def _quota(table: ItemTable, column: str, most: int, option: str) -> Quota:
    if isinstance(most, bool) or not isinstance(most, int | np.integer):
        raise UserError(f"{option}: it must be a whole number")
    if most < 1:
        raise UserError(f"{option}: it must be 1 or more")
    if (name := table.named(str(column))) is None:
        raise UserError(f"{option}: items have no such column: they have {', '.join(table.names)}")
    values = table.read([name])[name].combine_chunks()
    if isinstance(values.type, pa.BaseExtensionType):
        values = values.storage
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    try:
        codes = values.dictionary_encode("encode").indices
    except (pa.ArrowNotImplementedError, AttributeError) as error:
        raise UserError(
            f"{option}: {column} is {values.type}: name a column with one value of each item"
        ) from error
    return Quota(codes.to_numpy().astype(np.int32), int(most))
