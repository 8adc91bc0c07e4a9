"""Calibration, projection, neighbours: against loops and another library."""

import math

import numpy as np
import pyarrow as pa
import pytest
from sklearn.decomposition import PCA

from dat_rec.run_report.calibration import BINS, FEWEST, calibration
from dat_rec.run_report.catalogue import NO_CATEGORY, Asked, Catalogue
from dat_rec.run_report.projection import projection
from dat_rec.run_report.samples import Sample, nearest, samples


def units(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.2, None])
def test_calibration_counts_every_pair(temperature: float | None) -> None:
    rng = np.random.default_rng(0)
    item_ND, query_UD = units(rng, 40, 4), units(rng, 37, 4)
    trained = np.arange(40) % 5 > 0
    user = rng.integers(0, 37, 250)
    item = rng.choice(np.flatnonzero(trained), 250)
    found = calibration(Asked(query_UD, user, item), item_ND, trained, temperature)
    scores = {
        (u, v): float(query_UD[u].astype(float) @ item_ND[v].astype(float))
        for u in range(37)
        for v in np.flatnonzero(trained)
    }
    low, high = min(scores.values()), max(scores.values())
    pairs, hits, chance = (np.zeros(BINS) for _ in range(3))
    for u, v in zip(user, item, strict=True):
        for w in np.flatnonzero(trained):
            place = min(BINS - 1, int((scores[u, w] - low) / (high - low) * BINS))
            pairs[place] += 1
            hits[place] += w == v
            if temperature:
                total = sum(math.exp(scores[u, x] / temperature) for x in np.flatnonzero(trained))
                chance[place] += math.exp(scores[u, w] / temperature) / total
    shown = hits >= FEWEST
    assert shown.any()
    assert not shown.all()
    assert found.pairs.tolist() == pairs[shown].tolist()
    assert found.hits.tolist() == hits[shown].tolist()
    assert found.observed == pytest.approx(hits[shown] / pairs[shown])
    if temperature is None:
        assert found.predicted is None
    else:
        assert found.predicted == pytest.approx(chance[shown] / pairs[shown])


def test_scores_that_are_all_equal_have_one_bin() -> None:
    ones = np.ones((6, 2), np.float32)
    asked = Asked(ones[:2], np.array([0, 1] * 5), np.arange(10) % 6)
    found = calibration(asked, ones, np.ones(6, np.bool_), 1.0)
    assert found.pairs.tolist() == [60]
    assert found.predicted == pytest.approx([1 / 6])
    assert found.observed == pytest.approx([1 / 6])


def test_projection_is_that_of_scikit_learn() -> None:
    vectors = units(np.random.default_rng(1), 300, 6) * np.arange(1, 7, dtype=np.float32)
    found = projection(vectors)
    pca = PCA(2).fit(vectors.astype(np.float64))
    expected = pca.transform(vectors.astype(np.float64))
    points = found.points(vectors)
    signs = np.sign((expected * points).sum(0))
    assert points == pytest.approx(expected * signs, abs=1e-5)
    assert found.share == pytest.approx(pca.explained_variance_ratio_.sum())


def test_one_dimension_and_equal_vectors_have_a_plane_too() -> None:
    vectors = np.array([[1.0], [-1.0], [1.0]], np.float32)
    line = projection(vectors)
    assert line.points(vectors) == pytest.approx(np.array([[2, 0], [-4, 0], [2, 0]]) / 3)
    assert line.share == 1
    assert projection(np.ones((4, 3), np.float32)).share == 0


def catalogue(unit_ND: np.ndarray, count: list[int], categories: list[str]) -> Catalogue:
    return Catalogue(
        of="a test",
        ids=pa.array([f"i{row}" for row in range(len(count))]),
        titles=pa.nulls(len(count), pa.string()),
        categories=np.array(categories, dtype=object),
        train_count=np.array(count),
        unit_ND=unit_ND,
        served_NE=unit_ND,
        asked=None,
    )


def test_the_nearest_are_those_of_a_loop_and_of_equal_ones_the_first() -> None:
    unit_ND = units(np.random.default_rng(2), 60, 3)
    unit_ND[[7, 20, 41]] = unit_ND[3]
    found = nearest(catalogue(unit_ND, [1] * 60, ["a"] * 60), range(60), 4)
    for row, near in enumerate(found):
        cosines = [
            (-float(np.float32(unit_ND[row].astype(float) @ unit_ND[other].astype(float))), other)
            for other in range(60)
            if other != row
        ]
        assert [one.row for one in near] == [other for _, other in sorted(cosines)[:4]]
    assert [one.row for one in found[20]][:3] == [3, 7, 41]


def test_more_neighbours_than_items_are_not_there() -> None:
    two = catalogue(np.eye(2, dtype=np.float32), [1, 1], ["a", "b"])
    assert [[one.row for one in near] for near in nearest(two, [0, 1])] == [[1], [0]]


def test_samples_are_the_most_frequent_of_the_largest_categories_and_two_rare_ones() -> None:
    count = [9, 8, 7, 6, 5, 4, 3, 0]
    some = catalogue(np.eye(8, dtype=np.float32), count, list("aabbbcca"))
    ids = [sample.item_id for sample in samples(some)]
    # b has 18, a 17 and c 7 interactions.
    assert ids[:3] == ["i2", "i0", "i5"]
    assert len(ids) == 5
    assert set(ids[3:]) <= {"i3", "i4", "i6"}
    none = catalogue(np.eye(8, dtype=np.float32), count, [NO_CATEGORY] * 8)
    assert [sample.item_id for sample in samples(none)][:6] == [f"i{row}" for row in range(6)]


def test_an_item_is_found_by_its_id_wherever_it_stands() -> None:
    some = catalogue(np.eye(3, dtype=np.float32), [1, 1, 1], list("abc"))
    assert Sample(1, "i2").row_in(some) == 2
    assert Sample(1, "i9").row_in(some) is None
    assert Sample(1, 2).row_in(some) is None
