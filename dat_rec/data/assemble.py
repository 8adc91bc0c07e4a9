"""The examples of a global batch in, this rank's ``Batch`` out: its part, negatives and padding.

Of g examples rank r of W takes those from r·g // W to (r + 1)·g // W. Hidden ids and negatives are
drawn for the whole global batch, from generators keyed by its number, and then cut like the
examples, so that W ranks see together what one rank sees alone.

Shapes: B rows on every rank, S negatives for each example, N negatives on every rank.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dat_rec.data.batch import Batch, Items, negative_key, to_kjt
from dat_rec.data.categories import Compared
from dat_rec.data.columns import Column, concatenate_columns
from dat_rec.data.examples import Examples
from dat_rec.data.negatives import (
    DROPOUT,
    NEGATIVES,
    NegativeSampler,
    generator,
    log_candidate_share,
)
from dat_rec.data.reader_options import ReaderOptions
from dat_rec.data.schema import ITEM, UNKNOWN, USER

Ints = NDArray[np.int64]


class BatchAssembler:
    """Makes one rank's part of any global batch.

    Args:
        options: what decides the stream.
        catalogue: item features of the whole catalogue; row = item_index.
        categories: which of them equation (3) compares.
        counts: (trained items,) how often each is a positive in one epoch.
        rank: this process's rank, 0 ≤ rank < world_size.
        world_size: number of ranks that share each global batch.
    """

    def __init__(
        self,
        options: ReaderOptions,
        catalogue: Mapping[str, Column],
        categories: Compared,
        counts: Ints,
        rank: int,
        world_size: int,
    ) -> None:
        self._options = options
        self._catalogue = catalogue
        self._category_N = categories.number_N
        self._rank = rank
        self._world_size = world_size
        self._rows = -(-options.global_batch // world_size)
        self._shared = -(-options.shared_negatives // world_size)
        self._own = 0 if self._shared else options.negatives
        self._sampler = NegativeSampler(counts, options.negative_power)
        self._log_q_N = _log_q(options, counts, self._sampler)

    def batch(self, examples: Examples, step: int) -> Batch:
        """This rank's part of a global batch.

        Args:
            examples: all that the global batch is made of.
            step: its number in the run, from 0.
        """
        ends = _ends(len(examples), self._world_size)
        mine = slice(ends[self._rank], ends[self._rank + 1])
        part = examples.slice(mine.start, mine.stop)
        counts = _sizes(ends)
        negatives, negative_counts = self._negatives(step, counts)
        columns = self._hide_ids(part.columns, step, len(examples), mine)
        columns = self._with_negatives(columns, negatives)
        return Batch(
            features=to_kjt(columns, list(columns), self._rows + self._shared),
            positives=self._items(part.item_index, self._rows),
            negatives=self._items(negatives, self._shared or self._rows * self._own),
            counts=counts,
            negative_counts=negative_counts,
        )

    def _hide_ids(
        self, columns: Mapping[str, Column], step: int, size: int, mine: slice
    ) -> dict[str, Column]:
        """The columns, some users' and some items' ids replaced by the unknown row (id dropout)."""
        hidden = dict(columns)
        if self._options.id_dropout > 0:
            rng = generator(self._options.seed, DROPOUT, step)
            dropped = rng.random((size, 2))[mine] < self._options.id_dropout
            for number, name in enumerate((USER, ITEM)):
                values = np.where(dropped[:, number], UNKNOWN, columns[name].values)
                hidden[name] = Column(values, None)
        return hidden

    def _negatives(self, step: int, counts: tuple[int, ...]) -> tuple[Ints, tuple[int, ...]]:
        """Catalogue rows of this rank's negatives, and the number of negatives on each rank."""
        options = self._options
        rng = generator(options.seed, NEGATIVES, step)
        if options.shared_negatives:
            drawn = self._sampler.draw((options.shared_negatives, 1), rng).ravel()
            ends = _ends(len(drawn), self._world_size)
        else:
            drawn = self._sampler.draw((sum(counts), options.negatives), rng).ravel()
            ends = [0, *(np.cumsum(counts) * options.negatives).tolist()]
        return drawn[ends[self._rank] : ends[self._rank + 1]], _sizes(ends)

    def _with_negatives(self, columns: dict[str, Column], negatives: Ints) -> dict[str, Column]:
        """The columns with the negatives' item features.

        Shared negatives stand as rows behind the examples' B; those of examples as keys of their
        own, B rows each (see ``batch.py``).
        """
        joined = dict(columns)
        for name, catalogue in self._catalogue.items():
            if self._shared:
                behind = [columns[name].padded(self._rows), catalogue.take(negatives)]
                joined[name] = concatenate_columns(behind)
            for number in range(self._own):
                rows = negatives[number * self._rows : (number + 1) * self._rows]
                joined[negative_key(name, number + 1)] = catalogue.take(rows)
        return joined

    def _items(self, index: Ints, rows: int) -> Items:
        """What the losses know of the catalogue rows ``index``, padded up to ``rows``."""
        return Items(
            index=_padded(index, rows),
            category=_padded(self._category_N[index], rows),
            log_q=_padded(self._log_q_N[index], rows),
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


def _sizes(ends: list[int]) -> tuple[int, ...]:
    return tuple(stop - first for first, stop in pairwise(ends))


def _padded(values: NDArray[Any], rows: int) -> Tensor:
    """``values`` with zeros (item 0, category UNKNOWN) up to ``rows``."""
    if len(values) < rows:
        values = np.pad(values, (0, rows - len(values)))
    return torch.from_numpy(values)
