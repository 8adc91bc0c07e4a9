"""Example files in, this rank's ``Batch`` of every global batch out, in an order that is fixed.

The stream of examples (``lanes.py``, ``example_order.py``) depends on the random seed alone. Global
batch t is its t-th slice of G examples (the last one has what is left), of which each rank has its
part, and reads no more than the lanes that it lies in. So a run's batches are the same examples in
the same order on any number of ranks, and a resumed run goes on at example t·G.
"""

from collections import deque
from collections.abc import Iterator

import numpy as np

from dat_rec.data.columns import BadIdCounts, BadIds
from dat_rec.data.dataset import Dataset
from dat_rec.data.schema import Schema
from dat_rec.data.stream.assemble import BatchAssembler
from dat_rec.data.stream.batch import Batch
from dat_rec.data.stream.categories import compared
from dat_rec.data.stream.dense_rows import DenseRows
from dat_rec.data.stream.example_order import ExampleOrder, Span, Window
from dat_rec.data.stream.examples import Examples, read_examples
from dat_rec.data.stream.lanes import Lanes, usual_lanes
from dat_rec.data.stream.reader_options import OPTION_CURE, ReaderOptions
from dat_rec.data.stream.row_groups import ExampleFiles
from dat_rec.data.stream.survey import Survey, survey
from dat_rec.data.stream.window_loader import Loaded, WindowLoader
from dat_rec.errors import UserError


