"""What is known of an export's items, column by column: its own items.parquet, and a fresher table.

A column that both have is taken from the fresher one, whatever its case: SQL knows none. Items that
it lacks are null there. Where no column is called ``category``, that name means ``category_name``.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from dat_rec.data.dataset import read_parquet
from dat_rec.errors import UserError
from dat_rec.retrieval.queries import as_ids, once
from dat_rec.storage.address import Location
from dat_rec.storage.read import open_parquet

Source: TypeAlias = Location | pa.Table
"""A Parquet file, or a table in memory."""
ID, CATEGORY, CATEGORY_NAME = "item_id", "category", "category_name"


def column_names(source: Source) -> list[str]:
    """The names of a table's columns.

    Raises:
        UserError: the file cannot be read.
    """
    if isinstance(source, pa.Table):
        return list(source.column_names)
    try:
        with open_parquet(source) as file:
            return list(file.schema_arrow.names)
    except (OSError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{source}: cannot be read as Parquet ({reason}): write it anew") from error


def read_columns(source: Source, names: Sequence[str], what: str) -> pa.Table:
    """Columns of a table, without Arrow's views and runs.

    Args:
        source: the table.
        names: of the columns.
        what: the table's name, for messages.

    Raises:
        UserError: the file cannot be read, or a column is not there once.
    """
    if isinstance(source, pa.Table):
        for name in names:
            if source.column_names.count(name) != 1:
                found = ", ".join(source.column_names)
                raise UserError(f"{what}: column {name!r} is missing, or twice: it has {found}")
        return _plain(source.select(list(names)))
    return _plain(read_parquet(source, names))


def _plain(table: pa.Table) -> pa.Table:
    """The table, without views and runs, of which Arrow takes no rows."""
    for place, field in enumerate(table.schema):
        column = table.column(place)
        if pa.types.is_run_end_encoded(column.type):
            column = pc.run_end_decode(column)
        if pa.types.is_string_view(column.type):
            column = column.cast(pa.large_string())
        if pa.types.is_binary_view(column.type):
            column = column.cast(pa.large_binary())
        table = table.set_column(place, field.name, column)
    return table


class ItemTable:
    """The columns of N items; files are read when columns are asked for.

    Args:
        own: the export's items.parquet, or what it holds.
        item_ids: (N,) of the export.
        fresh: a table with ``item_id`` and further columns.

    Raises:
        UserError: a file cannot be read, or the table's ids are no such ids or not each once.
    """

    def __init__(self, own: Source, item_ids: pa.Array, fresh: Source | None = None) -> None:
        self._own, self._item_ids, self._fresh = own, item_ids, fresh
        self._added: list[str] = []
        if fresh is not None:
            self._where = "--item-table" if isinstance(fresh, pa.Table) else str(fresh)
            ids = read_columns(fresh, [ID], self._where)[ID].combine_chunks()
            ids = once(as_ids(self._where, ID, ids, item_ids.type, ID), self._where, ID, "item")
            self._place = pc.index_in(item_ids, value_set=ids)
            self._added = [name for name in column_names(fresh) if name != ID]

    @cached_property
    def _written(self) -> list[str]:
        """The names of all columns that are written somewhere."""
        replaced = {name.lower() for name in self._added} - {ID}
        own = (name for name in column_names(self._own) if name.lower() not in replaced)
        return [*own, *self._added]

    @cached_property
    def _alias(self) -> dict[str, str]:
        if any(name.lower() == CATEGORY for name in self._written):
            return {}
        return {CATEGORY: _named(self._written, CATEGORY_NAME) or CATEGORY_NAME}

    @property
    def names(self) -> list[str]:
        """The names of all columns."""
        return [*self._written, *self._alias]

    def named(self, name: str) -> str | None:
        """The column that is called so, or else the only one that is but for its case."""
        return _named(self.names, name)

    def read(self, names: Sequence[str]) -> pa.Table:
        """N rows of columns, which are among ``names``.

        Raises:
            UserError: a file cannot be read, is of another export than before, or has a column of
                a type that rows cannot be taken of.
        """
        source = {name: self._alias.get(name, name) for name in names}
        added = [name for name in source.values() if name in self._added]
        own = [name for name in source.values() if name not in self._added]
        where = "the export" if isinstance(self._own, pa.Table) else str(self._own)
        table = read_columns(self._own, list(dict.fromkeys([ID, *own])), where)
        if not table[ID].combine_chunks().equals(self._item_ids):
            raise UserError(f"{where}: is another export's by now: open it anew")
        if added and self._fresh is not None:
            fresh = read_columns(self._fresh, list(dict.fromkeys(added)), self._where)
            for name, column in zip(fresh.column_names, fresh.columns, strict=True):
                try:
                    table = table.append_column(name, column.take(self._place))
                except pa.ArrowNotImplementedError as error:
                    raise UserError(
                        f"{self._where}: column {name!r} is {column.type}: write it as a plain type"
                    ) from error
        return pa.table([table[source[name]] for name in names], list(names))


def _named(names: Sequence[str], name: str) -> str | None:
    alike = [one for one in names if one.lower() == name.lower()]
    if name in alike:
        return name
    return alike[0] if len(alike) == 1 else None
