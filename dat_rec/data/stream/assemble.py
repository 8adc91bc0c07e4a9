"""This rank's examples of a global batch in, its ``Batch`` out: with negatives and padding.

Hidden ids and negatives belong to the global batch's rows: they are numbers of a sequence that is
keyed by the batch's number, of which each rank draws its rows' own. So W ranks see together what
one rank sees alone.

Shapes: B rows on every rank, S negatives for each example, N negatives on every rank.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dat_rec.data.columns import Column, Ids, concatenate_columns
from dat_rec.data.schema import ITEM, UNKNOWN, USER
from dat_rec.data.stream.batch import Batch, Items, negative_key, to_kjt
from dat_rec.data.stream.categories import Compared
from dat_rec.data.stream.dense_rows import DenseRows
from dat_rec.data.stream.examples import Examples
from dat_rec.data.stream.negatives import (
    DROPOUT,
    NEGATIVE_DROPOUT,
    NEGATIVES,
    NegativeSampler,
    log_candidate_share,
    logit_offsets,
    typical_count,
    uniform,
)
from dat_rec.data.stream.reader_options import ReaderOptions

Ints = NDArray[np.int64]


class BatchAssembler:
    """Makes one rank's part of any global batch.

    Args:
        options: what decides the stream.
        catalogue: item features of the whole catalogue; row = item_index.
        categories: which of them equation (3) compares.
        counts: (trained items,) how often each is a positive in one epoch; 0 of an item whose
            training interactions are all of the past.
        popularity: (trained items,) how often each stands in the training log.
        rows: B, the largest number of examples that a rank has of a global batch.
        rank: this process's rank, 0 ≤ rank < world_size.
        world_size: number of ranks that share each global batch.
        dense: holds the values of the dense features; None: there are none.
    """

    def __init__(
        self,
        options: ReaderOptions,
        catalogue: Mapping[str, Column],
        categories: Compared,
        counts: Ints,
        popularity: Ints,
        rows: int,
        rank: int,
        world_size: int,
        dense: DenseRows | None = None,
    ) -> None:
        self._options = options
        self._catalogue = catalogue
        self._dense = dense
        self._category_N = categories.number_N
        self._rank = rank
        self._world_size = world_size
        self._rows = rows
        self._shared = -(-options.shared_negatives // world_size)
        self._own = 0 if self._shared else options.negatives
        self._sampler = NegativeSampler(counts, options.negative_power)
        log_q_N = _log_q(options, counts, self._sampler)
        self._offset_N, self._own_offset_N = (
            logit_offsets(log_q_N, strength, popularity, options.popularity)
            for strength in (options.log_q, 0.0)
        )
        self._less_N = np.zeros(len(popularity), np.float32)
        if options.unknown_count == "typical":
            less_N = np.log(typical_count(popularity)) - np.log(popularity)
            self._less_N = (options.popularity * less_N).astype(np.float32)

    def batch(self, examples: Examples, counts: tuple[int, ...], step: int) -> Batch:
        """This rank's part of a global batch.

        Args:
            examples: the rank's.
            counts: number of examples on each rank.
            step: the global batch's number in the run, from 0.
        """
        first = sum(counts[: self._rank])
        negatives, negative_ids, negative_counts = self._negatives(step, first, counts)
        columns = self._hide_ids(examples.columns, step, first, len(examples))
        ids = columns[ITEM].values
        columns = self._with_negatives(columns, negatives, negative_ids)
        return Batch(
            features=to_kjt(columns, list(columns), self._rows + self._shared),
            positives=self._items(examples.item_index, ids, self._rows),
            negatives=self._items(negatives, negative_ids, self._shared or self._rows * self._own),
            counts=counts,
            negative_counts=negative_counts,
            dense=self._dense_of(examples, negatives),
            own_offset=self._own_offset(examples.item_index, ids),
            weight=None if examples.weight is None else _padded(examples.weight, self._rows),
        )

    def _dense_of(self, examples: Examples, negatives: Ints) -> dict[str, Tensor]:
        """The values of the dense features, which id dropout does not hide."""
        if self._dense is None:
            return {}
        index = examples.item_index.astype(np.int64)
        if self._shared:
            lacking = self._rows - len(index)
            index = np.concatenate([np.pad(index, (0, lacking), constant_values=-1), negatives])
        own = [negatives[n * self._rows : (n + 1) * self._rows] for n in range(self._own)]
        return self._dense.of(examples.columns[USER].values.astype(np.int64), [index, *own])

    def _own_offset(self, index: Ids, ids: Ids) -> Tensor | None:
        """What the softmax adds to own positives' logits, if it is not what ``_items`` has."""
        if self._options.own_log_q:
            return None
        return _padded(self._offset(self._own_offset_N, index, ids), self._rows)

    def _offset(self, offset_N: NDArray[np.float32], index: Ids, ids: Ids) -> NDArray[np.float32]:
        """Offsets of items, those whose ids are unknown with an unknown item's popularity.

        Args:
            offset_N: (trained items,) where all ids are known.
            index: (R,) catalogue rows.
            ids: (R,) what is looked up in the item's table.
        """
        less = np.where(ids == UNKNOWN, self._less_N[index], np.float32(0))
        found: NDArray[np.float32] = offset_N[index] + less
        return found

    def _hide_ids(
        self, columns: Mapping[str, Column], step: int, first: int, rows: int
    ) -> dict[str, Column]:
        """The columns, some users' and some items' ids replaced by the unknown row (id dropout)."""
        hidden = dict(columns)
        options = self._options
        shares = (max(options.id_dropout, options.user_dropout), options.id_dropout)
        if max(shares) > 0:
            drawn = uniform(options.seed, DROPOUT, step, 2 * first, 2 * (first + rows))
            dropped = drawn.reshape(rows, 2) < shares
            for number, name in enumerate((USER, ITEM)):
                values = columns[name].values.copy()
                values[dropped[:, number]] = UNKNOWN
                hidden[name] = Column(values, None)
        return hidden

    def _negatives(
        self, step: int, first: int, counts: tuple[int, ...]
    ) -> tuple[Ints, Ids, tuple[int, ...]]:
        """Catalogue rows of this rank's negatives, their ids, some of them hidden (id dropout).

        And the number of negatives on each rank.
        """
        options = self._options
        if options.shared_negatives:
            ends = _ends(options.shared_negatives, self._world_size)
            start, stop = ends[self._rank], ends[self._rank + 1]
            sizes = tuple(after - before for before, after in pairwise(ends))
        else:
            start = first * options.negatives
            sizes = tuple(count * options.negatives for count in counts)
            stop = start + sizes[self._rank]
        rows = self._sampler.draw(uniform(options.seed, NEGATIVES, step, start, stop))
        ids = self._catalogue[ITEM].values[rows]
        if options.unknown_count == "typical" and options.id_dropout > 0:
            drawn = uniform(options.seed, NEGATIVE_DROPOUT, step, start, stop)
            ids[drawn < options.id_dropout] = UNKNOWN
        return rows, ids, sizes

    def _with_negatives(
        self, columns: dict[str, Column], negatives: Ints, ids: Ids
    ) -> dict[str, Column]:
        """The columns with the negatives' item features, of which ``ids`` are given.

        Shared negatives stand as rows behind the examples' B; those of examples as keys of their
        own, B rows each (see ``batch.py``).
        """
        joined = dict(columns)
        for name, catalogue in self._catalogue.items():
            if self._shared:
                taken = Column(ids, None) if name == ITEM else catalogue.take(negatives)
                joined[name] = concatenate_columns([columns[name].padded(self._rows), taken])
            for number in range(self._own):
                part = slice(number * self._rows, (number + 1) * self._rows)
                own = Column(ids[part], None) if name == ITEM else catalogue.take(negatives[part])
                joined[negative_key(name, number + 1)] = own
        return joined

    def _items(self, index: Ids, ids: Ids, rows: int) -> Items:
        """What the losses know of the catalogue rows ``index``, padded up to ``rows``."""
        return Items(
            index=_padded(index.astype(np.int64, copy=False), rows),
            category=_padded(self._category_N[index], rows),
            offset=_padded(self._offset(self._offset_N, index, ids), rows),
        )


def _log_q(options: ReaderOptions, counts: Ints, sampler: NegativeSampler) -> NDArray[np.float32]:
    """(trained items,) log of each item's expected share of the softmax's candidates."""
    positives, negatives = 1, options.negatives
    if options.shared_negatives:
        positives, negatives = options.global_batch, options.shared_negatives
    return log_candidate_share(counts, sampler, positives if options.in_batch else 0, negatives)


def _ends(total: int, ranks: int) -> list[int]:
    """Where each rank's part of ``total`` begins, and the last one ends."""
    return [rank * total // ranks for rank in range(ranks + 1)]


def _padded(values: NDArray[Any], rows: int) -> Tensor:
    """``values`` with zeros (item 0, category UNKNOWN) up to ``rows``."""
    if len(values) < rows:
        values = np.pad(values, (0, rows - len(values)))
    return torch.from_numpy(values)
