"""Numbers of training rows in, their random order out, and which example file each goes to.

A row's key depends on the seed and the row's number alone. The examples stand in the order of the
keys, which differ; files of equal size cut that order at keys that are known before a row is read.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
AT_ONCE = 1 << 20
"""Rows whose keys are in memory together."""
BIN_BITS = 16


def shuffle_keys(row: Ints, seed: int) -> Keys:
    """splitmix64 (Steele et al., OOPSLA 2014): output ``row`` of the stream called ``seed``."""
    with np.errstate(over="ignore"):
        state = np.full(1, seed % 2**64, np.uint64)
        for _ in range(2):
            state = _mix(state + GOLDEN)
        return _mix(state + (row.astype(np.uint64) + np.uint64(1)) * GOLDEN)


def _mix(state: Keys) -> Keys:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def file_cuts(rows: int, seed: int, file_rows: int) -> Keys:
    """(files − 1,): the first key of each file but the first.

    Args:
        rows: number of all rows.
        seed: random seed.
        file_rows: number of rows of each file but the last.
    """
    ranks = np.arange(file_rows, rows, file_rows)
    if not len(ranks):
        return np.empty(0, np.uint64)
    counts = np.zeros(1 << BIN_BITS, np.int64)
    for keys in _all_keys(rows, seed):
        counts += np.bincount(_bin(keys), minlength=len(counts))
    ends = counts.cumsum()
    bins = np.searchsorted(ends, ranks, "right")
    wanted = np.zeros(len(counts), np.bool_)
    wanted[bins] = True
    found = np.sort(np.concatenate([keys[wanted[_bin(keys)]] for keys in _all_keys(rows, seed)]))
    kept = np.where(wanted, counts, 0)
    within = ranks - (ends - counts)[bins]
    firsts: Keys = found[(kept.cumsum() - kept)[bins] + within]
    return firsts


def file_of(keys: Keys, cuts: Keys) -> Ints:
    """(rows,): the number of each key's file."""
    return np.searchsorted(cuts, keys, "right")


def _all_keys(rows: int, seed: int) -> Iterator[Keys]:
    for start in range(0, rows, AT_ONCE):
        yield shuffle_keys(np.arange(start, min(start + AT_ONCE, rows)), seed)


def _bin(keys: Keys) -> Ints:
    return (keys >> np.uint64(64 - BIN_BITS)).astype(np.int64)
