"""Columns of users' features in, the inputs of an exported query tower out."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from dat_rec.data.dense import AnyColumn, parted

Inputs = tuple[dict[str, Tensor], ...]


def to_inputs(columns: Mapping[str, AnyColumn]) -> Inputs:
    """Columns of the same B rows as the encoder's inputs; ``dense`` only if there are any."""
    values, offsets = {}, {}
    of_ids, of_dense = parted(columns)
    each = torch.arange(1 + max(map(len, of_ids.values()), default=0))
    for name, column in of_ids.items():
        # What Arrow has copied cannot be written to, and torch warns of that.
        values[name] = torch.from_numpy(np.require(column.values, np.int64, "W"))
        offsets[name] = each if column.offsets is None else torch.from_numpy(column.offsets)
    if not of_dense:
        return values, offsets
    dense = {name: torch.from_numpy(column.values) for name, column in of_dense.items()}
    return values, offsets, dense
