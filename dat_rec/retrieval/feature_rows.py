"""A dataset's Parquet file in, any of its rows out: row groups are read when they are asked for.

No rank holds a whole table of users, of their histories or of what they have seen.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dat_rec.checkpoint.damage import rank_and_ranks
from dat_rec.data.columns import BadIds
from dat_rec.data.dataset import Dataset
from dat_rec.data.dense import AnyColumn, concatenate, parted, read_all
from dat_rec.data.schema import Side
from dat_rec.dist.agree import together
from dat_rec.errors import UserError
from dat_rec.retrieval.distinct import Hashes, row_hashes
from dat_rec.retrieval.divided import gather
from dat_rec.storage.address import Location
from dat_rec.storage.read import open_parquet

Ints = NDArray[np.int64]


class RowGroups:
    """A Parquet file that is read by row groups.

    Args:
        path: of the file.
        columns: names of the columns to read.
        rows: number of rows that it must have; None for any.

    Raises:
        UserError: the file cannot be read, lacks a column, or has another number of rows.
    """

    def __init__(self, path: Location, columns: Sequence[str], rows: int | None = None) -> None:
        self.path = path
        self._columns = list(columns)
        try:
            self._file = open_parquet(path)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error
        for name in columns:
            if (times := self._file.schema_arrow.names.count(name)) != 1:
                found = "stands there twice" if times else "is missing"
                raise UserError(f"{path}: column {name!r} {found}: write the file anew")
        metadata = self._file.metadata
        if rows is not None and metadata.num_rows != rows:
            raise UserError(
                f"{path}: {metadata.num_rows} rows, schema.json says {rows}: "
                "prepare the dataset anew"
            )
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self.bounds: Ints = np.append(0, np.cumsum(np.array(sizes, np.int64)))
        """(G + 1,): row group g holds the rows bounds[g] to bounds[g + 1]."""

    def read(self, group: int) -> pa.Table:
        """Read one row group.

        Raises:
            UserError: it cannot be read.
        """
        try:
            return self._file.read_row_group(group, columns=self._columns)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error

    def read_rows(self, start: int, stop: int) -> pa.Table:
        """Read the rows ``start`` to ``stop``.

        Raises:
            UserError: they cannot be read.
        """
        parts = [self._file.schema_arrow.empty_table().select(self._columns)]
        for group in range(len(self.bounds) - 1):
            first, last = int(self.bounds[group]), int(self.bounds[group + 1])
            if first < stop and start < last:
                begin, end = max(start, first) - first, min(stop, last) - first
                parts.append(self.read(group).slice(begin, end - begin))
        return pa.concat_tables(parts)

    def groups_of(self, rows: Ints) -> list[tuple[int, Ints]]:
        """Return the row groups with any of the ``rows``, whose numbers rise, and those of each.

        They are counted within the group.
        """
        ends = np.searchsorted(rows, self.bounds)
        return [
            (group, rows[ends[group] : ends[group + 1]] - self.bounds[group])
            for group in range(len(self.bounds) - 1)
            if ends[group] < ends[group + 1]
        ]

    def _unreadable(self, error: Exception) -> UserError:
        reason = str(error).splitlines()[0]
        return UserError(f"{self.path}: cannot be read as Parquet ({reason}): write it anew")


class FeatureRows:
    """The features of a dataset's users, as of the split, or of its items.

    Args:
        dataset: a prepared dataset.
        name: whose.
        bad_ids: what becomes of ids outside their table; None: what the dataset says.
    """

    def __init__(
        self, dataset: Dataset, name: Literal["users", "items"], bad_ids: BadIds | None = None
    ) -> None:
        side: Side = "item" if name == "items" else "query"
        self.features = dataset.schema.side(side)
        self.dense = dataset.schema.dense_side(side)
        self.rows = dataset.schema.items if name == "items" else dataset.schema.users
        self._path = dataset.folder / f"{name}.parquet"
        self._bad_ids = bad_ids or BadIds(dataset.bad_ids)
        self._matched = dataset.matched

    @cached_property
    def _groups(self) -> RowGroups:
        return RowGroups(self._path, self.names, self.rows)

    @property
    def names(self) -> list[str]:
        """The names of all features."""
        return [*(one.name for one in self.features), *(one.name for one in self.dense)]

    def take(self, rows: Ints) -> dict[str, AnyColumn]:
        """Read the features of rows, whose numbers rise.

        Raises:
            UserError: the file cannot be read, or holds what is no feature.
        """
        parts = [self._take(group, own) for group, own in self._groups.groups_of(rows)]
        parts = parts or [read_all(self._groups.read_rows(0, 0), self.features, self.dense, "")]
        return {name: concatenate([part[name] for part in parts]) for name in self.names}

    def hashes(self, rows: Ints) -> Hashes:
        """(M, 2) hashes of the features of rows, whose numbers rise.

        Collective: each rank reads some of the row groups.

        Raises:
            UserError: as ``take``.
        """
        rank, ranks = rank_and_ranks()
        found = [np.zeros((0, 2), np.uint64)]
        with together():
            groups = self._groups.groups_of(rows)
            mine = slice(rank * len(groups) // ranks, (rank + 1) * len(groups) // ranks)
            found += [row_hashes(self._take(group, own)) for group, own in groups[mine]]
        return gather(np.concatenate(found))

    def _take(self, group: int, rows: Ints) -> dict[str, AnyColumn]:
        table = self._groups.read(group)
        where = str(self._path)
        if len(self._groups.bounds) > 2:
            where += f", row group {group}"
        columns = read_all(table, self.features, self.dense, where, self._bad_ids)
        if len(rows) < table.num_rows:
            columns = {name: column.take(rows) for name, column in columns.items()}
        if self._matched is None:
            return columns
        of_ids, dense = parted(columns)
        return {**self._matched.columns(of_ids, self._groups.bounds[group] + rows), **dense}
