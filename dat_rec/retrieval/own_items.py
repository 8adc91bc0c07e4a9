"""What an export says of users' own items, read back: what own history adds to their scores.

An export that can blend own history in holds ``own_items/part-*.parquet`` beside the parts of
users: of each user, in the same order, ``user_id`` and two lists of one length, ``item_index``,
rising, and ``bonus``, the float32 number that is added to the item's score
(``dat_rec.retrieval.blend``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dat_rec.data.dataset import read_parquet

OWN_COLUMNS = ("item_index", "bonus")


@dataclass(frozen=True)
class OwnItems:
    """The own items of U + 1 users: row U is the unknown one, who has none."""

    offsets: NDArray[np.int64]
    """(U + 2,): user u's are offsets[u] … offsets[u + 1] − 1."""
    item: NDArray[np.int64]
    """(P,) item_index, rising within a user."""
    bonus: NDArray[np.float32]
    """(P,)"""

    @staticmethod
    def read(parts: Sequence[Path]) -> "OwnItems":
        """Read the parts, in their order.

        Raises:
            UserError: one cannot be read.
        """
        table = pa.concat_tables([read_parquet(path, OWN_COLUMNS) for path in parts])
        items, bonus = (table.column(name).combine_chunks() for name in OWN_COLUMNS)
        lengths = np.append(items.value_lengths().to_numpy(), 0)
        return OwnItems(
            np.append(0, np.cumsum(lengths)).astype(np.int64),
            items.flatten().to_numpy().astype(np.int64),
            bonus.flatten().to_numpy(),
        )

    def of(self, user: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return one user's items and what is added to each."""
        own = slice(int(self.offsets[user]), int(self.offsets[user + 1]))
        return self.item[own], self.bonus[own]
