"""Rows in, the distinct ones among them out, so that what is equal is computed once.

A matrix product may round a row or column at its edges otherwise than the same one elsewhere,
and from one shape of block to another. So equal items would not always get equal vectors, nor
equal vectors equal scores. What is computed once and copied is equal to the last bit.

Rows are known by hashes of 128 bits, which ranks can exchange where they do not hold the rows of
others: among a billion different rows, two share one by a chance of 1 in 10^20.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dat_rec.data.columns import Column
from dat_rec.data.dense import AnyColumn, DenseColumn

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]
SEEDS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03))
"""One for each half of a hash: 2^64 over the golden ratio, and over its relative of dimension 2."""


class Distinct(NamedTuple):
    """Rows sorted into kinds of equal ones; numbered in the order of their first rows."""

    first: Ints
    """(K,): each kind's first row, rising."""
    kind: Ints
    """(rows,): each row's."""


def row_hashes(columns: Mapping[str, AnyColumn]) -> Hashes:
    """(rows, 2): the same for rows with the same values, in the same order, in every column."""
    rows = len(next(iter(columns.values())))
    hashes = np.empty((rows, 2), np.uint64)
    for half, seed in enumerate(SEEDS):
        state = np.full(rows, seed)
        for column in columns.values():
            if isinstance(column, DenseColumn):
                state = _of_numbers(state, column, seed)
                continue
            values = _mixed(column.values.view(np.uint64) + seed)
            if column.offsets is not None:
                values = _of_lists(values, column, seed)
            state = _mixed((state + seed) ^ values)
        hashes[:, half] = state
    return hashes


def vector_hashes(vectors_ND: NDArray[np.float32]) -> Hashes:
    """(N, 2): the same for equal vectors. −0 equals 0; NaN must be refused before."""
    words = (vectors_ND + np.float32(0)).view(np.uint32)
    hashes = np.empty((len(vectors_ND), 2), np.uint64)
    for half, seed in enumerate(SEEDS):
        state = np.full(len(vectors_ND), seed)
        for column in words.T:
            state = _mixed((state + seed) ^ column)
        hashes[:, half] = state
    return hashes


def kinds(hashes: Hashes) -> Distinct:
    """Sort rows into kinds, by their (rows, 2) hashes."""
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    ordered = hashes[order]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    # The sort is stable: the first of a kind is its first row.
    first = order[begins]
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    kind = np.empty(len(order), np.int64)
    kind[order] = rank[np.cumsum(begins) - 1]
    return Distinct(np.sort(first), kind)


def encode_once(
    columns: Mapping[str, AnyColumn],
    rows: Ints,
    encode: Callable[[dict[str, AnyColumn]], NDArray[np.float32]],
    at_once: int,
    alike: Distinct | None = None,
) -> NDArray[np.float32]:
    """Encode rows of ``columns``, those of one kind once.

    Args:
        columns: features of all rows.
        rows: (M,) the rows to encode, in that order.
        encode: columns of B rows → (B, D) vectors.
        at_once: maximum number of rows that ``encode`` is given.
        alike: the kinds of all rows, where they are known.

    Returns:
        (M, D)
    """
    if len(rows) == 1:
        return encode({name: column.take(rows) for name, column in columns.items()})
    alike = alike or kinds(row_hashes(columns))
    asked, position = np.unique(alike.kind[rows], return_inverse=True)
    first = alike.first[asked]
    blocks = [first[start : start + at_once] for start in range(0, max(1, len(first)), at_once)]
    vectors = [
        encode({name: column.take(block) for name, column in columns.items()}) for block in blocks
    ]
    return np.concatenate(vectors)[position]


def _of_numbers(state: Hashes, column: DenseColumn, seed: np.uint64) -> Hashes:
    """(rows,): of each row's state and numbers. −0 equals 0, and no value no value."""
    # One number of each row at a time: all at once would be a copy of all users' vectors.
    for values in column.values.T:
        values = values + values.dtype.type(0)
        values[np.isnan(values)] = np.nan
        state = _mixed((state + seed) ^ values.view(f"u{values.itemsize}"))
    return state


def _of_lists(values: Hashes, column: Column, seed: np.uint64) -> Hashes:
    """(rows,): of each row's list of mixed values, in their order."""
    lengths = column.lengths()
    offsets = np.append(0, np.cumsum(lengths))
    place = np.arange(len(values)) - np.repeat(offsets[:-1], lengths)
    sums = np.append(np.uint64(0), np.cumsum(_mixed(values + place.view(np.uint64) * seed)))
    return _mixed((sums[offsets[1:]] - sums[offsets[:-1]]) ^ (lengths.view(np.uint64) + seed))


def _mixed(numbers: Hashes) -> Hashes:
    """Mix 64 bits, so that each of them decides half of all others (Stafford's 13th mix)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
