"""Training pairs in, item embeddings to begin with out: a truncated singular value decomposition.

A is the matrix of users and trained items that is 1 where training has the pair, and D_u and D_i
are the diagonal matrices of its rows' and columns' sums. Of the largest singular values of
N = D_u^-½ A D_i^-½, the first is 1, and its right vector, the root of the items' counts, says how
popular an item is and nothing of what it is like. With the next D of them, σ, and their right
vectors V, an item begins with its row of V Σ^½, scaled to length 1.

They are found by subspace iteration with a random start (Halko, Martinsson and Tropp, "Finding
structure with randomness", SIAM Review 53, 2011). Each step reads the pairs once, some users at a
time: memory holds two matrices of (trained items, D + 11), whatever the number of users.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import threadpool_limits

from dat_rec.data.dataset import Dataset
from dat_rec.data.seen_pairs import pairs_by_user

Floats = NDArray[np.float32]
STEPS = 8
"""Steps of the iteration; each multiplies an error by the square of a ratio of singular values."""
BEYOND = 10
"""Singular vectors that are iterated beyond those that are wanted."""
NOISE = 1e-5
"""Eigenvalues up to this, of which the largest is 1, are rounding of float32."""
PAIRS = 1 << 20
"""Pairs that are read at a time."""


def item_factors(dataset: Dataset, dim: int, seed: int) -> Floats:
    """Return what trained items begin with: (trained items, dim), rows of length 1 or 0.

    Columns beyond the rank are 0, and so is the row of an item that no column tells of. The same
    on every machine but for rounding, and for directions among equal singular values.

    Args:
        dataset: a prepared dataset.
        dim: D.
        seed: random seed of the start.

    Raises:
        UserError: seen.parquet cannot be read.
    """
    items = dataset.schema.trained_items
    width = min(1 + dim + BEYOND, items)
    with threadpool_limits(1):
        counts = np.zeros(items)
        for pairs in _pairs(dataset):
            counts += np.bincount(pairs.indices, minlength=items)
        root_T1 = (1 / np.sqrt(np.maximum(counts, 1))).astype(np.float32)[:, None]
        rng = np.random.Generator(np.random.Philox(key=seed))
        basis_TW = rng.standard_normal((items, width), np.float32)
        for _ in range(STEPS):
            basis_TW = np.linalg.qr(_multiplied(dataset, basis_TW, root_T1))[0]
        square_WW = basis_TW.T @ _multiplied(dataset, basis_TW, root_T1)
        values_W, vectors_WW = np.linalg.eigh((square_WW + square_WW.T) / 2)
    largest = np.argsort(values_W)[::-1][1 : 1 + dim]
    # Eigenvalues of NᵀN are squares of singular values; below the noise there is no direction.
    scale_D = np.where(values_W[largest] > NOISE, values_W[largest], 0) ** 0.25
    found_TD = (basis_TW @ vectors_WW[:, largest]) * scale_D
    length_T1 = np.linalg.norm(found_TD, axis=1, keepdims=True)
    factors_TD = np.zeros((items, dim), np.float32)
    factors_TD[:, : len(largest)] = found_TD / np.maximum(length_T1, np.finfo(np.float32).tiny)
    return factors_TD


def _multiplied(dataset: Dataset, basis_TW: Floats, root_T1: Floats) -> Floats:
    """NᵀN times ``basis_TW``."""
    scaled_TW = root_T1 * basis_TW
    product_TW = np.zeros_like(scaled_TW)
    for pairs in _pairs(dataset):
        mean_BW = (pairs @ scaled_TW) / np.diff(pairs.indptr)[:, None].astype(np.float32)
        product_TW += pairs.T @ mean_BW
    return root_T1 * product_TW


def _pairs(dataset: Dataset) -> Iterator[sparse.csr_matrix]:
    """A in blocks of whole users, those without pairs left out: (users, trained items)."""
    for user, item in pairs_by_user(dataset, PAIRS):
        yield _matrix(user, item, dataset.schema.trained_items)


def _matrix(users: NDArray[np.int32], columns: NDArray[np.int32], items: int) -> sparse.csr_matrix:
    starts = np.flatnonzero(np.diff(users, prepend=-1))
    ones = np.ones(len(columns), np.float32)
    ends = np.append(starts, len(columns))
    return sparse.csr_matrix((ones, columns, ends), shape=(len(starts), items))
