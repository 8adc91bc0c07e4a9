"""Row groups in, the order of their examples out: it depends on the dataset, seed and options.

An epoch takes the row groups in a permuted order and lays them end to end: n rows. Each lane
(``lanes.py``) has a span of them, the first lane the first one, as long as the number of examples
that are dealt to it. A lane's span is cut into windows, whose rows are permuted. So memory holds a
window of each lane, whatever the dataset's size, and a resumed run passes over whole windows, and
their row groups, unread.

The first windows of an epoch are shorter, of each lane by another length, so that the lanes do not
all come to their next windows at once.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dat_rec.data.stream.lanes import Lanes
from dat_rec.data.stream.negatives import ORDER, WINDOW, generator
from dat_rec.data.stream.row_groups import RowGroup
from dat_rec.storage.address import Location, below

Ints = NDArray[np.int64]
ORDER_VERSION = 2
"""Number of the rules of this file and of ``lanes.py``, which a run keeps: with others, it could
not go on with the examples that it has not seen. Releases before lanes have none."""


@dataclass(frozen=True)
class Span:
    """Some rows of one row group, of those to train on."""

    group: RowGroup
    start: int
    stop: int


@dataclass(frozen=True)
class Window:
    """Rows of one lane that are shuffled together."""

    needed: int
    """The run's first example that lies in it."""
    lane: int
    epoch: int
    """From 0."""
    number: int
    """Number in the lane's epoch, from 0."""
    first: int
    """The lane's row that it begins with, counted from the run's beginning."""
    rows: int
    """Number of rows."""
    spans: tuple[tuple[Span, int, int], ...]
    """Where its rows lie: what the lane has of a row group, and which of its rows."""


class _Epoch:
    """How an epoch's row groups are laid end to end, and where lanes cut them."""

    def __init__(self, groups: Sequence[RowGroup], order: Ints, first: Ints, after: Ints) -> None:
        self.groups = [groups[number] for number in order]
        self.ends = np.cumsum([0, *(group.rows for group in self.groups)])
        self.first, self.rows = first, after - first
        """(L,) the run's row that each lane begins with, and number of rows."""
        self.begins = np.cumsum(self.rows) - self.rows

    def spans(self, lane: int, start: int, stop: int) -> Iterator[tuple[Span, int, int]]:
        """Where a lane's rows ``start`` to ``stop`` of this epoch lie."""
        begin, end = int(self.begins[lane]), int(self.begins[lane] + self.rows[lane])
        number = int(np.searchsorted(self.ends, begin + start, "right")) - 1
        while (at := int(self.ends[number])) < begin + stop:
            behind = int(self.ends[number + 1])
            span = Span(self.groups[number], max(begin - at, 0), min(behind, end) - at)
            if span.start < span.stop:
                shift = at + span.start
                first, last = max(begin + start, shift), min(begin + stop, behind)
                yield span, first - shift, last - shift
            number += 1


class ExampleOrder:
    """The order of a run's examples, epoch after epoch.

    Args:
        groups: all row groups of the dataset.
        epochs: number of passes over them.
        seed: random seed.
        lanes: what the examples are dealt to.
        window: number of rows that a lane shuffles together.
    """

    def __init__(
        self, groups: Sequence[RowGroup], epochs: int, seed: int, lanes: Lanes, window: int
    ) -> None:
        self._groups = groups
        self._number_of_epochs, self._seed = epochs, seed
        self._lanes, self._window = lanes, window
        self._examples = sum(group.rows for group in groups)
        self._epochs: dict[int, _Epoch] = {}

    def _epoch(self, number: int) -> _Epoch:
        found = self._epochs.get(number)
        if found is None:
            order = generator(self._seed, ORDER, number).permutation(len(self._groups))
            ends = [self._lanes.rows_before(n * self._examples) for n in (number, number + 1)]
            found = _Epoch(self._groups, order, *ends)
            # Lanes are in two epochs at most; a message, in another thread, may ask for a third.
            self._epochs = dict([*self._epochs.items(), (number, found)][-3:])
        return found

    def windows(self, position: int) -> Iterator[Window]:
        """The windows of this rank's lanes with examples from number ``position`` of the run on.

        Args:
            position: number of the run's first example that is to be read, from 0.

        Yields:
            Windows in the order in which they are needed.
        """
        lanes = [self._of_lane(lane, position) for lane in self._lanes.own]
        return heapq.merge(*lanes, key=lambda window: window.needed)

    def _of_lane(self, lane: int, position: int) -> Iterator[Window]:
        row = int(self._lanes.rows_before(position)[lane])
        # Its next row may lie in the epoch after.
        for number in range(position // self._examples, self._number_of_epochs):
            first = int(self._epoch(number).first[lane])
            yield from self._of_epoch(lane, number, max(row - first, 0))

    def _of_epoch(self, lane: int, number: int, row: int) -> Iterator[Window]:
        """The windows of a lane's epoch from the one that holds ``row`` (from 0) on."""
        shorter = -(-self._window * (int(self._lanes.turns[lane]) + 1) // (self._lanes.number + 1))
        count = 0 if row < shorter else 1 + (row - shorter) // self._window
        while True:
            epoch = self._epoch(number)
            start = 0 if count == 0 else shorter + (count - 1) * self._window
            stop = min(shorter + count * self._window, int(epoch.rows[lane]))
            if start >= stop:
                return
            first = int(epoch.first[lane]) + start
            needed = first * self._lanes.number + int(self._lanes.turns[lane])
            spans = tuple(epoch.spans(lane, start, stop))
            yield Window(needed, lane, number, count, first, stop - start, spans)
            count += 1

    def permutation(self, window: Window) -> Ints:
        """The order in which a window's rows are taken."""
        rng = generator(self._seed, WINDOW, window.epoch, window.lane, window.number)
        return rng.permutation(window.rows)

    def row_groups_of(self, epoch: int, first: int, last: int, folder: Location) -> str:
        """The row groups whose windows hold an epoch's examples ``first`` to ``last``, in words.

        Args:
            epoch: from 0.
            first: number of the first example in the epoch's order, from 0.
            last: number of the last one.
            folder: what the files' paths are relative to.
        """
        begin = epoch * self._examples
        before, after = (self._lanes.rows_before(begin + at) for at in (first, last + 1))
        numbers: dict[str, set[int]] = {}
        for lane in range(self._lanes.number):
            base = int(self._epoch(epoch).first[lane])
            if before[lane] == after[lane]:
                continue
            for window in self._of_epoch(lane, epoch, int(before[lane]) - base):
                if window.first >= after[lane]:
                    break
                for span, *_ in window.spans:
                    path = below(span.group.path, folder)
                    numbers.setdefault(path, set()).add(span.group.number)
        return ", ".join(
            f"{path} row groups {', '.join(map(str, sorted(found)))}"
            for path, found in sorted(numbers.items())
        )
