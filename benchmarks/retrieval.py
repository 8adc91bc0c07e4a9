"""How fast are export, index and recommendations, and what would an approximate index gain?

    python -m benchmarks.retrieval [--items 100000 1000000] [--k 100]

Exports a catalogue by way of the product, whose index is exact. Then vectors that gather around
centres, as trained ones do, are searched by the product (``top_items``), by its index alone, and
by indexes that Faiss has besides: each with its recall against a plain float64 search, and queries
a second of one thread's own time. The result is a JSON line for each size of the catalogue.
"""

import functools
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.record import append, circumstances, percentiles
from benchmarks.timing import interleaved
from dat_rec.config import ModelConfig
from dat_rec.data.dataset import Dataset
from dat_rec.data.prepare import prepare
from dat_rec.data.sources.synthetic import Synthetic
from dat_rec.model.dat import DAT
from dat_rec.retrieval.export import write_export
from dat_rec.retrieval.recommend import recommend
from dat_rec.retrieval.search import top_items

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
DIM = 32
ITEMS_A_CENTRE = 250
NOISE = 0.8
"""Length of what is added to a unit centre, as in the planted worlds."""
PROBES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
EFFORTS = (64, 128, 256, 512)
"""HNSW's efSearch; Faiss looks at no fewer than K."""


@dataclass(frozen=True)
class Arguments:
    """Items exported a second, seconds of an index, queries a second and their recall."""

    items: tuple[int, ...] = (100_000, 1_000_000)
    """Catalogues."""
    k: int = 100
    """Items for each query."""
    queries: int = 512
    """In a block; also the users who are recommended to."""
    rounds: int = 7
    """Blocks that each index answers."""
    most_in_graph: int = 100_000
    """Largest catalogue for which a graph (HNSW) is built: it takes longest."""
    out: Path = Path("benchmarks/results/retrieval.jsonl")
    """File to append to."""
    smoke: bool = False
    """2,000 items, twice: shows that the script works, no figure."""


def product(items: int, users: int, k: int) -> dict[str, Any]:
    """Seconds of an export and of all its users' recommendations, by an untrained model."""
    with tempfile.TemporaryDirectory() as scratch:
        data, folder = Path(scratch) / "data", Path(scratch) / "export"
        prepare(Synthetic(out=data, users=users, items=items, interactions=20_000))
        dataset = Dataset.open(data)
        torch.manual_seed(0)
        model = DAT(dataset.schema, ModelConfig()).eval()
        for embeddings in (model.embeddings, model.augmented):
            for parameter in embeddings.parameters() if embeddings is not None else ():
                torch.nn.init.normal_(parameter)
        folder.mkdir()
        begin = time.perf_counter()
        write_export(model, dataset, folder, {})
        exported = time.perf_counter()
        recommend(folder, k, Path(scratch) / "recommendations.parquet")
        done = time.perf_counter()
    return {
        "export_s": exported - begin,
        "exported_items_per_s": items / (exported - begin),
        "recommend_s": done - exported,
        "recommend_users": users,
    }


