"""Real queries in, the linear map out by which an index of items goes: near means scored alike.

An approximate index puts what is near one another together: HNSW links each item to its nearest,
IVF to the nearest centre. By distance or by inner product of the items themselves that is the wrong
neighbourhood: what popularity adds behind the unit vectors makes a few items everybody's nearest,
and directions in which no user asks count as much as others. So items are mapped by A = S^½ and
queries by its inverse, S = E[q qᵀ] being the queries' second moments. Inner products stay what they
are, and ‖A(x − y)‖² = E[(q·x − q·y)²] is how differently users score two items.
"""

import faiss
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
LEAST = 5e-2
"""Least eigenvalue of S, as a share of their mean: no direction vanishes that few queries miss."""


class Geometry:
    """The map of items and of queries.

    Args:
        query_BD: vectors of real users.
    """

    def __init__(self, query_BD: Floats) -> None:
        wide_BD = query_BD.astype(np.float64)
        values_D, vectors_DD = np.linalg.eigh(wide_BD.T @ wide_BD / len(wide_BD))
        roots_D = np.sqrt(np.maximum(values_D, LEAST * values_D.mean()))
        self._items_DD = ((vectors_DD * roots_D) @ vectors_DD.T).astype(np.float32)
        self._queries_DD = ((vectors_DD / roots_D) @ vectors_DD.T).astype(np.float32)

    def points(self, vectors_ND: Floats) -> Floats:
        """(N, D) items' vectors, mapped."""
        return np.asarray(vectors_ND @ self._items_DD)

    def of_queries(self) -> faiss.LinearTransform:
        """The map of queries, as faiss keeps it before an index."""
        dim = len(self._queries_DD)
        transform = faiss.LinearTransform(dim, dim, False)
        faiss.copy_array_to_vector(self._queries_DD.ravel(), transform.A)
        transform.is_trained = True
        return transform
