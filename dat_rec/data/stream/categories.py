"""Each catalogue item's category in, its number among those of equation (3) out.

Equation (3) compares the most frequent categories. Which they are is known before the first batch
and the same on every rank, so that what ranks exchange of each category has one size.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dat_rec.data.schema import UNKNOWN


@dataclass(frozen=True)
class Compared:
    """The categories of equation (3)."""

    number_N: NDArray[np.int64]
    """(items,) number of each catalogue item's category: from 1, in the order of embedding rows;
    UNKNOWN for a category that is compared with none."""
    kept: int
    """Number of categories that are compared; fewer than ``there`` where those are too many."""
    there: int
    """Number of categories in the dataset."""
    share: float
    """Share of the training examples whose item is of a compared category."""

    def __str__(self) -> str:
        """The line of the start page."""
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
        rows: rows of the category's table, UNKNOWN included.
        most: maximum number of compared categories; of equally frequent ones the first count.
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
