"""Planted worlds whose items have content, and of which some occur in the test only."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from dat_rec.data.sources.synthetic import Synthetic
from dat_rec.data.validate.validate import validate
from tests.data.sources.prepared import Prepared, refused

SHARPNESS = 5.0


def options(folder: Path, **changes: Any) -> Synthetic:
    values: dict[str, Any] = {
        "out": folder / "out",
        "users": 120,
        "items": 150,
        "interactions": 20_000,
        "categories": 5,
        "sharpness": SHARPNESS,
        "history_length": 5,
        "dim": 10,
        "content": 0.5,
        "unseen": 0.2,
    }
    return Synthetic(**{**values, **changes})


@pytest.fixture(scope="module", params=["own vectors", "shared vectors"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Synthetic, Prepared]:
    """A world, and one whose items share groups, of which each has several."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "shared vectors":
            patch.setattr("dat_rec.data.sources.planted_world.MOST_GROUPS", 40)
        world = options(tmp_path_factory.mktemp("world"))
        world.world()
        return world, Prepared(world)


def chances(world: Synthetic, made: Prepared) -> NDArray[np.float64]:
    """(users, items) p(v | u) by the definition, from the vectors that the world draws."""
    with pytest.MonkeyPatch.context() as patch:
        if len({tuple(row["content"]) for row in made.items.values()}) <= 40:
            patch.setattr("dat_rec.data.sources.planted_world.MOST_GROUPS", 40)
        planted = world.world()
    cosine = planted.taste[planted.taste_of] @ planted.group[planted.group_of].T
    weights = np.exp(SHARPNESS * cosine) * planted.popularity
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def unseen_of(made: Prepared) -> set[int]:
    return {item for item, row in made.items.items() if not row["train_count"]}


def test_a_share_of_the_items_is_in_the_test_only(made: tuple[Synthetic, Prepared]) -> None:
    world, rows = made
    planted = world.world()
    marked = set(np.flatnonzero(planted.unseen).tolist())
    assert len(marked) == 30
    trained = {row["item_id"] for row in rows.train}
    tested = {row["item_id"] for row in rows.test}
    assert not marked & trained
    assert len(marked & tested) > 25
    # Others may lack a training interaction by chance alone, and few do.
    assert marked <= unseen_of(rows)
    assert len(unseen_of(rows)) < 35
    assert validate(world.out) == []  # type: ignore[arg-type]


def test_they_occur_in_the_test_as_often_as_others(made: tuple[Synthetic, Prepared]) -> None:
    world, rows = made
    chance = chances(world, rows)
    marked = world.world().unseen
    expected = sum(chance[row["user_id"]][marked].sum() for row in rows.test)
    found = sum(marked[row["item_id"]] for row in rows.test)
    assert found == pytest.approx(expected, abs=5 * expected**0.5)
    # Before the test each user's choice is that of a world without them.
    count = Counter(row["item_id"] for row in rows.train)
    likely = np.zeros(len(marked))
    for row in rows.train:
        seen = np.where(marked, 0.0, chance[row["user_id"]])
        likely += seen / seen.sum()
    for item, mean in enumerate(likely):
        assert count[item] == pytest.approx(mean, abs=5 * mean**0.5 + 1e-9), item


def test_content_is_the_first_half_of_the_planted_vector(
    made: tuple[Synthetic, Prepared],
) -> None:
    world, rows = made
    items = pq.read_table(world.out / "items.parquet")  # type: ignore[operator]
    (feature,) = rows.schema.dense
    assert (feature.name, feature.side, feature.width) == ("content", "item", 5)
    # A unit vector around a centre: coordinates that are left out tell as much as those told.
    vectors = np.array(items["content"].to_pylist())
    assert 0.35 < (vectors**2).sum(axis=1).mean() < 0.65
    assert vectors.dtype == np.float64
    by_id = dict(zip(items["item_id"].to_pylist(), vectors, strict=True))
    if len({tuple(row) for row in vectors.tolist()}) > 40:
        planted = world.world()
        for item, vector in by_id.items():
            expected = planted.group[planted.group_of[item]][:5]
            np.testing.assert_array_equal(vector, expected.astype(np.float32))


def test_the_best_hit_rate_of_unseen_items_is_the_definitions(
    made: tuple[Synthetic, Prepared],
) -> None:
    world, rows = made
    chance, unseen = chances(world, rows), sorted(unseen_of(rows))
    trained_users = {row["user_id"] for row in rows.train}
    assert rows.schema.facts is not None
    for cutoff in (50, 100):
        expected, hits = [], []
        for row in rows.test:
            user, item = row["user_id"], row["item_id"]
            if user not in trained_users or item not in unseen:
                continue
            best = sorted(range(150), key=lambda v, user=user: -chance[user][v])[:cutoff]
            first = sum(chance[user][v] for v in set(best) & set(unseen))
            expected.append(first / sum(chance[user][v] for v in unseen))
            hits.append(item in best)
        found = rows.schema.facts[f"unseen HR@{cutoff}"]
        assert found == pytest.approx(np.mean(expected), rel=1e-9)
        assert found == pytest.approx(np.mean(hits), abs=4 * (0.25 / len(hits)) ** 0.5)
    assert rows.schema.facts["best HR@50"] >= rows.schema.facts["Bayes HR@50"] > 0.5


def test_without_them_there_is_no_such_fact(tmp_path: Path) -> None:
    plain = Prepared(options(tmp_path, content=None, unseen=None))
    assert not plain.schema.dense
    assert plain.schema.facts is not None
    assert not any(name.startswith("unseen") for name in plain.schema.facts)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"content": 1.1}, "--content 1.1: must lie between 0 and 1"),
        ({"content": float("nan")}, "--content nan: must lie between 0 and 1"),
        ({"unseen": 0.95}, "--unseen 0.95: must lie between 0 and 0.9"),
        ({"unseen": -0.1}, "--unseen -0.1: must lie between 0 and 0.9"),
        ({"unseen": 0.1, "repeats": 0.5}, "--unseen 0.1: in a world with repeats"),
    ],
)
def test_shares_that_make_no_world_are_refused(
    change: dict[str, float], words: str, tmp_path: Path
) -> None:
    assert refused(options(tmp_path, **change)).startswith(words)
