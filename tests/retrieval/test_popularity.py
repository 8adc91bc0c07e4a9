"""What popularity adds to scores: in training's logits and in what is served alike."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dat_rec.config import LossConfig
from dat_rec.data.schema import RECENT, Schema
from dat_rec.data.stream.negatives import log_popularity, logit_offsets, typical_count
from dat_rec.data.trend import Trend, trending
from dat_rec.retrieval.export import export
from dat_rec.retrieval.exported import Export
from dat_rec.retrieval.trained import load_model
from tests.retrieval.whole import encode_items, encode_users
from tests.retrieval.world import ITEMS, TRAINED_ITEMS, USERS, write_dataset, write_run

COUNTS = np.array([4, 1, 2])


def test_offsets_are_popularity_less_what_sampling_adds() -> None:
    log_q = np.log(np.array([0.5, 0.2, 0.3], np.float32))
    found = logit_offsets(log_q, 1.2, COUNTS, 0.7)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 0.7 * np.log(COUNTS / 4) - 1.2 * log_q, rtol=1e-6)
    assert log_popularity(np.array([0, 3])).tolist() == [np.log(1 / 3), 0]


def test_with_equal_strength_nothing_is_left_of_candidates_drawn_by_popularity() -> None:
    share = np.log(COUNTS / COUNTS.sum()).astype(np.float32)
    found = logit_offsets(share, 0.8, COUNTS, 0.8)
    np.testing.assert_allclose(found, found[0], rtol=1e-6)


def test_the_typical_count_is_the_geometric_mean() -> None:
    assert typical_count(COUNTS) == pytest.approx(2)
    assert typical_count(np.array([0, 9])) == pytest.approx(3)


@pytest.mark.parametrize("unknown", ["one", "typical"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_what_is_served_scores_as_training_did(
    tmp_path: Path, precision: str, unknown: str
) -> None:
    data = write_dataset(tmp_path / "data")
    plain, run = (
        write_run(
            tmp_path / name,
            data,
            precision=precision,
            loss=LossConfig(popularity=popularity, unknown_count=unknown),
        )
        for name, popularity in (("plain", 0.0), ("run", 0.6))
    )
    without, trained = load_model(plain), load_model(run)
    users = np.arange(USERS)
    scores = (
        encode_users(trained.model, trained.dataset, users)
        @ encode_items(trained.model, trained.dataset).T
    )
    cosines = (
        encode_users(without.model, without.dataset, users)
        @ encode_items(without.model, without.dataset).T
    )
    counts = pq.read_table(data / "items.parquet")["train_count"].to_numpy()
    assert (counts[TRAINED_ITEMS:] == 0).all()
    new = 1 if unknown == "one" else np.prod(counts[:TRAINED_ITEMS] ** (1 / TRAINED_ITEMS))
    count = np.where(counts > 0, counts, new)
    added = LossConfig().temperature * 0.6 * np.log(count / counts.max())
    np.testing.assert_allclose(scores, cosines + added, atol=1e-5)

    export(run, tmp_path / "export")
    opened = Export.open(tmp_path / "export")
    assert opened.item_vectors.shape == (ITEMS, 9)
    found = opened.tower.encode(trained.dataset.user_columns())
    np.testing.assert_allclose(found @ opened.item_vectors.T, scores, atol=1e-5)


def test_other_losses_leave_popularity_out(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    run = write_run(tmp_path / "run", data, loss=replace(LossConfig(), main="bpr"))
    assert load_model(run).model.popularity_R is None


def test_where_popularity_changes_todays_rate_is_served(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    items = pq.read_table(data / "items.parquet")
    recent = np.where(np.arange(ITEMS) < TRAINED_ITEMS, np.arange(ITEMS) % 3, 0.0)
    pq.write_table(items.append_column(RECENT, [recent]), data / "items.parquet")
    replace(Schema.load(data), trend=Trend(half_life=10, until=99)).save(data)
    run = write_run(tmp_path / "run", data, loss=LossConfig(popularity=0.6))
    count = trending(items["train_count"].to_numpy()[:TRAINED_ITEMS], recent[:TRAINED_ITEMS])
    count = np.maximum(count, 1)
    count = np.append(np.exp(np.log(count).mean()), count)
    added = LossConfig().temperature * 0.6 * np.log(count / count.max())
    found = load_model(run).model.popularity_R
    assert found is not None
    np.testing.assert_allclose(found, added, rtol=1e-6)
