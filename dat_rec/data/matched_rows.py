"""A dataset's embedding rows in, those of a run that mean the same out.

Every prepared dataset numbers its users, items and values anew, and a run's tables stand in the
numbering of the dataset that it was trained on. To score another one, not the tables are moved but
the numbers that look them up: what the run does not know looks up its row of the unknown, and what
it knows is the very row that was trained.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dat_rec.data.columns import Column
from dat_rec.data.schema import ITEM, UNKNOWN, USER, Feature

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class MatchedRows:
    """For each row of a dataset, the run's row of the same id or value; UNKNOWN without one."""

    features: tuple[Feature, ...]
    """The dataset's features that the run's towers take, in the run's order."""
    digest: str
    """The dataset's ``row_digest``."""
    users: Rows
    """(users,): by rows of users.parquet, those whom the dataset has not trained included."""
    items: Rows
    """(items,): by rows of items.parquet, those that the dataset has not trained included."""
    tables: Mapping[str, Rows]
    """(rows,): by embedding rows, of each table that a feature beside the ids looks up."""

    def columns(self, columns: Mapping[str, Column], rows: Rows) -> dict[str, Column]:
        """Return features of users or of items in the run's numbers.

        Args:
            columns: by feature, in the dataset's numbers.
            rows: (R,) which rows of their file these are.
        """
        own = {USER: self.users, ITEM: self.items}
        table = {feature.name: feature.table for feature in self.features}
        return {
            name: Column(own[name][rows], None)
            if name in own
            else Column(self.tables[table[name]][column.values], column.offsets)
            for name, column in columns.items()
        }

    def known_users(self) -> NDArray[np.bool_]:
        """(users,): whether the run knows each."""
        return _known(self.users)

    def known_items(self) -> NDArray[np.bool_]:
        """(items,): whether the run knows each."""
        return _known(self.items)

    def known_values(self) -> dict[str, NDArray[np.bool_]]:
        """(values,): whether the run knows each; of the tables that have a vocabulary."""
        return {
            table: _known(np.delete(rows, UNKNOWN))
            for table, rows in sorted(self.tables.items())
            if table not in (USER, ITEM)
        }


def _known(rows: Rows) -> NDArray[np.bool_]:
    known: NDArray[np.bool_] = rows != UNKNOWN
    return known
