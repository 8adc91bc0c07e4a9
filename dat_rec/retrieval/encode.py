"""A model and a dataset in, vectors out: every item's and every user's, unsharded.

Rows with the same features are encoded once, and so have the same vector to the last bit.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dat_rec.data.batch import to_kjt
from dat_rec.data.columns import Column
from dat_rec.data.dataset import Dataset
from dat_rec.data.schema import Schema
from dat_rec.model.dat import DAT, DATOutput
from dat_rec.retrieval.distinct import encode_once

ROWS = 8192
"""Number of rows that are embedded at once."""


def encode_users(model: DAT, dataset: Dataset, user_rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Query vectors p_u of the users in ``user_rows``, as of the split.

    Returns:
        (len(user_rows), D) float32, unit vectors.
    """
    return encode_queries(model, dataset.schema, dataset.user_columns(), user_rows)


def encode_queries(
    model: DAT, schema: Schema, columns: Mapping[str, Column], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Query vectors p_u of ``rows`` of the query features.

    Returns:
        (len(rows), D) float32, unit vectors.
    """
    keys = [feature.name for feature in schema.features]
    return _encode(model, columns, keys, rows, lambda output: output.query_BD)


def encode_items(model: DAT, dataset: Dataset) -> NDArray[np.float32]:
    """Item vectors p_v of the whole catalogue.

    Returns:
        (items, D) float32, unit vectors; row = item_index.
    """
    columns = dataset.item_columns()
    keys = [feature.name for feature in dataset.schema.features]
    rows = np.arange(dataset.schema.items)
    return _encode(model, columns, keys, rows, lambda output: output.item_BD)


@torch.no_grad()
def _encode(
    model: DAT,
    columns: Mapping[str, Column],
    keys: Sequence[str],
    rows: NDArray[np.int64],
    pick: Callable[[DATOutput], Tensor],
) -> NDArray[np.float32]:
    def encode(taken: dict[str, Column]) -> NDArray[np.float32]:
        features = to_kjt(taken, keys, len(next(iter(taken.values()))))
        vectors: NDArray[np.float32] = pick(model(features)).float().numpy()
        return vectors

    return encode_once(columns, rows, encode, ROWS)
