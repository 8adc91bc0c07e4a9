"""The planted world: its stated best HR against brute force, its skew, its seeds."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dat_rec.data.sources.planted_world import World
from dat_rec.data.sources.synthetic import Synthetic
from tests.data.sources.prepared import Prepared, digest, refused

START = 1_577_836_800_000_000  # 1 January 2020
DAY = 24 * 3600 * 1_000_000


def options(folder: Path, **changes: Any) -> Synthetic:
    values: dict[str, Any] = {
        "out": folder / "out",
        "users": 150,
        "items": 180,
        "interactions": 4_000,
        "categories": 6,
        "sharpness": 5.0,
        "history_length": 5,
    }
    return Synthetic(**{**values, **changes})


@pytest.fixture(scope="module", params=["own vectors", "shared vectors"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Synthetic, Prepared]]:
    """A world, and one whose users share tastes and whose items share groups, as large ones do."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "shared vectors":
            patch.setattr("dat_rec.data.sources.planted_world.MOST_GROUPS", 70)
            patch.setattr("dat_rec.data.sources.planted_world.MOST_CHANCES", 70 * 40)
        world = options(tmp_path_factory.mktemp("world"))
        shared = request.param == "shared vectors"
        assert world.world().chances.shape == ((40, 70) if shared else (150, 180))
        yield world, Prepared(world)


def scores(planted: World, user: int) -> NDArray[np.float64]:
    """(items,) the logits of p(v | u), by their definition."""
    vectors = planted.group[planted.group_of]
    cosine = vectors @ planted.taste[planted.taste_of[user]]
    return np.asarray(5.0 * cosine + np.log(planted.popularity))


def expected_hits(world: Synthetic, rows: Prepared, cutoff: int) -> tuple[float, float]:
    """Mean and variance of HR@cutoff of ranking by the planted taste, one query at a time."""
    planted = world.world()
    trained_users = {row["user_id"] for row in rows.train}
    trained_items = sorted({row["item_id"] for row in rows.train})
    chances = []
    for query in rows.test:
        if query["user_id"] not in trained_users or query["item_id"] not in trained_items:
            continue
        weights = np.exp(scores(planted, query["user_id"])[trained_items])
        chances.append(sum(sorted(weights)[-cutoff:]) / sum(weights))
    count = len(chances)
    return sum(chances) / count, sum(chance * (1 - chance) for chance in chances) / count**2


@pytest.mark.parametrize("chosen", [{"validation_share": 0.5}, {"validation_from": "2020-01-20"}])
def test_the_best_hit_rate_knows_what_is_held_out_for_validation(
    tmp_path: Path, chosen: dict[str, Any]
) -> None:
    """Of half of the time, or less, some users and items have no training interaction."""
    world = options(tmp_path, users=600, interactions=2_000, **chosen)
    rows = Prepared(world)
    start = START + DAY * (45 if "validation_share" in chosen else 19)
    assert {row["time"] >= start for row in rows.validation} == {True}
    assert {row["time"] < start for row in rows.train} == {True}
    assert rows.schema.facts is not None
    mean, _ = expected_hits(world, rows, 50)
    assert rows.schema.facts["best HR@50"] == pytest.approx(mean, rel=1e-9)


@pytest.mark.parametrize("cutoff", [50, 100])
def test_the_best_hit_rate_is_that_of_brute_force(
    made: tuple[Synthetic, Prepared], cutoff: int
) -> None:
    world, rows = made
    assert rows.schema.facts is not None
    mean, _ = expected_hits(world, rows, cutoff)
    assert 0.3 < mean < 0.99
    assert rows.schema.facts[f"best HR@{cutoff}"] == pytest.approx(mean, rel=1e-9)