def clustered(items: int, queries: int, seed: int = 0) -> tuple[Vectors, Vectors]:
    """Unit vectors of items and of queries around the same centres."""
    rng = np.random.default_rng(seed)
    centre_CD = _unit(rng.standard_normal((max(2, items // ITEMS_A_CENTRE), DIM), np.float32))

    def around(number: int) -> Vectors:
        near_ND = centre_CD[rng.integers(len(centre_CD), size=number)]
        noise_ND = rng.standard_normal((number, DIM), np.float32)
        return _unit(near_ND + np.float32(NOISE / DIM**0.5) * noise_ND)

    return around(items), around(queries)


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def exact(item_ND: Vectors, query_BD: Vectors, k: int) -> Rows:
    """(B, K) best items, by a float64 product and a partition."""
    item_ND64 = item_ND.astype(np.float64)
    best_BK = np.empty((len(query_BD), k), np.int64)
    for best_K, query_D in zip(best_BK, query_BD.astype(np.float64), strict=True):
        best_K[:] = np.argpartition(-(item_ND64 @ query_D), k)[:k]
    return best_BK


def recall(found_BK: Rows, best_BK: Rows) -> float:
    """Mean share of the best K that was found."""
    pairs = zip(found_BK, best_BK, strict=True)
    return float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in pairs]))


def indexes(item_ND: Vectors, *, graph: bool) -> tuple[dict[str, Any], dict[str, float]]:
    """Faiss's indexes of the vectors, by name, and the seconds that each took."""
    lists = 2 ** round(np.log2(len(item_ND) ** 0.5))
    makers: dict[str, Callable[[], Any]] = {
        "exact": lambda: faiss.IndexFlatIP(DIM),
        f"IVF {lists}": lambda: faiss.IndexIVFFlat(
            faiss.IndexFlatIP(DIM), DIM, lists, faiss.METRIC_INNER_PRODUCT
        ),
    }
    if graph:
        makers["HNSW 32"] = lambda: faiss.IndexHNSWFlat(DIM, 32, faiss.METRIC_INNER_PRODUCT)
    built, seconds = {}, {}
    for name, make in tqdm(makers.items(), desc="build", unit="index"):
        begin = time.perf_counter()
        index = make()
        if not index.is_trained:
            index.train(item_ND)
        index.add(item_ND)
        built[name], seconds[name] = index, time.perf_counter() - begin
    return built, seconds


def searches(
    built: dict[str, Any], item_ND: Vectors, query_BD: Vectors, k: int
) -> dict[str, Callable[[], Rows]]:
    """By name, what finds K items for every query."""

    def by_probes(index: Any, number: int) -> Rows:
        index.nprobe = number
        return np.asarray(index.search(query_BD, k)[1])

    def by_effort(index: Any, number: int) -> Rows:
        index.hnsw.efSearch = number
        return np.asarray(index.search(query_BD, k)[1])

    found: dict[str, Callable[[], Rows]] = {
        "product": lambda: top_items(built["exact"], item_ND, query_BD, k)[0],
        "exact": lambda: np.asarray(built["exact"].search(query_BD, k)[1]),
    }
    for name, index in built.items():
        if name.startswith("IVF"):
            for number in PROBES:
                found[f"{name}, nprobe {number}"] = functools.partial(by_probes, index, number)
        elif name.startswith("HNSW"):
            for number in EFFORTS:
                found[f"{name}, efSearch {number}"] = functools.partial(by_effort, index, number)
    return found


def measure(items: int, arguments: Arguments, rounds: int, *, graph: bool) -> dict[str, Any]:
    """Every figure of a catalogue."""
    k, queries = arguments.k, arguments.queries
    facts = product(items, queries, k)
    item_ND, query_BD = clustered(items, queries)
    built, seconds = indexes(item_ND, graph=graph)
    found = searches(built, item_ND, query_BD, k)
    best_BK = exact(item_ND, query_BD, k)
    recalls = {name: recall(search(), best_BK) for name, search in found.items()}
    times = interleaved(found, rounds, warmup=0, clock=time.process_time)
    points = [
        {
            "search": name,
            "recall": recalls[name],
            "queries_per_s": percentiles([queries / s for s in times[name]]),
        }
        for name in found
    ]
    return {
        "items": items,
        "dim": DIM,
        "k": k,
        "queries": queries,
        **facts,
        "index_build_s": seconds,
        "points": points,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Measure each catalogue and append the results."""
    arguments = tyro.cli(Arguments)
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    sizes, rounds = ((2_000,), 2) if arguments.smoke else (arguments.items, arguments.rounds)
    out = None if arguments.smoke else arguments.out
    for items in tqdm(sizes, desc="catalogues"):
        graph = items <= arguments.most_in_graph
        result = measure(items, arguments, rounds, graph=graph)
        append(out, {"benchmark": "retrieval"} | result | circumstances())


if __name__ == "__main__":
    main()
