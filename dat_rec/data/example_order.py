"""Row groups in, the order of their examples out: it depends on the random seed alone.

An epoch takes the row groups in a permuted order, some at a time: a window. The rows of a window
are permuted, so that memory holds one window whatever the dataset's size. A resumed run passes over
whole windows unread.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dat_rec.data.negatives import ORDER, WINDOW, generator
from dat_rec.data.row_groups import RowGroup


@dataclass(frozen=True)
class Window:
    """Row groups that are shuffled together."""

    groups: list[RowGroup]
    key: int
    """Keys the shuffle; another for each window of each epoch."""

    @property
    def rows(self) -> int:
        """Number of examples in all of them."""
        return sum(group.rows for group in self.groups)


class ExampleOrder:
    """The order of a run's examples, epoch after epoch.

    Args:
        groups: all row groups of the dataset.
        seed: random seed.
        window: number of row groups that are shuffled together.
    """

    def __init__(self, groups: Sequence[RowGroup], seed: int, window: int) -> None:
        self._groups = groups
        self._seed = seed
        self._window = window
        self.examples = sum(group.rows for group in groups)
        """Number of examples in one epoch."""

    def windows(self, epoch: int) -> Iterator[Window]:
        """The windows of ``epoch`` (from 0), in order."""
        order = generator(self._seed, ORDER, epoch).permutation(len(self._groups))
        for start in range(0, len(order), self._window):
            groups = [self._groups[i] for i in order[start : start + self._window]]
            yield Window(groups, epoch * len(order) + start)

    def windows_from(self, position: int) -> Iterator[tuple[Window, NDArray[np.int64]]]:
        """The windows from the run's example ``position`` (from 0) on, without an end.

        Yields:
            A window, and the numbers of its rows in the order in which they are to be taken: of
            the first window only those that are left.
        """
        epoch, skip = divmod(position, self.examples)
        while True:
            for window in self.windows(epoch):
                rows = window.rows
                if skip >= rows:
                    skip -= rows
                    continue
                rng = generator(self._seed, WINDOW, window.key)
                yield window, rng.permutation(rows)[skip:]
                skip = 0
            epoch += 1

    def row_groups_of(self, epoch: int, first: int, last: int, folder: Path) -> str:
        """The row groups whose windows hold an epoch's examples ``first`` to ``last``, in words.

        Args:
            epoch: from 0.
            first: number of the first example in the epoch's order, from 0.
            last: number of the last one.
            folder: what the files' paths are relative to.
        """
        numbers: dict[str, list[int]] = {}
        end = 0
        for window in self.windows(epoch):
            begin, end = end, end + window.rows
            if begin <= last and first < end:
                for group in window.groups:
                    if group.rows > 0:
                        path = group.path.relative_to(folder).as_posix()
                        numbers.setdefault(path, []).append(group.number)
        return ", ".join(
            f"{path} row groups {', '.join(map(str, sorted(found)))}"
            for path, found in sorted(numbers.items())
        )
