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
        columns: by key. A key without a column gets ``rows`` empty bags (zero vectors).
        keys: the tensor's keys, in order.
        rows: examples, the tensor's stride.
    """
    present = [columns[key] for key in keys if key in columns]
    empty = np.zeros(rows, np.int64)
    lengths = [columns[key].lengths() if key in columns else empty for key in keys]
    values = np.concatenate([column.values for column in present]) if present else empty[:0]
    return KeyedJaggedTensor(
        keys=list(keys),
        values=torch.from_numpy(values),
        lengths=torch.from_numpy(np.concatenate(lengths)),
        stride=rows,
    )


@dataclass
class Batch(Pipelineable):  # type: ignore[misc]  # TorchRec ships no types
    """One rank's share of a global batch: B examples, S negatives for each."""

    features: KeyedJaggedTensor
    """Query features, item features, and item features of the negatives; stride B."""
    item_index: Tensor
    """(B, 1 + S) int64: catalogue rows of the positive (first) and of the negatives."""
    category: Tensor
    """(B, 1 + S) int64: category of the same items."""
    log_q: Tensor
    """(B, 1 + S) float32: log of each item's expected share among the softmax candidates."""

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """The batch on ``device``."""
        return Batch(
            features=self.features.to(device, non_blocking=non_blocking),
            item_index=self.item_index.to(device, non_blocking=non_blocking),
            category=self.category.to(device, non_blocking=non_blocking),
            log_q=self.log_q.to(device, non_blocking=non_blocking),
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
        )
