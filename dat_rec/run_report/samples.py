"""A catalogue in, some of its items out, and the items that are nearest to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dat_rec.run_report.catalogue import Catalogue

OF_CATEGORIES = 6
"""Number of categories, the largest ones, of which the most frequent item is taken."""
RARE = 2
"""Number of items that are drawn from the rarer half."""
NEAREST = 5


class Near(NamedTuple):
    """A neighbour."""

    row: int
    """item_index"""
    cosine: float


@dataclass(frozen=True)
class Sample:
    """One item, known by its id: runs on other datasets have it elsewhere."""

    number: int
    """From 1, as the page shows it."""
    item_id: Any

    def row_in(self, catalogue: Catalogue) -> int | None:
        """Return its item_index in a catalogue; None if it is not there."""
        try:
            wanted = pa.scalar(self.item_id, catalogue.ids.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return None
        row = int(pc.index(catalogue.ids, wanted).as_py())
        return row if row >= 0 else None


def samples(catalogue: Catalogue) -> list[Sample]:
    """Return the most frequent item of each of the largest categories, and some rare items.

    Without categories, as many of the most frequent items. The same catalogue gives the same ones.
    """
    count = catalogue.train_count
    order = np.argsort(-count, kind="stable")
    order = order[count[order] > 0]
    if catalogue.has_categories:
        names, place = np.unique(catalogue.categories.astype(str), return_inverse=True)
        sums = np.bincount(place, count, len(names))
        largest = np.argsort(-sums, kind="stable")[:OF_CATEGORIES]
        first = {
            int(number): int(row)
            for row, number in zip(order[::-1], place[order[::-1]], strict=True)
        }
        chosen = [first[int(number)] for number in largest if int(number) in first]
    else:
        chosen = order[:OF_CATEGORIES].tolist()
    rarer = np.setdiff1d(order[len(order) // 2 :], chosen)
    drawn = np.random.default_rng(0).permutation(rarer)[:RARE].tolist()
    ids = [catalogue.ids[row].as_py() for row in [*chosen, *drawn]]
    return [Sample(number, item_id) for number, item_id in enumerate(ids, 1)]


def nearest(catalogue: Catalogue, rows: Sequence[int], k: int = NEAREST) -> list[list[Near]]:
    """Return for each item those with the highest cosine, of equal ones the catalogue's first.

    The item itself is left out; what popularity adds to scores has no part in it.
    """
    unit_ND = catalogue.unit_ND
    found = []
    for row in rows:
        cosine_N = unit_ND @ unit_ND[row]
        cosine_N[row] = -np.inf
        # Float32 rounds equal products apart from one block to the next: they are computed anew.
        near = np.argsort(-cosine_N, kind="stable")[: k + 32]
        exact = unit_ND[near].astype(np.float64) @ unit_ND[row].astype(np.float64)
        exact[near == row] = -np.inf
        best = np.lexsort((near, -exact.astype(np.float32)))[: min(k, len(unit_ND) - 1)]
        found.append([Near(int(near[place]), float(exact[place])) for place in best])
    return found
