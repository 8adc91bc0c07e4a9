"""Exports to publish: the small world's users and tower, with a catalogue of many items."""

import json
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.files import sha256, write_json
from dat_rec.retrieval.item_index import write_index
from tests.retrieval.world import SERVED

ITEMS = 10_000
CATEGORIES = ("toys", "baker's", "Bücher")


def write_catalogue(export: Path, folder: Path, items: int, seed: int, *, text: bool) -> Path:
    """Copy an export, with another catalogue: repeated vectors, nulls, lists, numbers.

    Args:
        export: the small world's.
        folder: to write.
        items: N.
        seed: of all that is random.
        text: whether ids are text.
    """
    rng = np.random.default_rng(seed)
    shutil.copytree(export, folder)
    vectors = random_vectors(items, rng)
    number = 10**12 + rng.permutation(items)
    ids = pa.array([f'i\'{n} "ü"' for n in number] if text else number)
    whose = pq.read_schema(folder / "item_vectors/part-00000.parquet").metadata
    # As `export` cuts its parts, but in other places.
    for part, rows in enumerate(np.array_split(np.arange(items), [items // 3, items // 3 + 1])):
        vector = pa.FixedSizeListArray.from_arrays(pa.array(vectors[rows].ravel()), SERVED)
        columns = [ids.take(pa.array(rows)), pa.array(rows), vector]
        table = pa.table(columns, ["item_id", "item_index", "vector"])
        table = table.replace_schema_metadata(whose)
        pq.write_table(table, folder / f"item_vectors/part-{part:05}.parquet")
    every = np.arange(items)
    price = np.where(every % 4 == 0, np.nan, every / 2)
    table = {
        "item_id": ids,
        "title": [None if i % 9 == 0 else f"title {i}" for i in every],
        "category_name": [None if i % 7 == 0 else CATEGORIES[i % 3] for i in every],
        "train_count": every,
        "tags": pa.array(
            [None if i % 5 == 0 else [f"t{j}" for j in range(i % 3)] for i in every],
            pa.large_list(pa.large_string()),
        ),
        "price": price,
        "fresh": every % 2 == 0,
        "export": pa.array(every, pa.int32()),
    }
    pq.write_table(pa.table(table), folder / "items.parquet", row_group_size=3000)
    write_index([vectors], items, SERVED, folder / "index.faiss")
    about = json.loads((folder / "export.json").read_text())
    names = [path for path in folder.rglob("*") if path.is_file() and path.name != "export.json"]
    about["sha256"] = {str(path.relative_to(folder)): sha256(path) for path in names}
    write_json(folder / "export.json", about | {"items": items})
    return folder


def random_vectors(items: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(items, D) unit vectors with popularity behind; a twentieth are repeated."""
    vectors = rng.normal(size=(items, SERVED))
    vectors[:, -1] = 0
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[:, -1] = rng.normal(size=items) / 4
    vectors[: items // 20] = vectors[-(items // 20) :]
    return vectors.astype(np.float32)


@cache
def read_catalogue(folder: Path) -> tuple[list[object], NDArray[np.float64], list[dict]]:
    """Ids, vectors and rows, by pyarrow alone."""
    parts = pq.read_table(folder / "item_vectors")
    vectors = np.array(parts["vector"].to_pylist(), np.float64)
    return (
        parts["item_id"].to_pylist(),
        vectors,
        pq.read_table(folder / "items.parquet").to_pylist(),
    )


def assert_best(
    found: Sequence[tuple[object, float]],
    folder: Path,
    query: NDArray[np.float32],
    k: int,
    category: str | None = None,
) -> None:
    """Compare an answer with brute force; equal scores may stand in any order."""
    ids, vectors, rows = read_catalogue(folder)
    score = dict(zip(ids, vectors @ query.astype(np.float64), strict=True))
    passing = [
        row["item_id"] for row in rows if category is None or row["category_name"] == category
    ]
    best = sorted((score[item] for item in passing), reverse=True)[:k]
    assert len({item for item, _ in found}) == len(found) == len(best)
    assert {item for item, _ in found} <= set(passing)
    np.testing.assert_allclose([given for _, given in found], best, atol=1e-5)
    np.testing.assert_allclose([score[item] for item, _ in found], best, atol=1e-5)
