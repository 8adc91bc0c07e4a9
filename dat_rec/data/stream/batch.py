"""Columns in, a ``Batch`` of KeyedJaggedTensors out: what the pipeline moves to a device.

A KeyedJaggedTensor has one stride for all its keys. Where each of B examples has S negatives of
its own, they come as keys of their own, ``item@1`` … ``item@S``, which read the same tables as
``item``: the first B of them are the rows of the first key, and so on. Negatives that a batch
shares are rows behind its examples, in which the query's features have empty bags.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from dat_rec.data.columns import Column


def negative_key(feature: str, number: int) -> str:
    """The key of ``feature`` for the ``number``-th B negatives (from 1)."""
    return f"{feature}@{number}"


def to_kjt(columns: Mapping[str, Column], keys: Sequence[str], rows: int) -> KeyedJaggedTensor:
    """Put columns of ``rows`` rows into one KeyedJaggedTensor (int64 values and lengths).

    Args:
        columns: each key's column. Where one is shorter than ``rows``, or a key has none, the rows
            that are missing get empty bags (zero vectors).
        keys: the tensor's keys, in order.
        rows: number of rows, the tensor's stride.
    """
    present = [columns[key] for key in keys if key in columns]
    # What TorchRec would ask the device for, and wait.
    totals = [len(columns[key].values) if key in columns else 0 for key in keys]
    lengths = np.zeros((len(keys), rows), np.int64)
    for number, key in enumerate(keys):
        if key in columns:
            lengths[number, : len(columns[key])] = columns[key].lengths()
    values = np.zeros(sum(totals), np.int64)
    if present:
        np.concatenate([column.values for column in present], out=values)
    return KeyedJaggedTensor(
        keys=list(keys),
        values=torch.from_numpy(values),
        lengths=torch.from_numpy(lengths.ravel()),
        stride=rows,
        length_per_key=totals,
        offset_per_key=[0, *accumulate(totals)],
    )


@dataclass
class Items(Pipelineable):  # type: ignore[misc]  # TorchRec ships no types
    """What the losses know of some items; padding (zeros) stands behind them."""

    index: Tensor
    """(N,) int64: catalogue rows."""
    category: Tensor
    """(N,) int64: number of the category among those of equation (3), or UNKNOWN."""
    offset: Tensor
    """(N,) float32: what the softmax adds to each item's logit, as of ``logit_offsets``."""

    def to(self, device: torch.device, non_blocking: bool = False) -> "Items":
        """The items on ``device``."""
        return Items(*(tensor.to(device, non_blocking=non_blocking) for tensor in self.tensors()))

    def record_stream(self, stream: torch.Stream) -> None:
        """Tell the allocator that ``stream`` uses the items' memory."""
        for tensor in self.tensors():
            tensor.record_stream(stream)

    def pin_memory(self) -> "Items":
        """The items in page-locked host memory."""
        return Items(*(tensor.pin_memory() for tensor in self.tensors()))

    def first(self, number: int) -> "Items":
        """The first ``number`` items."""
        return Items(*(tensor[:number] for tensor in self.tensors()))

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """All three tensors."""
        return self.index, self.category, self.offset


@dataclass
class Batch(Pipelineable):  # type: ignore[misc]  # TorchRec ships no types
    """One rank's part of a global batch: B rows and N negatives on every rank, padding included.

    The rank's examples, and its negatives, come first; padding has empty bags.
    """

    features: KeyedJaggedTensor
    """Query features, item features, and item features of the negatives; stride B, and the shared
    negatives."""
    positives: Items
    """The B positives."""
    negatives: Items
    """The N negatives; where each example has S of its own, the first S are the first example's."""
    counts: tuple[int, ...]
    """Number of examples on each rank; the rest of its B rows is padding."""
    negative_counts: tuple[int, ...]
    """Number of negatives on each rank; the rest of its N rows is padding."""
    dense: dict[str, Tensor] = field(default_factory=dict)
    """Values of the dense features by key, (rows, width): of queries, positives and, behind them or
    in keys of their own, negatives. NaN where there is no value."""
    own_offset: Tensor | None = None
    """(B,) float32: what the softmax adds to the logit of each example's own positive, where that
    is not what it adds to the positive as a candidate of the others; None: the same."""
    weight: Tensor | None = None
    """(B,) float32: how much each example counts in the loss; None: all alike."""

    @property
    def own(self) -> Items:
        """The B positives, each as its example's own."""
        if self.own_offset is None:
            return self.positives
        return Items(self.positives.index, self.positives.category, self.own_offset)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """The batch on ``device``."""
        return Batch(
            self.features.to(device, non_blocking=non_blocking),
            self.positives.to(device, non_blocking),
            self.negatives.to(device, non_blocking),
            self.counts,
            self.negative_counts,
            {key: one.to(device, non_blocking=non_blocking) for key, one in self.dense.items()},
            None if (own := self.own_offset) is None else own.to(device, non_blocking=non_blocking),
            None if (one := self.weight) is None else one.to(device, non_blocking=non_blocking),
        )

    def record_stream(self, stream: torch.Stream) -> None:
        """Tell the allocator that ``stream`` uses the batch's memory."""
        for part in (self.features, self.positives, self.negatives):
            part.record_stream(stream)
        for tensor in self.dense.values():
            tensor.record_stream(stream)
        if self.own_offset is not None:
            self.own_offset.record_stream(stream)
        if self.weight is not None:
            self.weight.record_stream(stream)

    def pin_memory(self) -> "Batch":
        """The batch in page-locked host memory."""
        return Batch(
            self.features.pin_memory(),
            self.positives.pin_memory(),
            self.negatives.pin_memory(),
            self.counts,
            self.negative_counts,
            {key: one.pin_memory() for key, one in self.dense.items()},
            None if self.own_offset is None else self.own_offset.pin_memory(),
            None if self.weight is None else self.weight.pin_memory(),
        )
