"""ItemCF and iALS: their ranks and figures, by hand from their definitions and own scores."""

import numpy as np
import pytest
from implicit.als import AlternatingLeastSquares
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from dat_rec.data.dataset import Dataset
from dat_rec.retrieval import ranking
from dat_rec.retrieval.baselines import Settings, of_baseline, popularity_keys
from dat_rec.retrieval.fitted import FITTED, SEED, Training, read_training, score_ranks
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.ranks import one_thread_each
from dat_rec.retrieval.top_lists import TopLists
from tests.retrieval import brute_force
from tests.retrieval.world import TRAINED_ITEMS, USERS, random_protocol, write_dataset

SETTINGS = {
    "ItemCF": {"neighbours": 6, "damping": 0.5, "weight": "count"},
    "iALS": {"factors": 4, "regularization": 0.1, "alpha": 3.0, "weight": "once"},
}


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Training:
    dataset = Dataset.open(write_dataset(tmp_path_factory.mktemp("fitted") / "data", seed=1))
    with one_thread_each() as threads:
        return read_training(dataset, Protocol.read(dataset), threads)


def test_all_training_pairs_are_read(training: Training) -> None:
    protocol = random_protocol(1)
    for user in range(USERS):
        row = training.pairs[user].toarray()[0]
        found = {item: int(row[item]) for item in np.flatnonzero(row)}
        assert found == brute_force.seen_items(protocol, user)


def test_item_cf_adds_up_cosines_over_nearest_neighbours(training: Training) -> None:
    """Written out with whole matrices; damped, each user's column is divided by √(own items)."""
    counts_UT = training.pairs.toarray().astype(np.float64)
    items = (counts_UT > 0).sum(axis=1, keepdims=True)
    damped_UT = counts_UT / np.sqrt(np.maximum(items, 1))
    unit_UT = damped_UT / np.linalg.norm(damped_UT, axis=0)
    cosine_TT = unit_UT.T @ unit_UT
    least = np.sort(cosine_TT, axis=1)[:, [-6]]
    near_TT = np.where(cosine_TT >= least - 1e-12, cosine_TT, 0)
    expected = counts_UT @ near_TT
    found = FITTED["ItemCF"](training, SETTINGS["ItemCF"])(np.arange(USERS))
    scored = expected > 0
    assert 0.2 < scored.mean() < 0.9
    assert found[scored] == pytest.approx(expected[scored], abs=1e-5)
    popularity = np.broadcast_to(training.popularity, found.shape)
    assert found[~scored] == pytest.approx(popularity[~scored], abs=1e-6)
    assert (found[~scored] < 0).all()


def test_ials_scores_are_products_of_the_factors_that_implicit_fits(training: Training) -> None:
    pairs = training.pairs.copy()
    pairs.data[:] = 1
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=4, regularization=0.1, alpha=3.0, random_state=SEED, num_threads=1
        )
        model.fit(pairs, show_progress=False)
    known = np.flatnonzero(np.diff(pairs.indptr))
    assert 0 < len(known) < USERS
    expected = model.user_factors[known].astype(float) @ model.item_factors.T.astype(float)
    found = FITTED["iALS"](training, SETTINGS["iALS"])(np.arange(USERS))
    assert found[known] == pytest.approx(expected, abs=1e-6)
    unknown = np.setdiff1d(np.arange(USERS), known)
    assert found[unknown] == pytest.approx(np.tile(training.popularity, (len(unknown), 1)))


@pytest.mark.parametrize("name", FITTED)
def test_figures_equal_a_loop_over_queries_and_items(
    training: Training, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(ranking, "USERS", 4)
    monkeypatch.setattr("dat_rec.retrieval.fitted.BLOCK_BYTES", 4 * (TRAINED_ITEMS + 1) * 7)
    protocol = random_protocol(1)
    scores = FITTED[name](training, SETTINGS[name])
    lists = TopLists(protocol, (3, 20))
    with one_thread_each() as threads:
        ranks = score_ranks(protocol, scores, threads, lists)
    found = of_baseline(Settings(protocol, (3, 20)), ranks, lists)
    all_UT = scores(np.arange(USERS))

    def score(user: int, item: int) -> float:
        return float(all_UT[user, item]) if item < TRAINED_ITEMS else -np.inf

    expected = brute_force.metrics(protocol, score, (3, 20))
    del expected["all"]["unanswerable"], expected["by_category"]
    assert brute_force.approximately(found) == brute_force.approximately(expected)


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.filterwarnings("error")
def test_threads_do_not_change_a_bit(training: Training, name: str) -> None:
    def scores(threads: int) -> NDArray[np.float32]:
        other = Training(training.pairs, training.popularity, threads)
        return FITTED[name](other, SETTINGS[name])(np.arange(USERS))

    assert np.array_equal(scores(1), scores(2))


def test_keys_of_popularity_rise_with_it_and_tie_with_it() -> None:
    protocol = random_protocol(0)
    keys, counts = popularity_keys(protocol), protocol.train_count[: protocol.trained_items]
    assert ((keys > -1) & (keys < 0)).all()
    assert np.array_equal(keys[:, None] < keys, counts[:, None] < counts)
    rounded = keys.astype(np.float32)
    assert np.array_equal(rounded[:, None] < rounded, counts[:, None] < counts)
