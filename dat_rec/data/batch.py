"""Columns in, a ``Batch`` of KeyedJaggedTensors out: what the pipeline moves to a device.

A KeyedJaggedTensor has one stride for all its keys. Negatives therefore come as keys of
their own, ``item@1`` … ``item@S``, which read the same tables as ``item``: every key keeps
one bag for each example, and nothing is padded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from dat_rec.data.columns import Column


def negative_key(feature: str, number: int) -> str:
    """The key under which the ``number``-th negative (from 1) has its ``feature``."""
    return f"{feature}@{number}"


def to_kjt(columns: Mapping[str, Column], keys: Sequence[str], rows: int) -> KeyedJaggedTensor:
    """Put columns of ``rows`` rows into one KeyedJaggedTensor (int64 values and lengths).

    Args:
        columns: by key. Where a column is shorter than ``rows``, or a key has none, the rows
            that are missing get empty bags (zero vectors).
        keys: the tensor's keys, in order.
        rows: examples, the tensor's stride.
    """
    present = [columns[key] for key in keys if key in columns]
    lengths = np.zeros((len(keys), rows), np.int64)
    for number, key in enumerate(keys):
        if key in columns:
            lengths[number, : len(columns[key])] = columns[key].lengths()
    none = np.zeros(0, np.int64)
    values = np.concatenate([column.values for column in present]) if present else none
    return KeyedJaggedTensor(
        keys=list(keys),
        values=torch.from_numpy(values),
        lengths=torch.from_numpy(lengths.ravel()),
        stride=rows,
    )


@dataclass
class Batch(Pipelineable):  # type: ignore[misc]  # TorchRec ships no types
    """One rank's part of a global batch: B rows on every rank, S negatives for each.

    The rank's examples come first. Rows behind them are padding: empty bags, and 0 (item 0,
    category unknown) in the tensors.
    """

    features: KeyedJaggedTensor
    """Query features, item features, and item features of the negatives; stride B."""
    item_index: Tensor
    """(B, 1 + S) int64: catalogue rows of the positive (first) and of the negatives."""
    category: Tensor
    """(B, 1 + S) int64: category of the same items."""
    log_q: Tensor
    """(B, 1 + S) float32: log of each item's expected share among the softmax candidates."""
    counts: tuple[int, ...]
    """How many of the B rows are examples, on each rank."""

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """The batch on ``device``."""
        return Batch(
            features=self.features.to(device, non_blocking=non_blocking),
            item_index=self.item_index.to(device, non_blocking=non_blocking),
            category=self.category.to(device, non_blocking=non_blocking),
            log_q=self.log_q.to(device, non_blocking=non_blocking),
            counts=self.counts,
        )

    def record_stream(self, stream: torch.Stream) -> None:
        """Tell the allocator that ``stream`` uses the batch's memory."""
        self.features.record_stream(stream)
        for tensor in (self.item_index, self.category, self.log_q):
            tensor.record_stream(stream)

    def pin_memory(self) -> "Batch":
        """The batch in page-locked host memory."""
        return Batch(
            features=self.features.pin_memory(),
            item_index=self.item_index.pin_memory(),
            category=self.category.pin_memory(),
            log_q=self.log_q.pin_memory(),
            counts=self.counts,
        )
