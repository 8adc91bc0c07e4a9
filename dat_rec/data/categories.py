"""Each catalogue item's category in, the one it has in equation (3) out: of the most frequent.

Which they are is known before the first batch and the same on every rank, so that what ranks
exchange of each category has one size.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dat_rec.data.schema import UNKNOWN


@dataclass(frozen=True)
class Compared:
    """The categories of equation (3)."""

    number_N: NDArray[np.int64]
    """(items,) of each catalogue item: from 1, in the order of embedding rows; UNKNOWN of the items
    whose category is compared with none."""
    kept: int
    """Categories that are compared; fewer than ``there`` where those are too many."""
    there: int
    share: float
    """Of the training examples, how many have an item of a category that is compared."""

    def __str__(self) -> str:
        """As the start page has it."""
        if self.kept == self.there:
            return f"all {self.there:,} categories"
        return (
            f"the {self.kept:,} most frequent of {self.there:,} categories, {self.share:.3g} of "
            "the examples; the others add nothing to the alignment loss"
        )


def compared(
    category_N: NDArray[np.int64], count_M: NDArray[np.int64], rows: int, most: int
) -> Compared:
    """The categories that are compared: all, or the most frequent in training.

    Args:
        category_N: (items,) embedding row of each catalogue item's category.
        count_M: (trained items,) how often each of the first items is a positive in an epoch.
        rows: of the category's table, UNKNOWN included.
        most: categories at most; of equally frequent ones the first.
    """
    count_K = np.zeros(rows, np.int64)
    np.add.at(count_K, category_N[: len(count_M)], count_M)
    examples = int(count_K.sum())
    number_K = np.arange(rows)
    if rows - 1 > most:
        count_K[UNKNOWN] = -1
        kept_K = np.sort(np.argsort(-count_K, kind="stable")[:most])
        number_K = np.zeros(rows, np.int64)
        number_K[kept_K] = np.arange(1, most + 1)
    share = int(count_K[number_K != UNKNOWN].sum()) / max(1, examples)
    return Compared(number_K[category_N], min(rows - 1, most), rows - 1, share)
