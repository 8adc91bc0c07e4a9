from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from dat_rec.retrieval.approximate.tune import Tuned, Wanted, write_ann

DIM, ITEMS, USERS = 16, 3000, 240


class World(NamedTuple):
    """Items and users as of two towers, popularity behind them; a third of the items repeat."""

    exact: faiss.Index
    item_ND: NDArray[np.float32]
    query_BD: NDArray[np.float32]
    score_BN: NDArray[np.float64]
    """What brute force says."""

    def best(self, user: int, k: int) -> list[int]:
        """The K best items of a user, of equal ones the first, by a sort of all."""
        scores = self.score_BN[user].astype(np.float32)
        return sorted(range(ITEMS), key=lambda item: (-scores[item], item))[:k]


@pytest.fixture(scope="package")
def world() -> World:
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((12, DIM))

    def unit(rows: int) -> NDArray[np.float64]:
        vectors = centres[rng.integers(0, 12, rows)] + rng.standard_normal((rows, DIM)) / 2
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    popularity = -0.05 * np.log(rng.permutation(ITEMS) + 1)
    item_ND = np.column_stack([unit(ITEMS), popularity]).astype(np.float32)
    # Of repeated vectors groups are small, and one is larger than any list.
    repeated = rng.permutation(ITEMS)[:1000]
    item_ND[repeated[:700]] = item_ND[repeated[700:].repeat(3)[:700]]
    item_ND[repeated[:150]] = item_ND[repeated[0]]
    query_BD = np.column_stack([unit(USERS), np.ones(USERS)]).astype(np.float32)
    exact = faiss.IndexFlatIP(DIM + 1)
    exact.add(item_ND)
    score_BN = query_BD.astype(np.float64) @ item_ND.T.astype(np.float64)
    return World(exact, item_ND, query_BD, score_BN)


@pytest.fixture(scope="package")
def written(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Tuned]]:
    """An index of each kind, in a folder of its own."""
    found = {}
    for kind in ("ivf", "ivf_pq", "hnsw"):
        folder = tmp_path_factory.mktemp(kind)
        paths = (folder / "ann.faiss", folder / "ann_equal.parquet")
        wanted = Wanted(kind, 0.95, 20)
        made = write_ann(world.exact, world.item_ND, world.query_BD, wanted, paths, popularity=True)
        found[kind] = (folder, made)
    return found
