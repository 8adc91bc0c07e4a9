"""What an approximate index finds, beside brute force; and how faiss alone reads it."""

from math import fsum
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest

from dat_rec.errors import UserError
from dat_rec.retrieval.approximate.ann_index import Ann
from dat_rec.retrieval.approximate.kinds import Effort
from dat_rec.retrieval.approximate.tune import Tuned
from tests.retrieval.approximate.conftest import ITEMS, USERS, World

KINDS = ("ivf", "ivf_pq", "hnsw")
Written = dict[str, tuple[Path, Tuned]]


def opened(world: World, written: Written, kind: str) -> Ann:
    folder, made = written[kind]
    assert made.facts is not None
    paths = (folder / "ann.faiss", folder / "ann_equal.parquet")
    return Ann.read(*paths, made.facts, world.exact, world.item_ND)


@pytest.mark.parametrize("kind", KINDS)
def test_the_recall_that_is_told_is_that_of_brute_force(
    world: World, written: Written, kind: str
) -> None:
    ann = opened(world, written, kind)
    facts = ann.facts
    asked = range(USERS // 2, USERS)
    found, _ = ann.index.top_items(world.query_BD[USERS // 2 :], 20, facts.users_effort)
    recalls = [
        len({*world.best(user, 20)} & {*items}) / 20
        for user, items in zip(asked, found.tolist(), strict=True)
    ]
    assert facts.users.recall == pytest.approx(np.mean(recalls), abs=1e-9)
    assert facts.users.recall >= facts.min_recall == 0.95
    assert (facts.users.queries, facts.k, facts.kind) == (len(recalls), 20, kind)
    assert facts.vectors == len(np.unique(world.item_ND, axis=0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 20, 137])
def test_scores_are_exact_and_equal_ones_in_the_catalogues_order(
    world: World, written: Written, kind: str, k: int
) -> None:
    ann = opened(world, written, kind)
    items_BK, scores_BK = ann.index.top_items(world.query_BD[:40], k, ann.facts.users_effort)
    assert (items_BK.shape, scores_BK.dtype) == ((40, k), np.float32)
    for query, items, scores in zip(world.query_BD, items_BK, scores_BK, strict=False):
        exact = [
            np.float32(fsum(float(a) * float(b) for a, b in zip(query, item, strict=True)))
            for item in world.item_ND[items]
        ]
        assert scores.tolist() == exact
        pairs = [(-score, item) for score, item in zip(scores, items, strict=True)]
        assert pairs == sorted(set(pairs))


@pytest.mark.parametrize("kind", KINDS)
def test_an_effort_without_end_is_the_exact_search(
    world: World, written: Written, kind: str
) -> None:
    """Repeated vectors, of which the index holds one, come back in; none twice, none left out."""
    ann = opened(world, written, kind)
    for k in (1, 7, 150, 200):
        items_BK, _ = ann.index.top_items(world.query_BD[:25], k, Effort(ITEMS, 12))
        for user, items in enumerate(items_BK.tolist()):
            assert items == world.best(user, k)


def test_lists_that_would_be_short_are_searched_exactly(world: World, written: Written) -> None:
    index = opened(world, written, "ivf").index
    lists = faiss.downcast_index(index.index.index).invlists
    assert max(lists.list_size(number) for number in range(lists.nlist)) < 200
    items_BK, _ = index.top_items(world.query_BD[:9], 200, Effort(1))
    lacking = [user for user in range(9) if items_BK[user].tolist() != world.best(user, 200)]
    assert all(len(set(items)) == 200 for items in items_BK.tolist())
    assert len(lacking) < 9


@pytest.mark.parametrize("kind", KINDS)
def test_faiss_alone_gives_item_index_and_scores(world: World, written: Written, kind: str) -> None:
    folder, made = written[kind]
    scores, items = faiss.read_index(str(folder / "ann.faiss")).search(world.query_BD[120:], 20)
    rows = np.arange(120, USERS)[:, None]
    atol = 0.1 if kind == "ivf_pq" else 1e-4
    np.testing.assert_allclose(scores, world.score_BN[rows, items], atol=atol)
    table = pq.read_table(folder / "ann_equal.parquet").to_pydict()
    absent = dict(zip(table["item_index"], table["same_as"], strict=True))
    assert not set(absent) & set(items.ravel().tolist())
    for item, same in absent.items():
        assert same < item
        assert same not in absent
        assert (world.item_ND[item] == world.item_ND[same]).all()
    if kind != "ivf_pq":
        # What is tuned is in the file; repeats apart, faiss finds as much as was told.
        assert made.facts is not None
        found = [
            np.isin([absent.get(item, item) for item in world.best(user, 20)], row).mean()
            for user, row in zip(range(120, USERS), items, strict=True)
        ]
        assert np.mean(found) >= made.facts.min_recall


def test_a_file_of_other_vectors_is_refused(world: World, written: Written) -> None:
    folder, made = written["hnsw"]
    assert made.facts is not None
    other = faiss.IndexFlatIP(world.exact.d + 1)
    paths = (folder / "ann.faiss", folder / "ann_equal.parquet")
    with pytest.raises(UserError, match=r"ann\.faiss: holds .* 17 wide, and not .*: export anew"):
        Ann.read(*paths, made.facts, other, world.item_ND)