def test_ranking_by_the_planted_taste_hits_as_often_as_stated(
    made: tuple[Synthetic, Prepared],
) -> None:
    """The drawn test interactions themselves, within four standard deviations."""
    world, rows = made
    planted = world.world()
    trained_users = {row["user_id"] for row in rows.train}
    trained = sorted({row["item_id"] for row in rows.train})
    hits = []
    for query in rows.test:
        user, item = query["user_id"], query["item_id"]
        if user in trained_users and item in trained:
            score = scores(planted, user)
            hits.append(sum(score[other] > score[item] for other in trained) < 50)
    mean, variance = expected_hits(world, rows, 50)
    assert len(hits) > 200
    assert abs(np.mean(hits) - mean) < 4 * variance**0.5


def test_items_are_drawn_by_their_stated_probability(made: tuple[Synthetic, Prepared]) -> None:
    """Each item's count over all users within five standard deviations, softmax by hand."""
    world, rows = made
    planted = world.world()
    log = [*rows.train, *rows.test]
    found = Counter(row["item_id"] for row in log)
    mean, variance = np.zeros(180), np.zeros(180)
    for user, count in Counter(row["user_id"] for row in log).items():
        weights = np.exp(scores(planted, user))
        chance = weights / weights.sum()
        mean += count * chance
        variance += count * chance * (1 - chance)
    off = [abs(found[item] - mean[item]) / variance[item] ** 0.5 for item in range(180)]
    assert max(off) < 5
    assert np.mean(off) < 1


def test_the_log_has_the_asked_sizes_and_times(made: tuple[Synthetic, Prepared]) -> None:
    _, rows = made
    train, test = rows.triples("train"), rows.triples("test")
    assert len(train) + len(test) == rows.schema.rows_read == 4_000
    assert set(rows.users) == {user for user, _, _ in train + test} == set(range(150))
    assert set(rows.items) == set(range(180))
    assert START <= train[0][2] <= train[-1][2] < START + 90 * DAY <= test[0][2]
    assert test[-1][2] < START + 100 * DAY
    assert 300 < len(test) < 500


def test_items_carry_their_planted_category(made: tuple[Synthetic, Prepared]) -> None:
    world, rows = made
    category = world.world().category
    for item, row in rows.items.items():
        assert row["category"] == row["category_name"] == f"category {category[item]}"
        assert row["title"] == f"item {item} (category {category[item]})"
    planted = world.world()
    vectors = planted.group[planted.group_of]
    same = category[:, None] == category
    off = ~np.eye(180, dtype=bool)
    cosine = vectors @ vectors.T
    assert cosine[same & off].mean() > cosine[~same].mean() + 0.3


def test_without_taste_items_are_drawn_by_their_popularity(tmp_path: Path) -> None:
    """Each count within five standard deviations of share · interactions."""
    rows = Prepared(options(tmp_path, items=20, interactions=5_000, sharpness=0.0, skew=1.0))
    found = Counter(row["item_id"] for row in [*rows.train, *rows.test])
    shares = [1 / rank / sum(1 / r for r in range(1, 21)) for rank in range(1, 21)]
    for count, share in zip(sorted(found.values(), reverse=True), shares, strict=True):
        assert abs(count - 5_000 * share) < 5 * (5_000 * share * (1 - share)) ** 0.5


def test_without_skew_all_items_are_alike(tmp_path: Path) -> None:
    rows = Prepared(options(tmp_path, items=20, interactions=5_000, sharpness=0.0, skew=0.0))
    counts = Counter(row["item_id"] for row in [*rows.train, *rows.test]).values()
    assert max(counts) < 1.5 * min(counts)


def test_users_of_two_tastes_differ(made: tuple[Synthetic, Prepared]) -> None:
    """Interactions are likelier under their own user's p(v | u) than under another's."""
    world, rows = made
    planted = world.world()
    logits = np.array([scores(planted, user) for user in range(150)])
    own = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    log = [(row["user_id"], row["item_id"]) for row in [*rows.train, *rows.test]]
    gain = [own[user, item] - own[(user + 1) % 150, item] for user, item in log]
    assert np.mean(gain) > 0.5


