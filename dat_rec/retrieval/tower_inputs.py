"""Columns of users' features in, the inputs of an exported query tower out: of many, or of one."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from dat_rec.data.dense import AnyColumn, DenseColumn, parted

Inputs = tuple[dict[str, Tensor], ...]
ONE = torch.arange(2)
"""Offsets of one bag of one value."""


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


def row_inputs(columns: Mapping[str, AnyColumn], row: int) -> Inputs:
    """The inputs of one row of the columns, for which no columns of that row are made."""
    values: dict[str, Tensor] = {}
    offsets: dict[str, Tensor] = {}
    dense: dict[str, Tensor] = {}
    alone = {}
    for name, column in columns.items():
        if isinstance(column, DenseColumn):
            dense[name] = torch.from_numpy(column.values[row : row + 1])
        elif column.offsets is None:
            alone[name] = column.values[row]
            values[name], offsets[name] = ONE, ONE
        else:
            start, stop = column.offsets[row : row + 2].tolist()
            values[name] = torch.from_numpy(column.values[start:stop].astype(np.int64))
            offsets[name] = torch.tensor([0, stop - start])
    # In one piece, of which each has its own number.
    numbers = torch.from_numpy(np.array(list(alone.values()), np.int64)).split(1)
    values.update(zip(alone, numbers, strict=False))
    return (values, offsets, dense) if dense else (values, offsets)
