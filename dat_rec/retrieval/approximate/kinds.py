"""Kinds of faiss's approximate indexes: how each is built, and the numbers that its recall goes by.

=========  ===================================================  ===============================
kind       index                                                a search looks at
=========  ===================================================  ===============================
``ivf``    vectors in the lists of the centre nearest to each   the ``nprobe`` nearest lists
``ivf_pq`` the same, each number as a code of 8 bits (product   the ``nprobe`` nearest lists;
           quantisation of what is left of the centre)          ``fetch`` · K are scored exactly
``hnsw``   a graph of each vector's nearest ones                a front of ``efSearch`` vectors
=========  ===================================================  ===============================

Centres are those of k-means on a sample, from a fixed random seed. HNSW's levels are drawn from a
fixed seed too; its links also follow the order in which threads come, and are the same each time on
one thread.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import faiss
import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from dat_rec.files import STRICT

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
_faiss: Any = faiss
"""Its types lack some of its classes and attributes."""
KindName = Literal["ivf", "ivf_pq", "hnsw"]
KINDS: tuple[KindName, ...] = get_args(KindName)
LEAST = 256
"""Minimum number of distinct vectors for which an approximate index is worth a file."""
LINKS, CONSTRUCTION = 24, 100
"""HNSW's M and efConstruction."""
SAMPLE_OF_A_CENTRE, LEAST_OF_A_CENTRE = 64, 39
"""Vectors that k-means takes for each centre, and how many it needs not to warn."""
SAMPLE = 2**14
"""Minimum number of vectors, if there are as many, by which codes are made."""
MOST = 64
"""Maximum efSearch, as a multiple of K."""
FETCH = (2, 4, 8)
"""How many times K candidates of ``ivf_pq`` are scored exactly, the least first."""


@dataclass(frozen=True)
class Effort:
    """What a search spends: what has to rise for a higher recall."""

    search: Annotated[int, Ge(1)]
    """``efSearch`` of HNSW, ``nprobe`` of IVF."""
    fetch: Annotated[int, Ge(1)] = 1
    """How many times K candidates are scored exactly."""

    __pydantic_config__ = STRICT


def centres(points: int) -> int:
    """Number of IVF's lists: the power of 2 that is nearest to 4 · √points."""
    wanted = 2 ** round(np.log2(4 * max(1, points) ** 0.5))
    return int(max(1, min(wanted, points // LEAST_OF_A_CENTRE)))


def build(
    kind: KindName,
    points_NW: Floats,
    ids_N: Ints,
    queries: faiss.LinearTransform,
    listed: Ints,
) -> tuple[str, faiss.Index]:
    """Train an index on points and fill it.

    It is made by distance, and searched by inner product: the points are of unequal length.

    Args:
        kind: of the index.
        points_NW: of a ``Geometry``, all different.
        ids_N: the number that a search gives for each.
        queries: the map of queries, which stands before the index.
        listed: places of points that are among the best of real queries: codes are made for these
            as much as for all others, for they are few, and far out.

    Returns:
        What the index behind the map is, in the words of ``faiss.index_factory``, and the index.
    """
    count, width = points_NW.shape
    lists = centres(count)
    inner: Any
    if kind == "hnsw":
        graph = _faiss.IndexHNSWFlat(width, LINKS)
        graph.hnsw.efConstruction = CONSTRUCTION
        inner = faiss.IndexIDMap(graph)
        inner.add_with_ids(points_NW, ids_N)
        graph.hnsw.is_similarity = True
        for index in (inner, graph, graph.storage):
            index.metric_type = faiss.METRIC_INNER_PRODUCT
        words = f"HNSW{LINKS}"
    else:
        near, best = _faiss.IndexFlatL2(width), _faiss.IndexFlatIP(width)
        if kind == "ivf":
            inner = faiss.IndexIVFFlat(near, width, lists, faiss.METRIC_INNER_PRODUCT)
            words = f"IVF{lists},Flat"
        else:
            given = (near, width, lists, width, 8, faiss.METRIC_INNER_PRODUCT)
            inner = faiss.IndexIVFPQ(*given)
            words = f"IVF{lists},PQ{width}"
        shuffled = np.random.default_rng(0).permutation(count)
        means = faiss.Kmeans(
            width, lists, max_points_per_centroid=SAMPLE_OF_A_CENTRE, min_points_per_centroid=1
        )
        means.train(points_NW[shuffled[: lists * SAMPLE_OF_A_CENTRE]])
        near.add(means.centroids)
        if kind == "ivf_pq":
            inner.pq.cp.min_points_per_centroid = 1
        inner.train(points_NW[np.append(listed, shuffled[: max(len(listed), SAMPLE)])])
        inner.add_with_ids(points_NW, ids_N)
        best.add(near.reconstruct_n(0, lists))
        inner.quantizer = best
        best.this.disown()
        inner.own_fields = True
    return words, faiss.IndexPreTransform(queries, inner)


def efforts(kind: KindName, points: int, k: int) -> list[int]:
    """What ``efSearch`` or ``nprobe`` may be, rising by a tenth or by 1."""
    first, last = (k, max(k, min(points, MOST * k))) if kind == "hnsw" else (1, centres(points))
    found = [first]
    while found[-1] < last:
        found.append(min(last, max(found[-1] + 1, round(found[-1] * 1.1))))
    return found


def set_effort(kind: KindName, index: Any, search: int) -> None:
    """Write the effort into the index, for whoever searches it by faiss alone."""
    inner: Any = faiss.downcast_index(index.index)
    if kind == "hnsw":
        _faiss.downcast_index(inner.index).hnsw.efSearch = search
    else:
        inner.nprobe = search


def parameters(kind: KindName, search: int) -> Any:
    """What a search is given; what the index itself says stays as it is."""
    if kind == "hnsw":
        inner = _faiss.SearchParametersHNSW(efSearch=search)
    else:
        inner = _faiss.SearchParametersIVF(nprobe=search)
    return _faiss.SearchParametersPreTransform(index_params=inner)
