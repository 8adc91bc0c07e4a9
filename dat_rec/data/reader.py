"""Example files in, this rank's ``Batch`` of every global batch out, in an order that is fixed.

The stream of examples — epoch after epoch, row groups in a permuted order, rows permuted
within a window of row groups — depends on the seed alone. Global batch t is its t-th slice
of G rows (the last one has what is left), and of g rows rank r of N takes those from r·g // N
to (r + 1)·g // N. So N ranks see together what one rank sees alone, whatever N is, and a
resumed run goes on at row t·G.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from dat_rec.data.batch import Batch, Items, negative_key, to_kjt
from dat_rec.data.categories import compared
from dat_rec.data.columns import CURE, BadIds, Column, read_columns
from dat_rec.data.dataset import Dataset
from dat_rec.data.negatives import (
    DROPOUT,
    NEGATIVES,
    ORDER,
    WINDOW,
    NegativeSampler,
    generator,
    log_candidate_share,
)
from dat_rec.data.row_groups import (
    RowGroup,
    index_feature,
    new_pairs,
    read_row_group,
    row_groups,
    without_repeats,
)
from dat_rec.data.schema import ITEM, UNKNOWN, USER
from dat_rec.data.statistics import suspect_groups
from dat_rec.errors import UserError

OPTION_CURE = f"{CURE}, or train the unknown row in its place with --examples.bad-ids unknown"


@dataclass(frozen=True)
class ReaderOptions:
    """What decides the stream of batches."""

    global_batch: int
    """G, examples a step, on all ranks together."""
    epochs: int
    seed: int
    negatives: int
    """S, negatives for each example."""
    shared_negatives: int = 0
    """Negatives for each global batch, in place of S for each example."""
    in_batch: bool = True
    """Whether positives are candidates of other examples, which decides what log Q is."""
    negative_power: float = 0.0
    """Negatives are drawn ∝ (training count)^power."""
    id_dropout: float = 0.0
    """Probability that an example's user (and, apart, its item) id becomes the unknown row."""
    skip_repeats: bool = False
    """Train only on pairs that are new to the user."""
    bad_ids: Literal["refuse", "unknown"] = "refuse"
    """Ids outside their table: stop, or put the unknown row in their place and count them."""
    categories: int | None = None
    """Categories that equation (3) compares at most, the most frequent ones; None: all."""
    window: int = 8
    """Row groups that are shuffled together."""


@dataclass
class _Rows:
    """Examples in memory: the features' columns and the catalogue row of each positive."""

    columns: dict[str, Column]
    item_index: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> "_Rows":
        columns = {name: column.take(rows) for name, column in self.columns.items()}
        return _Rows(columns, self.item_index[rows])


