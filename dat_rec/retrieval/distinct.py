"""Rows in, the distinct ones among them out, so that what is equal is computed once.

A matrix product may round a row or column at its edges otherwise than the same one elsewhere,
and from one shape of block to another. So equal items would not always get equal vectors, nor
equal vectors equal scores. What is computed once and copied is equal to the last bit.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dat_rec.data.columns import Column

Ints = NDArray[np.int64]
HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that no bit of a row is lost: 2^64 over the golden ratio (Fibonacci hashing)."""


class Distinct(NamedTuple):
    """Rows sorted into kinds of equal ones; numbered in the order of their first rows."""

    first: Ints
    """(K,): each kind's first row, rising."""
    kind: Ints
    """(rows,): each row's."""


def distinct_vectors(vectors_ND: NDArray[np.float32]) -> Distinct:
    """The kinds of equal vectors. −0 equals 0; NaN must be refused before."""
    return _distinct(_codes(vectors_ND + np.float32(0)))


def distinct_rows(columns: Mapping[str, Column]) -> Distinct:
    """The kinds of rows that hold the same values, in the same order, in every column."""
    single = [column.values for column in columns.values() if column.offsets is None]
    rows = len(next(iter(columns.values())))
    code = _codes(np.stack(single, axis=1)) if single else np.zeros(rows, np.int64)
    for column in columns.values():
        if column.offsets is not None:
            # Lists are long: only those are compared that still decide.
            shared = np.flatnonzero(np.bincount(code)[code] > 1)
            part = np.zeros(rows, np.int64)
            part[shared] = _list_codes(column.take(shared))
            code = _codes(np.stack([code, part], axis=1))
    return _distinct(code)


def encode_once(
    columns: Mapping[str, Column],
    rows: Ints,
    encode: Callable[[dict[str, Column]], NDArray[np.float32]],
    at_once: int,
) -> NDArray[np.float32]:
    """Encode rows of ``columns``, those of one kind once.

    Args:
        columns: features of all rows.
        rows: (M,) the rows to encode, in that order.
        encode: columns of B rows → (B, D) vectors.
        at_once: maximum number of rows that ``encode`` is given.

    Returns:
        (M, D)
    """
    kinds = distinct_rows(columns)
    asked, position = np.unique(kinds.kind[rows], return_inverse=True)
    first = kinds.first[asked]
    blocks = [first[start : start + at_once] for start in range(0, max(1, len(first)), at_once)]
    vectors = [
        encode({name: column.take(block) for name, column in columns.items()}) for block in blocks
    ]
    return np.concatenate(vectors)[position]


def _distinct(code: Ints) -> Distinct:
    highest_before = np.maximum.accumulate(np.append(-1, code))[:-1]
    return Distinct(np.flatnonzero(code > highest_before), code)


def _codes(table: NDArray[np.generic]) -> Ints:
    """(N, F) → (N,): equal rows, to the bit, have the same number, by their first occurrence.

    Hashes set most rows apart; only those that share one are compared, so that no second copy of a
    large table is made.
    """
    rows, width = table.shape
    words = np.ascontiguousarray(table).view(np.uint32)
    hashes = np.zeros(rows, np.uint64)
    for column in words.T:
        hashes = (hashes ^ column) * HASH_FACTOR
    _, position, times = np.unique(hashes, return_inverse=True, return_counts=True)
    shared = np.flatnonzero(times[position] > 1)
    content = np.ascontiguousarray(table[shared])
    ends = np.arange(len(shared) + 1) * width * table.itemsize
    kind = _large_codes(ends, content)
    first = np.arange(rows)
    first[shared] = shared[np.unique(kind, return_index=True)[1]][kind]
    number = np.cumsum(first == np.arange(rows)) - 1
    codes: Ints = number[first]
    return codes


def _list_codes(column: Column) -> Ints:
    content = np.ascontiguousarray(column.values)
    ends = np.append(0, np.cumsum(column.lengths()) * content.itemsize)
    return _large_codes(ends, content)


def _large_codes(ends: Ints, content: NDArray[np.generic]) -> Ints:
    """Number parts of ``content``, which end at these bytes, by their first occurrence."""
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(content)]
    array = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(ends) - 1, buffers)
    codes: Ints = array.dictionary_encode().indices.to_numpy().astype(np.int64)
    return codes
