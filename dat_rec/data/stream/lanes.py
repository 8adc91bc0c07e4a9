"""How a stream of examples is divided over lanes, and its global batches over ranks.

The stream is dealt to L lanes in turn, like cards: its example p (from 0, through all epochs) is
row p // L of the lane whose turn is p mod L. So a global batch has as many rows of each lane, give
or take one, and lanes end together. L depends on the dataset alone.

In a global batch the rows stand lane after lane, and rank r of W has those of the lanes from r·L/W
to (r + 1)·L/W. Where that is no whole number, the ranks on both sides share the lane and cut its
rows of each batch in that proportion. So a rank reads its own lanes and no others, W ranks have
together what one has alone, and more ranks than lanes share them.

The turns of neighbouring lanes lie far apart (van der Corput's sequence), so that the ranks' parts
differ by a row or two even where a batch is no multiple of L.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
MOST = 64
"""Maximum number of lanes that a dataset is given; an option may ask for more."""
LEAST_ROW_GROUPS = 8
"""Minimum number of row groups in a lane. Two lanes decode the row group that lies on their
border, so that a lane decodes at most an eighth more than it takes, on average."""


def usual_lanes(row_groups: int) -> int:
    """The number of lanes of a dataset with so many row groups: a power of two."""
    most = min(MOST, row_groups // LEAST_ROW_GROUPS)
    return 1 << (most.bit_length() - 1) if most else 1


@dataclass(frozen=True)
class Part:
    """A rank's part of a global batch."""

    counts: tuple[int, ...]
    """Number of rows on each rank."""
    rows: list[tuple[int, int, int]]
    """The lanes that this rank's rows come from, in order, each with its first row and the one
    after its last, counted from the run's beginning."""


class Lanes:
    """The lanes of a run, and one rank's parts of its global batches.

    Args:
        lanes: L, number of lanes.
        global_batch: G, number of examples in a global batch.
        total: number of examples in the whole run.
        rank: this process's rank, 0 ≤ rank < world_size.
        world_size: W, number of ranks that share each global batch.
    """

    def __init__(
        self, lanes: int, global_batch: int, total: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.number = lanes
        self._batch, self._total, self.rank = global_batch, total, rank
        turns = sorted(range(lanes), key=lambda lane: _reversed_bits(lane, lanes))
        self.turns: Ints = np.argsort(turns)
        """(L,) when it is each lane's turn, from 0."""
        # Where each rank begins: in which lane, and behind which W-th part of its rows.
        begins = np.arange(world_size + 1) * lanes
        self._lane, self._part = np.divmod(begins, world_size)
        self._world_size = world_size
        self.own = range(int(self._lane[rank]), -(-int(begins[rank + 1]) // world_size))
        """The lanes that this rank takes rows of."""
        self.counted = range(-(-int(begins[rank]) // world_size), self.own.stop)
        """Those of them that no lower rank takes rows of."""

    def rows_before(self, position: int) -> Ints:
        """(L,) how many of the run's first ``position`` examples each lane has."""
        return (position - self.turns + self.number - 1) // self.number

    def part(self, step: int) -> Part:
        """This rank's part of global batch ``step`` (from 0)."""
        begin = step * self._batch
        before = self.rows_before(begin)
        rows = self.rows_before(min(begin + self._batch, self._total)) - before
        ends, cuts = self._cut(rows)
        first, last = int(cuts[self.rank]), int(cuts[self.rank + 1])
        found = []
        for lane in self.own:
            stop = int(ends[lane + 1])
            start, skipped = max(first, int(ends[lane])), int(before[lane]) - int(ends[lane])
            if start < min(last, stop):
                found.append((lane, start + skipped, min(last, stop) + skipped))
        return Part(tuple(np.diff(cuts).tolist()), found)

    def _cut(self, rows: Ints) -> tuple[Ints, Ints]:
        """Where each lane's ``rows`` of a batch end, and each rank's, both beginning with 0."""
        ends = np.concatenate(([0], np.cumsum(rows)))
        inside = np.append(rows, 0)[self._lane] * self._part // self._world_size
        return ends, ends[self._lane] + inside

    @property
    def most_rows(self) -> int:
        """The largest number of rows that a rank has of any global batch."""
        steps = -(-self._total // self._batch)
        # Batches that begin at the same turn are cut alike.
        period = self.number // math.gcd(self._batch, self.number)
        looked_at = {*range(min(steps, period)), steps - 1}
        return max(max(self.part(step).counts) for step in looked_at)


def _reversed_bits(number: int, below: int) -> int:
    bits = (below - 1).bit_length()
    return int(f"{number:0{bits}b}"[::-1], 2) if bits else 0
