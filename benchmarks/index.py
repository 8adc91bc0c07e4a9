"""How many times as quick as the exact search are approximate indexes of a given recall?

    python -m benchmarks.index [--export EXPORT | --vectors towers|sphere] [--items 1000000]

The items and users of an export; or, without one, planted vectors: ``towers`` are what two random
layers make of items and users of a hundred kinds in 16 dimensions, 64 numbers, and behind the
items' popularity that falls as 1/rank; ``sphere`` are random directions in 64 dimensions, in which
nothing is near anything, which no tower gives. Each kind is built once, and tuned to each recall on
a third of the queries; on the others the exact search and the index take turns, a block of queries
each, by CPU time on one thread. Each result is a JSON line, and a row of the table at the end.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.options import Options, parse
from benchmarks.record import spread
from benchmarks.timing import interleaved, ratios
from dat_rec.retrieval.answer import query_vectors, user_rows
from dat_rec.retrieval.approximate.ann_index import ApproximateIndex
from dat_rec.retrieval.approximate.equal_items import EqualItems, distinct_rows, write_equal
from dat_rec.retrieval.approximate.geometry import Geometry
from dat_rec.retrieval.approximate.kinds import KindName, build
from dat_rec.retrieval.approximate.tune import BLOCK, Truth, least_effort
from dat_rec.retrieval.item_index import read_index, write_index
from dat_rec.retrieval.recommender import Recommender
from dat_rec.retrieval.search import top_items

Floats = NDArray[np.float32]
DIM, PLANTED, KINDS_OF_ITEMS = 64, 16, 100
POPULARITY = 0.05
"""What a factor e of popularity adds to a score: a temperature of .05, as in training."""


@dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """Approximate indexes beside the exact search, on one thread."""

    export: Path | None = None
    """An export, whose items and users are taken."""
    vectors: Literal["towers", "sphere"] = "towers"
    """Planted vectors, where there is no export."""
    items: int = 1_000_000
    """Maximum number of items."""
    kinds: tuple[KindName, ...] = ("ivf", "hnsw")
    """Kinds of indexes."""
    recalls: tuple[float, ...] = (0.98, 0.995)
    """Recalls to reach."""
    k: int = 100
    """Number of items that are searched for."""
    queries: int = 1500
    """Number of users."""


def main() -> None:
    """Measure each kind at each recall, and print the table."""
    arguments = parse(Arguments)
    if arguments.smoke:
        arguments = replace(arguments, items=min(arguments.items, 3000), queries=150)
    with _vectors(arguments) as (exact, item_ND, query_BD):
        rows = list(_measure(arguments, exact, item_ND, query_BD))
    print(
        "\n| kind | recall | times the exact search | queries/s | built in |\n|---|---|---|---|---|"
    )
    for row in rows:
        times = row["times"]
        print(
            f"| {row['kind']} | {row['recall']:.4f} | {times['value']:.1f} [{times['p10']:.1f}, "
            f"{times['p90']:.1f}] | {row['queries_per_s']:,.0f} | {row['build_s']:.0f} s |"
        )


def _measure(
    arguments: Arguments, exact: faiss.Index, item_ND: Floats, query_BD: Floats
) -> Iterator[dict[str, Any]]:
    third = len(query_BD) // 3
    first, first_N = distinct_rows(item_ND)
    with tempfile.TemporaryDirectory() as scratch:
        write_equal(first_N, Path(scratch) / "equal.parquet")
        equal = EqualItems.read(Path(scratch) / "equal.parquet")
    geometry = Geometry(query_BD[:third])
    with threadpool_limits(1):
        best = top_items(exact, item_ND, query_BD[:third], arguments.k)[0]
        choosing = Truth(query_BD[:third], best)
        listed = np.searchsorted(first, np.unique(first_N[best]))
        for kind in arguments.kinds:
            begin = time.process_time()
            points = geometry.points(item_ND[first])
            queries = geometry.of_queries()
            words, index = build(kind, points, first, queries, listed)
            build_s = time.process_time() - begin
            made = ApproximateIndex(kind, index, equal, exact, item_ND, arguments.k)
            for recall in arguments.recalls:
                choice = least_effort(made, choosing, recall)
                row = {
                    "source": "export" if arguments.export else arguments.vectors,
                    "items": len(item_ND),
                    "distinct": len(first),
                    "dim": item_ND.shape[1],
                    "k": arguments.k,
                    "kind": kind,
                    "faiss": words,
                    "asked": recall,
                    "reached": choice.reached,
                    **asdict(choice.effort),
                    "build_s": build_s,
                    **_turns(made, query_BD[third:], arguments.k, choice.effort),
                }
                arguments.report("index", row)
                yield row


def _turns(made: ApproximateIndex, query_BD: Floats, k: int, effort: Any) -> dict[str, Any]:
    """Recall and times, the exact search and the index in turns."""
    blocks = [query_BD[start : start + BLOCK] for start in range(0, len(query_BD), BLOCK)]
    found: dict[str, list[Any]] = {"exact": [], "index": []}

    def search(name: str) -> None:
        block_BD = blocks[len(found[name]) % len(blocks)]
        if name == "exact":
            items_BK = top_items(made.exact, made.item_ND, block_BD, k)[0]
        else:
            items_BK = made.top_items(block_BD, k, effort)[0]
        found[name].append(items_BK)

    steps = {name: lambda name=name: search(name) for name in found}
    times = interleaved(steps, len(blocks), warmup=0, clock=time.process_time)
    pairs = zip(blocks, found["exact"], found["index"], strict=True)
    recalls = np.concatenate([Truth(*one).recalls(items_BK) for *one, items_BK in pairs])
    return {
        "recall": float(recalls.mean()),
        "recall_p10": float(np.quantile(recalls, 0.1)),
        "queries": len(query_BD),
        "block": BLOCK,
        "times": spread(ratios(times, "exact", "index")),
        "queries_per_s": len(query_BD) / sum(times["index"]),
        "exact_queries_per_s": len(query_BD) / sum(times["exact"]),
    }


@contextmanager
def _vectors(arguments: Arguments) -> Iterator[tuple[faiss.Index, Floats, Floats]]:
    """The exact index, the items' vectors that it holds, and the users'."""
    random = np.random.default_rng(0)
    if arguments.export is not None:
        opened = Recommender.open(arguments.export)
        ids = opened.user_ids.take(random.permutation(len(opened.user_ids))[: arguments.queries])
        query_BD = query_vectors(opened.export, user_rows(opened.export, ids), BLOCK)
        item_ND = opened.export.item_vectors
        chosen = np.sort(random.permutation(len(item_ND))[: arguments.items])
        item_ND = item_ND if len(chosen) == len(item_ND) else item_ND[chosen]
    elif arguments.vectors == "sphere":
        item_ND, query_BD = (
            _unit(random.standard_normal((rows, DIM), np.float32))
            for rows in (arguments.items, arguments.queries)
        )
    else:
        item_ND, query_BD = _planted(random, arguments.items, arguments.queries)
    # Mapped from a file, as an export's index is.
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "index.faiss"
        write_index([item_ND], len(item_ND), item_ND.shape[1], path)
        yield *read_index(path), query_BD


def _planted(random: np.random.Generator, items: int, users: int) -> tuple[Floats, Floats]:
    """Vectors as of two towers, popularity behind them."""
    centres = random.standard_normal((KINDS_OF_ITEMS, PLANTED), np.float32)
    layers = [
        random.standard_normal(shape, np.float32) / shape[0] ** 0.5
        for shape in ((PLANTED, 4 * DIM), (4 * DIM, DIM))
    ]

    def tower(rows: int) -> Floats:
        kind = random.integers(0, KINDS_OF_ITEMS, rows)
        inputs = centres[kind] + random.standard_normal((rows, PLANTED), np.float32) / 2
        return _unit(np.maximum(inputs @ layers[0], 0) @ layers[1])

    rank = random.permutation(items) + 1
    item_ND = np.column_stack([tower(items), -POPULARITY * np.log(rank)]).astype(np.float32)
    query_BD = np.column_stack([tower(users), np.ones(users)]).astype(np.float32)
    return item_ND, query_BD


def _unit(vectors_ND: Floats) -> Floats:
    return np.asarray(vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True), np.float32)


if __name__ == "__main__":
    main()
