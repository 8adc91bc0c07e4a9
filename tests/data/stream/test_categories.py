"""Which categories equation (3) compares, against a count by hand."""

from collections import Counter

import numpy as np
import pytest

from dat_rec.data.stream.categories import compared

ITEMS = np.array([3, 1, 0, 2, 4, 1, 5, 4])
"""Embedding row of each item's category; the last two items have no training example."""
COUNTS = np.array([5, 2, 9, 4, 4, 1])
ROWS = 7


@pytest.mark.parametrize(
    ("most", "kept"),
    [
        (7, [1, 2, 3, 4, 5, 6]),
        (6, [1, 2, 3, 4, 5, 6]),
        # 3 has five examples, 2 and 4 have four, 1 has three, 5 and 6 none.
        (4, [1, 2, 3, 4]),
        (3, [2, 3, 4]),
        # Of equally frequent ones the first.
        (2, [2, 3]),
        (1, [3]),
    ],
)
def test_the_most_frequent_are_numbered_in_the_order_of_their_rows(
    most: int, kept: list[int]
) -> None:
    found = compared(ITEMS, COUNTS, ROWS, most)
    numbers = {0: 0} | {row: kept.index(row) + 1 if row in kept else 0 for row in range(1, ROWS)}
    assert found.number_N.tolist() == [numbers[row] for row in ITEMS.tolist()]
    assert (found.kept, found.there) == (len(kept), 6)
    examples: Counter[int] = Counter()
    for row, count in zip(ITEMS.tolist(), COUNTS.tolist(), strict=False):
        examples[row] += count
    assert found.share == pytest.approx(sum(examples[row] for row in kept) / 25)


def test_the_start_page_says_which_and_what_becomes_of_the_rest() -> None:
    assert str(compared(ITEMS, COUNTS, ROWS, 6)) == "all 6 categories"
    text = str(compared(ITEMS, COUNTS, ROWS, 2))
    assert text.startswith("the 2 most frequent of 6 categories, 0.36 of the examples; the others")
    assert text.endswith("add nothing to the alignment loss")


def test_no_category_at_all_is_none() -> None:
    found = compared(np.zeros(3, np.int64), np.array([1, 1]), 1, 64)
    assert found.number_N.tolist() == [0, 0, 0]
    assert (found.kept, found.there, found.share) == (0, 0, 0.0)
