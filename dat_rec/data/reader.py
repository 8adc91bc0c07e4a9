"""Example files in, this rank's ``Batch`` of every global batch out, in an order that is fixed.

The stream of examples (``example_order.py``) depends on the random seed alone. Global batch t is
its t-th slice of G examples (the last one has what is left), of which each rank has its part
(``assemble.py``). So a run's batches are the same examples on any number of ranks, and a resumed
run goes on at example t·G.
"""

from collections.abc import Iterator

import numpy as np

from dat_rec.data.assemble import BatchAssembler
from dat_rec.data.batch import Batch
from dat_rec.data.categories import compared
from dat_rec.data.columns import BadIds
from dat_rec.data.dataset import Dataset
from dat_rec.data.example_order import ExampleOrder
from dat_rec.data.examples import Examples, check_files, read_examples
from dat_rec.data.reader_options import OPTION_CURE, ReaderOptions
from dat_rec.data.row_groups import row_groups, without_repeats
from dat_rec.errors import UserError


class ExampleReader:
    """Iterates over this rank's part of each global batch, from ``start_step`` to the run's end.

    Args:
        dataset: a prepared dataset.
        options: what decides the stream.
        rank: this process's rank, 0 ≤ rank < world_size.
        world_size: number of ranks that share each global batch.
        start_step: number of global batches to leave out at the start (a resumed run).

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
        self._schema = schema = dataset.schema
        self._options = options
        self.start_step = start_step
        """Number of global batches that the next iteration leaves out at the start."""
        self._bad_ids = BadIds(options.bad_ids, OPTION_CURE, says=rank == 0)
        groups = row_groups(dataset)
        check_files(groups, schema, options.bad_ids)
        # How often each trained item is a positive in one epoch.
        counts = dataset.table("items", ["train_count"])["train_count"].to_numpy()
        counts = counts[: schema.trained_items].astype(np.int64)
        if options.skip_repeats:
            groups, counts = without_repeats(groups, len(counts))
        self._order = ExampleOrder(groups, options.seed, options.window)
        self.examples = self._order.examples
        """Number of examples in one epoch."""
        if self.examples == 0:
            raise UserError(f"{dataset.folder}: there are no training examples")
        self._all_examples = self.examples * options.epochs
        self.steps = -(-self._all_examples // options.global_batch)
        """Number of global batches in the whole run."""
        catalogue = dataset.item_columns(self._bad_ids)
        if counts.min() < 1:
            raise UserError(
                f"{dataset.folder}/items.parquet: the first {schema.trained_items} items "
                "are not all trained: prepare the dataset anew"
            )
        rows = schema.feature(schema.category).rows
        self.compared = compared(
            catalogue[schema.category].values, counts, rows, options.categories or rows
        )
        """The categories that equation (3) compares."""
        self._assembler = BatchAssembler(
            options, catalogue, self.compared, counts, rank, world_size
        )

    @property
    def global_batch(self) -> int:
        """G, number of examples in a step, on all ranks together."""
        return self._options.global_batch

    @property
    def bad_ids(self) -> dict[str, int]:
        """By feature, how many of the values read so far, each counted once, were made UNKNOWN.

        Every rank reads every row group, so that the counts are the dataset's on each.
        """
        return dict(self._bad_ids.counts)

    def __iter__(self) -> Iterator[Batch]:
        step, position = self.start_step, self.start_step * self.global_batch
        left: list[Examples] = []
        for window in self._windows(position):
            pending = Examples.concatenate([*left, window])
            start = 0
            while (size := min(self.global_batch, self._all_examples - position)) > 0:
                if start + size > len(pending):
                    break
                yield self._assembler.batch(pending.slice(start, start + size), step)
                start, position, step = start + size, position + size, step + 1
            if size <= 0:
                return
            # A copy, so that the window's memory can go.
            left = [pending.take(np.arange(start, len(pending)))]

    def _windows(self, position: int) -> Iterator[Examples]:
        """The run's examples from number ``position`` on, a shuffled window at a time."""
        for window, rows in self._order.windows_from(position):
            parts = [
                read_examples(
                    group, self._schema, self._bad_ids, skip_repeats=self._options.skip_repeats
                )
                for group in window.groups
            ]
            yield Examples.concatenate(parts).take(rows)

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
