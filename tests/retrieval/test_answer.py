"""An export asked in memory: the same answers as ``recommend`` writes, and as the model gives."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dat_rec.errors import UserError
from dat_rec.retrieval import answer
from dat_rec.retrieval.answer import load_export
from dat_rec.retrieval.recommend import recommend
from dat_rec.retrieval.trained import load_model
from tests.retrieval.whole import encode_items, encode_users
from tests.retrieval.world import ITEMS, SERVED, USERS


def test_vectors_are_the_models(run: Path, exported: Path) -> None:
    loaded, trained = load_export(exported), load_model(run)
    np.testing.assert_array_equal(loaded.item_vectors, encode_items(trained.model, trained.dataset))
    assert loaded.item_ids.tolist() == [1000 + item for item in range(ITEMS)]
    assert loaded.user_ids.tolist() == [f"u{user}" for user in range(USERS)]
    rows = np.array([7, 0, 7])
    expected = encode_users(trained.model, trained.dataset, rows)
    found = loaded.query_vectors(loaded.user_ids[rows])
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("block", [1, 4096])
def test_answers_are_those_that_recommend_writes(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(answer, "MOST_USERS", block)
    recommend(exported, 4, tmp_path / "recs.parquet")
    written = pq.read_table(tmp_path / "recs.parquet")
    loaded = load_export(exported)
    found = loaded.recommend(loaded.user_ids, k=4)
    assert found.item_ids.ravel().tolist() == written["item_id"].to_pylist()
    assert found.scores.ravel().tolist() == written["score"].to_pylist()


def test_strangers_are_alike_and_nobody_gets_nothing(exported: Path) -> None:
    loaded = load_export(exported)
    found = loaded.recommend(["?", "u1", "!"], k=3)
    assert found.item_ids[0].tolist() == found.item_ids[2].tolist()
    assert loaded.recommend([], k=3).item_ids.shape == (0, 3)
    assert loaded.query_vectors([]).shape == (0, SERVED)


@pytest.mark.parametrize("k", [0, ITEMS + 1])
def test_k_out_of_range_is_refused(exported: Path, k: int) -> None:
    with pytest.raises(UserError, match=f"k is {k}: it must be 1 or more, and at most the 60"):
        load_export(exported).recommend(["u1"], k)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2], "user ids are int64, .* string"),
        ([1.5], "user ids are double, .* string"),
        ([True], "user ids are bool, .* string"),
        ([1, "a"], "user ids .*: give string alone"),
        (np.array([["u1", "u2"]]), "user ids .* string"),
        ([2**70], "user ids .*: give string alone"),
        (["u1", None], "is missing"),
        ([None], "is missing"),
    ],
)
def test_ids_of_another_kind_are_refused(exported: Path, ids: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_export(exported).query_vectors(ids)