class ExampleReader:
    """Iterates over this rank's part of each global batch, from ``start_step`` to the run's end.

    Args:
        dataset: a prepared dataset.
        options: what decides the stream.
        rank: this process's rank, 0 ≤ rank < world_size.
        world_size: number of ranks that share each global batch.
        start_step: number of global batches to leave out at the start (a resumed run).
        surveyed: what all example files hold, where ranks have divided the question; without it
            they are asked here.

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
        surveyed: Survey | None = None,
    ) -> None:
        self._folder = dataset.folder
        self._files = ExampleFiles()
        self._schema = schema = dataset.schema
        self._options = options
        self._rank = rank
        self.start_step = start_step
        """Number of global batches that the next iteration leaves out at the start."""
        found = surveyed or survey(dataset, options.bad_ids, skip_repeats=options.skip_repeats)
        self.examples = sum(group.rows for group in found.groups)
        """Number of examples in one epoch."""
        if self.examples == 0 and found.rows:
            raise UserError(
                f"{dataset.folder}: all {found.rows} training examples are repeats: pass "
                "--examples.no-skip-repeats, or prepare a dataset of more days"
            )
        if self.examples == 0:
            raise UserError(
                f"{dataset.folder}: there are no training examples: it can be evaluated on alone; "
                "to train, prepare one that does not hold all out"
            )
        self._all_examples = self.examples * options.epochs
        self.steps = -(-self._all_examples // options.global_batch)
        """Number of global batches in the whole run."""
        self._lanes = Lanes(
            options.lanes or usual_lanes(len(found.groups)),
            options.global_batch,
            self._all_examples,
            rank,
            world_size,
        )
        self.rows = self._lanes.most_rows
        """B, number of rows of each rank's batches, padding included."""
        self._window = _window_rows(found, schema, options, self._lanes.number)
        self._largest = max(group.rows for group in found.groups)
        self._order = ExampleOrder(
            found.groups, options.epochs, options.seed, self._lanes, self._window
        )
        # One rank speaks for all.
        self._says: set[str] | None = None if rank else set()
        self._bad_examples: dict[int, BadIds] = {}
        self._bad_items = BadIds(options.bad_ids, OPTION_CURE, says=self._says)
        # How often each trained item stands in the training log, and is a positive in one epoch.
        trained = dataset.table("items", ["train_count"])["train_count"].to_numpy()
        trained = trained[: schema.trained_items].astype(np.int64)
        if trained.min() < 1:
            raise UserError(
                f"{dataset.folder}/items.parquet: the first {schema.trained_items} items "
                "are not all trained: prepare the dataset anew"
            )
        counts = trained if found.counts is None else found.counts
        catalogue = dataset.item_columns(self._bad_items)
        rows = schema.feature(schema.category).rows
        self.compared = compared(
            catalogue[schema.category].values.astype(np.int64),
            counts,
            rows,
            options.categories or rows,
        )
        """The categories that equation (3) compares."""
        self._assembler = BatchAssembler(
            options,
            catalogue,
            self.compared,
            counts,
            trained,
            self.rows,
            rank,
            world_size,
            DenseRows(dataset) if schema.dense else None,
        )

    @property
    def global_batch(self) -> int:
        """G, number of examples in a step, on all ranks together."""
        return self._options.global_batch

    @property
    def bad_ids(self) -> BadIdCounts:
        """How many of the values read so far were made UNKNOWN, on this rank."""
        return BadIdCounts(
            dict(self._bad_items.counts),
            {epoch: dict(bad.counts) for epoch, bad in self._bad_examples.items()},
        )

    def __iter__(self) -> Iterator[Batch]:
        begin = self.start_step * self.global_batch
        loader = WindowLoader(
            self._order.windows(begin),
            self._decode,
            self._shuffle,
            ahead=max(len(self._lanes.own) * self._window // 2, 2 * self._largest),
            name=f"rank {self._rank}",
        )
        try:
            yield from self._batches(loader, self._order.windows(begin))
        finally:
            loader.close()

    def _batches(self, loader: WindowLoader, windows: Iterator[Window]) -> Iterator[Batch]:
        """The batches, from what ``loader`` loads of ``windows``."""
        taken: dict[int, deque[Loaded]] = {lane: deque() for lane in self._lanes.own}
        coming = next(windows, None)
        for step in range(self.start_step, self.steps):
            while coming is not None and coming.needed < (step + 1) * self.global_batch:
                taken[coming.lane].append(loader.take())
                coming = next(windows, None)
            part = self._lanes.part(step)
            found = [
                rows for lane, start, stop in part.rows for rows in _rows(taken[lane], start, stop)
            ]
            examples = Examples.join(found) if found else Examples.none(self._schema)
            yield self._assembler.batch(examples, part.counts, step)

    def _decode(self, span: Span, window: Window) -> Examples:
        """What the window's lane has of a row group."""
        group, schema, options = span.group, self._schema, self._options
        bad_ids = BadIds(options.bad_ids, OPTION_CURE)
        if window.lane in self._lanes.counted:
            of_epoch = BadIds(options.bad_ids, OPTION_CURE, says=self._says)
            bad_ids = self._bad_examples.setdefault(window.epoch, of_epoch)
        return read_examples(
            self._files,
            group,
            span.start,
            span.stop,
            schema,
            bad_ids,
            skip_repeats=options.skip_repeats,
        )

    def _shuffle(self, window: Window, parts: list[tuple[Examples, int, int]]) -> Examples:
        """The window's rows in the order in which they are taken."""
        return Examples.join(parts, self._order.permutation(window))

    def where(self, step: int) -> str:
        """What global batch ``step`` is made of and where that lies, for messages.

        Steps (1 to ``steps``) and epochs count from 1, as in the log; the examples of an
        epoch's order and a file's row groups from 0. The row groups are those of the windows
        that the examples were shuffled in.
        """
        begin = (step - 1) * self.global_batch
        end = min(begin + self.global_batch, self._all_examples)
        parts = []
        for epoch in range(begin // self.examples, (end - 1) // self.examples + 1):
            first = max(begin - epoch * self.examples, 0)
            last = min(end - epoch * self.examples, self.examples) - 1
            row_groups_there = self._order.row_groups_of(epoch, first, last, self._folder)
            parts.append(
                f"epoch {epoch + 1}, examples {first:,} to {last:,} of its order, "
                f"in {row_groups_there}"
            )
        return f"global batch {step} ({'; '.join(parts)})"


def _rows(windows: deque[Loaded], start: int, stop: int) -> Iterator[tuple[Examples, int, int]]:
    """A lane's rows ``start`` to ``stop``, from its windows; those behind them are let go."""
    while start < stop:
        window = windows[0].window
        end = window.first + window.rows
        if start < end:
            yield windows[0].examples, start - window.first, min(stop, end) - window.first
        if end <= stop:
            windows.popleft()
        start = max(start, min(stop, end))


def _window_rows(found: Survey, schema: Schema, options: ReaderOptions, lanes: int) -> int:
    """How many rows a lane shuffles together, in the memory that the options allow.

    That memory holds the windows of all lanes, what is read ahead, which is half as much
    (``ExampleReader``), and a window that is being made from its parts; and of each lane the row
    group that its window ends in.
    """
    # Weights do not count, for with them examples have the order that they have without.
    ragged = sum(feature.multi_valued for feature in schema.features)
    row_bytes = 4 * (found.ids / max(1, found.rows) + 1) + 8 * ragged
    largest = max(group.rows for group in found.groups)
    rows = options.shuffle_mb * 2**20 / row_bytes / (1.5 * lanes + 2)
    return max(largest, int(rows) - largest)