def test_the_world_seed_decides_every_byte(tmp_path: Path) -> None:
    Prepared(options(tmp_path, out=tmp_path / "first", threads=2))
    again = Prepared(options(tmp_path, out=tmp_path / "again", threads=1))
    other = Prepared(options(tmp_path, out=tmp_path / "other", world_seed=1))
    assert digest(tmp_path / "again") == digest(tmp_path / "first")
    assert other.triples("train") != again.triples("train")
    assert other.schema.facts != again.schema.facts


def test_the_seed_shuffles_the_same_world(tmp_path: Path) -> None:
    rows = Prepared(options(tmp_path, out=tmp_path / "0"))
    other = Prepared(options(tmp_path, out=tmp_path / "1", seed=1))
    assert other.train != rows.train
    assert other.triples("train") == rows.triples("train")
    assert other.schema.facts == rows.schema.facts


def test_blocks_are_seamless_and_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of one block by two threads, or all blocks in one: the same log, nothing twice."""
    monkeypatch.setattr("dat_rec.data.sources.synthetic.BLOCK", 300)
    rows = Prepared(options(tmp_path, out=tmp_path / "a", threads=1))
    monkeypatch.setattr("dat_rec.data.sources.synthetic.FILE_BLOCKS", 1)
    small = Prepared(options(tmp_path, out=tmp_path / "b", threads=2))
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    log = rows.triples("train") + rows.triples("test")
    first = small.schema
    assert len(log) == first.rows_read == 4_000
    assert len({time for _, _, time in log}) > 3_990
    counts = np.diff(options(tmp_path).world().first)
    assert Counter(user for user, _, _ in log) == dict(enumerate(counts))


def test_a_large_world_holds_little_more_than_its_users_and_items(tmp_path: Path) -> None:
    """Two million users and as many items: 4e12 pairs, none of them held."""
    sizes = {"users": 2_000_000, "items": 2_000_000, "interactions": 4_000_000}
    world = options(tmp_path, **sizes).world()
    user, item, _ = world.draw(3, 1 << 18)
    assert len(user) == len(item) == 1 << 18
    assert world.chances.size <= 1 << 22
    assert sum(value.nbytes for value in vars(world).values() if isinstance(value, np.ndarray)) < (
        2_000_000 * (12 + 16) + 100_000_000
    )


WEIGHTS = [float("nan"), float("inf"), -1.0, 1e6]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("users", 0, "be at least 1"),
        ("items", 1, "be at least 2"),
        ("categories", 0, "be at least 1"),
        ("dim", 0, "be at least 1"),
        ("interactions", 149, "be at least 150 (one for each user)"),
        *(("sharpness", value, "lie between 0 and 1000") for value in WEIGHTS),
        *(("skew", value, "lie between 0 and 10") for value in WEIGHTS),
        ("world_seed", -1, "lie between 0 and 2^63 − 1"),
        ("world_seed", 2**63, "lie between 0 and 2^63 − 1"),
    ],
)
def test_options_that_make_no_world(tmp_path: Path, name: str, value: float, words: str) -> None:
    start = f"--{name.replace('_', '-')} {value}: must {words}"
    assert refused(options(tmp_path, **{name: value})).startswith(start)


@pytest.mark.parametrize(
    "extreme", [{"sharpness": 1000.0}, {"skew": 10.0}, {"world_seed": 2**63 - 1}, {"skew": 0.0}]
)
def test_the_extremes_make_a_world(tmp_path: Path, extreme: dict[str, Any]) -> None:
    sizes = {"users": 20, "items": 10, "interactions": 200, "categories": 2}
    facts = Prepared(options(tmp_path, **sizes, **extreme)).schema.facts
    assert facts is not None
    assert all(0 <= hit <= 1 + 1e-9 for hit in facts.values())


def test_a_world_too_small_for_a_test_is_refused(tmp_path: Path) -> None:
    world = options(tmp_path, users=1, items=2, interactions=2, categories=1)
    assert refused(world).startswith("no interaction is held out to test on")
