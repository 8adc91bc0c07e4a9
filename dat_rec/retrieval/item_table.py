"""What is known of an export's items, column by column: its own items.parquet, and a fresher table.

A column that both have is taken from the fresher one; items that it lacks are null there. Where no
column is called ``category``, that name means ``category_name``.
"""

from collections.abc import Sequence
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from dat_rec.data.dataset import read_parquet
from dat_rec.errors import UserError
from dat_rec.retrieval.exported import ITEMS
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
    """Columns of a table.

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
        return source.select(list(names))
    return read_parquet(source, names)


class ItemTable:
    """The columns of N items; files are read when columns are asked for.

    Args:
        folder: the export's.
        item_ids: (N,) of the export.
        fresh: a table with ``item_id`` and further columns.

    Raises:
        UserError: a file cannot be read, or the table's ids are no such ids or not each once.
    """

    def __init__(self, folder: Location, item_ids: pa.Array, fresh: Source | None = None) -> None:
        self._path, self._item_ids, self._fresh = folder / ITEMS, item_ids, fresh
        self._own = column_names(self._path)
        self._added: list[str] = []
        if fresh is not None:
            self._where = "--item-table" if isinstance(fresh, pa.Table) else str(fresh)
            ids = read_columns(fresh, [ID], self._where)[ID].combine_chunks()
            ids = once(as_ids(self._where, ID, ids, item_ids.type, ID), self._where, ID, "item")
            self._place = pc.index_in(item_ids, value_set=ids)
            self._added = [name for name in column_names(fresh) if name != ID]
        names = [*(name for name in self._own if name not in self._added), *self._added]
        self.names = [*names, *([CATEGORY] if CATEGORY not in names else [])]
        """The names of all columns."""

    def read(self, names: Sequence[str]) -> pa.Table:
        """N rows of columns, which are among ``names``.

        Raises:
            UserError: a file cannot be read, or is of another export than before.
        """
        source = {name: name for name in names}
        if CATEGORY in names and CATEGORY not in (*self._own, *self._added):
            source[CATEGORY] = CATEGORY_NAME
        added = [name for name in source.values() if name in self._added]
        own = [name for name in source.values() if name not in self._added]
        table = read_parquet(self._path, list(dict.fromkeys([ID, *own])))
        if not table[ID].combine_chunks().equals(self._item_ids):
            raise UserError(f"{self._path}: is another export's by now: open it anew")
        if added and self._fresh is not None:
            fresh = read_columns(self._fresh, list(dict.fromkeys(added)), self._where)
            fresh = fresh.take(self._place)
            for name in fresh.column_names:
                table = table.append_column(fresh.schema.field(name), fresh[name])
        return pa.table([table[source[name]] for name in names], list(names))
