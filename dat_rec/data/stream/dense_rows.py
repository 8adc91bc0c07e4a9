"""Which users and items a batch holds in, the values of their dense features out.

Examples do not repeat the values: each rank holds those of all trained users and items in memory,
rows · width · 4 bytes for each vector feature.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dat_rec.data.dataset import Dataset
from dat_rec.data.stream.batch import negative_key

Ints = NDArray[np.int64]


class DenseRows:
    """Looks up the values of dense features.

    Args:
        dataset: a prepared dataset.

    Raises:
        UserError: users.parquet or items.parquet cannot be read, or holds what is no such feature.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._query = dataset.trained_dense("query")
        self._item = dataset.trained_dense("item")

    def of(self, user: Ints, items: Sequence[Ints]) -> dict[str, Tensor]:
        """(rows, width) values by key; NaN where there is none.

        Args:
            user: (B,) embedding rows of the examples' users; UNKNOWN has no value.
            items: item_index of the positives, with what stands behind them, and then of each
                further B negatives; −1 has no value.
        """
        found = {name: column.take(user - 1) for name, column in self._query.items()}
        for name, column in self._item.items():
            for number, index in enumerate(items):
                found[negative_key(name, number) if number else name] = column.take(index)
        return {key: torch.from_numpy(column.values) for key, column in found.items()}