class ExampleReader:
    """Iterates over this rank's part of each global batch, from ``start_step`` to the run's end.

    Args:
        dataset: a prepared dataset.
        options: what decides the stream.
        rank: this process's rank, 0 ≤ rank < world_size.
        world_size: how many ranks share each global batch.
        start_step: global batches to leave out at the start (a resumed run).

    Raises:
        UserError: a file is missing, malformed, or holds an id outside its table that is refused;
            or there are no examples.
    """

    def __init__(
        self,
        dataset: Dataset,
        options: ReaderOptions,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
    ) -> None:
        self._folder = dataset.folder
        self._schema = dataset.schema
        self._options = options
        self._rank = rank
        self._world_size = world_size
        self.start_step = start_step
        """Global batches that the next iteration leaves out at the start."""
        self._bad_ids = BadIds(options.bad_ids, OPTION_CURE, says=rank == 0)
        self._groups = row_groups(dataset)
        self._check_files()
        # How often each trained item is a positive in one epoch.
        counts = dataset.table("items", ["train_count"])["train_count"].to_numpy()
        counts = counts[: self._schema.trained_items].astype(np.int64)
        if options.skip_repeats:
            self._groups, counts = without_repeats(self._groups, len(counts))
        self.examples = sum(group.rows for group in self._groups)
        """Examples in one epoch."""
        if self.examples == 0:
            raise UserError(f"{dataset.folder}: there are no training examples")
        self._rows = self.examples * options.epochs
        """Examples in the whole run."""
        self.steps = -(-self._rows // options.global_batch)
        """Global batches in the whole run."""
        self._catalogue = dataset.item_columns(self._bad_ids)
        if counts.min() < 1:
            raise UserError(
                f"{dataset.folder}/items.parquet: the first {self._schema.trained_items} items "
                "are not all trained: prepare the dataset anew"
            )
        category = self._catalogue[self._schema.category].values
        rows = self._schema.feature(self._schema.category).rows
        self.compared = compared(category, counts, rows, options.categories or rows)
        """The categories that equation (3) compares."""
        self._sampler = NegativeSampler(counts, options.negative_power)
        self._log_q = self._log_shares(counts)

    def _check_files(self) -> None:
        """Refuse at the door what the files' metadata betray, with the message of the value."""
        index = index_feature(self._schema.trained_items)
        features = (*self._schema.features, index)
        names = [feature.name for feature in features]
        may_lie_outside = names[:-1] if self._options.bad_ids == "unknown" else []
        for path in {group.path: None for group in self._groups}:
            metadata = pq.read_metadata(path)
            empty = metadata.schema.to_arrow_schema().empty_table()
            read_columns(empty, features, str(path))
            for number in suspect_groups(metadata, features, nulls_only=may_lie_outside):
                group = RowGroup(path, number, 0)
                table = read_row_group(group, names)
                bad_ids = BadIds(self._options.bad_ids, OPTION_CURE)
                read_columns(table, self._schema.features, str(group), bad_ids)
                read_columns(table, [index], str(group))

    @property
    def global_batch(self) -> int:
        """G, examples a step, on all ranks together."""
        return self._options.global_batch

    @property
    def bad_ids(self) -> dict[str, int]:
        """By feature, how many of the values read so far, each counted once, were made UNKNOWN.

        Every rank reads every row group, so that the counts are the dataset's on each.
        """
        return dict(self._bad_ids.counts)

    def __iter__(self) -> Iterator[Batch]:
        step, position = self.start_step, self.start_step * self._options.global_batch
        pending: _Rows | None = None
        for window in self._windows(*divmod(position, self.examples)):
            pending = window if pending is None else _concatenate(pending, window)
            start = 0
            while (size := min(self._options.global_batch, self._rows - position)) > 0:
                if start + size > len(pending.item_index):
                    break
                yield self._batch(pending, start, size, step)
                start, position, step = start + size, position + size, step + 1
            if size <= 0:
                return
            pending = pending.take(np.arange(start, len(pending.item_index)))

    def where(self, step: int) -> str:
        """What global batch ``step`` is made of and where that lies, for messages.

        Steps (1 to ``steps``) and epochs count from 1, as in the log; the examples of an
        epoch's order and a file's row groups from 0. The row groups are those of the windows
        that the examples were shuffled in.
        """
        begin = (step - 1) * self._options.global_batch
        end = min(begin + self._options.global_batch, self._rows)
        parts = []
        for epoch in range(begin // self.examples, (end - 1) // self.examples + 1):
            first = max(begin - epoch * self.examples, 0)
            last = min(end - epoch * self.examples, self.examples) - 1
            parts.append(
                f"epoch {epoch + 1}, examples {first:,} to {last:,} of its order, "
                f"in {self._row_groups_of(epoch, first, last)}"
            )
        return f"global batch {step} ({'; '.join(parts)})"

    def _row_groups_of(self, epoch: int, first: int, last: int) -> str:
        """The row groups, by file, whose windows hold examples ``first`` to ``last``."""
        numbers: dict[str, list[int]] = {}
        end = 0
        for _, groups in self._window_groups(epoch):
            begin, end = end, end + sum(group.rows for group in groups)
            if begin <= last and first < end:
                for group in groups:
                    if group.rows > 0:
                        path = group.path.relative_to(self._folder).as_posix()
                        numbers.setdefault(path, []).append(group.number)
        return ", ".join(
            f"{path} row groups {', '.join(map(str, sorted(found)))}"
            for path, found in sorted(numbers.items())
        )

    def _window_groups(self, epoch: int) -> Iterator[tuple[int, list[RowGroup]]]:
        """The row groups of each window of ``epoch``, with the number that keys its shuffle."""
        options = self._options
        order = generator(options.seed, ORDER, epoch).permutation(len(self._groups))
        for start in range(0, len(order), options.window):
            groups = [self._groups[i] for i in order[start : start + options.window]]
            yield epoch * len(order) + start, groups

    def _windows(self, epoch: int, skip: int) -> Iterator[_Rows]:
        """Shuffled windows from row ``skip`` of ``epoch`` on, for ever."""
        while True:
            for number, groups in self._window_groups(epoch):
                rows = sum(group.rows for group in groups)
                if skip >= rows:
                    skip -= rows
                    continue
                rng = generator(self._options.seed, WINDOW, number)
                yield self._read(groups).take(rng.permutation(rows)[skip:])
                skip = 0
            epoch += 1

    def _read(self, groups: list[RowGroup]) -> _Rows:
        parts = [self._read_group(group) for group in groups]
        result = parts[0]
        return _concatenate(result, *parts[1:]) if len(parts) > 1 else result

    def _read_group(self, group: RowGroup) -> _Rows:
        features, skip = self._schema.features, self._options.skip_repeats
        index = index_feature(self._schema.trained_items)
        names = [*(feature.name for feature in features), index.name]
        table = read_row_group(group, [*names, "repeat"] if skip else names)
        columns = read_columns(table, features, str(group), self._bad_ids)
        # A row of items.parquet, not an embedding id: there is none that means unknown.
        item_index = read_columns(table, [index], str(group))[index.name].values
        rows = _Rows(columns, item_index)
        return rows.take(new_pairs(table, group)) if skip else rows

    def _batch(self, rows: _Rows, start: int, size: int, step: int) -> Batch:
        """This rank's part of the global batch ``step``: ``size`` of ``rows`` from ``start``."""
        options = self._options
        ends = [rank * size // self._world_size for rank in range(self._world_size + 1)]
        mine = slice(ends[self._rank], ends[self._rank + 1])
        begin, end = start + mine.start, start + mine.stop
        columns = {name: column.slice(begin, end) for name, column in rows.columns.items()}
        if options.id_dropout > 0:
            rng = generator(options.seed, DROPOUT, step)
            dropped = rng.random((size, 2))[mine] < options.id_dropout
            for number, name in enumerate((USER, ITEM)):
                values = np.where(dropped[:, number], UNKNOWN, columns[name].values)
                columns[name] = Column(values, None)

        counts = tuple(stop - first for first, stop in pairwise(ends))
        padded = -(-options.global_batch // self._world_size)
        negatives, negative_counts = self._negatives(step, counts)
        shared = -(-options.shared_negatives // self._world_size)
        keys = 0 if shared else options.negatives
        for feature in self._schema.side("item"):
            name, catalogue = feature.name, self._catalogue[feature.name]
            if shared:
                behind = [columns[name].padded(padded), catalogue.take(negatives)]
                columns[name] = _concatenate_columns(behind)
            for number in range(keys):
                part = negatives[number * padded : (number + 1) * padded]
                columns[negative_key(name, number + 1)] = catalogue.take(part)
        return Batch(
            features=to_kjt(columns, list(columns), padded + shared),
            positives=self._items(rows.item_index[begin:end], padded),
            negatives=self._items(negatives, shared or padded * keys),
            counts=counts,
            negative_counts=negative_counts,
        )

    def _negatives(
        self, step: int, counts: tuple[int, ...]
    ) -> tuple[NDArray[np.int64], tuple[int, ...]]:
        """This rank's negatives, catalogue rows, and how many each rank has."""
        options, ranks = self._options, self._world_size
        rng = generator(options.seed, NEGATIVES, step)
        if options.shared_negatives:
            drawn = self._sampler.draw((options.shared_negatives, 1), rng).ravel()
            ends = [rank * len(drawn) // ranks for rank in range(ranks + 1)]
        else:
            drawn = self._sampler.draw((sum(counts), options.negatives), rng).ravel()
            ends = [0, *(np.cumsum(counts) * options.negatives).tolist()]
        mine = drawn[ends[self._rank] : ends[self._rank + 1]]
        return mine, tuple(stop - first for first, stop in pairwise(ends))

    def _items(self, index: NDArray[np.int64], rows: int) -> Items:
        return Items(
            index=_padded(index, rows),
            category=_padded(self.compared.number_N[index], rows),
            log_q=_padded(self._log_q[index], rows),
        )

    def _log_shares(self, counts: NDArray[np.int64]) -> NDArray[np.float32]:
        options = self._options
        positives, negatives = 1, options.negatives
        if options.shared_negatives:
            positives, negatives = options.global_batch, options.shared_negatives
        return log_candidate_share(
            counts, self._sampler, positives if options.in_batch else 0, negatives
        )


def _padded(values: NDArray[Any], rows: int) -> Tensor:
    """``values`` with zeros (item 0, category UNKNOWN) up to ``rows``."""
    if len(values) < rows:
        values = np.pad(values, (0, rows - len(values)))
    return torch.from_numpy(values)


def _concatenate(*parts: _Rows) -> _Rows:
    columns = {
        name: _concatenate_columns([part.columns[name] for part in parts])
        for name in parts[0].columns
    }
    return _Rows(columns, np.concatenate([part.item_index for part in parts]))


def _concatenate_columns(columns: list[Column]) -> Column:
    values = np.concatenate([column.values for column in columns])
    if columns[0].offsets is None:
        return Column(values, None)
    lengths = np.concatenate([column.lengths() for column in columns])
    return Column(values, np.concatenate(([0], np.cumsum(lengths))))
