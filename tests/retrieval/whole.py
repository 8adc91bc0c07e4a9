"""A run's vectors as whole arrays, in this process: what the tests compare with."""

import numpy as np
import torch
from numpy.typing import NDArray

from dat_rec.data.dataset import Dataset
from dat_rec.model.dat import DAT
from dat_rec.retrieval import encode
from dat_rec.retrieval.encode import encode_blocks, query_tower, user_kinds
from dat_rec.retrieval.ranks import one_thread_each


def encode_items(model: DAT, dataset: Dataset) -> NDArray[np.float32]:
    """(items, D)"""
    with one_thread_each() as threads:
        rows, kind = encode.encode_items(model, dataset, threads)
    return rows.local.numpy()[kind]


def encode_users(model: DAT, dataset: Dataset, user_rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """(len(user_rows), D)"""
    asked, position = np.unique(user_rows, return_inverse=True)
    source, alike = user_kinds(dataset, asked)
    first = asked[alike.first]
    with one_thread_each() as threads:
        blocks = encode_blocks(model, dataset.schema, source, first, query_tower, threads)
        return torch.cat([block.vectors for block in blocks]).numpy()[alike.kind][position]
