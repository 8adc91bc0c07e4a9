"""Indexes are tuned on some queries and measured on others, and refused below their recall."""

from pathlib import Path

import numpy as np
import pytest

from dat_rec.errors import UserError
from dat_rec.retrieval.approximate import tune
from dat_rec.retrieval.approximate.geometry import Geometry
from dat_rec.retrieval.approximate.kinds import Effort, centres, efforts
from dat_rec.retrieval.approximate.tune import Choice, Truth, Wanted, least_effort, write_ann
from tests.retrieval.approximate.conftest import World
from tests.retrieval.approximate.test_ann_index import Written, opened


def test_the_map_keeps_inner_products_and_measures_how_differently_users_score(
    world: World,
) -> None:
    geometry = Geometry(world.query_BD)
    points = geometry.points(world.item_ND[:50])
    assert points.shape == world.item_ND[:50].shape
    mapped = geometry.of_queries().apply(world.query_BD[:30])
    np.testing.assert_allclose(mapped @ points.T, world.score_BN[:30, :50], atol=1e-4)
    apart = np.linalg.norm(points[0] - points[1])
    scores = world.score_BN[:, 0] - world.score_BN[:, 1]
    assert apart == pytest.approx(np.sqrt(np.mean(scores**2)), rel=0.05)


def test_the_least_effort_that_reaches_the_recall_is_taken(world: World, written: Written) -> None:
    index = opened(world, written, "ivf").index
    query_BD = world.query_BD[:120]
    truth = Truth(query_BD, np.array([world.best(user, 20) for user in range(120)]))
    choice = least_effort(index, truth, 0.99)
    ladder = efforts("ivf", index.index.ntotal, 20)
    below = Effort(ladder[ladder.index(choice.effort.search) - 1])
    recalls = {
        effort: truth.recalls(index.top_items(query_BD, 20, effort)[0])
        for effort in (choice.effort, below)
    }
    assert recalls[choice.effort].mean() == choice.recall > 0.99
    margin = 2 * recalls[below].std() / 120**0.5
    assert recalls[below].mean() - margin < 0.99
    assert ladder[0] == 1 < choice.effort.search < ladder[-1] == centres(index.index.ntotal)


def test_what_does_not_reach_its_recall_is_refused_and_nothing_written(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor = Choice(Effort(1), 0.61, reached=False)
    monkeypatch.setattr(tune, "least_effort", lambda *_: poor)
    paths = (tmp_path / "ann.faiss", tmp_path / "ann_equal.parquet")
    given = (world.exact, world.item_ND, world.query_BD)
    with pytest.raises(UserError) as error:
        write_ann(*given, Wanted("ivf", 0.99, 20), paths, popularity=True)
    assert str(error.value) == (
        "--index ivf: recall@20 of users' lists is 0.6100 at most, and --min-recall is 0.99: ask "
        "for less, or for another kind"
    )
    assert write_ann(*given, Wanted("auto", 0.99, 20), paths, popularity=True).facts is None
    assert list(tmp_path.iterdir()) == []


def test_few_vectors_are_refused_and_auto_leaves_them_to_the_exact_index(
    world: World, tmp_path: Path
) -> None:
    paths = (tmp_path / "ann.faiss", tmp_path / "ann_equal.parquet")
    given = (world.exact, world.item_ND[:200], world.query_BD)
    with pytest.raises(UserError, match=r"--index hnsw: the items have [0-9]+ different vectors"):
        write_ann(*given, Wanted("hnsw"), paths, popularity=True)
    assert write_ann(*given, Wanted("auto"), paths, popularity=True) == (None, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Wanted("lsh"), "--index lsh: it must be one of flat, ivf, ivf_pq, hnsw, auto"),
        (Wanted("ivf", 98), r"--min-recall 98: it must be above 0, and at most 1"),
        (Wanted("flat", 0.9), "are of an approximate index: add --index auto"),
        (Wanted("ivf", 0.9, 0), "--recall-at 0: it must be 1 or more"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(wanted: Wanted, message: str) -> None:
    with pytest.raises(UserError, match=message):
        wanted.check()
