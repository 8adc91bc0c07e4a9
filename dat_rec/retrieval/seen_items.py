"""Which items users may not be shown, user by user: those they had in training, those of a file."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ItemsOfUsers:
    """Some items of each of U users."""

    offsets: Ints
    """(U + 1,): user u's are offsets[u] … offsets[u + 1] − 1."""
    item: NDArray[np.int32]
    """(P,) item_index."""

    def of(self, user: int) -> NDArray[np.int32]:
        """One user's items; of a user beyond the last, none."""
        if user + 1 >= len(self.offsets):
            return self.item[:0]
        return self.item[self.offsets[user] : self.offsets[user + 1]]

    @staticmethod
    def of_lists(lists: pa.ChunkedArray) -> "ItemsOfUsers":
        """Of a column of lists of item_index, such as an export's ``seen/`` holds."""
        items = lists.combine_chunks()
        return ItemsOfUsers(
            np.append(0, np.cumsum(items.value_lengths().to_numpy(), dtype=np.int64)),
            items.flatten().to_numpy(),
        )

    @staticmethod
    def of_pairs(pairs: Iterable[tuple[Ints, Ints]], users: int) -> "ItemsOfUsers":
        """Of pairs of user, in 0 … U − 1, and item, in any order."""
        parts = [np.zeros((2, 0), np.int64), *(np.stack(pair) for pair in pairs)]
        user, item = np.concatenate(parts, axis=1)
        order = np.argsort(user, kind="stable")
        offsets = np.searchsorted(user[order], np.arange(users + 1))
        return ItemsOfUsers(offsets, item[order].astype(np.int32))
